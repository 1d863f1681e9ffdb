// Package verifiertest holds what tests of verifiers and of their callers
// share.
//
// [Run] is the conformance suite of the Verifier role: whatever an
// implementation judges, it must pass. [Fake] stands for a verifier in tests
// of those who call one, and [Content] is an artifact in memory.
package verifiertest

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/verifier"
)

// Fake is a verifier made of functions. The zero value matches everything and
// passes it, each artifact with a statement of its own. It is safe for
// concurrent use if its functions are.
type Fake struct {
	// FakeName is the name, "fake" if empty.
	FakeName string
	// FakeType is the type, "fake" if empty.
	FakeType string
	// MatchesFunc replaces Matches if set.
	MatchesFunc func(referrer ocispec.Descriptor) bool
	// VerifyFunc replaces Verify if set.
	VerifyFunc func(ctx context.Context, in verifier.Input) (verifier.Report, error)
}

var _ verifier.Verifier = (*Fake)(nil)

// Name implements [verifier.Verifier].
func (f *Fake) Name() string { return orFake(f.FakeName) }

// Type implements [verifier.Verifier].
func (f *Fake) Type() string { return orFake(f.FakeType) }

func orFake(text string) string {
	if text == "" {
		return "fake"
	}
	return text
}

// Matches implements [verifier.Verifier].
func (f *Fake) Matches(referrer ocispec.Descriptor) bool {
	return f.MatchesFunc == nil || f.MatchesFunc(referrer)
}

// Verify implements [verifier.Verifier].
func (f *Fake) Verify(ctx context.Context, in verifier.Input) (verifier.Report, error) {
	if f.VerifyFunc != nil {
		return f.VerifyFunc(ctx, in)
	}
	return verifier.Report{
		Verifier: f.Name(), Type: f.Type(), Artifact: in.Artifact,
		Outcome:   verifier.Passed,
		Reason:    verifier.Reason{Code: verifier.CodeVerified, What: "the fake says so"},
		Statement: digest.FromString(in.Artifact.Digest.String()),
	}, nil
}

// Content is an artifact in memory. It is safe for concurrent use as long as
// nobody changes it.
type Content struct {
	// Listing is the artifact's manifest.
	Listing verifier.Manifest
	// Blobs are its blobs. They are checked against their digest when read,
	// as a store does.
	Blobs map[digest.Digest][]byte
	// ManifestErr and BlobErr, if set, are what reading ends with.
	ManifestErr, BlobErr error
	// Hang makes every read last until its context ends.
	Hang bool
}

var _ verifier.Content = (*Content)(nil)

// Manifest implements [verifier.Content].
func (c *Content) Manifest(ctx context.Context) (verifier.Manifest, error) {
	if err := c.wait(ctx); err != nil {
		return verifier.Manifest{}, err
	}
	return c.Listing, c.ManifestErr
}

// Blob implements [verifier.Content].
func (c *Content) Blob(ctx context.Context, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	if err := c.wait(ctx); err != nil {
		return nil, err
	}
	if c.BlobErr != nil {
		return nil, c.BlobErr
	}
	if desc.Size < 0 || desc.Size > limit {
		return nil, fmt.Errorf("blob %s: %w", desc.Digest, referrerstore.ErrTooLarge)
	}
	data, ok := c.Blobs[desc.Digest]
	if !ok {
		return nil, fmt.Errorf("blob %s: %w", desc.Digest, referrerstore.ErrNotFound)
	}
	if int64(len(data)) != desc.Size || digest.FromBytes(data) != desc.Digest {
		return nil, fmt.Errorf("blob %s: %w", desc.Digest, referrerstore.ErrDigestMismatch)
	}
	return data, nil
}

func (c *Content) wait(ctx context.Context) error {
	if c.Hang {
		<-ctx.Done()
	}
	return context.Cause(ctx)
}
