package notation

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"slices"
	"time"

	"github.com/notaryproject/notation-core-go/signature"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// claimOf reads what was signed: the descriptor of an image.
func claimOf(payload signature.Payload) (ocispec.Descriptor, error) {
	var claim struct {
		Target ocispec.Descriptor `json:"targetArtifact"`
	}
	if err := json.Unmarshal(payload.Content, &claim); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("the signed payload: %w", err)
	}
	if claim.Target.Digest == "" {
		return ocispec.Descriptor{}, errors.New("the signed payload has no targetArtifact with a digest")
	}
	return claim.Target, nil
}

// sameContent compares what makes two descriptors mean the same bytes, read
// the same way.
func sameContent(a, b ocispec.Descriptor) bool {
	return a.Digest == b.Digest && a.Size == b.Size && a.MediaType == b.MediaType
}

// statementOf names who said what: the digest of the signer's public key, the
// signed payload and the signed attributes. It depends neither on signature
// values, which for ECDSA anyone can change into other valid ones, nor on the
// parts of the envelope that nobody signed. The certificate is one of those,
// and holds a signature value itself: that of the authority.
func statementOf(content *signature.EnvelopeContent) digest.Digest {
	h := sha256.New()
	attributes := content.SignerInfo.SignedAttributes
	writePart(h, content.SignerInfo.CertificateChain[0].RawSubjectPublicKeyInfo)
	writePart(h, []byte(content.Payload.ContentType))
	writePart(h, content.Payload.Content)
	writePart(h, []byte(attributes.SigningScheme))
	writePart(h, []byte(canonicalTime(attributes.SigningTime)))
	writePart(h, []byte(canonicalTime(attributes.Expiry)))
	extended := make([]string, len(attributes.ExtendedAttributes))
	for i, a := range attributes.ExtendedAttributes {
		// Printing maps sorts their keys, so the text is always the same.
		extended[i] = fmt.Sprintf("%T %v %t %T %v", a.Key, a.Key, a.Critical, a.Value, a.Value)
	}
	slices.Sort(extended)
	for _, text := range extended {
		writePart(h, []byte(text))
	}
	return digest.NewDigest(digest.SHA256, h)
}

// writePart sets a part off from the next by its length.
func writePart(h hash.Hash, part []byte) {
	_ = binary.Write(h, binary.BigEndian, uint64(len(part))) // a hash takes everything
	h.Write(part)
}

func canonicalTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}
