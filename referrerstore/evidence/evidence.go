// Package evidence is the Store around a Store: what its registry said is kept in
// a content cache, so that it need not say it twice, and is known after a restart.
//
// A [Store] resolves, lists and fetches through package cache. Evidence is kept,
// verdicts never: whoever judges reads every byte again, and every byte is hashed
// again on its way to him, whether it comes from the registry, the disk or memory.
//
//   - resolve.go: what references lead to. A tag is asked for each time; what a
//     digest names cannot change.
//   - referrers.go: lists, which are asked for each time and kept with their age.
//   - recall.go: what is remembered when the registry does not answer.
//   - fetch.go, stream.go: content by digest, proven at its end.
//   - source.go: how the cache asks the store for what it does not hold.
//
// What is kept is kept for one repository as one identity sees it; the answer to
// one identity never counts for another. The cache is never in the way: what it
// cannot do the inner store does as if it were alone.
package evidence

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
)

// Cache is what a [Store] needs of a [cache.Cache].
type Cache interface {
	contentCache
	tagCache
	subjectCache
	listCache
}

type contentCache interface {
	Get(want cache.Want) (*cache.Content, error)
	Obtain(ctx context.Context, want cache.Want, from cache.Source) (*cache.Content, error)
	Doubt(of digest.Digest)
}

type tagCache interface {
	Tag(scope cache.Scope, tag string) (cache.Tag, bool)
	SetTag(scope cache.Scope, tag string, is cache.Tag)
	DropTag(scope cache.Scope, tag string)
}

type subjectCache interface {
	Subject(scope cache.Scope, of digest.Digest) (cache.Tag, bool)
	SetSubject(scope cache.Scope, is cache.Tag)
}

type listCache interface {
	Referrers(scope cache.Scope, subject digest.Digest) ([]ocispec.Descriptor, time.Time, bool)
	SetReferrers(scope cache.Scope, subject digest.Digest, listed []ocispec.Descriptor, at time.Time)
}

// Options of a Store. The zero value works.
type Options struct {
	// Now is the clock that says how old evidence is; nil is time.Now.
	Now func() time.Time
	// Identity names as whom a host is asked at this moment, empty for nobody; nil
	// takes the name that the inner store gives. What is kept outlives processes
	// and configurations, and so must the name: it should be of no other identity
	// that the host was ever shown.
	Identity func(host string) string
}

// Store is a Store around a Store, safe for concurrent use. It starts nothing, so
// that there is nothing to close; the cache and the inner store are their owner's.
//
// It has the methods of the roles and no others, so that a process that needs
// more of its stores joins both:
//
//	type remembering struct {
//		surroundings // files, schemes and Close of the inner store
//		*evidence.Store
//	}
type Store struct {
	inner    referrerstore.Store
	facts    facts
	held     contents
	now      func() time.Time
	identity func(host string) string
}

var (
	_ referrerstore.Store     = (*Store)(nil)
	_ referrerstore.Informed  = (*Store)(nil)
	_ referrerstore.Recalling = (*Store)(nil)
	_ Cache                   = (*cache.Cache)(nil)
)

// New makes a store that asks inner for what the cache does not hold.
func New(inner referrerstore.Store, of Cache, opts Options) *Store {
	return newStore(inner, of, handing{of}, opts)
}

func newStore(inner referrerstore.Store, known facts, held contents, opts Options) *Store {
	s := &Store{inner: inner, facts: known, held: held, now: opts.Now}
	if s.now == nil {
		s.now = time.Now
	}
	if s.identity = opts.Identity; s.identity == nil {
		s.identity = func(host string) string { return s.About(host).Identity }
	}
	return s
}

// facts are the cache's records of what registries said.
type facts interface {
	tagCache
	subjectCache
	listCache
}

// contents hands out what the cache holds; see [cache.Cache].
type contents interface {
	get(want cache.Want) (content, error)
	obtain(ctx context.Context, want cache.Want, from cache.Source) (content, error)
	Doubt(of digest.Digest)
}

// content is what is needed of a [cache.Content].
type content interface {
	io.ReadSeekCloser
	described
	// Bytes are all of it, if they are held in memory.
	Bytes() ([]byte, bool)
}

type described interface {
	Size() int64
	MediaType() string
	Created() time.Time
	Held() bool
}

// handing makes contents of a cache: an interface that holds a nil *Content would
// not be nil.
type handing struct{ contentCache }

func (h handing) get(want cache.Want) (content, error) {
	got, err := h.Get(want)
	if err != nil {
		return nil, err
	}
	return got, nil
}

func (h handing) obtain(ctx context.Context, want cache.Want, from cache.Source) (content, error) {
	got, err := h.Obtain(ctx, want, from)
	if err != nil {
		return nil, err
	}
	return got, nil
}

// Inner is the store that is asked for what is not held.
func (s *Store) Inner() referrerstore.Store { return s.inner }

// Name is that of the inner store.
func (s *Store) Name() string { return s.inner.Name() }

// Serves asks the inner store.
func (s *Store) Serves(host string) bool { return s.inner.Serves(host) }

// About is what the inner store knows of a host, the zero value if it does not
// tell.
func (s *Store) About(host string) referrerstore.HostState {
	return referrerstore.About(s.inner, host)
}

// scope is where what the reference's registry says at this moment is kept.
func (s *Store) scope(ref referrerstore.Reference) cache.Scope {
	return cache.Scope{Registry: ref.Registry, Repository: ref.Repository, Identity: s.identity(ref.Registry)}
}

// still says whether the inner store shows the registry the same identity as
// before: credentials may come or go while an answer is on its way, and nobody
// can tell then to whom it was given.
func (s *Store) still(scope cache.Scope, ref referrerstore.Reference) bool {
	return s.scope(ref) == scope
}

// fromRegistry says that an error is what the registry, or the way to it, has to
// say, and not a weakness of the cache. ErrTooLarge is not: bounds are the cache's.
func fromRegistry(err error) bool {
	for _, said := range []error{
		referrerstore.ErrNotFound, referrerstore.ErrAuthDenied, referrerstore.ErrRateLimited,
		referrerstore.ErrUnavailable, referrerstore.ErrRefused, referrerstore.ErrProtocol,
		referrerstore.ErrDigestMismatch, referrerstore.ErrBusy, referrerstore.ErrInvalidReference,
	} {
		if errors.Is(err, said) {
			return true
		}
	}
	return false
}

// orCause is the cause of ctx's end, once it has ended, and err before.
func orCause(ctx context.Context, err error) error {
	if ctx.Err() == nil || errors.Is(err, context.Cause(ctx)) {
		return err
	}
	return fmt.Errorf("%w: %w", context.Cause(ctx), err)
}
