package oras

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// A token service that hangs, before or behind the header of its answers, keeps
// no other registry from its tokens.
func TestTokenServiceHangs(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]func(http.ResponseWriter){
		"no answer": func(http.ResponseWriter) {},
		"no body": func(w http.ResponseWriter) {
			_, _ = w.Write([]byte(`{"token":`))
			_ = http.NewResponseController(w).Flush()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const n = 40
			bad, good := newRegistry(t, registryOptions{bearer: true}), newRegistry(t, registryOptions{bearer: true})
			var hanging atomic.Int32
			bad.setHook(func(w http.ResponseWriter, req *http.Request) bool {
				if req.URL.Path != "/token" {
					return false
				}
				begin(w)
				hanging.Add(1)
				<-req.Context().Done()
				return true
			})
			store := newStore(t, Options{}, Deps{}, bad, good)
			ctx, cancel := context.WithCancel(t.Context())
			var group errgroup.Group
			for i := range n {
				ref := bad.reference(t, fmt.Sprintf("team/app%d", i), "v1")
				group.Go(func() error {
					_, err := store.Resolve(ctx, ref)
					return err
				})
			}
			waitFor(t, func() bool { return hanging.Load() >= 16 })
			short, stop := context.WithTimeout(t.Context(), 5*time.Second)
			defer stop()
			if _, err := store.Resolve(short, images(t, good, 1)[0].Reference); err != nil {
				t.Errorf("the other registry: %v", err)
			}
			cancel()
			if err := group.Wait(); err == nil {
				t.Error("nothing hung")
			}
		})
	}
}

func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	for range 5000 {
		if done() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("it did not come to that")
}

// The queue for tokens of one client has an end, and what it holds is given
// back.
func TestTokenQueueIsBounded(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, registryOptions{bearer: true})
	store := newStore(t, Options{}, Deps{}, r)
	c := store.client(r.host())
	queue := &c.tokens[judging]
	queue.wanted.Store(maxTokensWanted)
	subject := images(t, r, 1)[0]
	if _, err := store.Resolve(t.Context(), subject.Reference); !errors.Is(err, referrerstore.ErrBusy) {
		t.Errorf("%v, want ErrBusy", err)
	}
	queue.wanted.Store(0)
	resolveAll(t, store, []referrerstore.Subject{subject})
	if n := queue.wanted.Load(); n != 0 || store.tokenBytes.InUse() != 0 || !queue.slots.TryAcquire(maxTokenRequests) {
		t.Errorf("%d are waiting, %d bytes are held", n, store.tokenBytes.InUse())
	}
}

// An answer takes memory as it grows, up to its bound.
func TestLargeTokenAnswer(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, registryOptions{bearer: true})
	subject := images(t, r, 1)[0]
	r.setHook(func(w http.ResponseWriter, req *http.Request) bool {
		if req.URL.Path == "/token" {
			_, _ = fmt.Fprintf(w, `{"x":%q,"token":%q}`, strings.Repeat("a", 100<<10), r.mint("team/app0"))
			return true
		}
		return false
	})
	store := newStore(t, Options{}, Deps{}, r)
	resolveAll(t, store, []referrerstore.Subject{subject})
	if store.tokenBytes.InUse() != 0 {
		t.Errorf("%d bytes are held", store.tokenBytes.InUse())
	}

	share := store.tokenBytes.Host(r.host())
	defer share.Close()
	if !share.TryAcquire(maxTokenReadingByHost - tokenShare) {
		t.Fatal("no bytes")
	}
	store.tokenCache.drop(store.client(r.host()).tokenKey("team/app0"), "token-1")
	if _, err := store.Resolve(t.Context(), subject.Reference); !errors.Is(err, referrerstore.ErrBusy) {
		t.Errorf("%v, want ErrBusy", err)
	}
	share.Release(maxTokenReadingByHost - tokenShare)
}

// hangOnce lets the first request for which is holds hang until it is given up.
func hangOnce(r *fakeRegistry, is func(*http.Request) bool) {
	var once sync.Once
	r.setHook(func(_ http.ResponseWriter, req *http.Request) bool {
		hangs := false
		if is(req) {
			once.Do(func() { hangs = true })
		}
		if hangs {
			<-req.Context().Done()
		}
		return hangs
	})
}

// One connection that hangs is the misfortune of the one whose it is: whoever
// comes after it waits a moment and asks anew.
func TestOneConnectionHangs(t *testing.T) {
	t.Parallel()
	for name, is := range map[string]func(*http.Request) bool{
		"first request": func(*http.Request) bool { return true },
		"token":         func(req *http.Request) bool { return req.URL.Path == "/token" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRegistry(t, registryOptions{bearer: true})
			hangOnce(r, is)
			store := newStore(t, Options{}, Deps{}, r)
			store.patience = 20 * time.Millisecond
			ref := images(t, r, 1)[0].Reference
			short, stop := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer stop()
			if _, err := store.Resolve(short, ref); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the first: %v, want its deadline", err)
			}
			later, stop := context.WithTimeout(t.Context(), 5*time.Second)
			defer stop()
			if _, err := store.Resolve(later, ref); err != nil {
				t.Errorf("the second: %v", err)
			}
		})
	}
}

// What was learned long ago is gone on with, until it is wrong.
func TestOldChallenge(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, registryOptions{bearer: true})
	store := newStore(t, Options{}, Deps{}, r)
	subjects := images(t, r, 3)
	resolveAll(t, store, subjects[:1])
	c := store.client(r.host())
	age := func(change func(*challenge)) {
		old := *c.challenge.Load()
		old.at = old.at.Add(-2 * challengeLife)
		change(&old)
		c.challenge.Store(&old)
	}
	age(func(*challenge) {})
	resolveAll(t, store, subjects[1:2])
	wantCounts(t, r, map[string]int{" 401": 1, "/token 200": 2})

	// Its token service has moved.
	age(func(old *challenge) { old.realm = r.URL + "/gone" })
	resolveAll(t, store, subjects[2:])
	wantCounts(t, r, map[string]int{"/gone": 1, " 401": 3, "/token 200": 3}) // /gone wants a token too

	// It was open.
	age(func(old *challenge) { *old = challenge{at: old.at} })
	resolveAll(t, store, subjects[:1])
	wantCounts(t, r, map[string]int{" 401": 4, "/token 200": 3})
}

// hide lets a registry answer 404 to whoever shows nothing, but for GET /v2/.
func hide(r *fakeRegistry) {
	r.setHook(func(w http.ResponseWriter, req *http.Request) bool {
		if req.URL.Path == "/token" || req.URL.Path == "/v2/" || r.authorized(req) {
			return false
		}
		w.WriteHeader(http.StatusNotFound)
		return true
	})
}

func TestHiddenFromAnonymous(t *testing.T) {
	t.Parallel()
	const n = 12
	r := newRegistry(t, registryOptions{bearer: true})
	r.user, r.password = "robot", "s3cret"
	hide(r)
	secrets := authFile(t, r.host(), "robot", "s3cret")
	subjects := images(t, r, n)
	r.referrer(t, subjects[0], "example/a", "a")
	store := newStore(t, Options{Credentials: secrets}, Deps{}, r)
	resolveAll(t, store, subjects)
	wantCounts(t, r, map[string]int{" 401": 1, " 404": 1, "/token 200": n, "": 2*n + 2})
	list, err := collect(t.Context(), newStore(t, Options{Credentials: secrets}, Deps{}, r), subjects[0])
	if err != nil || len(list) != 1 {
		t.Errorf("%d referrers, %v", len(list), err)
	}

	// Some repositories are for everybody.
	r.setHook(func(w http.ResponseWriter, req *http.Request) bool {
		switch {
		case req.URL.Path == "/token" || req.URL.Path == "/v2/":
			return false
		case strings.Contains(req.URL.Path, "app0/"):
			r.serve.ServeHTTP(w, req)
			return true
		case !r.authorized(req):
			w.WriteHeader(http.StatusNotFound)
			return true
		}
		return false
	})
	store = newStore(t, Options{Credentials: secrets}, Deps{}, r)
	resolveAll(t, store, subjects[:1])
	resolveAll(t, store, subjects[1:])
	wantCounts(t, r, map[string]int{" 401": 3})

	if _, err := newStore(t, Options{}, Deps{}, r).Resolve(t.Context(), subjects[1].Reference); !errors.Is(err, referrerstore.ErrNotFound) {
		t.Errorf("without credentials: %v, want ErrNotFound", err)
	}
}

// What is missing is missing, and a host that is open is asked for that once;
// one that cannot say is not believed.
func TestMissingWithCredentials(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, registryOptions{})
	store := newStore(t, Options{Credentials: authFile(t, r.host(), "robot", "s3cret")}, Deps{}, r)
	var status atomic.Int32
	r.setHook(func(w http.ResponseWriter, req *http.Request) bool {
		if req.URL.Path == "/v2/" && status.Load() != 0 {
			w.WriteHeader(int(status.Load()))
			return true
		}
		return false
	})
	missing := r.reference(t, "team/none", "v1")
	for _, tt := range []struct {
		status int
		want   error
	}{
		{http.StatusServiceUnavailable, referrerstore.ErrUnavailable},
		{http.StatusTooManyRequests, referrerstore.ErrRateLimited},
		{http.StatusForbidden, referrerstore.ErrAuthDenied},
		{http.StatusUnauthorized, referrerstore.ErrAuthDenied},
	} {
		status.Store(int32(tt.status))
		if _, err := store.Resolve(t.Context(), missing); !errors.Is(err, tt.want) || errors.Is(err, referrerstore.ErrNotFound) {
			t.Errorf("%d: %v, want %v alone", tt.status, err, tt.want)
		}
	}
	status.Store(0)
	for range 3 {
		if _, err := store.Resolve(t.Context(), missing); !errors.Is(err, referrerstore.ErrNotFound) {
			t.Errorf("%v, want ErrNotFound", err)
		}
	}
	wantCounts(t, r, map[string]int{"/v2/ 200": 1})
}

// Only what says that the credentials are wrong makes a helper run again.
func TestFailingTokenServiceKeepsCredentials(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, registryOptions{bearer: true})
	subject := images(t, r, 1)[0]
	var status atomic.Int32
	r.setHook(func(w http.ResponseWriter, req *http.Request) bool {
		if req.URL.Path == "/token" {
			w.WriteHeader(int(status.Load()))
		}
		return req.URL.Path == "/token"
	})
	for _, tt := range []struct {
		status int
		kept   bool
	}{{503, true}, {429, true}, {404, true}, {401, false}, {403, false}} {
		store := newStore(t, Options{Credentials: authFile(t, r.host(), "robot", "s3cret")}, Deps{}, r)
		status.Store(int32(tt.status))
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if _, err := store.Resolve(ctx, subject.Reference); err == nil {
			t.Errorf("%d: no error", tt.status)
		}
		cancel()
		if _, kept, err := store.client(r.host()).credentials(t.Context()); kept != tt.kept || err != nil {
			t.Errorf("%d: kept is %t, %v", tt.status, kept, err)
		}
	}
}

// A registry that anybody may set up, reached through a proxy, sends its client
// to a host that only the configuration makes reachable.
func TestStrangerLeadsInside(t *testing.T) {
	t.Parallel()
	inside := newRegistry(t, registryOptions{tls: true})
	insideHost := inside.host()
	stranger := newRegistry(t, registryOptions{tls: true})
	subject := stranger.image(t, "app", "v1")
	ref, err := referrerstore.ParseReference("example.com/app:v1") // httptest's certificate is for that name
	if err != nil {
		t.Fatal(err)
	}
	subject.Reference = ref
	proxy := tunnel(t, map[string]string{"example.com:443": stranger.host(), insideHost: insideHost})
	for name, lead := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"by a redirect": func(w http.ResponseWriter, req *http.Request) bool {
			http.Redirect(w, req, inside.URL+"/x", http.StatusFound)
			return true
		},
		"by a detour": func(w http.ResponseWriter, req *http.Request) bool {
			to := inside.URL + "/x"
			if req.URL.Path != "/detour" {
				to = "/detour"
			}
			http.Redirect(w, req, to, http.StatusFound)
			return true
		},
		"for a token": func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+inside.URL+`/token"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		},
	} {
		stranger.setHook(lead)
		store := newStore(t, Options{
			CA:           map[string][]string{"example.com": {stranger.ca(t)}, insideHost: {inside.ca(t)}},
			AllowPrivate: []string{"127.0.0.0/8"},
		}, Deps{Proxy: func(*url.URL) (*url.URL, error) { return proxy, nil }})
		_, err := store.Resolve(t.Context(), subject.Reference)
		if !errors.Is(err, referrerstore.ErrRefused) || !strings.Contains(err.Error(), "add ") {
			t.Errorf("%s: %v, want ErrRefused", name, err)
		}
		if n := inside.count(""); n != 0 {
			t.Errorf("%s: %d requests arrived", name, n)
		}
	}
}
