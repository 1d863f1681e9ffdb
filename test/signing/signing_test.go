package signing_test

import (
	"context"
	"crypto/x509/pkix"
	"fmt"
	"testing"
	"time"

	"github.com/notaryproject/notation-core-go/signature"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/gatehouse-project/gatehouse/test/signing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func image() ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("image"), Size: 5}
}

func authority(t *testing.T, kind signing.KeyKind) *signing.Authority {
	t.Helper()
	root, err := signing.NewAuthority("root", kind, signing.AuthorityOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func TestSign(t *testing.T) {
	t.Parallel()
	tests := map[string]signing.SignOptions{
		"plain":             {Expiry: time.Hour, Metadata: map[string]string{"build": "7"}},
		"expired":           {SigningTime: time.Now().Add(-time.Hour), Expiry: time.Minute},
		"signing authority": {SigningAuthority: true},
		"plug-in":           {Attributes: map[string]string{signing.PluginAttribute: "com.example"}},
		"other payload":     {Payload: []byte(`{"a":1}`)},
	}
	for _, kind := range []signing.KeyKind{signing.RSA2048, signing.ECDSA256, signing.ECDSA384} {
		root := authority(t, kind)
		middle, err := root.Intermediate("middle", kind, signing.AuthorityOptions{})
		if err != nil {
			t.Fatal(err)
		}
		signer, err := middle.Issue("leaf", kind, signing.IssueOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for name, opts := range tests {
			for _, format := range []signing.Format{signing.JWS, signing.COSE} {
				t.Run(fmt.Sprintf("%s/%s/%s", kind, name, format), func(t *testing.T) {
					t.Parallel()
					opts := opts
					opts.Format = format
					check(t, root, signer, opts)
				})
			}
		}
	}
}

// check reads the envelope back with the library that defines it.
func check(t *testing.T, root *signing.Authority, signer *signing.Signer, opts signing.SignOptions) {
	t.Helper()
	made, err := signer.Sign(t.Context(), image(), opts)
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := signature.ParseEnvelope(made.MediaType, made.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	content, err := envelope.Verify()
	if err != nil {
		t.Fatal(err)
	}
	attributes := content.SignerInfo.SignedAttributes
	if expired := !attributes.Expiry.IsZero() && attributes.Expiry.Before(time.Now()); expired == opts.SigningTime.IsZero() {
		t.Errorf("expiry %v", attributes.Expiry)
	}
	if len(attributes.ExtendedAttributes) != len(opts.Attributes) {
		t.Errorf("attributes %v", attributes.ExtendedAttributes)
	}
	chain := content.SignerInfo.CertificateChain
	if len(chain) != 3 || len(made.Thumbprints) != 3 || !chain[2].Equal(root.Certificate()) {
		t.Errorf("chain of %d, thumbprints %v", len(chain), made.Thumbprints)
	}
}

func TestAttach(t *testing.T) {
	t.Parallel()
	signer, err := authority(t, signing.ECDSA256).Issue("leaf", signing.ECDSA256, signing.IssueOptions{
		Subject: &pkix.Name{CommonName: "other"},
	})
	if err != nil {
		t.Fatal(err)
	}
	made, err := signer.Sign(t.Context(), image(), signing.SignOptions{})
	if err != nil {
		t.Fatal(err)
	}
	artifact, err := made.Attach(image())
	if err != nil {
		t.Fatal(err)
	}
	if digest.FromBytes(artifact.Bytes) != artifact.Descriptor.Digest || artifact.Manifest.Subject.Digest != image().Digest {
		t.Errorf("manifest %s", artifact.Bytes)
	}
	for _, desc := range append(artifact.Manifest.Layers, artifact.Manifest.Config) {
		data := artifact.Blobs[desc.Digest]
		if digest.FromBytes(data) != desc.Digest || int64(len(data)) != desc.Size {
			t.Errorf("blob %s holds %q", desc.Digest, data)
		}
	}
}

func TestUnknownKeyKind(t *testing.T) {
	t.Parallel()
	if _, err := signing.NewAuthority("root", 0, signing.AuthorityOptions{}); err == nil {
		t.Error("made a key of no kind")
	}
}

func Example() {
	root, err := signing.NewAuthority("acme root", signing.ECDSA256, signing.AuthorityOptions{})
	if err != nil {
		panic(err)
	}
	signer, err := root.Issue("release", signing.ECDSA256, signing.IssueOptions{})
	if err != nil {
		panic(err)
	}
	envelope, err := signer.Sign(context.Background(), image(), signing.SignOptions{Format: signing.COSE})
	if err != nil {
		panic(err)
	}
	artifact, err := envelope.Attach(image())
	if err != nil {
		panic(err)
	}
	fmt.Println(artifact.Descriptor.ArtifactType, artifact.Manifest.Layers[0].MediaType)
	// Output: application/vnd.cncf.notary.signature application/cose
}
