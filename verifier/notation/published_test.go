package notation_test

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"go/build"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/notaryproject/notation-core-go/signature"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/test/signing"
	"github.com/gatehouse-project/gatehouse/verifier"
	"github.com/gatehouse-project/gatehouse/verifier/notation"
	"github.com/gatehouse-project/gatehouse/verifier/trust"
)

// module is the folder of notation-go's module, which ships signatures that
// its authors made.
func module(t *testing.T) string {
	t.Helper()
	p, err := build.Import("github.com/notaryproject/notation-go", ".", build.FindOnly)
	if err != nil {
		t.Fatal(err)
	}
	return p.Dir
}

func published(t *testing.T, path string, format signing.Format) (signing.Envelope, *trust.Snapshot) {
	t.Helper()
	envelope := signing.Envelope{
		MediaType: string(format),
		Bytes:     must[[]byte](t)(os.ReadFile(filepath.Join(module(t), filepath.FromSlash(path)))),
	}
	parsed := must[signature.Envelope](t)(signature.ParseEnvelope(envelope.MediaType, envelope.Bytes))
	content := must[*signature.EnvelopeContent](t)(parsed.Content())
	chain := content.SignerInfo.CertificateChain
	stamps := filepath.Join(module(t), "verifier", "testdata", "truststore", "x509", "tsa", "test-timestamp", "globalsignRoot.cer")
	return envelope, must[*trust.Snapshot](t)(trust.Load("", []trust.Certificates{
		{Name: "acme", Type: trust.TypeCA, Inline: asPEM(chain[len(chain)-1])},
		{Name: "acme", Type: trust.TypeSigningAuthority, Inline: asPEM(chain[len(chain)-1])},
		{Name: "stamps", Type: trust.TypeTSA, Files: []string{stamps}},
	}, nil))
}

func asPEM(c *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}

// alpine is the image in notation-go's OCI layout.
func alpine() ocispec.Descriptor {
	return ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageManifest,
		Digest:    "sha256:19dbd2e48e921426ee8ace4dc892edfb2ecdc1d1a72d5416c83670c30acecef0",
		Size:      481,
	}
}

// Signatures by notation's own authors over a real image.
func TestPublishedSignatures(t *testing.T) {
	t.Parallel()
	layout := filepath.Join(module(t), "internal", "testdata", "oci-layout", "blobs", "sha256", alpine().Digest.Encoded())
	if data := must[[]byte](t)(os.ReadFile(layout)); digest.FromBytes(data) != alpine().Digest || int64(len(data)) != alpine().Size {
		t.Fatal("the published image is another")
	}
	for path, format := range map[string]signing.Format{
		"internal/testdata/jws_signature.sig":  signing.JWS,
		"internal/testdata/cose_signature.sig": signing.COSE,
	} {
		t.Run(string(format), func(t *testing.T) {
			t.Parallel()
			envelope, snapshot := published(t, path, format)
			in, _ := inputFor(t, envelope, subject(t, "docker.io/library/alpine", alpine()))
			report := must[verifier.Report](t)(newVerifier(t, options(), snapshot, nil).Verify(t.Context(), in))
			expect(t, report, verifier.Passed, verifier.CodeVerified, "")
			if report.Extensions["SN"] != "CN=alpine,O=Notary,L=Seattle,ST=WA,C=US" {
				t.Errorf("extensions %v", report.Extensions)
			}

			other := newVerifier(t, options(), stores(t, authority(t, signing.ECDSA256)), nil)
			report = must[verifier.Report](t)(other.Verify(t.Context(), in))
			expect(t, report, verifier.Failed, verifier.CodeSignerUntrusted, "CN=alpine")

			in, _ = inputFor(t, envelope, subject(t, "docker.io/library/alpine", image()))
			report = must[verifier.Report](t)(newVerifier(t, options(), snapshot, nil).Verify(t.Context(), in))
			expect(t, report, verifier.Failed, verifier.CodeSubjectMismatch, alpine().Digest.String())
		})
	}
}

// Published time stamps of a public authority. The authority's chain is always
// asked about, and nobody answers here, so the mode decides.
func TestPublishedTimestamps(t *testing.T) {
	t.Parallel()
	stamped := func(s *notation.Statement) { s.TrustStores = append(s.TrustStores, "tsa:stamps") }
	afterExpiry := func(s *notation.Statement) {
		stamped(s)
		s.SignatureVerification.VerifyTimestamp = "afterCertExpiry"
	}
	plain := func(*notation.Statement) {}
	relaxed := func(s *notation.Statement) { stamped(s); level("strict", "authenticTimestamp", "log")(s) }
	const (
		enforce, logged, off = notation.RevocationEnforce, notation.RevocationLog, notation.RevocationOff
		jws, cose            = signing.JWS, signing.COSE
	)
	tests := []struct {
		file   string
		format signing.Format
		policy string
		change func(*notation.Statement)
		mode   string
		code   verifier.Code
	}{
		{"jwsWithTimestamp", jws, "no tsa", plain, enforce, verifier.CodeVerified},
		{"coseWithTimestamp", cose, "no tsa", plain, enforce, verifier.CodeVerified},
		{"jwsWithTimestamp", jws, "tsa", stamped, enforce, verifier.CodeRevocationUnknown},
		{"coseWithTimestamp", cose, "tsa", stamped, enforce, verifier.CodeRevocationUnknown},
		{"jwsWithTimestamp", jws, "tsa", stamped, logged, verifier.CodeVerified},
		{"coseWithTimestamp", cose, "tsa", stamped, logged, verifier.CodeVerified},
		{"jwsWithTimestamp", jws, "tsa", stamped, off, verifier.CodeVerified},
		{"jwsWithTimestamp", jws, "tsa logged", relaxed, enforce, verifier.CodeVerified},
		{"jwsWithTimestamp", jws, "after expiry", afterExpiry, enforce, verifier.CodeVerified},
		{"jwsExpiredWithTimestamp", jws, "no tsa", plain, enforce, verifier.CodeCertificateExpired},
		{"coseExpiredWithTimestamp", cose, "no tsa", plain, enforce, verifier.CodeCertificateExpired},
		{"jwsExpiredWithTimestamp", jws, "tsa", stamped, logged, verifier.CodeVerified},
		{"coseExpiredWithTimestamp", cose, "tsa", stamped, off, verifier.CodeVerified},
		{"jwsExpiredWithTimestamp", jws, "after expiry", afterExpiry, logged, verifier.CodeVerified},
		{"jwsExpiredWithTimestamp", jws, "after expiry", afterExpiry, enforce, verifier.CodeRevocationUnknown},
		{"withoutTimestamp", jws, "tsa", stamped, logged, verifier.CodeTimestampInvalid},
		{"withoutTimestamp", jws, "after expiry", afterExpiry, enforce, verifier.CodeVerified},
		{"timestampAfterNotAfter", cose, "tsa", stamped, logged, verifier.CodeTimestampInvalid},
		{"timestampBeforeNotBefore", jws, "tsa", stamped, logged, verifier.CodeTimestampInvalid},
	}
	image := ocispec.Descriptor{
		MediaType: "application/vnd.docker.distribution.manifest.v2+json",
		Digest:    "sha256:c0669ef34cdc14332c0f1ab0c2c01acb91d96014b172f1a76f3a39e63d1f0bda",
		Size:      528,
	}
	nobody := &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		if !strings.HasSuffix(r.URL.Host, "globalsign.com") {
			t.Errorf("asked %s", r.URL)
		}
		return nil, errors.New("no network")
	})}
	for _, test := range tests {
		t.Run(test.file+"/"+test.policy+"/"+test.mode, func(t *testing.T) {
			t.Parallel()
			envelope, snapshot := published(t, "verifier/testdata/timestamp/sigEnv/"+test.file+".sig", test.format)
			opts := options(test.change)
			opts.Revocation.Mode = test.mode
			in, _ := inputFor(t, envelope, subject(t, repository, image))
			report := must[verifier.Report](t)(newVerifier(t, opts, snapshot, nobody).Verify(t.Context(), in))
			if report.Reason.Code != test.code {
				t.Fatalf("outcome %s, reason %+v, want %s", report.Outcome, report.Reason, test.code)
			}
			if passed := report.Outcome == verifier.Passed; passed != (test.code == verifier.CodeVerified) {
				t.Errorf("outcome %s", report.Outcome)
			}
			asks := strings.HasPrefix(test.policy, "tsa") || strings.HasPrefix(test.file, "jwsExpired") && test.policy == "after expiry"
			if report.Outcome == verifier.Passed && (len(report.Warnings) > 0) != asks {
				t.Errorf("warnings %q", report.Warnings)
			}
		})
	}
}
