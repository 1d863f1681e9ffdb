package evidence

import (
	"context"
	"iter"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
)

// maxListed and maxListedBytes bound a list that is kept. A longer one goes
// through like any other.
const (
	maxListed      = 1000
	maxListedBytes = 2 << 20
)

// Referrers hands on the inner store's list entry by entry, each as it comes. One
// that ended whole is kept, with the time at which it was asked for. One that was
// left, cut or broken is not; what it has that is not on the list that was kept
// before is added to that, which is as old as before: whoever goes by it must not
// miss what the registry was heard to list since.
func (s *Store) Referrers(ctx context.Context, subject referrerstore.Subject) iter.Seq2[ocispec.Descriptor, error] {
	return func(yield func(ocispec.Descriptor, error) bool) {
		scope, asked := s.scope(subject.Reference), s.now()
		var all listing
		for desc, err := range s.inner.Referrers(ctx, subject) {
			if err != nil {
				s.supplement(scope, subject, &all) // before whoever hears of it can recall
				yield(desc, err)
				return
			}
			all.add(desc)
			if !yield(desc, nil) {
				s.supplement(scope, subject, &all)
				return
			}
		}
		s.keep(scope, subject, &all, asked)
	}
}

func (s *Store) keep(scope cache.Scope, subject referrerstore.Subject, all *listing, asked time.Time) {
	switch {
	case all.cut:
		s.supplement(scope, subject, all)
	case s.still(scope, subject.Reference):
		s.facts.SetReferrers(scope, subject.Descriptor.Digest, all.entries, asked)
	}
}

// supplement adds the entries of a list that is not kept to the one that is. Where
// there are too many, later ones of that go.
func (s *Store) supplement(scope cache.Scope, subject referrerstore.Subject, all *listing) {
	kept, at, known := s.facts.Referrers(scope, subject.Descriptor.Digest)
	if !known || !s.still(scope, subject.Reference) {
		return
	}
	on := make(map[digest.Digest]bool, len(kept))
	for _, desc := range kept {
		on[desc.Digest] = true
	}
	both := listing{}
	for _, desc := range all.entries {
		if !on[desc.Digest] {
			both.add(desc)
		}
	}
	if len(both.entries) == 0 {
		return
	}
	for _, desc := range kept {
		both.add(desc)
	}
	s.facts.SetReferrers(scope, subject.Descriptor.Digest, both.entries, at)
}

// listing gathers a list that may be worth keeping.
type listing struct {
	entries []ocispec.Descriptor
	bytes   int
	cut     bool // longer than what is kept: entries are its beginning
}

func (l *listing) add(desc ocispec.Descriptor) {
	l.bytes += weight(desc)
	if l.cut || len(l.entries) == maxListed || l.bytes > maxListedBytes {
		l.cut = true
		return
	}
	l.entries = append(l.entries, desc)
}

// weight is about how many bytes a descriptor takes when written.
func weight(desc ocispec.Descriptor) int {
	const frame = 128 // names of fields
	n := frame + len(desc.MediaType) + len(desc.Digest) + len(desc.ArtifactType)
	for name, value := range desc.Annotations {
		n += len(name) + len(value)
	}
	return n
}
