// Package httpserver is where Gatekeeper asks and where operators look.
//
// server.go holds the life of the two listeners, route.go the paths and what their
// URLs say, request.go one request's fan-out over its subjects, whatever it wants
// of them: verify.go a verdict, mutate.go a digest, behind which ahead.go begins
// the verdict. decode.go is what is refused before that, asked.go what a body
// means, wire.go the JSON of Gatekeeper and of Ratify's reports, trace.go the name
// of a request. tls.go reloads certificates, peers.go tells clients that reuse
// connections from those that leave them behind, health.go and metrics.go are the
// read-only side.
//
// The package knows no registry, no signature and no configuration file: a
// [Snapshot] holds what a request reads, once, and is swapped whole.
package httpserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/mux"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// Decider answers for one subject; [executor.Executor] is one. Verify and Pin
// return soon after their context ends.
type Decider interface {
	Verify(ctx context.Context, req executor.Request) (executor.Result, error)
	// Recall answers without I/O and without waiting, as of now; false says that
	// it takes Verify.
	Recall(req executor.Request, now time.Time) (executor.Result, bool)
	// Pin finds the digest that the subject's tag leads to.
	Pin(ctx context.Context, req executor.Request) (executor.Pin, error)
	// RecallPin is Pin without I/O and without waiting, as of now; false says that
	// it takes Pin.
	RecallPin(req executor.Request, now time.Time) (pin executor.Pin, known bool, err error)
}

// Snapshot is what a request reads, as one immutable whole.
type Snapshot struct {
	Decider Decider
	// Generation counts the configurations that went live.
	Generation uint64
	// VerifyTimeout is when the last byte of an answer has left, counted from
	// when the request's header has been read.
	VerifyTimeout time.Duration
	// MutateTimeout is the same for mutations; 0 means 700 ms.
	MutateTimeout time.Duration
	// MutateTo is what mutation makes of a tag.
	MutateTo MutateTo
	// Unpinned is what verify and audit say of an image that has only a tag,
	// unless their URL makes it stricter.
	Unpinned      executor.Unpinned
	OnFailure     OnFailure
	NamespaceFrom NamespaceFrom
	Limits        Limits
	// AnswerBytes bounds the memory of answers that are kept encoded; 0 keeps
	// none.
	AnswerBytes int64
}

// snapshot is a Snapshot at work.
type snapshot struct {
	*Snapshot
	answers *answers
	asked   *askedCache // nil keeps nothing
	seed    maphash.Seed
}

func newSnapshot(of *Snapshot) *snapshot {
	l := &snapshot{Snapshot: of, seed: maphash.MakeSeed(), answers: newAnswers(of.AnswerBytes - of.AnswerBytes/askedShare)}
	if size := of.AnswerBytes / askedShare; size > 0 {
		l.asked = newAskedCache(size)
	}
	return l
}

// Limits bound one request.
type Limits struct {
	BodyBytes int64
	Keys      int
	KeyBytes  int
}

// OnFailure says how the lack of a verdict is told.
type OnFailure int

// A failure leaves the key out and names it in systemError, which Gatekeeper
// does not keep, or is a value that is no success.
const (
	FailureIsSystemError OnFailure = iota
	FailureIsValue
)

// NamespaceFrom says where a key's namespace comes from.
type NamespaceFrom int

// The sources of a namespace: none, a "[namespace]" prefix of every key, or
// the path of the request.
const (
	NamespaceFromNone NamespaceFrom = iota
	NamespaceFromKey
	NamespaceFromPath
)

// Options of a Server. Logger is required.
type Options struct {
	// TLS of the webhook's listener; nil serves plain HTTP.
	TLS *TLS
	// Connections bounds the open connections of the webhook; 0 means 1024.
	Connections int
	// Bodies bounds the bytes of requests that are being answered; nil means
	// a budget of 16 MiB.
	Bodies *referrerstore.Budget
	Logger *slog.Logger
	// Registerer receives this package's metrics; nil keeps them unregistered.
	Registerer prometheus.Registerer
	// Gatherer is what /metrics shows; nil shows nothing.
	Gatherer prometheus.Gatherer
	// Detail adds facts to the answer of /readyz; may be nil.
	Detail func() map[string]any
	// Status is what /status shows, as JSON; nil leaves the path out.
	Status func() any
}

// Server answers Gatekeeper and operators. Make one with New; all methods are
// safe for concurrent use.
type Server struct {
	opts     Options
	live     atomic.Pointer[snapshot]
	draining atomic.Bool
	bodies   *referrerstore.Budget
	hosts    *hosts
	ahead    *ahead
	peers    *peers
	verdicts *verdicts
	metrics  *metrics
	buffers  buffers
	workers  sync.WaitGroup
}

// New makes a server that is not ready until Swap has given it a snapshot.
func New(opts Options) *Server {
	if opts.Connections <= 0 {
		opts.Connections = 1024
	}
	if opts.Bodies == nil {
		opts.Bodies = referrerstore.NewBudget(16 << 20)
	}
	if opts.Gatherer == nil {
		opts.Gatherer = prometheus.Gatherers{}
	}
	return &Server{
		opts:     opts,
		bodies:   opts.Bodies,
		hosts:    newHosts(queuedPerHost, queued),
		ahead:    newAhead(),
		peers:    newPeers(),
		verdicts: newVerdicts(),
		metrics:  newMetrics(opts.Registerer),
	}
}

// Swap makes a snapshot live for the requests that come from now on.
func (s *Server) Swap(next *Snapshot) {
	s.metrics.generation.Set(float64(next.Generation))
	s.live.Store(newSnapshot(next))
}

// Handler is the webhook.
func (s *Server) Handler() http.Handler {
	r := mux.NewRouter().SkipClean(true)
	for to := range routeOther {
		serve := func(w http.ResponseWriter, r *http.Request) { s.serve(w, r, to) }
		r.Path(to.path()).Methods(http.MethodPost).HandlerFunc(serve)
		r.Path(to.path() + "/namespaces/{namespace:.*}").Methods(http.MethodPost).HandlerFunc(serve)
	}
	r.NotFoundHandler = s.refuseWith(http.StatusNotFound, "there is nothing here: POST to "+VerifyPath+", "+MutatePath+" or "+AuditPath)
	r.MethodNotAllowedHandler = s.refuseWith(http.StatusMethodNotAllowed, "only POST is answered")
	return s.recovered(s.known(s.peers.wrap(s.shortcut(r))))
}

// shortcut hands the requests that nearly all are to their handler: the router
// would copy each for the sake of variables that it has none of.
func (s *Server) shortcut(router http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if to, exact := exactRoute(r.URL.Path); exact && r.Method == http.MethodPost && r.URL.RawPath == "" {
			s.serve(w, r, to)
			return
		}
		router.ServeHTTP(w, r)
	})
}

// refuseWith answers requests that no route takes. Gatekeeper parses the body
// whatever the status, so even these are provider responses.
func (s *Server) refuseWith(status int, text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if status == http.StatusMethodNotAllowed {
			w.Header().Set("Allow", http.MethodPost)
		}
		s.refuse(w, r, refused(status, "%s", text))
	})
}

// recovered answers for a handler that panicked: without a systemError in the
// body a template would take the answer for one without objections.
func (s *Server) recovered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if p := recover(); p != nil {
				s.opts.Logger.Error("panic in a handler", "panic", p, "stack", string(debug.Stack()))
				s.refuse(w, r, errPanic)
			}
		}()
		next.ServeHTTP(w, r)
	})
}

var errPanic = errors.New("panic in a handler")

// known refuses a client whose connection was let in by an authority that has
// been exchanged since and that the present one does not vouch for.
func (s *Server) known(next http.Handler) http.Handler {
	if s.opts.TLS == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if conn, ok := r.Context().Value(connKey{}).(*connState); ok && r.TLS != nil {
			if err := s.opts.TLS.recheck(&conn.identity, *r.TLS); err != nil {
				s.refuse(w, r, refused(http.StatusForbidden, "%s", clipped(err.Error())))
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// Serve answers on both listeners until ctx ends, then drains: requests that
// are under way are finished, new connections refused. It closes the listeners
// and returns when every goroutine that it started has ended. A nil webhook is
// not served.
func (s *Server) Serve(ctx context.Context, webhook, admin net.Listener) error {
	hook := s.httpServer(s.Handler())
	hook.ConnContext = s.peers.connContext
	side := s.httpServer(s.AdminHandler())
	side.ReadTimeout, side.IdleTimeout = 10*time.Second, 30*time.Second

	group, ctx := errgroup.WithContext(ctx)
	if webhook != nil {
		webhook = corkListener{netutil.LimitListener(webhook, s.opts.Connections), &s.buffers}
		if s.opts.TLS != nil {
			webhook = tls.NewListener(webhook, s.opts.TLS.Config())
		}
		group.Go(func() error { return serve(hook, webhook) })
	}
	group.Go(func() error { return serve(side, netutil.LimitListener(admin, 64)) })
	group.Go(func() error {
		<-ctx.Done()
		return s.drain(hook, side)
	})
	err := group.Wait()
	s.workers.Wait()
	return err
}

func serve(server *http.Server, listener net.Listener) error {
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", listener.Addr(), err)
	}
	return nil
}

// drain gives requests under way the time that they may take, no longer.
func (s *Server) drain(servers ...*http.Server) error {
	s.draining.Store(true)
	wait := 5 * time.Second
	if live := s.live.Load(); live != nil {
		wait = max(live.VerifyTimeout, live.timeout(routeMutate)) + time.Second
	}
	ctx, cancel := context.WithTimeout(context.Background(), wait) // the caller's has ended: that is why we drain
	defer cancel()
	for _, server := range servers {
		if err := server.Shutdown(ctx); err != nil {
			// Most likely a connection on which nobody has asked anything.
			s.opts.Logger.Warn("connections closed while draining", "error", err.Error())
			if err := server.Close(); err != nil {
				return fmt.Errorf("drain: %w", err)
			}
		}
	}
	return nil
}

// httpServer speaks HTTP/1.1 only, as Gatekeeper's client does: HTTP/2 would
// add streams that the bounds on connections do not see. Idle connections
// outlive the 90 s after which that client drops its own.
func (s *Server) httpServer(handler http.Handler) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       120 * time.Second,
		MaxHeaderBytes:    16 << 10,
		Protocols:         &protocols,
		ErrorLog:          slog.NewLogLogger(s.opts.Logger.Handler(), slog.LevelDebug),
	}
}
