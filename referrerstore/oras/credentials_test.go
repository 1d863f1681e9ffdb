package oras

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

func encode(pair string) string { return base64.StdEncoding.EncodeToString([]byte(pair)) }

func TestDockerConfig(t *testing.T) {
	t.Parallel()
	file := `{
		"auths": {
			"registry.example": {"auth": "` + encode("a:b:c") + `"},
			"https://legacy.example/v1/": {"auth": "` + encode("l:p\x00") + `"},
			"https://index.docker.io/v1/": {"auth": "` + encode("hub:p") + `"},
			"REGISTRY.example:443/team": {"auth": "` + encode("team:p") + `"},
			"https://v2.example/v2/": {"auth": "` + encode("v:p") + `"},
			"part.example/team": {"auth": "` + encode("team:p") + `"},
			"https://part.example/v1/team": {"auth": "` + encode("team:p") + `"},
			"plain.example:5000": {"username": "u", "password": "p"},
			"identity.example": {"identitytoken": "i"},
			"token.example": {"registrytoken": "r"},
			"empty.example": {}
		},
		"credHelpers": {"helped.example/team": "x"},
		"HttpHeaders": {"User-Agent": "x"}
	}`
	d := &dockerConfig{named: true}
	if err := d.parse([]byte(file)); err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]credential{
		"registry.example":   {user: "a", password: "b:c"},
		"legacy.example":     {user: "l", password: "p"},
		"docker.io":          {user: "hub", password: "p"},
		"plain.example:5000": {user: "u", password: "p"},
		"identity.example":   {identityToken: "i"},
		"token.example":      {registryToken: "r"},
		"empty.example":      {},
		"v2.example":         {user: "v", password: "p"},
		"other.example":      {},
		"plain.example":      {},
		"part.example":       {},
		"helped.example":     {},
	} {
		got, err := d.find(t.Context(), nil, host)
		if err != nil || got != want {
			t.Errorf("%s: wrong credential, %v", host, err)
		}
		if named := !slices.Contains([]string{"other.example", "plain.example", "part.example", "helped.example"}, host); d.serves(host) != named {
			t.Errorf("%s: serves is %t", host, !named)
		}
	}
	if len(d.ignored) != 4 {
		t.Errorf("ignored are %q", d.ignored)
	}
}

func TestDockerConfigErrorsQuoteNothing(t *testing.T) {
	t.Parallel()
	for name, file := range map[string]string{
		"no JSON":          `s3cret`,
		"wrong type":       `{"auths":{"a.example":"s3cret"}}`,
		"no base64":        `{"auths":{"a.example":{"auth":"s3cret!"}}}`,
		"no colon":         `{"auths":{"a.example":{"auth":"` + encode("s3cret") + `"}}}`,
		"no host":          `{"auths":{"not a host":{"auth":"` + encode("a:s3cret") + `"}}}`,
		"helper by path":   `{"credHelpers":{"a.example":"../../bin/sh"}}`,
		"store by path":    `{"credsStore":"/bin/sh"}`,
		"helper of no-one": `{"credHelpers":{"":"x"}}`,
	} {
		err := (&dockerConfig{}).parse([]byte(file))
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v, want an error that quotes nothing", name, err)
		}
	}
}

func FuzzDockerConfig(f *testing.F) {
	f.Add([]byte(`{"auths":{"a.example":{"auth":"YTpi"}},"credHelpers":{"b.example":"x"},"credsStore":"y"}`))
	f.Fuzz(func(_ *testing.T, data []byte) { _ = (&dockerConfig{}).parse(data) })
}

func TestWhoseCredentials(t *testing.T) {
	t.Parallel()
	pair := encode("a:b")
	auths := writeFile(t, "auths.json", `{"auths":{"a.example":{"auth":"`+pair+`"},"b.corp.example":{"auth":"`+pair+`"}}}`, 0o600)
	store := writeFile(t, "store.json", `{"auths":{"a.example":{}},"credsStore":"x"}`, 0o600)
	entry := func(path string, hosts ...string) Credential {
		return Credential{Hosts: hosts, Type: "dockerConfig", Path: path}
	}
	for _, tt := range []struct {
		entries []Credential
		want    map[string]string
	}{
		{[]Credential{entry(auths, "*")}, map[string]string{
			"a.example": "dockerConfig[0]", "b.corp.example": "dockerConfig[0]", "c.corp.example": "", "docker.io": "",
		}},
		{[]Credential{entry(auths, "*.corp.example")}, map[string]string{
			"a.example": "", "b.corp.example": "dockerConfig[0]", "c.corp.example": "",
		}},
		{[]Credential{entry(store, "*")}, map[string]string{"a.example": "dockerConfig[0]", "c.corp.example": ""}},
		{[]Credential{entry(store, "*.corp.example")}, map[string]string{"a.example": "", "c.corp.example": "dockerConfig[0]", "x.c.corp.example": ""}},
		{[]Credential{entry(auths, "b.corp.example"), entry(store, "*.corp.example", "a.example")}, map[string]string{
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
	path := filepath.Join(dir, helperPrefix+name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
}

func helperFile(t *testing.T, host, name string) []Credential {
	t.Helper()
	path := writeFile(t, "config.json", fmt.Sprintf(`{"credHelpers":{%q:%q}}`, host, name), 0o600)
	return []Credential{{Hosts: []string{"*"}, Type: "dockerConfig", Path: path}}
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

func TestHelperAnswers(t *testing.T) { //nolint:paralleltest // changes the environment
	for script, want := range map[string]credential{
		`echo 'credentials not found in native keychain'; exit 1`: {},
		`echo '{"Username":"<token>","Secret":"i"}'`:              {identityToken: "i"},
		`echo '{"Username":"u","Secret":"p"}'`:                    {user: "u", password: "p"},
	} {
		withHelper(t, "test", script)
		if got, err := runHelper(t.Context(), helper{suffix: "test"}); err != nil || got != want {
			t.Errorf("%s: wrong credential, %v", script, err)
		}
	}
}

// A helper that hangs, with a child that holds its output open, is left behind.
func TestHelperHangs(t *testing.T) { //nolint:paralleltest // changes the environment
	withHelper(t, "test", "sleep 5 & wait")
	cause := errors.New("enough")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, cause)
	defer cancel()
	begun := time.Now()
	if _, err := runHelper(ctx, helper{suffix: "test"}); !errors.Is(err, cause) {
		t.Errorf("%v, want the cause", err)
	}
	if took := time.Since(begun); took > 4*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestCredentialsAreHidden(t *testing.T) {
	t.Parallel()
	cred := credential{user: "robot", password: "s3cret", identityToken: "s3cret", registryToken: "s3cret"}
	held := &heldCredential{credential: cred}
	var out strings.Builder
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", slog.Any("a", cred), slog.Any("b", held))
	text := out.String() + fmt.Sprint(cred, held) + fmt.Sprintf("%v %+v %s %#v %#v", cred, held, cred, cred, held)
	if strings.Contains(text, "s3cret") {
		t.Errorf("%s", text)
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
