package kubernetes

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/credential"
	"github.com/gatehouse-project/gatehouse/referrerstore/oras"
	"github.com/gatehouse-project/gatehouse/test/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const accountToken = "s3cret-of-the-account"

// apiServer answers for one secret as a cluster does, to one account.
type apiServer struct {
	*httptest.Server
	asked  atomic.Int32
	answer atomic.Pointer[func(http.ResponseWriter)]
}

func newAPIServer(t *testing.T) (*apiServer, Cluster) {
	t.Helper()
	s := &apiServer{}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		switch {
		case r.Header.Get("Authorization") != "Bearer "+accountToken:
			w.WriteHeader(http.StatusUnauthorized)
		case r.Method != http.MethodGet || r.URL.Path != "/api/v1/namespaces/gatehouse/secrets/pull.secret":
			w.WriteHeader(http.StatusNotFound)
		default:
			(*s.answer.Load())(w)
		}
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	host, port, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	return s, Cluster{
		Host: host, Port: port, CAFile: file(t, "ca.crt", string(ca)),
		TokenFile: file(t, "token", accountToken+"\n"), NamespaceFile: file(t, "namespace", "gatehouse\n"),
	}
}

func file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (s *apiServer) set(answer func(http.ResponseWriter)) { s.answer.Store(&answer) }

// secret is one as the API server prints it.
func secret(kind, key, value string) string {
	text, _ := json.Marshal(map[string]any{
		"kind": "Secret", "apiVersion": "v1", "metadata": map[string]any{"name": "pull.secret"},
		"type": kind, "data": map[string]string{key: base64.StdEncoding.EncodeToString([]byte(value))},
	})
	return string(text)
}

func pair(host string) string {
	return fmt.Sprintf(`{%q:{"auth":%q}}`, host, base64.StdEncoding.EncodeToString([]byte("robot:s3cret")))
}

func writes(text string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) { _, _ = io.WriteString(w, text) }
}

func TestFind(t *testing.T) {
	t.Parallel()
	s, cluster := newAPIServer(t)
	for name, text := range map[string]string{
		"of this form":  secret("kubernetes.io/dockerconfigjson", ".dockerconfigjson", `{"auths":`+pair("a.example")+`}`),
		"of older form": secret("kubernetes.io/dockercfg", ".dockercfg", pair("https://a.example/v1/")),
	} {
		s.set(writes(text))
		for _, namespace := range []string{"", "gatehouse"} {
			source, err := Kind(cluster).New(credential.Entry{Namespace: namespace, Name: "pull.secret"}, credential.Deps{})
			if err != nil {
				t.Fatal(err)
			}
			cred, err := source.Find(t.Context(), "a.example")
			if err != nil || cred != (credential.Credential{User: "robot", Password: "s3cret"}) {
				t.Errorf("%s: wrong credential, %v", name, err)
			}
			if _, err := source.Find(t.Context(), "b.example"); err == nil || !strings.Contains(err.Error(), "secret gatehouse/pull.secret: it has nothing for b.example") {
				t.Errorf("%s: another host: %v", name, err)
			}
		}
	}
}

func TestFindFails(t *testing.T) {
	t.Parallel()
	s, cluster := newAPIServer(t)
	other, _ := newAPIServer(t)
	good := secret("kubernetes.io/dockerconfigjson", ".dockerconfigjson", `{"auths":`+pair("a.example")+`}`)
	status := func(code int) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.WriteHeader(code)
			_, _ = io.WriteString(w, "s3cret")
		}
	}
	for _, tt := range []struct {
		says   string
		answer func(http.ResponseWriter)
		change func(*Cluster)
		name   string
	}{
		{says: "not a pod of a cluster", change: func(c *Cluster) { c.Host = "" }},
		{says: "no such file", change: func(c *Cluster) { c.TokenFile = "/nowhere" }},
		{says: "no such file", change: func(c *Cluster) { c.CAFile = "/nowhere" }},
		{says: "no such file", change: func(c *Cluster) { c.NamespaceFile = "/nowhere" }},
		{says: "namespace", change: func(c *Cluster) { c.NamespaceFile = file(t, "n", "../s3cret") }},
		{says: "answers 401", change: func(c *Cluster) { c.TokenFile = file(t, "t", "s3cret-of-old") }},
		{says: "unknown authority", change: func(c *Cluster) { c.CAFile = strangeCA(t) }},
		{says: "connection refused", change: func(c *Cluster) { c.Port = "1" }},
		{says: "does not exist", name: "other"},
		{says: "may not get it", answer: status(http.StatusForbidden)},
		{says: "answers 500", answer: status(http.StatusInternalServerError)},
		{says: "answers 307", answer: func(w http.ResponseWriter) {
			w.Header().Set("Location", other.URL+"/api/v1/namespaces/gatehouse/secrets/pull.secret")
			w.WriteHeader(http.StatusTemporaryRedirect)
		}},
		{says: "no secret", answer: writes("s3cret")},
		{says: "no secret", answer: writes(`{"kind":"Status","message":"s3cret"}`)},
		{says: "no secret", answer: writes(good[:len(good)/2])},
		{says: "another type", answer: writes(secret("Opaque", ".dockerconfigjson", `{"auths":`+pair("a.example")+`}`))},
		{says: "not a Docker config.json", answer: writes(secret("kubernetes.io/dockerconfigjson", ".other", "s3cret"))},
		{says: "not a Docker config.json", answer: writes(secret("kubernetes.io/dockerconfigjson", ".dockerconfigjson", "s3cret"))},
		{says: "it has nothing for", answer: writes(secret("kubernetes.io/dockerconfigjson", ".dockerconfigjson", `{"auths":{"a.example":{}},"credsStore":"x"}`))},
		{says: "larger", answer: writes(strings.Repeat(" ", maxSecretBytes) + good)},
	} {
		s.set(writes(good))
		if tt.answer != nil {
			s.set(tt.answer)
		}
		changed := cluster
		if tt.change != nil {
			tt.change(&changed)
		}
		name := tt.name
		if name == "" {
			name = "pull.secret"
		}
		source, err := Kind(changed).New(credential.Entry{Name: name}, credential.Deps{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = source.Find(t.Context(), "a.example")
		if err == nil || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%v, want an error with %q that quotes nothing", err, tt.says)
		}
	}
	if n := other.asked.Load(); n != 0 {
		t.Errorf("a redirect was followed %d times", n)
	}
}

// strangeCA is the authority of another cluster.
func strangeCA(t *testing.T) string {
	t.Helper()
	r, err := registry.Start(registry.Options{TLS: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	return file(t, "ca.crt", string(r.CAPEM()))
}

func TestBadEntries(t *testing.T) {
	t.Parallel()
	for _, entry := range []credential.Entry{{}, {Name: "a/b"}, {Name: ".."}, {Name: "a", Namespace: "../b"}, {Name: "A"}, {Name: "a?x=y"}} {
		if _, err := Kind(Cluster{}).New(entry, credential.Deps{}); err == nil || !strings.Contains(err.Error(), "name") {
			t.Errorf("%+v: %v, want an error", entry, err)
		}
	}
	if _, err := Kind(Cluster{}).New(credential.Entry{Name: "pull-secret.v1", Namespace: "team-a"}, credential.Deps{}); err != nil {
		t.Error(err)
	}
}

func TestInCluster(t *testing.T) {
	t.Parallel()
	env := map[string]string{"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
	c := InCluster(func(name string) string { return env[name] })
	if c.Host != "fd00::1" || c.Port != "443" || !strings.HasSuffix(c.TokenFile, "/serviceaccount/token") {
		t.Errorf("%+v", c)
	}
}

// From the secret to an image, through a store, with one question to the API
// server for all.
func TestStore(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string]registry.Options{
		"bearer": {BearerAuth: true, Basic: &registry.Credentials{User: "robot", Password: "s3cret"}},
		"basic":  {Basic: &registry.Credentials{User: "robot", Password: "s3cret"}},
	} {
		r, err := registry.Start(opts)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.Close)
		s, cluster := newAPIServer(t)
		s.set(writes(secret("kubernetes.io/dockerconfigjson", ".dockerconfigjson", `{"auths":`+pair(r.Host())+`}`)))
		entry := credential.Entry{Hosts: []string{r.Host()}, Type: Type, Name: "pull.secret"}
		for _, repo := range []string{"a", "b"} {
			if _, err := r.PushImage(t.Context(), repo, "v1", repo); err != nil {
				t.Fatal(err)
			}
		}
		store, err := oras.New(context.WithoutCancel(t.Context()), "registry",
			oras.Options{PlainHTTP: []string{r.Host()}, Credentials: []credential.Entry{entry}},
			oras.Deps{Credentials: map[string]credential.Kind{Type: Kind(cluster)}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(store.Close)
		for _, repo := range []string{"a", "b"} {
			ref, err := referrerstore.ParseReference(r.Host() + "/" + repo + ":v1")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := store.Resolve(t.Context(), ref); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if n := s.asked.Load(); n != 1 {
			t.Errorf("%s: the API server was asked %d times", name, n)
		}
	}
}

// A secret that cannot be had is an error; nobody goes on without.
func TestStoreFails(t *testing.T) {
	t.Parallel()
	r, err := registry.Start(registry.Options{BearerAuth: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	s, cluster := newAPIServer(t)
	s.set(func(w http.ResponseWriter) { w.WriteHeader(http.StatusForbidden) })
	store, err := oras.New(context.WithoutCancel(t.Context()), "registry", oras.Options{
		PlainHTTP: []string{r.Host()}, Credentials: []credential.Entry{{Hosts: []string{r.Host()}, Type: Type, Name: "pull.secret"}},
	}, oras.Deps{Credentials: map[string]credential.Kind{Type: Kind(cluster)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	ref, err := referrerstore.ParseReference(r.Host() + "/a:v1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Resolve(t.Context(), ref); !errors.Is(err, referrerstore.ErrAuthDenied) || !strings.Contains(err.Error(), "kubernetes[0]: secret gatehouse/pull.secret") {
		t.Errorf("%v, want ErrAuthDenied that names the secret", err)
	}
	if n := r.Stats().Token; n != 0 {
		t.Errorf("%d tokens were asked for as nobody", n)
	}
}

func FuzzSecret(f *testing.F) {
	f.Add([]byte(secret("kubernetes.io/dockerconfigjson", ".dockerconfigjson", `{"auths":`+pair("a.example")+`}`)))
	f.Add([]byte(secret("kubernetes.io/dockercfg", ".dockercfg", pair("a.example"))))
	f.Add([]byte(`{"kind":"Secret","type":"kubernetes.io/dockerconfigjson"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		config, err := parseSecret(data)
		if err != nil {
			return
		}
		for host := range config.Auths {
			if canonical, err := referrerstore.CanonicalHost(host); err != nil || canonical != host {
				t.Errorf("%q is not canonical", host)
			}
		}
	})
}
