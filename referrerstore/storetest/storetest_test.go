package storetest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const jose = "application/jose+json"

func TestMemoryConforms(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) (referrerstore.Store, storetest.Seed) {
		store := storetest.New("memory")
		store.ServesHost = func(host string) bool { return host == "registry.example.com" }
		stalled := false
		stall := func(ctx context.Context) error {
			if stalled {
				<-ctx.Done()
			}
			return nil
		}
		store.ResolveFault = func(ctx context.Context, _ referrerstore.Reference) error { return stall(ctx) }
		store.ReferrersFault = func(ctx context.Context, _ referrerstore.Subject, _ int) error { return stall(ctx) }
		store.FetchFault = func(ctx context.Context, _ ocispec.Descriptor) error { return stall(ctx) }
		seed := storetest.Seed{
			Subject: store.AddImage("registry.example.com/app:v1"),
			Data:    bytes.Repeat([]byte("0123456789"), 100),
			Foreign: "docker.io",
			Stall:   func() { stalled = true },
		}
		seed.Referrers = []ocispec.Descriptor{
			store.AddReferrer(seed.Subject, "example/a", storetest.Blob{MediaType: jose, Data: seed.Data}),
			store.AddReferrer(seed.Subject, "example/b"),
		}
		ref := seed.Subject.Reference
		seed.Blob = store.AddBlob(ref, storetest.Blob{MediaType: jose, Data: seed.Data})
		seed.Altered = store.AddBlob(ref, storetest.Blob{MediaType: jose, Data: []byte("what was promised")})
		store.Alter = func(desc ocispec.Descriptor, data []byte) []byte {
			if desc.Digest == seed.Altered.Digest {
				return []byte("what is delivered")
			}
			return data
		}
		t.Cleanup(func() {
			if open := store.Counts().Open; open != 0 {
				t.Errorf("%d streams were never closed", open)
			}
		})
		return store, seed
	})
}

func TestMemoryCounts(t *testing.T) {
	t.Parallel()
	store := storetest.New("memory")
	subject := store.AddImage("app", []byte("layer"))
	store.AddReferrer(subject, "example/a", storetest.Blob{MediaType: jose, Data: []byte("12345")})
	if _, err := store.Resolve(t.Context(), subject.Reference); err != nil {
		t.Fatal(err)
	}
	for range store.Referrers(t.Context(), subject) {
	}
	stream, err := store.Fetch(t.Context(), subject, subject.Descriptor, subject.Descriptor.Size-3)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, stream); err != nil {
		t.Fatal(err)
	}
	want := storetest.Counts{Resolve: 1, Referrers: 1, Fetch: 1, Bytes: 3, Open: 1}
	if diff := cmp.Diff(want, store.Counts()); diff != "" {
		t.Error(diff)
	}
	_ = stream.Close()
	_ = stream.Close()
	if open := store.Counts().Open; open != 0 {
		t.Errorf("%d streams open after closing the only one twice", open)
	}
}

func TestMemoryFaults(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	store := storetest.New("memory")
	subject := store.AddImage("app")
	first := store.AddReferrer(subject, "example/a")
	store.AddReferrer(subject, "example/b")
	store.ResolveFault = func(context.Context, referrerstore.Reference) error { return broken }
	store.ReadFault = func(context.Context, ocispec.Descriptor) error { return broken }
	store.ReferrersFault = func(_ context.Context, _ referrerstore.Subject, yielded int) error {
		if yielded == 1 {
			return referrerstore.ErrTooManyReferrers
		}
		return nil
	}
	if _, err := store.Resolve(t.Context(), subject.Reference); !errors.Is(err, broken) {
		t.Errorf("resolve: %v", err)
	}
	if _, err := referrerstore.ReadAll(t.Context(), store, subject, first, 1<<20); !errors.Is(err, broken) {
		t.Errorf("read: %v", err)
	}
	var got []string
	for desc, err := range store.Referrers(t.Context(), subject) {
		got = append(got, fmt.Sprint(desc.ArtifactType, " ", errors.Is(err, referrerstore.ErrTooManyReferrers)))
	}
	if diff := cmp.Diff([]string{"example/a false", " true"}, got); diff != "" {
		t.Error(diff)
	}
}

func ExampleMemory() {
	store := storetest.New("memory")
	subject := store.AddImage("busybox")
	store.AddReferrer(subject, "application/vnd.cncf.notary.signature",
		storetest.Blob{MediaType: jose, Data: []byte("envelope")})
	for desc, err := range store.Referrers(context.Background(), subject) {
		fmt.Println(desc.ArtifactType, err)
	}
	fmt.Println(store.Counts().Referrers, "list of", subject.Reference)
	// Output:
	// application/vnd.cncf.notary.signature <nil>
	// 1 list of docker.io/library/busybox:latest
}
