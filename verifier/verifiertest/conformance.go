package verifiertest

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/verifier"
)

// Case is one implementation under test.
type Case struct {
	// New makes a verifier of the given name, which must judge Good and the
	// inputs of Bad without using a network.
	New func(t *testing.T, name string) verifier.Verifier
	// Type is what its Type method says.
	Type string
	// Good must pass. It is only read.
	Good verifier.Input
	// Artifact is what Good.Content reads, so that the suite can spoil it.
	Artifact *Content
	// Bad are inputs that must fail, by name.
	Bad map[string]verifier.Input
}

// Run holds the implementation to what [verifier.Verifier] promises.
func Run(t *testing.T, c Case) {
	t.Helper()
	t.Run("names", c.names)
	t.Run("good passes", c.goodPasses)
	t.Run("bad fails", c.badFails)
	t.Run("another subject", c.anotherSubject)
	t.Run("errors of the content", c.contentErrors)
	t.Run("spoilt manifests", c.spoiltManifests)
	t.Run("spoilt blobs", c.spoiltBlobs)
	t.Run("cancelled", c.cancelled)
	t.Run("hanging content", c.hanging)
	t.Run("concurrent", c.concurrent)
}

func (c Case) names(t *testing.T) {
	v := c.New(t, "some-name")
	if v.Name() != "some-name" || v.Type() != c.Type {
		t.Errorf("name %q, type %q", v.Name(), v.Type())
	}
	if !v.Matches(c.Good.Artifact) {
		t.Error("does not match the good artifact")
	}
	for _, other := range []ocispec.Descriptor{{}, {ArtifactType: "application/x"}, {MediaType: ocispec.MediaTypeImageManifest}} {
		if v.Matches(other) {
			t.Errorf("matches %+v", other)
		}
	}
}

func (c Case) goodPasses(t *testing.T) {
	v := c.New(t, "good")
	first := c.mustPass(t, v)
	if again := c.mustPass(t, v); again.Statement != first.Statement {
		t.Errorf("statement %s, then %s", first.Statement, again.Statement)
	}
	if !first.ValidUntil.IsZero() && !first.ValidUntil.After(time.Now()) {
		t.Errorf("passed until %v", first.ValidUntil)
	}
}

func (c Case) mustPass(t *testing.T, v verifier.Verifier) verifier.Report {
	t.Helper()
	report, err := v.Verify(t.Context(), c.Good)
	if err != nil {
		t.Fatal(err)
	}
	if report.Outcome != verifier.Passed || report.Reason.Code != verifier.CodeVerified {
		t.Fatalf("outcome %s, reason %+v", report.Outcome, report.Reason)
	}
	checkReport(t, v, c.Good, report)
	return report
}

// checkReport checks what holds for every report.
func checkReport(t *testing.T, v verifier.Verifier, in verifier.Input, report verifier.Report) {
	t.Helper()
	if report.Verifier != v.Name() || report.Type != v.Type() || report.Artifact.Digest != in.Artifact.Digest {
		t.Errorf("report of %q, %q on %s", report.Verifier, report.Type, report.Artifact.Digest)
	}
	if report.Reason.Code == "" || report.Reason.What == "" {
		t.Errorf("reason %+v has no code or no text", report.Reason)
	}
	if report.Outcome == verifier.Passed && report.Statement.Validate() != nil {
		t.Errorf("passed with the statement %q", report.Statement)
	}
	if (report.Outcome == verifier.Passed) != (report.Reason.Code == verifier.CodeVerified) {
		t.Errorf("outcome %s with code %s", report.Outcome, report.Reason.Code)
	}
}

func (c Case) badFails(t *testing.T) {
	for name, in := range c.Bad {
		t.Run(name, func(t *testing.T) {
			v := c.New(t, "bad")
			report, err := v.Verify(t.Context(), in)
			if err != nil {
				t.Fatal(err)
			}
			if report.Outcome != verifier.Failed {
				t.Errorf("outcome %s, reason %+v", report.Outcome, report.Reason)
			}
			checkReport(t, v, in, report)
		})
	}
}

// neverPasses is the heart of the role: whatever is wrong, it is not a pass.
func (c Case) neverPasses(t *testing.T, v verifier.Verifier, in verifier.Input, what string) error {
	t.Helper()
	report, err := v.Verify(t.Context(), in)
	if err != nil {
		if report.Outcome == verifier.Passed {
			t.Errorf("%s: passed and an error", what)
		}
		return err
	}
	if report.Outcome == verifier.Passed {
		t.Errorf("%s: passed", what)
	}
	checkReport(t, v, in, report)
	return nil
}

func (c Case) anotherSubject(t *testing.T) {
	v := c.New(t, "subject")
	other := c.Good
	other.Subject.Descriptor.Digest = digest.FromString("another")
	_ = c.neverPasses(t, v, other, "digest")
	other = c.Good
	other.Subject.Descriptor.Size++
	_ = c.neverPasses(t, v, other, "size")
	other = c.Good
	other.Subject.Descriptor.MediaType = "application/x"
	_ = c.neverPasses(t, v, other, "media type")
}

func (c Case) contentErrors(t *testing.T) {
	v := c.New(t, "errors")
	for _, cause := range []error{
		verifier.ErrNotReferrer, referrerstore.ErrNotFound, referrerstore.ErrUnavailable,
		referrerstore.ErrTooLarge, referrerstore.ErrBusy, referrerstore.ErrDigestMismatch,
	} {
		for name, content := range map[string]*Content{
			"manifest": {ManifestErr: cause},
			"blob":     {Listing: c.Artifact.Listing, BlobErr: cause},
		} {
			in := c.Good
			in.Content = content
			// A report instead of an error is fine; an error must keep its cause.
			if err := c.neverPasses(t, v, in, name); err != nil && !errors.Is(err, cause) {
				t.Errorf("%s: error %v, want %v in it", name, err, cause)
			}
		}
	}
}

func (c Case) spoiltManifests(t *testing.T) {
	v := c.New(t, "manifests")
	good := c.Artifact.Listing
	twice := good
	twice.Layers = append(append([]ocispec.Descriptor{}, good.Layers...), good.Layers...)
	kind := good
	kind.ArtifactType, kind.Config.MediaType = "application/x", "application/x"
	none := good
	none.Layers = nil
	for name, listing := range map[string]verifier.Manifest{
		"zero": {}, "layers twice": twice, "another kind": kind, "no layers": none,
		"huge":     withLayers(good, func(d *ocispec.Descriptor) { d.Size = 1 << 60 }),
		"negative": withLayers(good, func(d *ocispec.Descriptor) { d.Size = -1 }),
		"empty":    withLayers(good, func(d *ocispec.Descriptor) { *d = ocispec.Descriptor{} }),
		"media":    withLayers(good, func(d *ocispec.Descriptor) { d.MediaType = "text/plain" }),
		"absent":   withLayers(good, func(d *ocispec.Descriptor) { d.Digest = digest.FromString("absent") }),
	} {
		in := c.Good
		in.Content = &Content{Listing: listing, Blobs: c.Artifact.Blobs}
		_ = c.neverPasses(t, v, in, name)
	}
}

func withLayers(m verifier.Manifest, change func(*ocispec.Descriptor)) verifier.Manifest {
	m.Layers = append([]ocispec.Descriptor{}, m.Layers...)
	for i := range m.Layers {
		change(&m.Layers[i])
	}
	return m
}

// spoiltBlobs stores other bytes in the place of each layer, under the digest
// that they truly have.
func (c Case) spoiltBlobs(t *testing.T) {
	v := c.New(t, "blobs")
	for i, layer := range c.Artifact.Listing.Layers {
		good := c.Artifact.Blobs[layer.Digest]
		for name, bad := range map[string][]byte{
			"empty": {}, "null": []byte("null"), "object": []byte("{}"), "zero": make([]byte, len(good)),
			"cut": good[:len(good)/2], "nested": bytes.Repeat([]byte("["), 100_000), "tags": bytes.Repeat([]byte{0xd2}, 100_000),
		} {
			_ = c.neverPasses(t, v, c.replaced(i, bad), name)
		}
	}
}

func (c Case) replaced(layer int, data []byte) verifier.Input {
	listing := c.Artifact.Listing
	listing.Layers = append([]ocispec.Descriptor{}, listing.Layers...)
	listing.Layers[layer].Digest = digest.FromBytes(data)
	listing.Layers[layer].Size = int64(len(data))
	blobs := maps.Clone(c.Artifact.Blobs)
	blobs[listing.Layers[layer].Digest] = data
	in := c.Good
	in.Content = &Content{Listing: listing, Blobs: blobs}
	return in
}

func (c Case) cancelled(t *testing.T) {
	v := c.New(t, "cancelled")
	cause := errors.New("nobody waits")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	report, err := v.Verify(ctx, c.Good)
	if report.Outcome == verifier.Passed || err == nil || !errors.Is(err, cause) {
		t.Errorf("outcome %s, error %v; want the cause of the cancellation", report.Outcome, err)
	}
}

// hanging runs in a bubble: a verifier that outstays its context would be a
// deadlock there, not a slow test.
func (c Case) hanging(t *testing.T) {
	v := c.New(t, "hanging")
	good := c.Good
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		good.Content = &Content{Hang: true}
		report, err := v.Verify(ctx, good)
		if report.Outcome == verifier.Passed || (err != nil && !errors.Is(err, context.DeadlineExceeded)) {
			t.Errorf("outcome %s, error %v", report.Outcome, err)
		}
	})
}

func (c Case) concurrent(t *testing.T) {
	v := c.New(t, "concurrent")
	inputs := []verifier.Input{c.Good}
	for _, in := range c.Bad {
		inputs = append(inputs, in)
	}
	const rounds = 4
	var group sync.WaitGroup
	for range rounds {
		for i, in := range inputs {
			group.Go(func() {
				report, err := v.Verify(t.Context(), in)
				if err != nil || (report.Outcome == verifier.Passed) != (i == 0) {
					t.Errorf("input %d: outcome %s, error %v", i, report.Outcome, err)
				}
			})
		}
	}
	group.Wait()
}
