package oras

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.yaml.in/yaml/v3"

	"github.com/gatehouse-project/gatehouse/referrerstore/credential"
)

func TestOptionsFromYAML(t *testing.T) {
	t.Parallel()
	const text = `
hosts: ["registry.example.com", "*.azurecr.io"]
plainHTTP: ["127.0.0.1:5000"]
allowPrivate: ["registry.corp.example", "10.20.0.0/16"]
ca: {"registry.corp.example": [corp-ca.crt]}
mirrors: {"registry.example.com": ["https://mirror.corp.example"]}
credentials:
  - {hosts: ["*"], type: dockerConfig, path: config.json}
realms: {"registry.corp.example": ["auth.corp.example"]}
`
	var opts Options
	decoder := yaml.NewDecoder(strings.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&opts); err != nil {
		t.Fatal(err)
	}
	r := newRegistry(t, registryOptions{tls: true})
	ca := r.ca(t)
	dir := filepath.Dir(ca)
	opts.CA["registry.corp.example"] = []string{filepath.Base(ca)}
	opts.Credentials[0].Path = writeFile(t, "config.json", `{}`, 0o600)
	store, err := New(t.Context(), "registry", opts, Deps{Dir: dir, Credentials: kinds()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	for host, serves := range map[string]bool{
		"registry.example.com": true, "a.azurecr.io": true, "a.b.azurecr.io": false, "docker.io": false, "registry.example.com:5000": false,
	} {
		if store.Serves(host) != serves {
			t.Errorf("%s: serves is %t", host, !serves)
		}
	}
	for host, scheme := range map[string]string{"127.0.0.1:5000": "http", "127.0.0.1:5001": "https", "registry.example.com": "https"} {
		if got := store.Scheme(host); got != scheme {
			t.Errorf("%s: %s, want %s", host, got, scheme)
		}
	}
	files := store.Files()
	slices.Sort(files)
	want := []string{ca, opts.Credentials[0].Path}
	slices.Sort(want)
	if diff := cmp.Diff(want, files); diff != "" {
		t.Error(diff)
	}
}

func TestBadOptions(t *testing.T) {
	t.Parallel()
	empty := writeFile(t, "empty.json", `{}`, 0o600)
	large := writeFile(t, "large.json", strings.Repeat(" ", maxFileBytes+1), 0o600)
	noPEM := writeFile(t, "no.crt", "x", 0o600)
	aKey := writeFile(t, "key.pem", "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n", 0o600)
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	good := readText(t, newRegistry(t, registryOptions{tls: true}).ca(t))
	pem := func(text string) string { return writeFile(t, "ca.crt", text, 0o600) }
	entry := func(c credential.Entry) Options { return Options{Credentials: []credential.Entry{c}} }
	for _, tt := range []struct {
		says string
		opts Options
	}{
		{"hosts", Options{Hosts: []string{"*"}}},
		{"plainHTTP", Options{PlainHTTP: []string{"http://a.example"}}},
		{"allowPrivate", Options{AllowPrivate: []string{"a b"}}},
		{"ca", Options{CA: map[string][]string{"a b": {noPEM}}}},
		{"ca", Options{CA: map[string][]string{"a.example": {}}}},
		{"ca", Options{CA: map[string][]string{"a.example": {"missing.crt"}}}},
		{"not a list of certificates", Options{CA: map[string][]string{"a.example": {noPEM}}}},
		{"not a regular file", Options{CA: map[string][]string{"a.example": {pipe}}}},
		{"not a regular file", entry(credential.Entry{Hosts: []string{"*"}, Type: "dockerConfig", Path: pipe})},
		{"what follows certificate 0", Options{CA: map[string][]string{"a.example": {pem("x\n" + good)}}}},
		{"what follows certificate 1", Options{CA: map[string][]string{"a.example": {pem(good + "x\n" + good)}}}},
		{"what follows certificate 0", Options{CA: map[string][]string{"a.example": {pem(strings.Replace(good, "END", "AND", 1) + good)}}}},
		{"headers", Options{CA: map[string][]string{"a.example": {pem(strings.Replace(good, "\n", "\na: b\n\n", 1))}}}},
		{"EC PRIVATE KEY", Options{CA: map[string][]string{"a.example": {aKey}}}},
		{"mirrors", Options{Mirrors: map[string][]string{"a.example": {"http://b.example"}}}},
		{"mirrors", Options{Mirrors: map[string][]string{"a.example": {"https://b.example/path"}}}},
		{"mirrors", Options{Mirrors: map[string][]string{"a.example": {"https://u:p@b.example"}}}},
		{"plainHTTP", Options{PlainHTTP: []string{"b.example"}, Mirrors: map[string][]string{"a.example": {"https://b.example"}}}},
		{"realms", Options{Realms: map[string][]string{"a.example": {"https://b.example"}}}},
		{"type", entry(credential.Entry{Hosts: []string{"*"}, Type: "k8s", Path: empty})},
		{"hosts", entry(credential.Entry{Type: "dockerConfig", Path: empty})},
		{"every host", entry(credential.Entry{Hosts: []string{"**"}, Type: "dockerConfig", Path: empty})},
		{"path", entry(credential.Entry{Hosts: []string{"*"}, Type: "dockerConfig"})},
		{"no such file", entry(credential.Entry{Hosts: []string{"*"}, Type: "dockerConfig", Path: "/nowhere/config.json"})},
		{"larger", entry(credential.Entry{Hosts: []string{"*"}, Type: "dockerConfig", Path: large})},
	} {
		store, err := New(t.Context(), "registry", tt.opts, Deps{Credentials: kinds()})
		if err == nil {
			store.Close()
		}
		if err == nil || !strings.Contains(err.Error(), tt.says) || !strings.HasPrefix(err.Error(), `store "registry": `) {
			t.Errorf("%+v: %v, want an error with %q", tt.opts, err, tt.says)
		}
	}
}

// What is read is what the process is told of, and comments may stand between
// certificates.
func TestReadFile(t *testing.T) {
	t.Parallel()
	good := readText(t, newRegistry(t, registryOptions{tls: true}).ca(t))
	var read []string
	opts := Options{
		CA:          map[string][]string{"a.example": {"ca.crt"}},
		Credentials: []credential.Entry{{Hosts: []string{"*"}, Type: "dockerConfig", Path: "/x/config.json"}},
	}
	store := newStore(t, opts, Deps{Dir: "/nowhere", ReadFile: func(path string, limit int64) ([]byte, error) {
		if read = append(read, path); limit != maxFileBytes {
			t.Errorf("%s: the bound is %d", path, limit)
		}
		if filepath.Base(path) == "ca.crt" {
			return []byte("# ours\n" + good + "\n# the same\n" + good + "# the end"), nil
		}
		return []byte(`{}`), nil
	}})
	if diff := cmp.Diff([]string{"/nowhere/ca.crt", "/x/config.json"}, read); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(read, store.Files()); diff != "" {
		t.Error(diff)
	}
}

func readText(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	r := newRegistry(t, registryOptions{bearer: true})
	subject := r.image(t, "app", "v1")
	blob := r.blob(t, "app", "application/jose+json", []byte("envelope"))
	for range 2 { // two stores may share a registerer
		store := newStore(t, Options{}, Deps{Registerer: registry}, r)
		if _, err := store.Resolve(t.Context(), subject.Reference); err != nil {
			t.Fatal(err)
		}
		if _, err := collect(t.Context(), store, subject); err != nil {
			t.Fatal(err)
		}
		_, _ = store.Fetch(t.Context(), subject, subject.Descriptor, 0)
		if stream, err := store.Fetch(t.Context(), subject, blob, 0); err == nil {
			_ = stream.Close()
		}
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]float64)
	for _, family := range families {
		for _, m := range family.GetMetric() {
			var labels []string
			for _, label := range m.GetLabel() {
				labels = append(labels, label.GetValue())
			}
			if c := m.GetCounter(); c != nil {
				got[fmt.Sprint(labels)] = c.GetValue()
			}
		}
	}
	want := map[string]float64{
		"[challenge 401]": 2, "[token 2xx]": 2, "[resolve 2xx]": 2, "[referrers 2xx]": 2, "[manifest 2xx]": 2, "[blob 2xx]": 2,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestClosed(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, registryOptions{})
	store, err := New(context.WithoutCancel(t.Context()), "registry", Options{PlainHTTP: []string{r.host()}}, Deps{Proxy: noProxy})
	if err != nil {
		t.Fatal(err)
	}
	store.Close()
	if _, err := store.Resolve(t.Context(), r.image(t, "app", "v1").Reference); err == nil {
		t.Error("a closed store finds what it never saw")
	}
}
