// Package rotation keeps a serving certificate, and the trust of those who ask
// for it, such that no request fails while either is exchanged.
//
// A Secret holds the authority (ca.crt, ca.key) and the certificate that servers
// present (tls.crt, tls.key). Gatekeeper trusts what spec.caBundle of a Provider
// says. The two are read at different times: a Provider's change is known within
// a moment, a Secret's reaches the files of a pod up to 90 seconds later. So an
// authority is exchanged in this order, and never all at once:
//
//  1. A new authority is made and written beside the old one: ca.crt is
//     the new one and the old one, ca.key is the new one's, tls.crt stays.
//  2. All Providers get the bundle, which is always the whole of ca.crt.
//  3. Once all of them have had it for [Options.Settle], tls.crt is written, signed by
//     the new authority.
//  4. [Options.Overlap] later, when every server presents it, the old
//     authority is taken out of ca.crt, and then out of the Providers.
//
// Each step is told from what the Secret and the Providers hold, so a process
// may die between any two of them. A Secret that lost its content
// is filled by the same steps: what the Providers trusted until then stays trusted
// for the overlap, because servers still present it.
//
//   - plan.go is the order, as a function without effects.
//   - state.go reads the Secret and the Providers into what the plan asks about.
//   - maker.go makes keys and certificates, with cert-controller's code.
//   - rotator.go is the loop, and [Cluster] the role it needs; status.go and
//     metrics.go say how it goes.
//
// Why cert-controller's own loop is not used: it lists and watches all Secrets of the
// namespace and all Providers, which rights by resource name do not allow, and it
// replaces authority and certificate in one write before it tells the Providers.
package rotation

import (
	"context"
	"errors"
)

// The keys of the Secret.
const (
	KeyBundle         = "ca.crt"  // authorities to trust, PEM; the one that signs is first
	KeyAuthorityKey   = "ca.key"  // key of the authority that signs, PEM
	KeyCertificate    = "tls.crt" // what servers present, PEM
	KeyCertificateKey = "tls.key" // its key, PEM
)

var (
	// ErrConflict is a write refused because the object was changed since it was
	// read. The next pass reads it anew.
	ErrConflict = errors.New("changed since it was read")

	// ErrNotFound is an object, or a kind of object, that the cluster does not have.
	ErrNotFound = errors.New("not found")
)

// Secret is the Secret's content as of a version.
type Secret struct {
	Version string
	Data    map[string][]byte
}

// Provider is one of Gatekeeper's Providers as of a version.
type Provider struct {
	Name    string
	Version string
	Bundle  string // spec.caBundle: PEM in base64, whatever it holds
}

// Cluster is where the Secret and the Providers are. Writes are made only on the
// version that was read, else they fail with ErrConflict. What is not there
// is ErrNotFound. Calls end with their context.
type Cluster interface {
	// Secret reads the Secret.
	Secret(ctx context.Context) (Secret, error)
	// SetSecret sets the given keys and leaves the others.
	SetSecret(ctx context.Context, version string, data map[string][]byte) error
	// Provider reads a Provider.
	Provider(ctx context.Context, name string) (Provider, error)
	// Trust sets the bundle of a Provider, as PEM in base64.
	Trust(ctx context.Context, p Provider, bundle string) error
}
