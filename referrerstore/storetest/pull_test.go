package storetest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/storetest"
)

func TestMemoryConformsAsPuller(t *testing.T) {
	t.Parallel()
	storetest.RunPuller(t, func(t *testing.T) (referrerstore.Puller, storetest.Seed) {
		store := storetest.New("memory")
		stalled := false
		store.PullFault = func(ctx context.Context, _ storetest.Pull) error {
			if stalled {
				<-ctx.Done()
			}
			return nil
		}
		seed := storetest.Seed{
			Subject: store.AddImage("registry.example.com/app:v2"),
			Data:    bytes.Repeat([]byte("0123456789"), 100),
			Tags:    []string{"v1", "v2", "v3", "v4"},
			Stall:   func() { stalled = true },
		}
		for _, tag := range seed.Tags {
			if tag != "v2" {
				store.AddImage("registry.example.com/app:" + tag)
			}
		}
		seed.Referrers = []ocispec.Descriptor{store.AddReferrer(seed.Subject, "example/a")}
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
				t.Errorf("%d bodies were never closed", open)
			}
		})
		return store, seed
	})
}

func TestMemoryPullFaults(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	store := storetest.New("memory")
	subject := store.AddImage("app")
	ref := subject.Reference
	blob := store.AddBlob(ref, storetest.Blob{Data: []byte("0123456789")})
	store.PullFault = func(_ context.Context, p storetest.Pull) error {
		if p.Call == "Tags" {
			return broken
		}
		return nil
	}
	store.PullReadFault = func(_ context.Context, p storetest.Pull, delivered int64) error {
		if p.Blob == blob.Digest && p.Offset+delivered >= 6 {
			return referrerstore.ErrBrokenOff
		}
		return nil
	}
	store.BendPull = func(p storetest.Pull, pulled *referrerstore.Pulled) {
		if p.Call == "PullManifest" {
			pulled.Digest = digest.FromString("a lie")
		}
	}
	if _, _, err := store.Tags(t.Context(), ref, 0, ""); !errors.Is(err, broken) {
		t.Errorf("tags: %v", err)
	}
	pulled, err := store.PullBlob(t.Context(), ref, blob.Digest, 2)
	if err != nil {
		t.Fatal(err)
	}
	var got [4]byte
	if _, err := io.ReadFull(pulled.Body, got[:]); err != nil || string(got[:]) != "2345" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := pulled.Body.Read(got[:]); !errors.Is(err, referrerstore.ErrBrokenOff) {
		t.Errorf("behind the fault: %v", err)
	}
	_ = pulled.Body.Close()
	manifest, err := store.PullManifest(t.Context(), ref)
	if err != nil || manifest.Digest != digest.FromString("a lie") {
		t.Errorf("%+v, %v", manifest, err)
	}
	if _, err := store.PullBlob(t.Context(), ref, subject.Descriptor.Digest, 0); !errors.Is(err, referrerstore.ErrNotFound) {
		t.Errorf("a manifest as a blob: %v", err)
	}
	want := storetest.Counts{PullManifest: 1, PullBlob: 2, Tags: 1, Bytes: 4, Open: 1}
	if diff := cmp.Diff(want, store.Counts()); diff != "" {
		t.Error(diff)
	}
	_ = manifest.Body.Close()
}

func ExampleMemory_PullBlob() {
	store := storetest.New("memory")
	subject := store.AddImage("busybox")
	blob := store.AddBlob(subject.Reference, storetest.Blob{Data: []byte("0123456789")})
	pulled, err := store.PullBlob(context.Background(), subject.Reference, blob.Digest, 6)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pulled.Body.Close()
	rest, err := io.ReadAll(pulled.Body)
	fmt.Println(string(rest), "of", pulled.Size, err)
	// Output: 6789 of 10 <nil>
}
