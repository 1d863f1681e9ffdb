// Package registry is a pull-through OCI registry: what a node pulls is byte for
// byte what was proven.
//
// A [Registry] answers GET and HEAD of the distribution API from a content cache,
// and fills that from upstream registries of an allow-list, each reached through
// the store that serves its host. It takes no writes.
//
//   - registry.go is what it is made of and what it reads, request.go one request.
//   - serve.go is its listener, writer.go what goes out: no time limit on a whole
//     answer, but one on a client that takes nothing.
//   - path.go and target.go find out what is asked for, and of which upstream;
//     clients.go who may ask.
//   - manifests.go, tags.go, blobs.go and lists.go answer; content.go sends, with
//     ranges.go; source.go is where the cache gets content from.
//   - warm.go brings in images before anybody asks: with warmwalk.go the manifests
//     that belong to one, with warmblobs.go the blobs.
//   - verified.go serves only what the policy allows, relatives.go what may be
//     served on the strength of something else, document.go what a manifest is.
//   - explain.go has every text that a person reads, metrics.go the numbers.
//
// Whatever a client shows to be let in stays here: it is compared, and neither
// forwarded nor kept nor logged.
package registry

import (
	"context"
	"iter"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
	"github.com/gatehouse-project/gatehouse/referrerstore/flight"
)

// Cache is the content cache that a Registry serves from; [cache.Cache] is one.
type Cache interface {
	Contents
	Relations
	Hints
}

// Contents is what a cache holds, by digest.
type Contents interface {
	Get(want cache.Want) (*cache.Content, error)
	Obtain(ctx context.Context, want cache.Want, from cache.Source) (*cache.Content, error)
	Put(want cache.Want, data []byte) error
}

// Relations is what a cache knows of how its contents hang together.
type Relations interface {
	Parents(scope cache.Scope, of digest.Digest) []cache.Parent
	About(scope cache.Scope, manifest digest.Digest) (cache.Parent, bool)
	Items(filter cache.Filter) iter.Seq[cache.Item]
}

// Hints is what registries said of names, which they may change.
type Hints interface {
	Tag(scope cache.Scope, tag string) (cache.Tag, bool)
	SetTag(scope cache.Scope, tag string, is cache.Tag)
	DropTag(scope cache.Scope, tag string)
	Referrers(scope cache.Scope, subject digest.Digest) ([]ocispec.Descriptor, time.Time, bool)
	SetReferrers(scope cache.Scope, subject digest.Digest, listed []ocispec.Descriptor, at time.Time)
}

var _ Cache = (*cache.Cache)(nil)

// Decider answers whether an image is allowed; [executor.Executor] is one. Verify
// returns soon after its context ends.
type Decider interface {
	Verify(ctx context.Context, req executor.Request) (executor.Result, error)
}

// Snapshot is what a request reads, as one immutable whole.
type Snapshot struct {
	// Upstreams are those that may be pulled through, by canonical host.
	Upstreams map[string]Upstream
	// Default is the upstream, one of Upstreams, of requests that name none;
	// empty refuses them.
	Default string
	// AirGapped answers from what is held alone.
	AirGapped bool
	// Tokens are those that let a client in, asked once a request; nil, or an
	// empty list, knows none. It must not block.
	Tokens func() []TokenHash
	// Enforce says what the policy's verdict does; EnforceAs is the Kubernetes
	// namespace that it is asked for.
	Enforce   Enforcement
	EnforceAs string
	// Decider is needed unless Enforce is EnforceOff.
	Decider Decider
}

// Upstream is a registry host that may be pulled through.
type Upstream struct {
	// Store reaches it. It may be nil where AirGapped is set.
	Store referrerstore.Puller
	// Identity names whose credentials the host gets to see at this moment,
	// empty for none; nil means none. Content is private if there are any.
	Identity func() string
	// Tags says when the host is asked what a tag leads to.
	Tags TagPolicy
	// AnyClient serves private content to clients that show nothing.
	AnyClient bool
}

func (u Upstream) identity() string {
	if u.Identity == nil {
		return ""
	}
	return u.Identity()
}

// TagPolicy says when a registry is asked what a tag leads to. The zero value
// asks each time and never answers with what was true before.
type TagPolicy struct {
	Mode TagMode
	// Interval is for how long TagInterval believes an answer.
	Interval time.Duration
	// StaleIfError is how old an answer may be that stands in for a registry
	// which is unavailable, late, or limits the rate; never for one that says no.
	StaleIfError time.Duration
}

// TagMode is a way to treat tags.
type TagMode int

// The ways to treat tags: ask each time, believe an answer for a while, or ask
// only if nothing is known.
const (
	TagAlways TagMode = iota
	TagInterval
	TagIfAbsent
)

// Enforcement says what becomes of content that the policy does not allow.
type Enforcement int

// The three: nobody asks the policy, it is asked and the answer logged, or
// nothing goes out that it does not allow.
const (
	EnforceOff Enforcement = iota
	EnforceWarn
	EnforceOn
)

// Options of a Registry. The zero value works.
type Options struct {
	// Connections bounds the open connections; 0 means 1024.
	Connections int
	// Idle is how long a client may take nothing of what is sent to it; 0 means
	// a minute.
	Idle time.Duration
	// Drain is how long answers that are under way may go on after the end;
	// 0 means 30 s.
	Drain time.Duration
	// VerdictTimeout bounds the wait for the policy; 0 means 8 s.
	VerdictTimeout time.Duration
	// Budget bounds the manifests that are read into memory; nil means one of
	// 64 MiB.
	Budget *referrerstore.Budget

	// Logger receives a line per request at debug and warnings of refusals;
	// nil discards.
	Logger *slog.Logger
	// Registerer receives the metrics; nil keeps them unregistered.
	Registerer prometheus.Registerer
}

func (o Options) withDefaults() Options {
	if o.Connections <= 0 {
		o.Connections = 1024
	}
	if o.Idle <= 0 {
		o.Idle = time.Minute
	}
	if o.Drain <= 0 {
		o.Drain = 30 * time.Second
	}
	if o.VerdictTimeout <= 0 {
		o.VerdictTimeout = 8 * time.Second
	}
	if o.Budget == nil {
		o.Budget = referrerstore.NewBudget(64 << 20)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Registry answers clients that pull. Make one with New; all methods are safe
// for concurrent use.
type Registry struct {
	cache   Cache
	opts    Options
	live    atomic.Pointer[Snapshot]
	metrics *metrics
	warn    *warner
	seen    *seen      // manifests that were served of late
	by      *parents   // manifests that blobs were served by
	docs    *documents // what manifests are
	buffers sync.Pool  // of *[]byte

	tags  *flight.Group[tagKey, tagAnswer]
	blobs *flight.Group[cache.Want, int64]
}

const (
	// lingering is how long, and lingerers how many, requests to upstreams go
	// on that every client has left: somebody will ask again.
	lingering = 15 * time.Second
	lingerers = 64
	// upstreamTimeout bounds a request to an upstream for a tag or a size.
	upstreamTimeout = 30 * time.Second
)

// New makes a registry that answers 503 until Swap has given it a snapshot. What
// it starts ends with ctx or Close; ctx should outlive that of Serve, so that
// answers that are under way are finished.
func New(ctx context.Context, contents Cache, opts Options) *Registry {
	opts = opts.withDefaults()
	s := &Registry{
		cache:   contents,
		opts:    opts,
		metrics: newMetrics(opts.Registerer),
		warn:    newWarner(opts.Logger),
		seen:    newSeen(),
		by:      newParents(),
		docs:    newDocuments(),
		tags: flight.NewBounded[tagKey, tagAnswer](ctx, flight.Bounds[tagKey]{
			Linger: lingering, Number: lingerers, Always: true,
		}),
		blobs: flight.New[cache.Want, int64](ctx),
	}
	s.buffers.New = func() any { b := make([]byte, bufferBytes); return &b }
	return s
}

// Swap makes a snapshot live for the requests that come from now on.
func (s *Registry) Swap(next *Snapshot) { s.live.Store(next) }

// Close ends what is under way upstream and returns when it has ended.
func (s *Registry) Close() {
	s.tags.Close()
	s.blobs.Close()
}
