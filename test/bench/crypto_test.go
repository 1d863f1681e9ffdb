package bench

import (
	"net/http"
	"runtime"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/verifier"
	"github.com/gatehouse-project/gatehouse/verifier/notation"
	"github.com/gatehouse-project/gatehouse/verifier/trust"
	"github.com/gatehouse-project/gatehouse/verifier/verifiertest"
)

// crypto is how long the signatures of the images take over the cores, with
// everything in memory: at most so many of each image, as Gatehouse's own
// verifier does it, under the trust policy that the processes have. A floor is
// the best of some tries: the first ones find cores that slept.
func crypto(tb testing.TB, m *material, ofEach int) time.Duration {
	tb.Helper()
	v := newVerifier(tb, m.root)
	inputs := m.inputs(tb, ofEach)
	best := judge(tb, v, inputs)
	for start, tries := time.Now(), 1; tries < 3 || time.Since(start) < 200*time.Millisecond; tries++ {
		best = min(best, judge(tb, v, inputs))
	}
	return best
}

func judge(tb testing.TB, v verifier.Verifier, inputs []verifier.Input) time.Duration {
	tb.Helper()
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	start := time.Now()
	for _, in := range inputs {
		group.Go(func() error {
			report, err := v.Verify(tb.Context(), in)
			if err == nil && report.Outcome != verifier.Passed {
				tb.Errorf("floor: %+v", report.Reason)
			}
			return err
		})
	}
	err := group.Wait()
	took := time.Since(start)
	if err != nil {
		tb.Fatalf("floor: %v", err)
	}
	return took
}

func newVerifier(tb testing.TB, root []byte) verifier.Verifier {
	tb.Helper()
	trusted := must(trust.Load("", []trust.Certificates{{Name: "acme", Type: "ca", Inline: string(root)}}, nil))(tb)
	return must(notation.New("notation", notation.Options{TrustPolicy: notation.TrustPolicy{
		Version: "1.0",
		TrustPolicies: []notation.Statement{{
			Name: "default", RegistryScopes: []string{"*"},
			SignatureVerification: notation.SignatureVerification{Level: "strict"},
			TrustStores:           []string{"ca:acme"}, TrustedIdentities: []string{"*"},
		}},
	}}, notation.Deps{Trust: trusted, HTTPClient: http.DefaultClient}))(tb)
}

// inputs are the signatures as a verifier is given them.
func (m *material) inputs(tb testing.TB, ofEach int) []verifier.Input {
	tb.Helper()
	ref := must(referrerstore.ParseReference("registry.example.com/team/app:v1"))(tb)
	var inputs []verifier.Input
	for _, image := range m.images {
		for _, e := range image.envelopes[:min(ofEach, len(image.envelopes))] {
			artifact := must(e.Attach(image.desc))(tb)
			layer := artifact.Manifest.Layers[0]
			inputs = append(inputs, verifier.Input{
				Subject:  referrerstore.Subject{Reference: ref, Descriptor: image.desc},
				Artifact: artifact.Descriptor,
				Content: &verifiertest.Content{
					Listing: verifier.Manifest{
						ArtifactType: notation.ArtifactType, Config: artifact.Manifest.Config,
						Layers: []ocispec.Descriptor{layer},
					},
					Blobs: map[digest.Digest][]byte{layer.Digest: e.Bytes},
				},
			})
		}
	}
	return inputs
}

// TestCryptoFloor keeps the floor from measuring a verifier that fails fast.
func TestCryptoFloor(t *testing.T) {
	t.Parallel()
	m := sign(t, 2, mixed)
	if n := len(m.inputs(t, 1)); n != 2 {
		t.Errorf("%d signatures with one of each, want 2", n)
	}
	if n := len(m.inputs(t, signatures)); n != m.signatures() || n != 10 {
		t.Errorf("%d signatures, want 10", n)
	}
	if took := crypto(t, m, signatures); took <= 0 {
		t.Errorf("took %s", took)
	}
	stranger := sign(t, 1, quick)
	report, err := newVerifier(t, m.root).Verify(t.Context(), stranger.inputs(t, 1)[0])
	if err != nil || report.Outcome != verifier.Failed || report.Reason.Code != verifier.CodeSignerUntrusted {
		t.Errorf("a stranger's signature: %+v, %v", report, err)
	}
}
