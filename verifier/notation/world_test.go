package notation_test

import (
	"crypto/x509"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"
	"golang.org/x/crypto/ocsp"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/test/signing"
	"github.com/gatehouse-project/gatehouse/verifier"
	"github.com/gatehouse-project/gatehouse/verifier/notation"
	"github.com/gatehouse-project/gatehouse/verifier/trust"
	"github.com/gatehouse-project/gatehouse/verifier/verifiertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const repository = "registry.example.com/team/app"

func image() ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("image"), Size: 5}
}

func subject(t testing.TB, name string, desc ocispec.Descriptor) referrerstore.Subject {
	t.Helper()
	ref, err := referrerstore.ParseReference(name + "@" + desc.Digest.String())
	if err != nil {
		t.Fatal(err)
	}
	return referrerstore.Subject{Reference: ref, Descriptor: desc}
}

func must[T any](t testing.TB) func(T, error) T {
	return func(value T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func authority(t testing.TB, kind signing.KeyKind) *signing.Authority {
	t.Helper()
	return must[*signing.Authority](t)(signing.NewAuthority("acme root", kind, signing.AuthorityOptions{}))
}

func issue(t testing.TB, a *signing.Authority, kind signing.KeyKind, opts signing.IssueOptions) *signing.Signer {
	t.Helper()
	return must[*signing.Signer](t)(a.Issue("release", kind, opts))
}

func sign(t testing.TB, s *signing.Signer, desc ocispec.Descriptor, opts signing.SignOptions) signing.Envelope {
	t.Helper()
	return must[signing.Envelope](t)(s.Sign(t.Context(), desc, opts))
}

// stores trusts an authority as ca:acme and signingAuthority:acme.
func stores(t testing.TB, a *signing.Authority, more ...trust.Certificates) *trust.Snapshot {
	t.Helper()
	return must[*trust.Snapshot](t)(trust.Load("", append([]trust.Certificates{
		{Name: "acme", Type: trust.TypeCA, Inline: string(a.PEM())},
		{Name: "acme", Type: trust.TypeSigningAuthority, Inline: string(a.PEM())},
	}, more...), nil))
}

// options are those of a strict policy for everything.
func options(change ...func(*notation.Statement)) notation.Options {
	s := notation.Statement{
		Name:                  "default",
		RegistryScopes:        []string{"*"},
		SignatureVerification: notation.SignatureVerification{Level: "strict"},
		TrustStores:           []string{"ca:acme", "signingAuthority:acme"},
		TrustedIdentities:     []string{"*"},
	}
	for _, f := range change {
		f(&s)
	}
	return notation.Options{TrustPolicy: notation.TrustPolicy{Version: "1.0", TrustPolicies: []notation.Statement{s}}}
}

func level(name string, override ...string) func(*notation.Statement) {
	return func(s *notation.Statement) {
		s.SignatureVerification.Level = name
		s.SignatureVerification.Override = make(map[string]string)
		for i := 0; i+1 < len(override); i += 2 {
			s.SignatureVerification.Override[override[i]] = override[i+1]
		}
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// noNetwork is a client for tests in which nobody may be asked.
func noNetwork(t testing.TB) *http.Client {
	return &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		t.Errorf("asked %s", r.URL)
		return nil, errors.New("no network")
	})}
}

func newVerifier(t testing.TB, opts notation.Options, snapshot *trust.Snapshot, client *http.Client) *notation.Verifier {
	t.Helper()
	if client == nil {
		client = noNetwork(t)
	}
	return must[*notation.Verifier](t)(notation.New("notation", opts, notation.Deps{Trust: snapshot, HTTPClient: client}))
}

// input stores the envelope as a signature of the image.
func input(t testing.TB, envelope signing.Envelope) (verifier.Input, *verifiertest.Content) {
	t.Helper()
	return inputFor(t, envelope, subject(t, repository, image()))
}

func inputFor(t testing.TB, envelope signing.Envelope, of referrerstore.Subject) (verifier.Input, *verifiertest.Content) {
	t.Helper()
	artifact := must[signing.Artifact](t)(envelope.Attach(of.Descriptor))
	content := &verifiertest.Content{
		Listing: verifier.Manifest{
			ArtifactType: artifact.Manifest.ArtifactType, Config: artifact.Manifest.Config,
			Layers: artifact.Manifest.Layers,
		},
		Blobs: artifact.Blobs,
	}
	return verifier.Input{Subject: of, Artifact: artifact.Descriptor, Content: content}, content
}

func verify(t testing.TB, v verifier.Verifier, envelope signing.Envelope) verifier.Report {
	t.Helper()
	in, _ := input(t, envelope)
	return must[verifier.Report](t)(v.Verify(t.Context(), in))
}

// responder answers for an authority: OCSP under /ocsp/ and its revocation
// list under /crl.
type responder struct {
	*signing.Authority
	byList  bool // the signer's certificate names the list
	status  signing.Status
	end     time.Duration       // of what it says; an hour if zero
	revoked []*x509.Certificate // on the list
	issued  []*x509.Certificate
	asked   atomic.Int64
	answer  func(http.ResponseWriter, *http.Request) bool // if it returns true it has answered
}

func (r *responder) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	r.asked.Add(1)
	if r.answer != nil && r.answer(w, request) {
		return
	}
	end := time.Now().Add(time.Hour)
	if r.end != 0 {
		end = time.Now().Add(r.end)
	}
	var data []byte
	var err error
	if request.URL.Path == "/crl" {
		data, err = r.RevocationList(end, r.revoked...)
	} else {
		data, err = r.ocsp(request, end)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = w.Write(data) // the client may have gone
}

func (r *responder) ocsp(request *http.Request, end time.Time) ([]byte, error) {
	data, err := io.ReadAll(request.Body)
	if request.Method == http.MethodGet {
		data, err = base64.StdEncoding.DecodeString(strings.TrimPrefix(request.URL.Path, "/ocsp/"))
	}
	if err != nil {
		return nil, err
	}
	question, err := ocsp.ParseRequest(data)
	if err != nil {
		return nil, err
	}
	for _, c := range r.issued {
		if c.SerialNumber.Cmp(question.SerialNumber) == 0 {
			return r.OCSP(c, r.status, end)
		}
	}
	return nil, errors.New("not issued here")
}

// client reaches the responder without a network, for tests on fake time.
func (r *responder) client() *http.Client {
	return &http.Client{Transport: roundTrip(func(request *http.Request) (*http.Response, error) {
		if request.Body == nil {
			request.Body = http.NoBody
		}
		recorder := httptest.NewRecorder()
		r.ServeHTTP(recorder, request)
		if err := request.Context().Err(); err != nil {
			return nil, err
		}
		return recorder.Result(), nil
	})}
}

// serve runs the responder on the loopback interface.
func (r *responder) serve(t testing.TB) (url string, client *http.Client) {
	t.Helper()
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	client = server.Client()
	t.Cleanup(client.CloseIdleConnections)
	return server.URL, client
}
