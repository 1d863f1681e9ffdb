// Package registry is a real OCI registry in memory, on a loopback port, that
// can be made slow, throttled or hostile: for tests, benchmarks and the demo.
//
// [Start] serves the distribution API, with the referrers API and token
// authentication as [Options] ask. Content comes in through the API like
// anywhere, or past it: [Registry.PushImage], [Registry.PushIndex] and
// [Registry.PushReferrer] store well-formed content at once,
// [Registry.PushLarge] a layer as large as it takes, and [Registry.Plant] lies.
// [Registry.Stats] counts what clients asked for, [Registry.Paths] each path.
// What a hostile registry does is a [Fault]; faults.go has the common ones, and
// lies.go those that whoever pulls meets.
//
// What it costs is kept low, because it runs on the machine that is measured:
// content is hashed once, lists of referrers are made once, latency is a timer.
// It keeps all in memory and forgets it at [Registry.Close].
package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"cuelabs.dev/go/oci/ociregistry/ociserver"
	"golang.org/x/time/rate"
)

// Options say how the registry behaves. The zero value is a fast, honest,
// anonymous registry on plain HTTP.
type Options struct {
	// Listener is the address to listen on, 127.0.0.1:0 if empty.
	Listener string
	// Latency passes before each answer, also those of the token service: one
	// round trip on a slow network.
	Latency time.Duration

	// BearerAuth demands a token whose scope covers the request. Requests
	// without one are answered 401 with a Bearer challenge.
	BearerAuth bool
	// SeparateTokenHost gives the token service a listener of its own, see
	// [Registry.TokenHost]; else it is at /token of the registry's host.
	SeparateTokenHost bool
	// TokenLifetime is the tokens' expires_in, 5 minutes if zero.
	TokenLifetime time.Duration
	// Basic is what the token service demands, or without BearerAuth the
	// registry itself. If nil, anybody gets a token, and for any scope.
	Basic *Credentials

	// DisableReferrersAPI answers 404 to the referrers API: a client has to
	// look for the tag that the distribution specification falls back to.
	DisableReferrersAPI bool
	// ReferrersPageSize cuts lists of referrers into pages linked by a Link
	// header; zero means that a list is never cut.
	ReferrersPageSize int

	// Rate is how many requests a second the registry serves, with bursts of
	// Burst (at least 1), before it answers 429; zero means any number. The
	// token service is not limited.
	Rate  float64
	Burst int
	// RetryAfter is the Retry-After header of a 429, none if empty.
	RetryAfter string

	// TLS serves HTTPS, HTTP/2 included, with a certificate of a CA made for
	// this registry: see [Registry.CAPEM].
	TLS bool
	// TLSNames are the certificate's DNS names besides localhost.
	TLSNames []string

	// Intercept sees each request before the registry does, after the latency.
	// See [Fault] and [Registry.SetIntercept].
	Intercept func(w http.ResponseWriter, r *http.Request) bool
}

// Credentials are what a client must show to get a token.
type Credentials struct {
	User, Password string
	// IdentityToken is accepted instead, as OAuth2 refresh token. May be empty.
	IdentityToken string
}

// Registry is a running registry. Its methods are safe for concurrent use.
type Registry struct {
	opts      Options
	content   *content
	api       http.Handler
	tokens    tokenService
	limiter   *rate.Limiter
	intercept atomic.Pointer[Fault]
	stats     counters

	host, tokenHost string
	caPEM           []byte
	servers         []*http.Server
	cancel          context.CancelFunc
	serving         sync.WaitGroup // accept loops and connections
	handling        sync.WaitGroup // requests; grows only while !closed

	tagging sync.Mutex // one change of a fallback index at a time

	mu     sync.Mutex // guards closed
	closed bool
}

// Start listens and serves until Close. The error is that of listening, or of
// options that contradict each other.
func Start(opts Options) (*Registry, error) {
	if opts.SeparateTokenHost && !opts.BearerAuth {
		return nil, errors.New("registry: SeparateTokenHost needs BearerAuth")
	}
	if opts.Listener == "" {
		opts.Listener = "127.0.0.1:0"
	}
	r := &Registry{opts: opts, content: newContent()}
	r.api = ociserver.New(r.content, &ociserver.Options{
		DisableReferrersAPI: opts.DisableReferrersAPI,
		DebugID:             "registry",
	})
	if opts.Rate > 0 {
		r.limiter = rate.NewLimiter(rate.Limit(opts.Rate), max(opts.Burst, 1))
	}
	r.SetIntercept(opts.Intercept)
	if err := r.listen(); err != nil {
		r.Close()
		return nil, fmt.Errorf("start registry: %w", err)
	}
	return r, nil
}

func (r *Registry) listen() error {
	var identity *identity
	if r.opts.TLS {
		var err error
		if identity, err = newIdentity(r.opts.TLSNames); err != nil {
			return err
		}
		r.caPEM = identity.caPEM
	}
	// The registry's own time, which Close ends: it has no caller.
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	listener, err := net.Listen("tcp", r.opts.Listener)
	if err != nil {
		return err
	}
	r.host = listener.Addr().String()
	r.tokenHost = r.host
	if !r.opts.SeparateTokenHost {
		r.run(ctx, listener, identity, r.serve)
		return nil
	}
	tokens, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	r.tokenHost = tokens.Addr().String()
	r.run(ctx, listener, identity, withoutTokens(r.serve))
	r.run(ctx, tokens, identity, onlyTokens(r.serve))
	return nil
}

// run serves one listener until Close.
func (r *Registry) run(ctx context.Context, l net.Listener, id *identity, h http.HandlerFunc) {
	s := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: time.Minute,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnState:         r.connState,
		// Clients that go away are what faults are for, not news.
		ErrorLog: log.New(io.Discard, "", 0),
	}
	r.servers = append(r.servers, s)
	r.serving.Go(func() {
		if id == nil {
			_ = s.Serve(l)
			return
		}
		s.TLSConfig = id.config()
		_ = s.ServeTLS(l, "", "")
	})
}

// connState holds Close back until the last connection's goroutine has ended.
func (r *Registry) connState(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		r.stats.connections.Add(1)
		r.serving.Add(1)
		if r.isClosed() {
			_ = conn.Close() // accepted while the server was closing the others
		}
	case http.StateClosed, http.StateHijacked:
		r.serving.Done()
	case http.StateActive, http.StateIdle:
	}
}

// Close ends all requests and connections and returns when the last one has
// ended. It may be called more than once.
func (r *Registry) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	if r.cancel != nil {
		r.cancel()
	}
	for _, s := range r.servers {
		_ = s.Close()
	}
	r.serving.Wait()
	r.handling.Wait()
}

func (r *Registry) isClosed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closed
}

// Host is the address that image references name: 127.0.0.1 and a port.
func (r *Registry) Host() string { return r.host }

// TokenHost is where the token service is: Host unless the options gave it a
// listener of its own.
func (r *Registry) TokenHost() string { return r.tokenHost }

// URL is the scheme and host.
func (r *Registry) URL() string { return r.scheme() + "://" + r.host }

// CAPEM is the certificate to trust for TLS, nil without it.
func (r *Registry) CAPEM() []byte { return r.caPEM }

func (r *Registry) scheme() string {
	if r.opts.TLS {
		return "https"
	}
	return "http"
}

// SetIntercept replaces [Options].Intercept for the requests from now on; nil
// makes the registry honest again.
func (r *Registry) SetIntercept(f Fault) {
	if f == nil {
		r.intercept.Store(nil)
		return
	}
	r.intercept.Store(&f)
}
