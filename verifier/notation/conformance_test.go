package notation_test

import (
	"bytes"
	"context"
	"crypto/elliptic"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/veraison/go-cose"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/test/signing"
	"github.com/gatehouse-project/gatehouse/verifier"
	"github.com/gatehouse-project/gatehouse/verifier/notation"
	"github.com/gatehouse-project/gatehouse/verifier/trust"
	"github.com/gatehouse-project/gatehouse/verifier/verifiertest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	for _, format := range []signing.Format{signing.JWS, signing.COSE} {
		t.Run(string(format), func(t *testing.T) {
			t.Parallel()
			root := authority(t, signing.ECDSA256)
			snapshot := stores(t, root)
			envelope := sign(t, issue(t, root, signing.ECDSA256, signing.IssueOptions{}), image(), signing.SignOptions{Format: format})
			foreign := sign(t, issue(t, authority(t, signing.ECDSA256), signing.ECDSA256, signing.IssueOptions{}), image(), signing.SignOptions{Format: format})
			good, content := input(t, envelope)
			stranger, _ := input(t, foreign)
			verifiertest.Run(t, verifiertest.Case{
				New: func(t *testing.T, name string) verifier.Verifier {
					return must[*notation.Verifier](t)(notation.New(name, options(), notation.Deps{Trust: snapshot, HTTPClient: noNetwork(t)}))
				},
				Type:     notation.Type,
				Good:     good,
				Artifact: content,
				Bad:      map[string]verifier.Input{"stranger": stranger},
			})
		})
	}
}

// malleate makes the other valid signature that an ECDSA signature (r, s) of
// P-256 has: (r, n-s).
func malleate(signature []byte) []byte {
	half := len(signature) / 2
	s := new(big.Int).SetBytes(signature[half:])
	s.Sub(elliptic.P256().Params().N, s)
	return append(bytes.Clone(signature[:half]), s.FillBytes(make([]byte, half))...)
}

func malleated(t *testing.T, e signing.Envelope) signing.Envelope {
	t.Helper()
	if e.MediaType == string(signing.COSE) {
		var message cose.Sign1Message
		if err := message.UnmarshalCBOR(e.Bytes); err != nil {
			t.Fatal(err)
		}
		message.Signature = malleate(message.Signature)
		e.Bytes = must[[]byte](t)(message.MarshalCBOR())
		return e
	}
	var parts map[string]json.RawMessage
	var text string
	if err := json.Unmarshal(e.Bytes, &parts); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(parts["signature"], &text); err != nil {
		t.Fatal(err)
	}
	other := malleate(must[[]byte](t)(base64.RawURLEncoding.DecodeString(text)))
	parts["signature"] = must[[]byte](t)(json.Marshal(base64.RawURLEncoding.EncodeToString(other)))
	e.Bytes = must[[]byte](t)(json.Marshal(parts))
	return e
}

// Whoever can push can wrap a signature anew, and for ECDSA change its value;
// that must not make two proofs of one.
func TestStatementIsNotMalleable(t *testing.T) {
	t.Parallel()
	root := authority(t, signing.ECDSA256)
	signer := issue(t, root, signing.ECDSA256, signing.IssueOptions{})
	v := newVerifier(t, options(), stores(t, root), nil)
	signed := time.Now().Add(-time.Hour)
	statements := make(map[digest.Digest]string)
	for _, format := range []signing.Format{signing.JWS, signing.COSE} {
		for _, expiry := range []time.Duration{2 * time.Hour, 3 * time.Hour} {
			envelope := sign(t, signer, image(), signing.SignOptions{Format: format, SigningTime: signed, Expiry: expiry})
			other := malleated(t, envelope)
			if bytes.Equal(envelope.Bytes, other.Bytes) {
				t.Fatal("the envelope is the same")
			}
			one, two := verify(t, v, envelope), verify(t, v, other)
			expect(t, two, verifier.Passed, verifier.CodeVerified, "")
			if one.Statement != two.Statement {
				t.Errorf("%s: statements %s and %s of one signature", format, one.Statement, two.Statement)
			}
			name := fmt.Sprint(format, expiry)
			if before, ok := statements[one.Statement]; ok {
				t.Errorf("%s says the same as %s", name, before)
			}
			statements[one.Statement] = name
		}
	}
}

// Nor must the authority's signature on the signer's certificate, which for
// ECDSA anyone can change likewise and which no signature covers.
func TestStatementIsNotOfTheCertificatesSignature(t *testing.T) {
	t.Parallel()
	root := authority(t, signing.ECDSA256)
	signer := issue(t, root, signing.ECDSA256, signing.IssueOptions{})
	v := newVerifier(t, options(), stores(t, root), nil)
	for _, format := range []signing.Format{signing.JWS, signing.COSE} {
		envelope := sign(t, signer, image(), signing.SignOptions{Format: format})
		chain := raw(signer)
		chain[0] = reissued(t, chain[0])
		one, two := verify(t, v, envelope), verify(t, v, alter(t, envelope, nil, chain))
		expect(t, two, verifier.Passed, verifier.CodeVerified, "")
		if one.Statement != two.Statement {
			t.Errorf("%s: statements %s and %s of one signature", format, one.Statement, two.Statement)
		}
	}
}

// reissued is a certificate under the other signature that its issuer's has.
func reissued(t *testing.T, der []byte) []byte {
	t.Helper()
	var certificate struct {
		Signed    asn1.RawValue
		Algorithm asn1.RawValue
		Signature asn1.BitString
	}
	var pair struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &certificate); err != nil {
		t.Fatal(err)
	}
	if _, err := asn1.Unmarshal(certificate.Signature.Bytes, &pair); err != nil {
		t.Fatal(err)
	}
	pair.S.Sub(elliptic.P256().Params().N, pair.S)
	value := must[[]byte](t)(asn1.Marshal(pair))
	certificate.Signature = asn1.BitString{Bytes: value, BitLength: 8 * len(value)}
	other := must[[]byte](t)(asn1.Marshal(certificate))
	if bytes.Equal(der, other) {
		t.Fatal("the certificate is the same")
	}
	return other
}

// Two signers who say the same make two statements.
func TestStatementNamesTheSigner(t *testing.T) {
	t.Parallel()
	root := authority(t, signing.ECDSA256)
	v := newVerifier(t, options(), stores(t, root), nil)
	opts := signing.SignOptions{SigningTime: time.Now().Add(-time.Hour)}
	one := verify(t, v, sign(t, issue(t, root, signing.ECDSA256, signing.IssueOptions{}), image(), opts))
	two := verify(t, v, sign(t, issue(t, root, signing.ECDSA256, signing.IssueOptions{}), image(), opts))
	if one.Statement == two.Statement {
		t.Error("two signers, one statement")
	}
}

// Older manifests carry the type in their config, others in the field made
// for it.
func TestManifestForms(t *testing.T) {
	t.Parallel()
	root := authority(t, signing.ECDSA256)
	v := newVerifier(t, options(), stores(t, root), nil)
	in, content := input(t, sign(t, issue(t, root, signing.ECDSA256, signing.IssueOptions{}), image(), signing.SignOptions{}))
	content.Listing.Config, content.Listing.ArtifactType = ocispec.DescriptorEmptyJSON, notation.ArtifactType
	report := must[verifier.Report](t)(v.Verify(t.Context(), in))
	expect(t, report, verifier.Passed, verifier.CodeVerified, "")
	content.Listing.ArtifactType = ""
	report = must[verifier.Report](t)(v.Verify(t.Context(), in))
	expect(t, report, verifier.Failed, verifier.CodeArtifactMalformed, "not that of a Notary Project signature")
}

// FuzzEnvelope runs best with -fuzzminimizetime=10x: the keys are made anew in
// each worker, which keeps the minimizer busy for nothing.
func FuzzEnvelope(f *testing.F) {
	root := authority(f, signing.ECDSA256)
	signer := issue(f, root, signing.ECDSA256, signing.IssueOptions{})
	stranger := issue(f, authority(f, signing.ECDSA256), signing.ECDSA256, signing.IssueOptions{})
	v := newVerifier(f, options(), stores(f, root), nil)
	for i, format := range []signing.Format{signing.JWS, signing.COSE} {
		f.Add(i == 0, sign(f, signer, image(), signing.SignOptions{Format: format}).Bytes)
		f.Add(i == 0, sign(f, stranger, image(), signing.SignOptions{Format: format, Expiry: time.Hour}).Bytes)
		f.Add(i == 0, sign(f, signer, image(), signing.SignOptions{Format: format, SigningAuthority: true}).Bytes)
	}
	// Signed over something else, so nothing derived from it may pass: the
	// subject is one that nobody has signed.
	unsigned := image()
	unsigned.Digest = digest.FromString("never signed")
	f.Fuzz(func(t *testing.T, jws bool, data []byte) {
		format := signing.COSE
		if jws {
			format = signing.JWS
		}
		in, _ := inputFor(t, signing.Envelope{MediaType: string(format), Bytes: data}, subject(t, repository, unsigned))
		report, err := v.Verify(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		if report.Outcome != verifier.Failed || report.Reason.Code == "" || report.Reason.What == "" {
			t.Fatalf("outcome %s, reason %+v", report.Outcome, report.Reason)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	for _, kind := range []signing.KeyKind{signing.RSA2048, signing.ECDSA256} {
		root := authority(b, kind)
		signer := issue(b, root, kind, signing.IssueOptions{})
		v := newVerifier(b, options(), stores(b, root), nil)
		for _, format := range []signing.Format{signing.JWS, signing.COSE} {
			in, _ := input(b, sign(b, signer, image(), signing.SignOptions{Format: format}))
			b.Run(kind.String()+"/"+string(format), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if report, err := v.Verify(b.Context(), in); err != nil || report.Outcome != verifier.Passed {
						b.Fatalf("outcome %s, error %v", report.Outcome, err)
					}
				}
			})
		}
	}
}

func FuzzManifest(f *testing.F) {
	root := authority(f, signing.ECDSA256)
	v := newVerifier(f, options(), stores(f, root), nil)
	_, content := input(f, sign(f, issue(f, root, signing.ECDSA256, signing.IssueOptions{}), image(), signing.SignOptions{}))
	good, err := json.Marshal(content.Listing)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"ArtifactType":"application/vnd.cncf.notary.signature","Layers":[{"mediaType":"application/cose","size":-1}]}`))
	unsigned := image()
	unsigned.Digest = digest.FromString("never signed")
	f.Fuzz(func(t *testing.T, data []byte) {
		var listing verifier.Manifest
		if json.Unmarshal(data, &listing) != nil {
			return
		}
		report, err := v.Verify(t.Context(), verifier.Input{
			Subject: subject(t, repository, unsigned),
			Content: &verifiertest.Content{Listing: listing, Blobs: content.Blobs},
		})
		if report.Outcome == verifier.Passed || (err == nil && report.Reason.Code == "") {
			t.Fatalf("outcome %s, reason %+v", report.Outcome, report.Reason)
		}
	})
}

func ExampleNew() {
	check := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	root, err := signing.NewAuthority("acme root", signing.ECDSA256, signing.AuthorityOptions{})
	check(err)
	signer, err := root.Issue("release", signing.ECDSA256, signing.IssueOptions{})
	check(err)
	envelope, err := signer.Sign(context.Background(), image(), signing.SignOptions{})
	check(err)
	artifact, err := envelope.Attach(image())
	check(err)

	snapshot, err := trust.Load(".", []trust.Certificates{{Name: "acme", Type: trust.TypeCA, Inline: string(root.PEM())}}, nil)
	check(err)
	v, err := notation.New("notation", notation.Options{
		Revocation: notation.RevocationOptions{Mode: notation.RevocationOff},
		TrustPolicy: notation.TrustPolicy{Version: "1.0", TrustPolicies: []notation.Statement{{
			Name:                  "default",
			RegistryScopes:        []string{"*"},
			SignatureVerification: notation.SignatureVerification{Level: "strict"},
			TrustStores:           []string{"ca:acme"},
			TrustedIdentities:     []string{"x509.subject: C=US, ST=WA, O=acme"},
		}}},
	}, notation.Deps{Trust: snapshot})
	check(err)

	ref, err := referrerstore.ParseReference("registry.example.com/team/app:v1")
	check(err)
	report, err := v.Verify(context.Background(), verifier.Input{
		Subject:  referrerstore.Subject{Reference: ref, Descriptor: image()},
		Artifact: artifact.Descriptor,
		Content: &verifiertest.Content{
			Listing: verifier.Manifest{Config: artifact.Manifest.Config, Layers: artifact.Manifest.Layers},
			Blobs:   artifact.Blobs,
		},
	})
	check(err)
	fmt.Println(report.Outcome, report.Reason.Code, report.Extensions["SN"])
	// Output: passed VERIFIED CN=release,O=acme,ST=WA,C=US
}
