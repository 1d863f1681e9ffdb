package evidence

import (
	"context"
	"iter"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
)

// maxListed and maxListedBytes bound a list that is kept. A longer one goes
// through like any other.
const (
	maxListed      = 4096
	maxListedBytes = 2 << 20
)

// Referrers hands on the inner store's list entry by entry, each as it comes. One
// that ended whole is kept, with the time at which it was asked for; one that was
// left, cut or broken is not, and leaves what was kept before.
func (s *Store) Referrers(ctx context.Context, subject referrerstore.Subject) iter.Seq2[ocispec.Descriptor, error] {
	return func(yield func(ocispec.Descriptor, error) bool) {
		scope, asked := s.scope(subject.Reference), s.now()
		var all listing
		for desc, err := range s.inner.Referrers(ctx, subject) {
			if err != nil {
				yield(desc, err)
				return
			}
			all.add(desc)
			if !yield(desc, nil) {
				return
			}
		}
		s.keep(scope, subject, &all, asked)
	}
}

func (s *Store) keep(scope cache.Scope, subject referrerstore.Subject, all *listing, asked time.Time) {
	if !all.cut && s.still(scope, subject.Reference) {
		s.facts.SetReferrers(scope, subject.Descriptor.Digest, all.entries, asked)
	}
}

// listing gathers a list that may be worth keeping.
type listing struct {
	entries []ocispec.Descriptor
	bytes   int
	cut     bool // longer than what is kept
}

func (l *listing) add(desc ocispec.Descriptor) {
	l.bytes += weight(desc)
	if l.cut || len(l.entries) == maxListed || l.bytes > maxListedBytes {
		l.cut, l.entries = true, nil
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
