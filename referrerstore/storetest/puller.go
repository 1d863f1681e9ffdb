package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// RunPuller checks a store against every sentence of the Puller role, beyond those
// of the Store role, for which there is [Run]. Open is as there, with a seed that
// has tags.
func RunPuller(t *testing.T, open func(t *testing.T) (referrerstore.Puller, Seed)) {
	t.Helper()
	for _, check := range []struct {
		name string
		run  func(*testing.T, referrerstore.Puller, Seed)
	}{
		{"pull manifests", checkPullManifests},
		{"pull unknown", checkPullUnknown},
		{"pull blob", checkPullBlob},
		{"pull blob at its end", checkPullEnd},
		{"pull wrong bytes", checkPullAltered},
		{"pull left early", checkPullLeft},
		{"has blob", checkHasBlob},
		{"tags", checkTags},
		{"pages of tags", checkTagPages},
		{"pull with ended context", checkPullEndedContext},
		{"pull from a stalled registry", checkPullStalled},
		{"concurrent pulls", checkConcurrentPulls},
	} {
		t.Run(check.name, func(t *testing.T) {
			t.Parallel()
			store, seed := open(t)
			check.run(t, store, seed)
		})
	}
}

// drain reads a pull to its end and closes it.
func drain(t *testing.T, pulled referrerstore.Pulled) ([]byte, error) {
	t.Helper()
	data, err := io.ReadAll(pulled.Body)
	if err := pulled.Body.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if pulled.Size >= 0 && int64(len(data)) > pulled.Size-pulled.Offset {
		t.Errorf("%d bytes from %d on of %d", len(data), pulled.Offset, pulled.Size)
	}
	return data, err
}

func checkPullManifests(t *testing.T, store referrerstore.Puller, seed Seed) {
	tagged := seed.Subject.Reference
	both := tagged
	both.Digest = seed.Referrers[0].Digest
	for ref, want := range map[referrerstore.Reference]struct {
		digest    digest.Digest
		mediaType string
	}{
		tagged: {seed.Subject.Descriptor.Digest, seed.Subject.Descriptor.MediaType},
		tagged.Pinned(seed.Subject.Descriptor.Digest): {seed.Subject.Descriptor.Digest, seed.Subject.Descriptor.MediaType},
		both: {seed.Referrers[0].Digest, seed.Referrers[0].MediaType}, // the digest decides
	} {
		pulled, err := store.PullManifest(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		data, err := drain(t, pulled)
		if err != nil || want.digest.Algorithm().FromBytes(data) != want.digest {
			t.Errorf("%s: %d bytes, %v", ref, len(data), err)
		}
		if pulled.Offset != 0 || (pulled.Size >= 0 && pulled.Size != int64(len(data))) || pulled.MediaType != want.mediaType ||
			(pulled.Digest != "" && pulled.Digest != want.digest) {
			t.Errorf("%s: %+v", ref, pulled)
		}
	}
}

func checkPullUnknown(t *testing.T, store referrerstore.Puller, seed Seed) {
	ref := seed.Subject.Reference
	tag := ref
	tag.Tag = "there-is-no-such-tag"
	repository := ref
	repository.Repository += "/there-is-no-such-repository"
	none := digest.FromString("there is no such digest")
	for _, ref := range []referrerstore.Reference{tag, repository, ref.Pinned(none)} {
		if _, err := store.PullManifest(t.Context(), ref); !errors.Is(err, referrerstore.ErrNotFound) {
			t.Errorf("manifest %s: %v, want ErrNotFound", ref, err)
		}
	}
	for _, offset := range []int64{0, 1} {
		if _, err := store.PullBlob(t.Context(), ref, none, offset); !errors.Is(err, referrerstore.ErrNotFound) {
			t.Errorf("blob at %d: %v, want ErrNotFound", offset, err)
		}
	}
	if _, err := store.HasBlob(t.Context(), ref, none); !errors.Is(err, referrerstore.ErrNotFound) {
		t.Errorf("has blob: %v, want ErrNotFound", err)
	}
	if _, _, err := store.Tags(t.Context(), repository, 0, ""); !errors.Is(err, referrerstore.ErrNotFound) {
		t.Errorf("tags: %v, want ErrNotFound", err)
	}
}

func checkPullBlob(t *testing.T, store referrerstore.Puller, seed Seed) {
	for _, offset := range []int64{0, 1, seed.Blob.Size / 2, seed.Blob.Size - 1} {
		pulled, err := store.PullBlob(t.Context(), seed.Subject.Reference, seed.Blob.Digest, offset)
		if err != nil {
			t.Fatal(err)
		}
		data, err := drain(t, pulled)
		if pulled.Offset != offset && pulled.Offset != 0 {
			t.Fatalf("asked for %d it begins at %d", offset, pulled.Offset)
		}
		if err != nil || !bytes.Equal(data, seed.Data[pulled.Offset:]) {
			t.Errorf("at %d: %d bytes that are not those of the blob, %v", offset, len(data), err)
		}
		if (pulled.Size >= 0 && pulled.Size != seed.Blob.Size) || pulled.MediaType != "" {
			t.Errorf("at %d: %+v", offset, pulled)
		}
	}
	if pulled, err := store.PullBlob(t.Context(), seed.Subject.Reference, seed.Blob.Digest, -1); err == nil {
		_ = pulled.Body.Close()
		t.Error("there is an offset -1")
	}
}

// checkPullEnd asks for what follows the last byte, and beyond it: nothing, or the
// whole, but never bytes that are not the blob's.
func checkPullEnd(t *testing.T, store referrerstore.Puller, seed Seed) {
	for _, offset := range []int64{seed.Blob.Size, seed.Blob.Size + 1} {
		pulled, err := store.PullBlob(t.Context(), seed.Subject.Reference, seed.Blob.Digest, offset)
		if err != nil {
			t.Errorf("at %d: %v", offset, err)
			continue
		}
		data, err := drain(t, pulled)
		atEnd := pulled.Offset == seed.Blob.Size && len(data) == 0
		if err != nil || (!atEnd && (pulled.Offset != 0 || !bytes.Equal(data, seed.Data))) {
			t.Errorf("at %d: %d bytes from %d on, %v", offset, len(data), pulled.Offset, err)
		}
	}
}

func checkPullAltered(t *testing.T, store referrerstore.Puller, seed Seed) {
	pulled, err := store.PullBlob(t.Context(), seed.Subject.Reference, seed.Altered.Digest, 0)
	if err != nil {
		t.Fatal(err)
	}
	data, err := drain(t, pulled)
	if err == nil && digest.FromBytes(data) == seed.Altered.Digest {
		t.Error("the seed is not altered")
	}
	if err != nil && !errors.Is(err, referrerstore.ErrDigestMismatch) {
		t.Errorf("%v, want the bytes as they come or ErrDigestMismatch", err)
	}
}

// checkPullLeft leaves bodies unread: nothing that others need may stay with them.
func checkPullLeft(t *testing.T, store referrerstore.Puller, seed Seed) {
	for range 200 {
		pulled, err := store.PullBlob(t.Context(), seed.Subject.Reference, seed.Blob.Digest, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := pulled.Body.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	checkPullBlob(t, store, seed)
}

func checkHasBlob(t *testing.T, store referrerstore.Puller, seed Seed) {
	size, err := store.HasBlob(t.Context(), seed.Subject.Reference, seed.Blob.Digest)
	if err != nil || (size >= 0 && size != seed.Blob.Size) {
		t.Errorf("%d bytes, %v; want %d", size, err, seed.Blob.Size)
	}
}

func checkTags(t *testing.T, store referrerstore.Puller, seed Seed) {
	repository := seed.Subject.Reference.Pinned(seed.Subject.Descriptor.Digest) // its tag does not matter
	final := seed.Tags[len(seed.Tags)-1]
	for _, tt := range []struct {
		n    int
		last string
		want []string
		more bool
	}{
		{len(seed.Tags), "", seed.Tags, false},
		{len(seed.Tags) + 1, "", seed.Tags, false},
		{1 << 30, "", seed.Tags, false},
		{1, "", seed.Tags[:1], true},
		{1, seed.Tags[0], seed.Tags[1:2], true},
		{len(seed.Tags), seed.Tags[1], seed.Tags[2:], false},
		{len(seed.Tags), final, nil, false},
	} {
		tags, more, err := store.Tags(t.Context(), repository, tt.n, tt.last)
		if err != nil || more != tt.more || !slices.Equal(tags, tt.want) {
			t.Errorf("%d behind %q: %q, more %t, %v; want %q", tt.n, tt.last, tags, more, err, tt.want)
		}
	}
}

// checkTagPages follows lists to their end, in pages of the caller's and of the
// registry's choice.
func checkTagPages(t *testing.T, store referrerstore.Puller, seed Seed) {
	for _, n := range []int{-1, 0, 1, 2} {
		var all []string
		last := ""
		for range len(seed.Tags) + 1 {
			tags, more, err := store.Tags(t.Context(), seed.Subject.Reference, n, last)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, tags...)
			if !more {
				break
			}
			if len(tags) == 0 {
				t.Fatal("there are more, but none to go on behind")
			}
			last = tags[len(tags)-1]
		}
		if !slices.Equal(all, seed.Tags) {
			t.Errorf("in pages of %d: %q, want %q", n, all, seed.Tags)
		}
	}
}

// pulls are all that a puller can be asked to do with its place.
func pulls(store referrerstore.Puller, seed Seed) map[string]func(context.Context) error {
	ref := seed.Subject.Reference
	whole := func(pulled referrerstore.Pulled, err error, want []byte) error {
		if err != nil {
			return err
		}
		data, err := io.ReadAll(pulled.Body)
		if err = errors.Join(err, pulled.Body.Close()); err == nil && want != nil && !bytes.Equal(data, want[pulled.Offset:]) {
			err = fmt.Errorf("%d other bytes", len(data))
		}
		return err
	}
	return map[string]func(context.Context) error{
		"PullManifest by tag": func(ctx context.Context) error {
			pulled, err := store.PullManifest(ctx, ref)
			return whole(pulled, err, nil)
		},
		"PullManifest by digest": func(ctx context.Context) error {
			pulled, err := store.PullManifest(ctx, ref.Pinned(seed.Subject.Descriptor.Digest))
			return whole(pulled, err, nil)
		},
		"PullBlob": func(ctx context.Context) error {
			pulled, err := store.PullBlob(ctx, ref, seed.Blob.Digest, 0)
			return whole(pulled, err, seed.Data)
		},
		"PullBlob at an offset": func(ctx context.Context) error {
			pulled, err := store.PullBlob(ctx, ref, seed.Blob.Digest, 7)
			return whole(pulled, err, seed.Data)
		},
		"HasBlob": func(ctx context.Context) error {
			_, err := store.HasBlob(ctx, ref, seed.Blob.Digest)
			return err
		},
		"Tags": func(ctx context.Context) error {
			_, _, err := store.Tags(ctx, ref, 0, "")
			return err
		},
	}
}

func checkPullEndedContext(t *testing.T, store referrerstore.Puller, seed Seed) {
	cause := errors.New("the reason it ended")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	for name, pull := range pulls(store, seed) {
		if err := pull(ctx); !errors.Is(err, cause) {
			t.Errorf("%s: %v, want the cause of the context's end", name, err)
		}
	}
}

func checkPullStalled(t *testing.T, store referrerstore.Puller, seed Seed) {
	seed.Stall()
	cause := errors.New("the reason it ended")
	for name, pull := range pulls(store, seed) {
		ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, cause)
		within(t, name, func() {
			if err := pull(ctx); !errors.Is(err, cause) {
				t.Errorf("%s: %v, want the cause of the context's end", name, err)
			}
		})
		cancel()
	}
}

func checkConcurrentPulls(t *testing.T, store referrerstore.Puller, seed Seed) {
	var group errgroup.Group
	for range 8 {
		for name, pull := range pulls(store, seed) {
			group.Go(func() error {
				if err := pull(t.Context()); err != nil {
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
