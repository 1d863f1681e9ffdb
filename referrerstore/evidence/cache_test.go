package evidence

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
	"github.com/gatehouse-project/gatehouse/referrerstore/disk"
	"github.com/gatehouse-project/gatehouse/referrerstore/oras"
	"github.com/gatehouse-project/gatehouse/referrerstore/storetest"
	"github.com/gatehouse-project/gatehouse/test/registry"
)

// openCache opens the cache in a folder; the caller may close it before the test
// ends.
func openCache(t testing.TB, dir string) *cache.Cache {
	t.Helper()
	folder, err := disk.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	c, err := cache.Open(context.WithoutCancel(t.Context()), folder, cache.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeCache(t, c) })
	return c
}

func closeCache(t testing.TB, c *cache.Cache) {
	t.Helper()
	if err := c.Close(); err != nil && !errors.Is(err, cache.ErrClosed) {
		t.Error(err)
	}
}

func TestConforms(t *testing.T) {
	t.Parallel()
	t.Run("pulls", func(t *testing.T) {
		t.Parallel()
		storetest.Run(t, func(t *testing.T) (referrerstore.Store, storetest.Seed) {
			inner, seed := newInner(t)
			return New(inner, openCache(t, t.TempDir()), Options{}), seed
		})
	})
	t.Run("fetches", func(t *testing.T) {
		t.Parallel()
		storetest.Run(t, func(t *testing.T) (referrerstore.Store, storetest.Seed) {
			inner, seed := newInner(t)
			return New(bare{inner}, openCache(t, t.TempDir()), Options{}), seed
		})
	})
}

func TestConformsOverRegistry(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string]registry.Options{
		"open": {}, "tokens": {BearerAuth: true}, "no referrers API": {DisableReferrersAPI: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storetest.Run(t, func(t *testing.T) (referrerstore.Store, storetest.Seed) {
				r, inner := newRegistry(t, opts)
				return New(inner, openCache(t, t.TempDir()), Options{}), seedRegistry(t, r)
			})
		})
	}
}

// newRegistry is a registry and a store that reads it.
func newRegistry(t *testing.T, opts registry.Options) (*registry.Registry, *oras.Store) {
	t.Helper()
	r, err := registry.Start(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	inner, err := oras.New(t.Context(), "registry", oras.Options{Hosts: []string{r.Host()}, PlainHTTP: []string{r.Host()}}, oras.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(inner.Close)
	return r, inner
}

func seedRegistry(t *testing.T, r *registry.Registry) storetest.Seed {
	t.Helper()
	const repo = "team/app"
	must := func(desc ocispec.Descriptor, err error) ocispec.Descriptor {
		if err != nil {
			t.Fatal(err)
		}
		return ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size}
	}
	seed := storetest.Seed{Data: bytes.Repeat([]byte("0123456789"), 10_000), Foreign: "docker.io"}
	seed.Subject = referrerstore.Subject{
		Reference:  parse(t, r.Host()+"/"+repo+":v1"),
		Descriptor: must(r.PushImage(t.Context(), repo, "v1", "a")),
	}
	for _, kind := range []string{"example/a", "example/b"} {
		seed.Referrers = append(seed.Referrers, must(r.PushReferrer(t.Context(), repo, seed.Subject.Descriptor, kind, "example/blob", []byte(kind), nil)))
	}
	seed.Blob = must(r.PushBlob(t.Context(), repo, "example/blob", seed.Data))
	promised := []byte("what was promised")
	seed.Altered = ocispec.Descriptor{MediaType: "example/blob", Digest: digest.FromBytes(promised), Size: int64(len(promised))}
	r.Plant(repo, seed.Altered, []byte("what is delivered"))
	seed.Stall = func() { r.SetIntercept(registry.Hang()) }
	return seed
}

func parse(t testing.TB, name string) referrerstore.Reference {
	t.Helper()
	ref, err := referrerstore.ParseReference(name)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// What was fetched is not asked for again, by no way, nor after a restart.
func TestHeldIsNotAskedFor(t *testing.T) {
	t.Parallel()
	r, inner := newRegistry(t, registry.Options{})
	seed := seedRegistry(t, r)
	dir := t.TempDir()
	first := openCache(t, dir)
	s := New(inner, first, Options{})
	if _, err := s.Resolve(t.Context(), seed.Subject.Reference); err != nil {
		t.Fatal(err)
	}
	read := func(s *Store) {
		t.Helper()
		for _, desc := range append([]ocispec.Descriptor{seed.Blob, seed.Subject.Descriptor}, seed.Referrers...) {
			got, err := readAll(t.Context(), s, seed.Subject, desc, 0)
			if err != nil || digest.FromBytes(got) != desc.Digest {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
		}
		pinned := seed.Subject.Reference.Pinned(seed.Subject.Descriptor.Digest)
		subject, err := s.Resolve(t.Context(), pinned)
		if diff := cmp.Diff(referrerstore.Subject{Reference: pinned, Descriptor: seed.Subject.Descriptor}, subject); diff != "" || err != nil {
			t.Fatal(diff, err)
		}
		// A manifest that is held says what it is, without having been resolved.
		if subject, err = s.Resolve(t.Context(), pinned.Pinned(seed.Referrers[0].Digest)); err != nil || subject.Descriptor.Size != seed.Referrers[0].Size {
			t.Fatal(subject, err)
		}
	}
	read(s)
	settle(t, first, seed)
	r.ResetStats()
	read(s)
	if n := r.Stats().Total; n != 0 {
		t.Errorf("%d requests for what is held", n)
	}
	closeCache(t, first)
	r.SetIntercept(registry.Hang())
	read(New(inner, openCache(t, dir), Options{}))
	if n := r.Stats().Total; n != 0 {
		t.Errorf("%d requests after a restart", n)
	}
}

// settle waits until the large blob is held: its readers have it a little earlier.
func settle(t *testing.T, c *cache.Cache, seed storetest.Seed) {
	t.Helper()
	ref := seed.Subject.Reference
	want := cache.Want{Scope: cache.Scope{Registry: ref.Registry, Repository: ref.Repository}, Digest: seed.Blob.Digest, Kind: cache.Blob, Size: seed.Blob.Size}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		got, err := c.Get(want)
		if err == nil {
			_ = got.Close()
			return
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			t.Fatal(err)
		}
	}
}

// A hundred who want the same at the same time make one request.
func TestConcurrentFetchesAreOne(t *testing.T) {
	t.Parallel()
	r, inner := newRegistry(t, registry.Options{})
	seed := seedRegistry(t, r)
	s := New(inner, openCache(t, t.TempDir()), Options{})
	if _, err := s.Resolve(t.Context(), seed.Subject.Reference); err != nil {
		t.Fatal(err) // learns how the registry wants to be asked
	}
	r.ResetStats()
	begin := make(chan struct{})
	var waiting sync.WaitGroup
	var group errgroup.Group
	const number = 100
	waiting.Add(number)
	for i := range number {
		group.Go(func() error {
			waiting.Done()
			<-begin
			desc := []ocispec.Descriptor{seed.Blob, seed.Referrers[0]}[i%2]
			got, err := readAll(t.Context(), s, seed.Subject, desc, 0)
			if err == nil && digest.FromBytes(got) != desc.Digest {
				err = errors.New("other bytes")
			}
			return err
		})
	}
	waiting.Wait()
	close(begin)
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	if stats := r.Stats(); stats.Blob != 1 || stats.Manifest != 1 || stats.Total != 2 {
		t.Errorf("%+v", stats)
	}
}

// What lies on the disk is altered behind the cache's back: the reader gets what
// the registry has.
func TestAlteredOnDisk(t *testing.T) {
	t.Parallel()
	for name, alter := range map[string]func(t *testing.T, path string, data []byte){
		"altered": func(t *testing.T, path string, data []byte) {
			replace(t, path, append(bytes.Clone(data[:len(data)-1]), 'x'))
		},
		"short": func(t *testing.T, path string, data []byte) { replace(t, path, data[:10]) },
		"gone": func(t *testing.T, path string, _ []byte) {
			if err := os.Remove(path); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, inner := newRegistry(t, registry.Options{})
			seed := seedRegistry(t, r)
			dir := t.TempDir()
			c := openCache(t, dir)
			s := New(inner, c, Options{})
			for range 2 {
				if _, err := readAll(t.Context(), s, seed.Subject, seed.Blob, 0); err != nil {
					t.Fatal(err)
				}
				settle(t, c, seed)
			}
			alter(t, filepath.Join(dir, "blobs", "sha256", seed.Blob.Digest.Encoded()), seed.Data)
			for _, offset := range []int64{0, 70_000} {
				r.ResetStats()
				got, err := readAll(t.Context(), s, seed.Subject, seed.Blob, offset)
				if err != nil || !bytes.Equal(got, seed.Data[offset:]) {
					t.Errorf("offset %d: %d bytes, %v", offset, len(got), err)
				}
				if n := r.Stats().Blob; offset == 0 && n != 1 && name != "gone" { // which who has it open need not notice
					t.Errorf("the registry was asked %d times", n)
				}
			}
		})
	}
}

func replace(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// What a registry that is asked knows of the caller: the lane of his work.
func TestWorkReachesTheRegistry(t *testing.T) {
	t.Parallel()
	inner := storetest.New("inner")
	subject := inner.AddImage("registry.example.com/app:v1")
	type key struct{}
	var lanes []referrerstore.Lane
	var values []any
	inner.FetchFault = func(ctx context.Context, _ ocispec.Descriptor) error {
		lanes = append(lanes, referrerstore.WorkOf(ctx).Lane())
		values = append(values, ctx.Value(key{}))
		return nil
	}
	s := New(inner, openCache(t, t.TempDir()), Options{})
	ctx := context.WithValue(t.Context(), key{}, "trace")
	work := referrerstore.NewWork(time.Now(), referrerstore.LaneBackground)
	if _, err := readAll(referrerstore.WithWork(ctx, work), s, subject, subject.Descriptor, 0); err != nil {
		t.Fatal(err)
	}
	blob := inner.AddBlob(subject.Reference, storetest.Blob{MediaType: "example/blob", Data: []byte("x")})
	work.SetLane(referrerstore.LaneAdmission)
	if _, err := readAll(referrerstore.WithWork(ctx, work), s, subject, blob, 0); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]referrerstore.Lane{referrerstore.LaneBackground, referrerstore.LaneAdmission}, lanes); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]any{"trace", "trace"}, values); diff != "" {
		t.Error(diff)
	}
}
