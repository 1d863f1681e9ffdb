package evidence

import (
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// RecallSubject implements [referrerstore.Recalling]: for the identity that the
// registry would be shown at this moment. What a digest names is known since the
// registry said so, or since its manifest is held.
func (s *Store) RecallSubject(ref referrerstore.Reference) (referrerstore.Subject, time.Time, bool) {
	scope := s.scope(ref)
	if ref.Digest != "" {
		desc, at, ok := s.recallDigest(scope, ref.Digest)
		return recalled(ref, desc, at, ok)
	}
	is, ok := s.facts.Tag(scope, ref.Tag)
	return recalled(ref, plain(is.Descriptor), is.At, ok)
}

func recalled(ref referrerstore.Reference, desc ocispec.Descriptor, at time.Time, known bool) (referrerstore.Subject, time.Time, bool) {
	if !known {
		return referrerstore.Subject{}, time.Time{}, false
	}
	return referrerstore.Subject{Reference: ref, Descriptor: desc}, at, true
}

// RecallReferrers implements [referrerstore.Recalling]. A list that was empty is a
// list as well.
func (s *Store) RecallReferrers(subject referrerstore.Subject) ([]ocispec.Descriptor, time.Time, bool) {
	return s.facts.Referrers(s.scope(subject.Reference), subject.Descriptor.Digest)
}
