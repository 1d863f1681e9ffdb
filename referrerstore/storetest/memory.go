// Package storetest has what tests of stores, and of those who use stores,
// share.
//
// [Run] is the conformance suite of the Store role, and [RunPuller] that of the
// Puller role: every store calls it from a test of its own, with a [Seed] that
// says what the store holds. [Memory] is a Puller that keeps all in memory, counts
// what is asked of it and fails or lies as it is told to. All are for tests only:
// helpers panic where their caller is wrong.
package storetest

import (
	"context"
	"fmt"
	"iter"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// Memory is a Store and a Puller in memory. Its methods, the helpers that add content among
// them, are safe for concurrent use; its exported fields are set before it is
// used.
type Memory struct {
	// ServesHost answers Serves; nil serves every host.
	ServesHost func(host string) bool
	// ResolveFault is called by Resolve before it answers. It may return an
	// error to fail with, wait (for its context at the longest), or panic.
	ResolveFault func(ctx context.Context, ref referrerstore.Reference) error
	// ReferrersFault is called before each entry of a list and once more
	// before its end, with the number of entries yielded so far. An error
	// ends the list with that error.
	ReferrersFault func(ctx context.Context, subject referrerstore.Subject, yielded int) error
	// FetchFault is called by Fetch before it answers.
	FetchFault func(ctx context.Context, desc ocispec.Descriptor) error
	// ReadFault is called before each Read of a stream that Fetch opened.
	ReadFault func(ctx context.Context, desc ocispec.Descriptor) error
	// Alter changes the bytes that a stream delivers under a descriptor; it
	// returns others rather than changing those it is given. For pulls the
	// descriptor is what is kept, whatever BendPull makes of it.
	Alter func(desc ocispec.Descriptor, data []byte) []byte
	// PullFault is called by the methods of Puller before they answer.
	PullFault func(ctx context.Context, p Pull) error
	// PullReadFault is called before each Read of a pull's body, with the
	// bytes that it has delivered.
	PullReadFault func(ctx context.Context, p Pull, delivered int64) error
	// BendPull may change what a pull says of itself, and its body, for the
	// lies that registries tell.
	BendPull func(p Pull, pulled *referrerstore.Pulled)

	name string

	mu     sync.Mutex // guards the fields that follow it
	repos  map[string]*repository
	counts Counts
}

var _ referrerstore.Puller = (*Memory)(nil)

// Counts says how often a Memory was asked, by kind of call.
type Counts struct {
	Resolve, Referrers, Fetch             int
	PullManifest, PullBlob, HasBlob, Tags int
	// Bytes is how many bytes streams, those of pulls among them, delivered.
	Bytes int64
	// Open is how many streams were opened and not closed yet.
	Open int
}

type repository struct {
	tags      map[string]digest.Digest
	manifests map[digest.Digest]ocispec.Descriptor
	content   map[digest.Digest][]byte
	referrers map[digest.Digest][]ocispec.Descriptor
}

// New makes an empty store of that name that serves every host.
func New(name string) *Memory {
	return &Memory{name: name, repos: make(map[string]*repository)}
}

// Name is the name given to New.
func (m *Memory) Name() string { return m.name }

// Serves asks ServesHost.
func (m *Memory) Serves(host string) bool {
	return m.ServesHost == nil || m.ServesHost(host)
}

// Counts is a copy of the counters as they stand.
func (m *Memory) Counts() Counts {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.counts
}

func (m *Memory) count(change func(*Counts)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(&m.counts)
}

// repo is called with mu held.
func (m *Memory) repo(name string) *repository {
	r, ok := m.repos[name]
	if !ok {
		r = &repository{
			tags:      make(map[string]digest.Digest),
			manifests: make(map[digest.Digest]ocispec.Descriptor),
			content:   make(map[digest.Digest][]byte),
			referrers: make(map[digest.Digest][]ocispec.Descriptor),
		}
		m.repos[name] = r
	}
	return r
}

// Resolve finds a manifest by tag or digest.
func (m *Memory) Resolve(ctx context.Context, ref referrerstore.Reference) (referrerstore.Subject, error) {
	m.count(func(c *Counts) { c.Resolve++ })
	if err := fault(ctx, func() error {
		return call(ctx, m.ResolveFault, ref)
	}); err != nil {
		return referrerstore.Subject{}, fmt.Errorf("resolve %s: %w", ref, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.repo(ref.Name())
	d := ref.Digest
	if d == "" {
		d = r.tags[ref.Tag]
	}
	desc, ok := r.manifests[d]
	if !ok {
		return referrerstore.Subject{}, fmt.Errorf("resolve %s: %w", ref, referrerstore.ErrNotFound)
	}
	return referrerstore.Subject{Reference: ref, Descriptor: desc}, nil
}

// Referrers lists what was added as referring to the subject, oldest first.
func (m *Memory) Referrers(ctx context.Context, subject referrerstore.Subject) iter.Seq2[ocispec.Descriptor, error] {
	return func(yield func(ocispec.Descriptor, error) bool) {
		m.count(func(c *Counts) { c.Referrers++ })
		list := m.list(subject)
		for i := 0; ; i++ {
			if err := fault(ctx, func() error { return m.referrersFault(ctx, subject, i) }); err != nil {
				yield(ocispec.Descriptor{}, fmt.Errorf("referrers of %s: %w", subject, err))
				return
			}
			if i == len(list) || !yield(list[i], nil) {
				return
			}
		}
	}
}

func (m *Memory) referrersFault(ctx context.Context, subject referrerstore.Subject, yielded int) error {
	if m.ReferrersFault == nil {
		return nil
	}
	return m.ReferrersFault(ctx, subject, yielded)
}

func (m *Memory) list(subject referrerstore.Subject) []ocispec.Descriptor {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := m.repo(subject.Reference.Name()).referrers[subject.Descriptor.Digest]
	return append([]ocispec.Descriptor(nil), all...)
}

// fault runs a fault and sees to it that the end of ctx is always one.
func fault(ctx context.Context, run func() error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := run(); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

func call[T any](ctx context.Context, f func(context.Context, T) error, arg T) error {
	if f == nil {
		return nil
	}
	return f(ctx, arg)
}
