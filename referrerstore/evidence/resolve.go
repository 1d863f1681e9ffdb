package evidence

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
)

// Resolve answers a pinned reference from what is held, if the registry handed it
// to the same identity before: what a digest names never changes. A tag is always
// asked for; what it leads to is noted, and forgotten once the registry says that
// there is none.
func (s *Store) Resolve(ctx context.Context, ref referrerstore.Reference) (referrerstore.Subject, error) {
	if ctx.Err() != nil {
		return referrerstore.Subject{}, fmt.Errorf("resolve %s: %w", ref, context.Cause(ctx))
	}
	scope, asked := s.scope(ref), s.now()
	if ref.Digest != "" {
		if known, _, ok := s.recallDigest(scope, ref.Digest); ok {
			return referrerstore.Subject{Reference: ref, Descriptor: known}, nil
		}
	}
	subject, err := s.inner.Resolve(ctx, ref)
	if s.still(scope, ref) {
		s.note(scope, ref, subject.Descriptor, asked, err)
	}
	return subject, err
}

// note keeps what a registry answered to Resolve.
func (s *Store) note(scope cache.Scope, ref referrerstore.Reference, desc ocispec.Descriptor, asked time.Time, err error) {
	tagged := ref.Digest == "" && ref.Tag != ""
	if err == nil {
		is := cache.Tag{Descriptor: plain(desc), At: asked}
		if tagged {
			s.facts.SetTag(scope, ref.Tag, is)
		}
		s.facts.SetSubject(scope, is)
		return
	}
	if tagged && errors.Is(err, referrerstore.ErrNotFound) {
		s.facts.DropTag(scope, ref.Tag)
	}
}

// plain is what identifies content, which alone a registry's answer to Resolve is
// believed for.
func plain(desc ocispec.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size}
}

// recallDigest is what a digest names, by the registry's word or because the
// manifest itself is held, and since when that is known.
func (s *Store) recallDigest(scope cache.Scope, d digest.Digest) (ocispec.Descriptor, time.Time, bool) {
	if is, ok := s.facts.Subject(scope, d); ok && is.Descriptor.Digest == d {
		return plain(is.Descriptor), is.At, true
	}
	held, err := s.held.get(cache.Want{Scope: scope, Digest: d, Kind: cache.Manifest, Size: -1})
	if err != nil {
		return ocispec.Descriptor{}, time.Time{}, false
	}
	defer func() { _ = held.Close() }() // nothing was read
	desc := ocispec.Descriptor{MediaType: held.MediaType(), Digest: d, Size: held.Size()}
	return desc, held.Created(), desc.MediaType != "" && desc.Size >= 0
}
