package oras

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/credential"
)

// resolveAll resolves the tag of many repositories at once.
func resolveAll(t *testing.T, store *Store, subjects []referrerstore.Subject) {
	t.Helper()
	var group errgroup.Group
	for _, subject := range subjects {
		group.Go(func() error {
			_, err := store.Resolve(t.Context(), subject.Reference)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
}

func images(t *testing.T, r *fakeRegistry, n int) []referrerstore.Subject {
	t.Helper()
	subjects := make([]referrerstore.Subject, n)
	for i := range subjects {
		subjects[i] = r.image(t, fmt.Sprintf("team/app%d", i), "v1")
	}
	return subjects
}

func wantCounts(t *testing.T, r *fakeRegistry, want map[string]int) {
	t.Helper()
	for text, n := range want {
		if got := r.count(text); got != n {
			t.Errorf("%d requests with %q, want %d; all:\n%s", got, text, n, r.log())
		}
	}
}

// A cold host with many repositories: one 401, a token for each repository,
// and each request once.
func TestColdStart(t *testing.T) {
	t.Parallel()
	const n = 24
	r := newRegistry(t, registryOptions{bearer: true})
	store := newStore(t, Options{}, Deps{}, r)
	subjects := images(t, r, n)
	resolveAll(t, store, subjects)
	wantCounts(t, r, map[string]int{" 401": 1, "/token 200": n, "HEAD": n + 1, "": 2*n + 1})
	resolveAll(t, store, subjects)
	for _, subject := range subjects {
		if _, err := collect(t.Context(), store, subject); err != nil {
			t.Fatal(err)
		}
	}
	wantCounts(t, r, map[string]int{" 401": 1, "/token": n})
}

func TestColdStartOfOpenHost(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, registryOptions{})
	store := newStore(t, Options{}, Deps{}, r)
	var early atomic.Int32
	answered := make(chan struct{})
	var once sync.Once
	r.setHook(func(http.ResponseWriter, *http.Request) bool {
		select {
		case <-answered:
		default:
			early.Add(1)
			once.Do(func() { close(answered) })
		}
		return false
	})
	resolveAll(t, store, images(t, r, 12))
	wantCounts(t, r, map[string]int{"": 12})
	if early.Load() != 1 {
		t.Errorf("%d requests before the first was answered", early.Load())
	}
}

// The one whose request is first runs out of patience; the others, and the
// host, do not notice.
func TestFirstSenderGone(t *testing.T) {
	t.Parallel()
	for _, bearer := range []bool{false, true} {
		r := newRegistry(t, registryOptions{bearer: bearer})
		store := newStore(t, Options{}, Deps{}, r)
		subjects := images(t, r, 2)
		arrived, release := make(chan struct{}), make(chan struct{})
		var once sync.Once
		r.setHook(func(http.ResponseWriter, *http.Request) bool {
			once.Do(func() { close(arrived) })
			<-release
			return false
		})
		gone, cancel := context.WithCancel(t.Context())
		var group errgroup.Group
		group.Go(func() error {
			if _, err := store.Resolve(gone, subjects[0].Reference); !errors.Is(err, context.Canceled) {
				return fmt.Errorf("first: %w", err)
			}
			return nil
		})
		<-arrived
		group.Go(func() error {
			_, err := store.Resolve(t.Context(), subjects[1].Reference)
			return err
		})
		// The second has joined once the flight has two waiters, which cannot
		// be seen; if it comes late it starts its own, and is right too.
		cancel()
		close(release)
		if err := group.Wait(); err != nil {
			t.Errorf("bearer %t: %v", bearer, err)
		}
	}
}

func TestRevokedTokens(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, registryOptions{bearer: true})
	store := newStore(t, Options{}, Deps{}, r)
	subjects := images(t, r, 1)
	resolveAll(t, store, subjects)
	r.revoke()
	resolveAll(t, store, subjects)
	wantCounts(t, r, map[string]int{" 401": 2, "/token 200": 2})
}

// A host that accepts no token at all costs a bounded number of requests.
func TestNeverSatisfied(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, registryOptions{bearer: true})
	store := newStore(t, Options{}, Deps{}, r)
	subject := images(t, r, 1)[0]
	r.setHook(func(w http.ResponseWriter, req *http.Request) bool {
		if req.URL.Path == "/token" {
			_, _ = fmt.Fprint(w, `{"token":"worthless"}`)
			return true
		}
		return false
	})
	for range 3 {
		if _, err := store.Resolve(t.Context(), subject.Reference); !errors.Is(err, referrerstore.ErrAuthDenied) {
			t.Errorf("%v, want ErrAuthDenied", err)
		}
	}
	wantCounts(t, r, map[string]int{"HEAD": 1 + 3, "/token": 3})
}

const dockerAuths = `{"auths":{%q:{"auth":%q}}}`

func authFile(t *testing.T, host, user, password string) []credential.Entry {
	t.Helper()
	pair := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	path := writeFile(t, "config.json", fmt.Sprintf(dockerAuths, host, pair), 0o600)
	return []credential.Entry{{Hosts: []string{"*"}, Type: "dockerConfig", Path: path}}
}

func TestBearerWithCredentials(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, registryOptions{bearer: true})
	r.user, r.password = "robot", "s3cret"
	subjects := images(t, r, 3)
	resolveAll(t, newStore(t, Options{Credentials: authFile(t, r.host(), "robot", "s3cret")}, Deps{}, r), subjects)

	for name, opts := range map[string]Options{
		"wrong password":     {Credentials: authFile(t, r.host(), "robot", "s3cret-no")},
		"file of other host": {Credentials: authFile(t, "other.example", "robot", "s3cret")},
		"entry of other host": {Credentials: []credential.Entry{{
			Hosts: []string{"other.example"}, Type: "dockerConfig",
			Path: authFile(t, r.host(), "robot", "s3cret")[0].Path,
		}}},
	} {
		store := newStore(t, opts, Deps{}, r)
		_, err := store.Resolve(t.Context(), subjects[0].Reference)
		if !errors.Is(err, referrerstore.ErrAuthDenied) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v, want ErrAuthDenied without secrets", name, err)
		}
	}
}

func TestIdentityToken(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, registryOptions{bearer: true})
	r.setHook(func(w http.ResponseWriter, req *http.Request) bool {
		if req.URL.Path != "/token" {
			return false
		}
		if req.Method != http.MethodPost || req.FormValue("grant_type") != "refresh_token" || req.URL.RawQuery != "" ||
			req.FormValue("refresh_token") != "identity" || req.FormValue("scope") != "repository:team/app0:pull" || req.FormValue("service") != "the service" {
			w.WriteHeader(http.StatusBadRequest)
			return true
		}
		_, _ = fmt.Fprintf(w, `{"access_token":%q,"expires_in":"300"}`, r.mint("team/app0"))
		return true
	})
	path := writeFile(t, "config.json", fmt.Sprintf(`{"auths":{%q:{"identitytoken":"identity"}}}`, r.host()), 0o600)
	store := newStore(t, Options{Credentials: []credential.Entry{{Hosts: []string{"*"}, Type: "dockerConfig", Path: path}}}, Deps{}, r)
	resolveAll(t, store, images(t, r, 1))
}

func TestBasic(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, registryOptions{})
	subject := images(t, r, 1)[0]
	scheme := atomic.Pointer[string]{}
	set := func(s string) { scheme.Store(&s) }
	set(`Basic realm="x"`)
	r.setHook(func(w http.ResponseWriter, req *http.Request) bool {
		if user, password, _ := req.BasicAuth(); user == "robot" && password == "s3cret" {
			return false
		}
		w.Header().Set("WWW-Authenticate", *scheme.Load())
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	store := newStore(t, Options{Credentials: authFile(t, r.host(), "robot", "s3cret")}, Deps{}, r)
	resolveAll(t, store, []referrerstore.Subject{subject, subject, subject})
	wantCounts(t, r, map[string]int{" 401": 1, " 200": 3})

	if _, err := newStore(t, Options{}, Deps{}, r).Resolve(t.Context(), subject.Reference); !errors.Is(err, referrerstore.ErrAuthDenied) {
		t.Errorf("without credentials: %v, want ErrAuthDenied", err)
	}

	// Whoever wanted tokens once is not told a password later.
	set(`Bearer realm="http://` + r.host() + `/nothing-here"`)
	store = newStore(t, Options{Credentials: authFile(t, r.host(), "robot", "s3cret")}, Deps{}, r)
	_, _ = store.Resolve(t.Context(), subject.Reference)
	store.client(r.host()).challenge.Store(nil)
	set(`Basic realm="x"`)
	if _, err := store.Resolve(t.Context(), subject.Reference); !errors.Is(err, referrerstore.ErrAuthDenied) {
		t.Errorf("Basic after Bearer: %v, want ErrAuthDenied", err)
	}
}

func TestRealms(t *testing.T) {
	t.Parallel()
	var shown atomic.Int32 // requests that the foreign token service saw, and with what
	var withSecret atomic.Bool
	var r *fakeRegistry
	foreign := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		shown.Add(1)
		withSecret.Store(req.Header.Get("Authorization") != "")
		_, _ = fmt.Fprintf(w, `{"token":%q}`, r.mint("team/app0"))
	}))
	// The registry is at 127.0.0.1, its token service at another name of it.
	foreign.StartTLS()
	t.Cleanup(foreign.Close)
	_, port, _ := net.SplitHostPort(foreign.Listener.Addr().String())
	foreignHost := "example.com:" + port // httptest's certificate is for that name
	foreignCA := (&fakeRegistry{Server: foreign}).ca(t)

	r = newRegistry(t, registryOptions{bearer: true})
	subject := images(t, r, 1)[0]
	realm := "https://" + foreignHost + "/token"
	r.setHook(func(w http.ResponseWriter, req *http.Request) bool {
		if r.authorized(req) {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+realm+`",service="the service"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	secrets := authFile(t, r.host(), "robot", "s3cret")
	deps := Deps{Resolver: loopbackResolver(t)}
	ca := map[string][]string{foreignHost: {foreignCA}}

	for _, tt := range []struct {
		name    string
		opts    Options
		refused string // what the error says
		shown   int32
		secret  bool
	}{
		{
			name:    "credentials, not listed",
			opts:    Options{Credentials: secrets, AllowPrivate: []string{"example.com"}, CA: ca},
			refused: fmt.Sprintf("add {%q: [%q]} to realms of store \"registry\"", r.host(), foreignHost),
		},
		{
			name:    "listed for another registry",
			opts:    Options{Credentials: secrets, AllowPrivate: []string{"example.com"}, CA: ca, Realms: map[string][]string{"other.example": {foreignHost}}},
			refused: "realms",
		},
		{
			name:  "credentials, listed",
			opts:  Options{Credentials: secrets, AllowPrivate: []string{"example.com"}, CA: ca, Realms: map[string][]string{r.host(): {foreignHost}}},
			shown: 1, secret: true,
		},
		{
			name:    "anonymous, not listed",
			opts:    Options{AllowPrivate: []string{"example.com"}, CA: ca},
			refused: fmt.Sprintf("{%q: [%q]} to its realms", r.host(), foreignHost),
		},
		{
			name:  "anonymous, listed",
			opts:  Options{AllowPrivate: []string{"example.com"}, CA: ca, Realms: map[string][]string{r.host(): {foreignHost}}},
			shown: 1,
		},
		{
			name:    "anonymous, private address",
			opts:    Options{CA: ca},
			refused: `add "example.com" to allowPrivate of store "registry"`,
		},
	} {
		shown.Store(0)
		withSecret.Store(false)
		_, err := newStore(t, tt.opts, deps, r).Resolve(t.Context(), subject.Reference)
		if tt.refused == "" && err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if tt.refused != "" && (!errors.Is(err, referrerstore.ErrRefused) || !strings.Contains(err.Error(), tt.refused)) {
			t.Errorf("%s: %v, want ErrRefused with %q", tt.name, err, tt.refused)
		}
		if shown.Load() != tt.shown || withSecret.Load() != tt.secret {
			t.Errorf("%s: the token service was asked %d times, with credentials: %t", tt.name, shown.Load(), withSecret.Load())
		}
	}

	realm = "http://example.com/token"
	_, err := newStore(t, Options{}, deps, r).Resolve(t.Context(), subject.Reference)
	if !errors.Is(err, referrerstore.ErrRefused) || !strings.Contains(err.Error(), `add "example.com" to plainHTTP`) {
		t.Errorf("foreign realm over http: %v, want ErrRefused", err)
	}
}

func TestRealmOfHTTPSIsHTTPS(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, registryOptions{tls: true})
	subject := images(t, r, 1)[0]
	r.setHook(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.host()+`/token"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	store := newStore(t, Options{AllowPrivate: []string{"127.0.0.1"}, CA: map[string][]string{r.host(): {r.ca(t)}}}, Deps{})
	if _, err := store.Resolve(t.Context(), subject.Reference); !errors.Is(err, referrerstore.ErrRefused) {
		t.Errorf("%v, want ErrRefused", err)
	}
}

// A token service on a good host that redirects: neither password nor identity
// token goes along.
func TestTokenRedirects(t *testing.T) {
	t.Parallel()
	var elsewhere atomic.Pointer[http.Request]
	thief := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_ = req.ParseForm()
		elsewhere.Store(req)
		_, _ = fmt.Fprint(w, `{"token":"x"}`)
	}))
	t.Cleanup(thief.Close)
	for name, entry := range map[string]string{
		"password":       `{"auths":{%q:{"username":"robot","password":"s3cret"}}}`,
		"identity token": `{"auths":{%q:{"identitytoken":"s3cret"}}}`,
	} {
		for _, status := range []int{301, 302, 303, 307, 308} {
			elsewhere.Store(nil)
			r := newRegistry(t, registryOptions{bearer: true})
			subject := images(t, r, 1)[0]
			r.setHook(func(w http.ResponseWriter, req *http.Request) bool {
				if req.URL.Path == "/token" {
					http.Redirect(w, req, thief.URL+"/steal", status)
					return true
				}
				return false
			})
			path := writeFile(t, "config.json", fmt.Sprintf(entry, r.host()), 0o600)
			store := newStore(t, Options{
				AllowPrivate: []string{"127.0.0.1"},
				Credentials:  []credential.Entry{{Hosts: []string{"*"}, Type: "dockerConfig", Path: path}},
			}, Deps{}, r)
			_, err := store.Resolve(t.Context(), subject.Reference)
			if err == nil || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("%s, %d: %v, want an error without secrets", name, status, err)
			}
			if req := elsewhere.Load(); req != nil && (req.Header.Get("Authorization") != "" || len(req.PostForm) > 0) {
				t.Errorf("%s, %d: the other host saw %v %v", name, status, req.Header, req.PostForm)
			}
		}
	}
}

func TestHostileTokenAnswers(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"no JSON":      `<html>`,
		"no token":     `{"expires_in":60}`,
		"header":       `{"token":"a\r\nX-Evil: 1"}`,
		"long":         `{"token":"` + strings.Repeat("a", maxTokenBytes+1) + `"}`,
		"large answer": `{"x":"` + strings.Repeat("a", maxTokenResponse) + `","token":"a"}`,
		"wrong types":  `{"token":{"a":1}}`,
		"empty answer": ``,
		"not ended":    `{"token":"a"`,
	} {
		r := newRegistry(t, registryOptions{bearer: true})
		subject := images(t, r, 1)[0]
		r.setHook(func(w http.ResponseWriter, req *http.Request) bool {
			if req.URL.Path == "/token" {
				_, _ = fmt.Fprint(w, body)
				return true
			}
			return false
		})
		if _, err := newStore(t, Options{}, Deps{}, r).Resolve(t.Context(), subject.Reference); !errors.Is(err, referrerstore.ErrProtocol) {
			t.Errorf("%s: %v, want ErrProtocol", name, err)
		}
	}
}
