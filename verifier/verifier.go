// Package verifier names the role of those who judge one artifact: is this
// signature, attestation or SBOM what it claims to be, for this subject?
//
// A [Verifier] is handed an [Input] and answers with a [Report]. "The artifact
// is bad" is a report whose [Outcome] is Failed; "no verdict could be reached"
// is an error or an Inconclusive report, and never counts as Passed. Verifiers
// know no policy: how many reports are enough is decided above them.
//
// Folders below hold one verifier each and the trust material they share;
// verifiertest is the conformance suite that every verifier passes.
package verifier

import (
	"context"
	"errors"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// Verifier judges artifacts of the kinds that it matches. It is safe for
// concurrent use, keeps no reference to its input after it returns, and
// returns promptly once its context ends.
type Verifier interface {
	// Name is the configured name, unique in a configuration.
	Name() string
	// Type is the kind of verifier, such as "notation".
	Type() string
	// Matches reports, without I/O, whether a referrer is of a kind that this
	// verifier judges. It sees a descriptor as the registry listed it.
	Matches(referrer ocispec.Descriptor) bool
	// Verify judges the artifact. An error means that no verdict was reached
	// and may pass when tried again.
	Verify(ctx context.Context, in Input) (Report, error)
}

// Input is what a verifier judges.
type Input struct {
	// Subject is resolved; its descriptor is what must have been signed.
	Subject referrerstore.Subject
	// Artifact is the referrer, as listed.
	Artifact ocispec.Descriptor
	// Content reads the artifact.
	Content Content
	// RevocationMayBeStale asks a verifier to pass what it would pass but for a
	// revocation status that could not be learnt, with a warning in its report. It
	// is set only where the configuration accepts that while a registry is down;
	// what is known to be revoked fails as ever.
	RevocationMayBeStale bool
}

// Content reads what an artifact consists of. Bytes are hashed and bounded,
// and shared by all verifiers of the artifact: callers must not change them.
// Errors are those of package referrerstore, and ErrNotReferrer.
type Content interface {
	// Manifest is the artifact's own manifest, which names the subject.
	Manifest(ctx context.Context) (Manifest, error)
	// Blob reads one blob of at most limit bytes whole.
	Blob(ctx context.Context, desc ocispec.Descriptor, limit int64) ([]byte, error)
}

// Manifest is what verifiers need of an artifact's manifest, be it an OCI
// image manifest or the older artifact manifest (whose blobs are Layers here).
// Of descriptors it has media type, digest and size: what else a registry may
// write there has no bound in memory.
type Manifest struct {
	ArtifactType string
	Config       ocispec.Descriptor
	Layers       []ocispec.Descriptor
}

// ErrNotReferrer says that the manifest names another subject, or none, or is no
// manifest at all. The artifact can never pass for this subject.
var ErrNotReferrer = errors.New("the artifact's manifest does not refer to the subject")

// Outcome is a verifier's judgement. The zero value is Inconclusive.
type Outcome int

// The three outcomes of a verification.
const (
	Inconclusive Outcome = iota
	Failed
	Passed
)

// String names the outcome in lower case.
func (o Outcome) String() string {
	switch o {
	case Passed:
		return "passed"
	case Failed:
		return "failed"
	default:
		return "inconclusive"
	}
}

// Report is one verifier's judgement on one artifact.
type Report struct {
	// Verifier and Type are those of the verifier that judged.
	Verifier, Type string
	// Artifact is the referrer that was judged.
	Artifact ocispec.Descriptor
	Outcome  Outcome
	// Reason says why, whatever the outcome.
	Reason Reason
	// Warnings are checks that failed but that the configuration only logs.
	Warnings []string
	// Statement identifies what was proven: who said what, apart from how it
	// is wrapped. Reports of the same statement count once where a policy
	// counts. It must be set if Outcome is Passed.
	Statement digest.Digest
	// Extensions are facts for templates and people, such as the signer.
	Extensions map[string]string
	// ValidUntil is the earliest end of anything that Passed rests on; zero
	// means that nothing in it ends.
	ValidUntil time.Time
	// Elapsed is how long fetching and judging took.
	Elapsed time.Duration
}

// Reason explains a judgement. Texts may hold bytes from a registry; whoever
// shows them to a person or a terminal escapes them.
type Reason struct {
	Code Code
	// What happened, in a short clause.
	What string
	// Do is what the reader can do about it; may be empty.
	Do string
	// Err is the cause where there is one, for the log and for errors.Is. It
	// is not part of what is kept of a report.
	Err error `json:"-"`
}

// Code is a stable, machine-readable name of a reason. Codes are part of the
// wire format: they are added to, never renamed.
type Code string

// The codes that verifiers give.
const (
	CodeVerified            Code = "VERIFIED"
	CodeSignatureInvalid    Code = "SIGNATURE_INVALID"    // bytes, envelope or cryptographic check
	CodeSignatureExpired    Code = "SIGNATURE_EXPIRED"    // by the signature's own expiry
	CodeCertificateExpired  Code = "CERTIFICATE_EXPIRED"  // at the time that counts
	CodeTimestampInvalid    Code = "TIMESTAMP_INVALID"    // a demanded time stamp is missing or bad
	CodeSignerUntrusted     Code = "SIGNER_UNTRUSTED"     // no chain to a trusted root
	CodeIdentityUntrusted   Code = "IDENTITY_UNTRUSTED"   // trusted root, other identity
	CodeCertificateRevoked  Code = "CERTIFICATE_REVOKED"  //
	CodeRevocationUnknown   Code = "REVOCATION_UNKNOWN"   // inconclusive
	CodeSubjectMismatch     Code = "SUBJECT_MISMATCH"     // a good signature over something else
	CodeScopeMismatch       Code = "NO_TRUST_POLICY"      // no trust policy has the repository in scope
	CodePluginRequired      Code = "PLUGIN_REQUIRED"      // the signature demands a plug-in
	CodeArtifactMalformed   Code = "ARTIFACT_MALFORMED"   // manifest or layout is not of its kind
	CodeArtifactTooLarge    Code = "ARTIFACT_TOO_LARGE"   //
	CodeArtifactUnavailable Code = "ARTIFACT_UNAVAILABLE" // inconclusive
	CodeVerificationAborted Code = "VERIFICATION_ABORTED" // inconclusive: a panic or an internal error
)
