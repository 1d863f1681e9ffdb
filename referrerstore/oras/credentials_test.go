package oras

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/credential"
	"github.com/gatehouse-project/gatehouse/referrerstore/credential/dockerconfig"
	"github.com/gatehouse-project/gatehouse/referrerstore/credential/static"
)

func encode(pair string) string { return base64.StdEncoding.EncodeToString([]byte(pair)) }

// kinds are those that most tests need.
func kinds() map[string]credential.Kind {
	return map[string]credential.Kind{dockerconfig.Type: dockerconfig.Kind(), static.Type: static.Kind()}
}

func TestWhoseCredentials(t *testing.T) {
	t.Parallel()
	pair := encode("a:b")
	auths := writeFile(t, "auths.json", `{"auths":{"a.example":{"auth":"`+pair+`"},"b.corp.example":{"auth":"`+pair+`"}}}`, 0o600)
	store := writeFile(t, "store.json", `{"auths":{"a.example":{}},"credsStore":"x"}`, 0o600)
	entry := func(path string, hosts ...string) credential.Entry {
		return credential.Entry{Hosts: hosts, Type: "dockerConfig", Path: path}
	}
	for _, tt := range []struct {
		entries []credential.Entry
		want    map[string]string
	}{
		{[]credential.Entry{entry(auths, "*")}, map[string]string{
			"a.example": "dockerConfig[0]", "b.corp.example": "dockerConfig[0]", "c.corp.example": "", "docker.io": "",
		}},
		{[]credential.Entry{entry(auths, "*.corp.example")}, map[string]string{
			"a.example": "", "b.corp.example": "dockerConfig[0]", "c.corp.example": "",
		}},
		{[]credential.Entry{entry(store, "*")}, map[string]string{"a.example": "dockerConfig[0]", "c.corp.example": ""}},
		{[]credential.Entry{entry(store, "*.corp.example")}, map[string]string{"a.example": "", "c.corp.example": "dockerConfig[0]", "x.c.corp.example": ""}},
		{[]credential.Entry{entry(auths, "b.corp.example"), entry(store, "*.corp.example", "a.example")}, map[string]string{
			"a.example": "dockerConfig[1]", "b.corp.example": "dockerConfig[0]", "c.corp.example": "dockerConfig[1]",
		}},
	} {
		s := newStore(t, Options{Credentials: tt.entries}, Deps{})
		got := make(map[string]string)
		for host := range tt.want {
			got[host] = s.client(host).key.identity
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%v: %s", tt.entries, diff)
		}
	}
}

// withHelper puts a credential helper of that name on the path. It changes the
// environment, so its tests are not parallel.
func withHelper(t *testing.T, name, script string) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "docker-credential-"+name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
}

func helperFile(t *testing.T, host, name string) []credential.Entry {
	t.Helper()
	path := writeFile(t, "config.json", fmt.Sprintf(`{"credHelpers":{%q:%q}}`, host, name), 0o600)
	return []credential.Entry{{Hosts: []string{"*"}, Type: "dockerConfig", Path: path}}
}

func TestHelper(t *testing.T) { //nolint:paralleltest // changes the environment
	runs := filepath.Join(t.TempDir(), "runs")
	withHelper(t, "test", `
[ "$1" = get ] || exit 1
echo "$(cat)" >> `+runs+`
echo '{"ServerURL":"x","Username":"robot","Secret":"s3cret"}'
`)
	r := newRegistry(t, registryOptions{bearer: true})
	r.user, r.password = "robot", "s3cret"
	store := newStore(t, Options{Credentials: helperFile(t, r.host(), "test")}, Deps{}, r)
	resolveAll(t, store, images(t, r, 10))
	data, err := os.ReadFile(runs)
	if err != nil || string(data) != r.host()+"\n" {
		t.Errorf("the helper was run for %q (%v), want once for %s", data, err, r.host())
	}
}

// An open host never makes a helper run.
func TestHelperIsNotRunInVain(t *testing.T) { //nolint:paralleltest // changes the environment
	withHelper(t, "test", "exit 1")
	r := newRegistry(t, registryOptions{})
	resolveAll(t, newStore(t, Options{Credentials: helperFile(t, r.host(), "test")}, Deps{}, r), images(t, r, 2))
}

func TestHelperFails(t *testing.T) { //nolint:paralleltest // changes the environment
	for name, script := range map[string]string{
		"exit":      "echo s3cret; echo s3cret >&2; exit 1",
		"no JSON":   "echo s3cret",
		"too large": "head -c 100000 /dev/zero",
	} {
		withHelper(t, "test", script)
		r := newRegistry(t, registryOptions{bearer: true})
		store := newStore(t, Options{Credentials: helperFile(t, r.host(), "test")}, Deps{}, r)
		_, err := store.Resolve(t.Context(), r.image(t, "app", "v1").Reference)
		if !errors.Is(err, referrerstore.ErrAuthDenied) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v, want ErrAuthDenied that quotes nothing", name, err)
		}
		if n := r.count("/token"); n != 0 {
			t.Errorf("%s: it went on as nobody", name)
		}
	}
	r := newRegistry(t, registryOptions{bearer: true})
	store := newStore(t, Options{Credentials: helperFile(t, r.host(), "there-is-none")}, Deps{}, r)
	if _, err := store.Resolve(t.Context(), r.image(t, "app", "v1").Reference); !errors.Is(err, referrerstore.ErrAuthDenied) {
		t.Errorf("no such helper: %v, want ErrAuthDenied", err)
	}
}

// Names of hosts that nobody will use again do not pile up.
func TestClientsAreBounded(t *testing.T) {
	t.Parallel()
	store := newStore(t, Options{}, Deps{})
	var group errgroup.Group
	for g := range 8 {
		group.Go(func() error {
			for i := range 2 * maxClients {
				c := store.client(fmt.Sprintf("host%d-%d.example", g, i))
				if c.key.host == "" {
					return errors.New("no client")
				}
				store.client("used.example")
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	n := 0
	store.clients.Range(func(any, any) bool { n++; return true })
	if n > maxClients || n != store.count {
		t.Errorf("%d clients, counted as %d, want at most %d", n, store.count, maxClients)
	}
	first, second := store.client("used.example"), store.client("used.example")
	if first != second {
		t.Error("two clients for one host")
	}
}
