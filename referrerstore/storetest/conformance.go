package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// Seed says what the store under test holds, and how to make it hang.
type Seed struct {
	// Subject has a reference with a tag and no digest, and the descriptor
	// that the tag names.
	Subject referrerstore.Subject
	// Referrers are all that refer to the subject, two at least, each with the
	// size and digest of its manifest.
	Referrers []ocispec.Descriptor
	// Blob is content of the subject's repository and Data its bytes, 16 at
	// least.
	Blob ocispec.Descriptor
	Data []byte
	// Altered is content of the same size and repository under whose digest
	// the place behind the store keeps other bytes.
	Altered ocispec.Descriptor
	// Tags are all tags of the subject's repository, three at least, in the
	// order of the place behind the store. RunPuller alone needs them.
	Tags []string
	// Foreign is a host that the store does not serve; empty if it serves all.
	Foreign string
	// Stall makes what is behind the store stop answering.
	Stall func()
}

// patience is how long something that has to end promptly may take before a
// test says that it hangs; it is long because machines under test are slow.
const patience = 20 * time.Second

// Run checks a store against every sentence of the Store role. Open makes a
// store anew for each of the checks; what it needs to clean up it leaves to
// t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) (referrerstore.Store, Seed)) {
	t.Helper()
	for _, check := range []struct {
		name string
		run  func(*testing.T, referrerstore.Store, Seed)
	}{
		{"identity", checkIdentity},
		{"resolve tag", checkTag},
		{"resolve digest", checkPinned},
		{"resolve unknown", checkUnknown},
		{"referrers", checkReferrers},
		{"referrers left early", checkLeftEarly},
		{"referrers of none", checkNoReferrers},
		{"fetch", checkFetch},
		{"fetch manifests", checkFetchManifests},
		{"fetch at offset", checkOffset},
		{"fetch unknown", checkFetchUnknown},
		{"fetch wrong bytes", checkAltered},
		{"fetch wrong size", checkWrongSize},
		{"read bounds", checkReadBounds},
		{"ended context", checkEndedContext},
		{"stalled", checkStalled},
		{"concurrent use", checkConcurrent},
	} {
		t.Run(check.name, func(t *testing.T) {
			t.Parallel()
			store, seed := open(t)
			check.run(t, store, seed)
		})
	}
}

func checkIdentity(t *testing.T, store referrerstore.Store, seed Seed) {
	if store.Name() == "" {
		t.Error("the store has no name")
	}
	seed.Stall() // Serves must not notice
	within(t, "Serves", func() {
		if !store.Serves(seed.Subject.Reference.Registry) {
			t.Errorf("it does not serve %s", seed.Subject.Reference.Registry)
		}
		if seed.Foreign != "" && store.Serves(seed.Foreign) {
			t.Errorf("it serves %s", seed.Foreign)
		}
	})
}

func checkTag(t *testing.T, store referrerstore.Store, seed Seed) {
	got, err := store.Resolve(t.Context(), seed.Subject.Reference)
	if err != nil {
		t.Fatal(err)
	}
	sameSubject(t, got, seed.Subject.Reference, seed.Subject.Descriptor)
}

func checkPinned(t *testing.T, store referrerstore.Store, seed Seed) {
	pinned := seed.Subject.Reference.Pinned(seed.Subject.Descriptor.Digest)
	got, err := store.Resolve(t.Context(), pinned)
	if err != nil {
		t.Fatal(err)
	}
	sameSubject(t, got, pinned, seed.Subject.Descriptor)

	// The digest decides where the tag says something else.
	both := seed.Subject.Reference
	both.Digest = seed.Referrers[0].Digest
	got, err = store.Resolve(t.Context(), both)
	if err != nil {
		t.Fatal(err)
	}
	sameSubject(t, got, both, seed.Referrers[0])
}

func sameSubject(t *testing.T, got referrerstore.Subject, ref referrerstore.Reference, want ocispec.Descriptor) {
	t.Helper()
	if got.Reference != ref {
		t.Errorf("reference is %s, want %s", got.Reference, ref)
	}
	if !same(got.Descriptor, want) {
		t.Errorf("descriptor is %+v, want %+v", plain(got.Descriptor), plain(want))
	}
}

func same(a, b ocispec.Descriptor) bool {
	return a.MediaType == b.MediaType && a.Digest == b.Digest && a.Size == b.Size
}

func checkUnknown(t *testing.T, store referrerstore.Store, seed Seed) {
	tag := seed.Subject.Reference
	tag.Tag = "there-is-no-such-tag"
	repository := seed.Subject.Reference
	repository.Repository += "/there-is-no-such-repository"
	for _, ref := range []referrerstore.Reference{
		tag, repository,
		seed.Subject.Reference.Pinned(digest.FromString("there is no such digest")),
		seed.Subject.Reference.Pinned(digest.SHA512.FromString("there is no such digest")),
	} {
		if got, err := store.Resolve(t.Context(), ref); !errors.Is(err, referrerstore.ErrNotFound) {
			t.Errorf("resolve %s: %v, %v; want ErrNotFound", ref, got, err)
		}
	}
}

func checkReferrers(t *testing.T, store referrerstore.Store, seed Seed) {
	seen := list(t, store, seed.Subject)
	if len(seen) != len(seed.Referrers) {
		t.Errorf("it lists %d referrers, want %d", len(seen), len(seed.Referrers))
	}
	for _, want := range seed.Referrers {
		if got := seen[want.Digest]; !same(got, want) {
			t.Errorf("referrer is %+v, want %+v", plain(got), plain(want))
		}
	}
}

// list reads a list to its end, which must be a clean one.
func list(t *testing.T, store referrerstore.Store, subject referrerstore.Subject) map[digest.Digest]ocispec.Descriptor {
	t.Helper()
	seen := make(map[digest.Digest]ocispec.Descriptor)
	for desc, err := range store.Referrers(t.Context(), subject) {
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := seen[desc.Digest]; twice {
			t.Errorf("%s is listed twice", desc.Digest)
		}
		seen[desc.Digest] = desc
	}
	return seen
}

func checkLeftEarly(t *testing.T, store referrerstore.Store, seed Seed) {
	sequence := store.Referrers(t.Context(), seed.Subject)
	for _, err := range sequence {
		if err != nil {
			t.Fatal(err)
		}
		break
	}
	checkReferrers(t, store, seed)
}

func checkNoReferrers(t *testing.T, store referrerstore.Store, seed Seed) {
	subject := seed.Subject
	subject.Descriptor = seed.Referrers[0]
	if seen := list(t, store, subject); len(seen) != 0 {
		t.Errorf("it lists %d referrers of a manifest that has none", len(seen))
	}
}

func checkFetch(t *testing.T, store referrerstore.Store, seed Seed) {
	got, err := readStream(t, store, seed, seed.Blob, 0)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, seed.Data) {
		t.Errorf("it delivered %d bytes that are not those of the blob", len(got))
	}
}

func checkFetchManifests(t *testing.T, store referrerstore.Store, seed Seed) {
	for _, desc := range append([]ocispec.Descriptor{seed.Subject.Descriptor}, seed.Referrers...) {
		got, err := readStream(t, store, seed, desc, 0)
		if err != nil {
			t.Fatal(err)
		}
		if desc.Digest.Algorithm().FromBytes(got) != desc.Digest {
			t.Errorf("%s: other bytes under a clean end", desc.Digest)
		}
	}
}

func checkOffset(t *testing.T, store referrerstore.Store, seed Seed) {
	for _, offset := range []int64{1, seed.Blob.Size / 2, seed.Blob.Size - 1, seed.Blob.Size} {
		got, err := readStream(t, store, seed, seed.Blob, offset)
		if err != nil && !errors.Is(err, referrerstore.ErrUnverified) {
			t.Fatal(err)
		}
		if !bytes.Equal(got, seed.Data[offset:]) {
			t.Errorf("at offset %d it delivered %d bytes that are not those of the blob", offset, len(got))
		}
	}
	for _, offset := range []int64{-1, seed.Blob.Size + 1} {
		if _, err := readStream(t, store, seed, seed.Blob, offset); err == nil {
			t.Errorf("offset %d is outside the blob and yet no error", offset)
		}
	}
}

func readStream(t *testing.T, store referrerstore.Store, seed Seed, desc ocispec.Descriptor, offset int64) ([]byte, error) {
	t.Helper()
	stream, err := store.Fetch(t.Context(), seed.Subject, desc, offset)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err := stream.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}()
	data, err := io.ReadAll(io.LimitReader(stream, desc.Size+1))
	if err == nil {
		// LimitReader may have stopped short of the stream's own end.
		var one [1]byte
		if n, end := stream.Read(one[:]); n > 0 || !errors.Is(end, io.EOF) {
			err = errors.Join(fmt.Errorf("%d bytes more", n), end)
		}
	}
	return data, err
}

func checkFetchUnknown(t *testing.T, store referrerstore.Store, seed Seed) {
	for _, mediaType := range []string{seed.Blob.MediaType, seed.Subject.Descriptor.MediaType} {
		desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromString("there is no such digest"), Size: 64}
		if _, err := readStream(t, store, seed, desc, 0); !errors.Is(err, referrerstore.ErrNotFound) {
			t.Errorf("%s: %v, want ErrNotFound", mediaType, err)
		}
	}
}

func checkAltered(t *testing.T, store referrerstore.Store, seed Seed) {
	if _, err := readStream(t, store, seed, seed.Altered, 0); !errors.Is(err, referrerstore.ErrDigestMismatch) {
		t.Errorf("stream: %v, want ErrDigestMismatch", err)
	}
	_, err := readStream(t, store, seed, seed.Altered, 1)
	if !errors.Is(err, referrerstore.ErrDigestMismatch) && !errors.Is(err, referrerstore.ErrUnverified) {
		t.Errorf("stream at an offset: %v, want ErrDigestMismatch or ErrUnverified", err)
	}
	data, err := referrerstore.ReadAll(t.Context(), store, seed.Subject, seed.Altered, seed.Altered.Size)
	if data != nil || !errors.Is(err, referrerstore.ErrDigestMismatch) {
		t.Errorf("ReadAll: %d bytes, %v; want ErrDigestMismatch", len(data), err)
	}
}

func checkWrongSize(t *testing.T, store referrerstore.Store, seed Seed) {
	for _, delta := range []int64{-1, 1, 1 << 20} {
		desc := seed.Blob
		desc.Size += delta
		if _, err := readStream(t, store, seed, desc, 0); !errors.Is(err, referrerstore.ErrDigestMismatch) {
			t.Errorf("%+d bytes: %v, want ErrDigestMismatch", delta, err)
		}
	}
}

func checkReadBounds(t *testing.T, store referrerstore.Store, seed Seed) {
	data, err := referrerstore.ReadAll(t.Context(), store, seed.Subject, seed.Blob, seed.Blob.Size)
	if err != nil || !bytes.Equal(data, seed.Data) {
		t.Errorf("at the bound: %d bytes, %v", len(data), err)
	}
	data, err = referrerstore.ReadAll(t.Context(), store, seed.Subject, seed.Blob, seed.Blob.Size-1)
	if data != nil || !errors.Is(err, referrerstore.ErrTooLarge) {
		t.Errorf("below the bound: %d bytes, %v; want ErrTooLarge", len(data), err)
	}
}

// calls are all that a store can be asked to do with its place.
func calls(store referrerstore.Store, seed Seed) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"Resolve": func(ctx context.Context) error {
			_, err := store.Resolve(ctx, seed.Subject.Reference)
			return err
		},
		"Referrers": func(ctx context.Context) error {
			var last error
			for _, err := range store.Referrers(ctx, seed.Subject) {
				last = err
			}
			return last
		},
		"Fetch": func(ctx context.Context) error {
			_, err := referrerstore.ReadAll(ctx, store, seed.Subject, seed.Blob, seed.Blob.Size)
			return err
		},
	}
}

func checkEndedContext(t *testing.T, store referrerstore.Store, seed Seed) {
	cause := errors.New("the reason it ended")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	for name, call := range calls(store, seed) {
		if err := call(ctx); !errors.Is(err, cause) {
			t.Errorf("%s: %v, want the cause of the context's end", name, err)
		}
	}
}

func checkStalled(t *testing.T, store referrerstore.Store, seed Seed) {
	seed.Stall()
	cause := errors.New("the reason it ended")
	for name, call := range calls(store, seed) {
		ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, cause)
		within(t, name, func() {
			if err := call(ctx); !errors.Is(err, cause) {
				t.Errorf("%s: %v, want the cause of the context's end", name, err)
			}
		})
		cancel()
	}
}

// within fails the test if f does not return.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		t.Fatalf("%s hangs", what)
	}
}

func checkConcurrent(t *testing.T, store referrerstore.Store, seed Seed) {
	var group errgroup.Group
	for range 8 {
		for name, call := range calls(store, seed) {
			group.Go(func() error {
				if err := call(t.Context()); err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				return nil
			})
		}
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}
