package referrerstore

import (
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Recalling is a [Store] that remembers what its registry said, beyond the life
// of the process. It answers without asking the registry; its methods are safe
// for concurrent use and wait for no network.
type Recalling interface {
	// RecallSubject is what the reference led to when the registry was asked
	// last, and when that was; false if that is not known.
	RecallSubject(ref Reference) (subject Subject, at time.Time, known bool)
	// RecallReferrers is the last list of the subject's referrers that ended
	// whole, and when it was asked for; false if there is none.
	RecallReferrers(subject Subject) (listed []ocispec.Descriptor, at time.Time, known bool)
}
