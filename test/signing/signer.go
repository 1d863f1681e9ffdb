package signing

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"time"

	"github.com/notaryproject/notation-core-go/signature"
	"github.com/notaryproject/notation-go"
	"github.com/notaryproject/notation-go/signer"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Signer holds a key and the chain of its certificate. It is safe for
// concurrent use and never changes.
type Signer struct {
	chain []*x509.Certificate
	key   crypto.Signer
}

// Certificate is the signer's own certificate.
func (s *Signer) Certificate() *x509.Certificate { return s.chain[0] }

// Key is the signer's own key, for what the methods here do not sign.
func (s *Signer) Key() crypto.Signer { return s.key }

// Chain is the signer's certificate, those above it, and the root last.
func (s *Signer) Chain() []*x509.Certificate { return s.chain }

// SignOptions refine [Signer.Sign]. The zero value is a JWS envelope without
// an end, signed now under the scheme notary.x509.
//
// With any of SigningTime, SigningAuthority, Attributes or Payload set the
// envelope is made by notation-core-go directly, because notation-go signs
// only now, and only what its command line offers.
type SignOptions struct {
	// Format is JWS unless set.
	Format Format
	// Expiry is how long after the signing time the signature is valid.
	Expiry time.Duration
	// Metadata is what the user adds to what is signed.
	Metadata map[string]string
	// SigningTime replaces now; all certificates must have been valid then.
	// An hour ago with an Expiry of a minute is an expired signature.
	SigningTime time.Time
	// SigningAuthority uses the scheme notary.x509.signingAuthority.
	SigningAuthority bool
	// Attributes are signed attributes that verifiers must understand, such
	// as PluginAttribute with the name of a plug-in.
	Attributes map[string]string
	// Payload replaces the JSON that is signed, which ordinarily names the
	// descriptor.
	Payload []byte
	// PayloadType replaces its content type; it needs Payload.
	PayloadType string
}

// direct says that notation-go's own signer cannot make this signature.
func (o SignOptions) direct() bool {
	return !o.SigningTime.IsZero() || o.SigningAuthority || len(o.Attributes) > 0 || o.Payload != nil
}

// Envelope is a signature, ready to be stored as the one layer of a manifest.
type Envelope struct {
	// MediaType is the layer's.
	MediaType string
	// Bytes is the layer's content.
	Bytes []byte
	// Thumbprints are the SHA-256 thumbprints of the signer's chain in
	// hexadecimal, leaf first.
	Thumbprints []string
}

// Sign signs the descriptor, of which media type, digest and size count.
func (s *Signer) Sign(ctx context.Context, desc ocispec.Descriptor, opts SignOptions) (Envelope, error) {
	if opts.Format == "" {
		opts.Format = JWS
	}
	desc.Annotations = maps.Clone(opts.Metadata)
	sign := s.signWithNotation
	if opts.direct() {
		sign = s.signDirectly
	}
	data, err := sign(ctx, desc, opts)
	if err != nil {
		return Envelope{}, fmt.Errorf("sign %s: %w", desc.Digest, err)
	}
	return Envelope{MediaType: string(opts.Format), Bytes: data, Thumbprints: s.thumbprints()}, nil
}

func (s *Signer) signWithNotation(ctx context.Context, desc ocispec.Descriptor, opts SignOptions) ([]byte, error) {
	generic, err := signer.NewGenericSigner(s.key, s.chain)
	if err != nil {
		return nil, err
	}
	data, _, err := generic.Sign(ctx, desc, notation.SignerSignOptions{
		SignatureMediaType: string(opts.Format),
		ExpiryDuration:     opts.Expiry,
	})
	return data, err
}

func (s *Signer) signDirectly(ctx context.Context, desc ocispec.Descriptor, opts SignOptions) ([]byte, error) {
	request, err := s.request(desc, opts)
	if err != nil {
		return nil, err
	}
	envelope, err := signature.NewEnvelope(string(opts.Format))
	if err != nil {
		return nil, err
	}
	return envelope.Sign(request.WithContext(ctx))
}

func (s *Signer) request(desc ocispec.Descriptor, opts SignOptions) (*signature.SignRequest, error) {
	local, err := signature.NewLocalSigner(s.chain, s.key)
	if err != nil {
		return nil, err
	}
	payload, err := payloadOf(desc, opts)
	if err != nil {
		return nil, err
	}
	request := &signature.SignRequest{
		Payload:       payload,
		Signer:        local,
		SigningTime:   opts.SigningTime,
		SigningScheme: signature.SigningSchemeX509,
		SigningAgent:  "gatehouse-test",
	}
	if request.SigningTime.IsZero() {
		request.SigningTime = time.Now()
	}
	if opts.Expiry != 0 {
		request.Expiry = request.SigningTime.Add(opts.Expiry)
	}
	if opts.SigningAuthority {
		request.SigningScheme = signature.SigningSchemeX509SigningAuthority
	}
	for key, value := range opts.Attributes {
		request.ExtendedSignedAttributes = append(request.ExtendedSignedAttributes,
			signature.Attribute{Key: key, Critical: true, Value: value})
	}
	return request, nil
}

func payloadOf(desc ocispec.Descriptor, opts SignOptions) (signature.Payload, error) {
	if opts.Payload != nil {
		kind := opts.PayloadType
		if kind == "" {
			kind = PayloadType
		}
		return signature.Payload{ContentType: kind, Content: opts.Payload}, nil
	}
	content, err := json.Marshal(map[string]ocispec.Descriptor{"targetArtifact": {
		MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size, Annotations: desc.Annotations,
	}})
	return signature.Payload{ContentType: PayloadType, Content: content}, err
}

func (s *Signer) thumbprints() []string {
	prints := make([]string, len(s.chain))
	for i, certificate := range s.chain {
		sum := sha256.Sum256(certificate.Raw)
		prints[i] = hex.EncodeToString(sum[:])
	}
	return prints
}
