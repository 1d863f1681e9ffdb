// Package signing makes Notary Project signatures with nothing faked: an
// [Authority] is a certificate authority in memory, the [Signer] that it
// issues signs descriptors through the notation tool chain, and what comes out
// is the [Envelope] that `notation sign` would have pushed.
//
// Tests, benchmarks and the demonstration use it; nothing that verifies does.
// The core takes no testing.T: every function returns its error.
//
// Signatures that the tool chain rightly refuses to make today, such as one
// that has expired, one by an expired certificate, one under the signing
// authority scheme or one that demands a plug-in, are made one layer below by
// notation-core-go, which signs for any time at which the certificates were
// valid. See [SignOptions].
//
// An [Authority] also answers for revocation: it signs OCSP responses and
// revocation lists about the certificates that it issued.
package signing

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"

	"github.com/notaryproject/notation-core-go/signature/cose"
	"github.com/notaryproject/notation-core-go/signature/jws"
)

// The names that the Notary Project specification gives to what is stored.
const (
	// ArtifactType is the type of a signature among the referrers of an image.
	ArtifactType = "application/vnd.cncf.notary.signature"
	// PayloadType is the content type of what a signature signs.
	PayloadType = "application/vnd.cncf.notary.payload.v1+json"
	// ThumbprintAnnotation holds, on a signature's manifest, the SHA-256
	// thumbprints of its certificates as a JSON list.
	ThumbprintAnnotation = "io.cncf.notary.x509chain.thumbprint#S256"
	// PluginAttribute is the signed attribute that demands a plug-in.
	PluginAttribute = "io.cncf.notary.verificationPlugin"
)

// Format is the media type of a signature envelope.
type Format string

// The envelope formats of the Notary Project.
const (
	JWS  Format = jws.MediaTypeEnvelope
	COSE Format = cose.MediaTypeEnvelope
)

// KeyKind is an algorithm with a size, from the list that the Notary Project
// allows.
type KeyKind int

// The kinds of keys. The larger RSA keys take seconds to make.
const (
	RSA2048 KeyKind = iota + 1
	RSA3072
	RSA4096
	ECDSA256
	ECDSA384
	ECDSA521
)

// String names the kind as the command line does, "RSA-2048" for example.
func (k KeyKind) String() string {
	switch k {
	case RSA2048, RSA3072, RSA4096:
		return fmt.Sprintf("RSA-%d", k.bits())
	case ECDSA256, ECDSA384, ECDSA521:
		return fmt.Sprintf("EC-%d", k.bits())
	default:
		return fmt.Sprintf("KeyKind(%d)", int(k))
	}
}

func (k KeyKind) bits() int {
	return map[KeyKind]int{
		RSA2048: 2048, RSA3072: 3072, RSA4096: 4096,
		ECDSA256: 256, ECDSA384: 384, ECDSA521: 521,
	}[k]
}

// generate makes a fresh key of the kind.
func (k KeyKind) generate() (crypto.Signer, error) {
	switch k {
	case RSA2048, RSA3072, RSA4096:
		return rsa.GenerateKey(rand.Reader, k.bits())
	case ECDSA256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case ECDSA384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case ECDSA521:
		return ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	default:
		return nil, fmt.Errorf("key kind %d is none of those known", int(k))
	}
}
