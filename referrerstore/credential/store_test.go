package credential_test

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

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/credential"
	"github.com/gatehouse-project/gatehouse/referrerstore/credential/dockerconfig"
	"github.com/gatehouse-project/gatehouse/referrerstore/credential/static"
	"github.com/gatehouse-project/gatehouse/referrerstore/oras"
	"github.com/gatehouse-project/gatehouse/test/registry"
)

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// From files to an image, through a store, by each way that registries demand.
func TestStore(t *testing.T) {
	t.Parallel()
	known := &registry.Credentials{User: "robot", Password: "s3cret", IdentityToken: "s3cret-identity"}
	config := func(entry string) func(t *testing.T, host string) credential.Entry {
		return func(t *testing.T, host string) credential.Entry {
			t.Helper()
			return credential.Entry{Hosts: []string{"*"}, Type: dockerconfig.Type, Path: file(t, fmt.Sprintf(`{"auths":{%q:%s}}`, host, entry))}
		}
	}
	byPassword := func(t *testing.T, host string) credential.Entry {
		t.Helper()
		return credential.Entry{Hosts: []string{host}, Type: static.Type, Username: "robot", PasswordFile: file(t, "s3cret\n")}
	}
	byIdentity := func(t *testing.T, host string) credential.Entry {
		t.Helper()
		return credential.Entry{Hosts: []string{host}, Type: static.Type, IdentityTokenFile: file(t, "s3cret-identity\n")}
	}
	wrong := func(t *testing.T, host string) credential.Entry {
		t.Helper()
		return credential.Entry{Hosts: []string{host}, Type: static.Type, Username: "robot", PasswordFile: file(t, "s3cret-of-old\n")}
	}
	bearer, basic := registry.Options{BearerAuth: true, Basic: known}, registry.Options{Basic: known}
	pair := fmt.Sprintf(`{"auth":%q}`, base64.StdEncoding.EncodeToString([]byte("robot:s3cret")))
	for name, tt := range map[string]struct {
		opts  registry.Options
		entry func(*testing.T, string) credential.Entry
		want  error
	}{
		"dockerConfig, bearer":       {bearer, config(pair), nil},
		"dockerConfig, basic":        {basic, config(pair), nil},
		"dockerConfig, identity":     {bearer, config(`{"identitytoken":"s3cret-identity"}`), nil},
		"static, bearer":             {bearer, byPassword, nil},
		"static, basic":              {basic, byPassword, nil},
		"static, identity":           {bearer, byIdentity, nil},
		"static, wrong, bearer":      {bearer, wrong, referrerstore.ErrAuthDenied},
		"static, wrong, basic":       {basic, wrong, referrerstore.ErrAuthDenied},
		"static, identity for basic": {basic, byIdentity, referrerstore.ErrAuthDenied},
	} {
		r, err := registry.Start(tt.opts)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.Close)
		if _, err := r.PushImage(t.Context(), "app", "v1", name); err != nil {
			t.Fatal(err)
		}
		var logged strings.Builder
		entry := tt.entry(t, r.Host())
		store, err := oras.New(context.WithoutCancel(t.Context()), "registry",
			oras.Options{PlainHTTP: []string{r.Host()}, Credentials: []credential.Entry{entry}},
			oras.Deps{
				Credentials: map[string]credential.Kind{dockerconfig.Type: dockerconfig.Kind(), static.Type: static.Kind()},
				Logger:      slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug})),
			})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(store.Close)
		ref, err := referrerstore.ParseReference(r.Host() + "/app:v1")
		if err != nil {
			t.Fatal(err)
		}
		_, err = store.Resolve(t.Context(), ref)
		if !errors.Is(err, tt.want) || strings.Contains(fmt.Sprint(err, logged.String()), "s3cret") {
			t.Errorf("%s: %v, want %v; log %s", name, err, tt.want, logged.String())
		}
		// A file that changes makes a new generation.
		if used := entry.Path + entry.PasswordFile + entry.IdentityTokenFile; !slices.Contains(store.Files(), used) {
			t.Errorf("%s: the files to watch are %v", name, store.Files())
		}
	}
}

func ExampleTable() {
	var read []string
	deps := credential.Deps{ReadFile: func(path string) ([]byte, error) {
		read = append(read, path)
		return []byte("s3cret\n"), nil
	}}
	table, err := credential.NewTable(context.Background(), []credential.Entry{
		{Hosts: []string{"*.corp.example"}, Type: static.Type, Username: "robot", PasswordFile: "password"},
	}, map[string]credential.Kind{static.Type: static.Kind()}, deps)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer table.Close()
	fmt.Println(table.For("docker.io") == nil, read)
	keeper := table.For("registry.corp.example")
	cred, _, err := keeper.Get(context.Background(), "registry.corp.example")
	fmt.Println(keeper.Identity(), cred.User, cred.Password == "s3cret", err)
	fmt.Println(cred)
	// Output:
	// true [password]
	// static[0] robot true <nil>
	// [hidden]
}
