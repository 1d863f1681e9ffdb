package verifiertest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/verifier"
	"github.com/gatehouse-project/gatehouse/verifier/verifiertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const kind = "application/vnd.example.says"

// says judges the simplest signatures there are: one layer with the digest,
// size and media type of the subject in it.
func says(name string) verifier.Verifier {
	f := &verifiertest.Fake{FakeName: name, FakeType: "says"}
	f.MatchesFunc = func(d ocispec.Descriptor) bool { return d.ArtifactType == kind }
	f.VerifyFunc = func(ctx context.Context, in verifier.Input) (verifier.Report, error) {
		report := verifier.Report{Verifier: name, Type: "says", Artifact: in.Artifact}
		m, err := in.Content.Manifest(ctx)
		if err != nil {
			return report, err
		}
		if m.ArtifactType != kind || len(m.Layers) != 1 || m.Layers[0].MediaType != kind {
			report.Outcome, report.Reason = verifier.Failed, verifier.Reason{Code: verifier.CodeArtifactMalformed, What: "not of its kind"}
			return report, nil
		}
		data, err := in.Content.Blob(ctx, m.Layers[0], 1000)
		if err != nil {
			return report, err
		}
		report.Outcome, report.Reason = verifier.Failed, verifier.Reason{Code: verifier.CodeSubjectMismatch, What: "another"}
		if string(data) == text(in.Subject.Descriptor) {
			report.Outcome, report.Reason = verifier.Passed, verifier.Reason{Code: verifier.CodeVerified, What: "it says so"}
			report.Statement = digest.FromBytes(data)
		}
		return report, nil
	}
	return f
}

func text(d ocispec.Descriptor) string { return fmt.Sprint(d.Digest, d.Size, d.MediaType) }

func input(subject ocispec.Descriptor, data string) (verifier.Input, *verifiertest.Content) {
	layer := ocispec.Descriptor{MediaType: kind, Digest: digest.FromString(data), Size: int64(len(data))}
	content := &verifiertest.Content{
		Listing: verifier.Manifest{ArtifactType: kind, Layers: []ocispec.Descriptor{layer}},
		Blobs:   map[digest.Digest][]byte{layer.Digest: []byte(data)},
	}
	return verifier.Input{
		Subject:  referrerstore.Subject{Descriptor: subject},
		Artifact: ocispec.Descriptor{ArtifactType: kind, Digest: digest.FromString("artifact of " + data)},
		Content:  content,
	}, content
}

func TestSuiteOnFake(t *testing.T) {
	t.Parallel()
	subject := ocispec.Descriptor{MediaType: "a/b", Digest: digest.FromString("x"), Size: 1}
	good, content := input(subject, text(subject))
	bad, _ := input(subject, "something else")
	verifiertest.Run(t, verifiertest.Case{
		New:      func(_ *testing.T, name string) verifier.Verifier { return says(name) },
		Type:     "says",
		Good:     good,
		Artifact: content,
		Bad:      map[string]verifier.Input{"other text": bad},
	})
}

func TestContent(t *testing.T) {
	t.Parallel()
	_, content := input(ocispec.Descriptor{}, "data")
	layer := content.Listing.Layers[0]
	absent, short := layer, layer
	absent.Digest = digest.FromString("absent")
	short.Size--
	tests := map[string]struct {
		desc  ocispec.Descriptor
		limit int64
		want  error
	}{
		"good":   {layer, 4, nil},
		"bound":  {layer, 3, referrerstore.ErrTooLarge},
		"absent": {absent, 4, referrerstore.ErrNotFound},
		"short":  {short, 4, referrerstore.ErrDigestMismatch},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := content.Blob(t.Context(), test.desc, test.limit); !errors.Is(err, test.want) {
				t.Errorf("error %v, want %v", err, test.want)
			}
		})
	}
}

func ExampleFake() {
	var v verifier.Verifier = &verifiertest.Fake{FakeName: "always"}
	report, err := v.Verify(context.Background(), verifier.Input{})
	fmt.Println(report.Verifier, report.Outcome, err)
	// Output: always passed <nil>
}
