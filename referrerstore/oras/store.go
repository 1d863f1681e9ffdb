// Package oras is the store that reads registries over the OCI distribution
// protocol, on oras-go.
//
// [Store] resolves references, lists referrers (by the referrers API, or by the
// tag schema where a registry lacks it) and streams content that is hashed
// while it is read. Below it:
//
//   - options.go, files.go: what a configuration says, parsed once.
//
//   - transports.go: which addresses may be connected to on whose word.
//
//   - client.go, probe.go, send.go: one client a registry host and identity,
//     behind oras-go's remote.Client. It learns once how a host wants to be
//     asked, and then asks for a repository's token before the repository.
//
//   - challenge.go, token.go, tokencache.go: WWW-Authenticate and bearer tokens.
//
//   - credentials.go: what sources of package credential get of the store.
//
//   - pull.go, body.go, contentrange.go: raw pulls, by whoever hashes himself;
//     tags.go, link.go: lists of tags.
//
//   - way.go, silence.go: what keeps pulls and judgements apart, and how long a
//     registry that is pulled from may say nothing.
//
//   - page.go: the bound on what lists of referrers may cost.
//
//   - errors.go: from answers to the sentinels of package referrerstore.
//
//   - retry.go: what is tried again, and when; trace.go: the spans of requests.
//
// Every connection goes through package guard, and every request waits for its
// turn in package governor. The store caches no content.
package oras

import (
	"context"
	_ "crypto/sha512" // digests of that algorithm may name content
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/credential"
	"github.com/gatehouse-project/gatehouse/referrerstore/flight"
	"github.com/gatehouse-project/gatehouse/referrerstore/governor"
)

// Type is what a configuration calls this kind of store.
const Type = "oras"

// defaultBudget stands in for a budget that nobody gave.
const defaultBudget = 64 << 20

// Deps are what a Store needs of the process it is in. The zero value works.
type Deps struct {
	// Budget bounds the bytes of lists of referrers in memory; nil is 64 MiB
	// of this store's own.
	Budget *referrerstore.Budget
	// Logger receives what the configuration's author should know; nil drops it.
	Logger *slog.Logger
	// Governor says when requests may be sent; nil is one of this store's own,
	// with its defaults.
	Governor *governor.Governor
	// Registerer receives the metrics; nil drops them. Stores that share one
	// share the metrics.
	Registerer prometheus.Registerer
	// Tracer receives spans of requests and of the waits for them; nil makes
	// none.
	Tracer trace.TracerProvider
	// Dir is where relative paths of the options begin.
	Dir string
	// Resolver resolves host names; nil is the system's.
	Resolver *net.Resolver
	// Proxy chooses a proxy for a URL; nil takes them from the environment.
	Proxy func(*url.URL) (*url.URL, error)
	// ReadFile reads a file that the options name, of at most limit bytes, or
	// fails; nil reads regular files only.
	ReadFile func(path string, limit int64) ([]byte, error)
	// Credentials are the types that an entry of credentials may have.
	Credentials map[string]credential.Kind
}

// Store reads registries. It is safe for concurrent use.
type Store struct {
	name    string
	set     *settings
	budget  *referrerstore.Budget
	logger  *slog.Logger
	metrics *metrics
	tracer  tracer

	ways    [purposes]way
	silence silence // of registries that are pulled from

	// clients holds clientKey -> *client, one for each registry host and
	// identity, shared by all who ask. Keys are written once and read by every
	// request; at most maxClients, the longest unused make room.
	clients sync.Map
	growing sync.Mutex // guards count and insertion into clients
	count   int

	bases    *flight.Group[attempt[clientKey], *challenge]
	patience time.Duration // of whoever joins a flight

	governor    *governor.Governor
	credentials *credential.Table
	tokenCache  *tokenCache
	tokenBytes  *referrerstore.Budget // of the answers of token services
}

var _ referrerstore.Puller = (*Store)(nil)

// New reads the files that the options name and makes a store. Flights end with
// ctx or Close, whichever comes first. Errors name the option at fault.
func New(ctx context.Context, name string, opts Options, deps Deps) (*Store, error) {
	set, err := newSettings(name, opts, deps)
	if err != nil {
		return nil, fmt.Errorf("store %q: %w", name, err)
	}
	m, err := newMetrics(deps.Registerer)
	if err != nil {
		return nil, fmt.Errorf("store %q: %w", name, err)
	}
	s := &Store{
		name: name, set: set, budget: deps.Budget, logger: deps.Logger, metrics: m, tracer: newTracer(deps.Tracer),
		ways:       [purposes]way{judging: newWay(ctx, set.transports), pulling: newWay(ctx, set.pullTransports)},
		silence:    silence{header: headerSilence, body: bodySilence},
		bases:      flight.New[attempt[clientKey], *challenge](ctx),
		tokenCache: newTokenCache(maxTokens, maxTokenCacheBytes),
		tokenBytes: referrerstore.NewSharedBudget(maxTokenReading, maxTokenReadingByHost),
		patience:   joinPatience,
	}
	if s.governor = deps.Governor; s.governor == nil {
		if s.governor, err = governor.New(governor.Options{Named: s.Names}); err != nil {
			return nil, fmt.Errorf("store %q: %w", name, err)
		}
	}
	if s.budget == nil {
		s.budget = referrerstore.NewBudget(defaultBudget)
	}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	if s.credentials, err = s.openCredentials(ctx, opts, deps); err != nil {
		return nil, fmt.Errorf("store %q: %w", name, err)
	}
	return s, nil
}

// Close ends the flights and closes idle connections. Calls that are under way
// may fail with ErrUnavailable.
func (s *Store) Close() {
	s.bases.Close()
	s.credentials.Close()
	for _, w := range s.ways {
		w.close()
	}
}

// Name is the configured name.
func (s *Store) Name() string { return s.name }

// Serves reports whether one of the configured hosts patterns matches; without
// any every host does.
func (s *Store) Serves(host string) bool {
	for _, pattern := range s.set.hosts {
		if pattern.Match(host) {
			return true
		}
	}
	return len(s.set.hosts) == 0
}

// Scheme is "http" or "https", by which this store talks to the canonical host.
func (s *Store) Scheme(host string) string {
	if s.set.plain[host] {
		return "http"
	}
	return "https"
}

// Files are the files that New read, in no order, so that whoever watches them
// can make a new store when one changes.
func (s *Store) Files() []string { return append([]string(nil), s.set.files...) }
