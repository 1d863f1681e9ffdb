package cache

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/disk"
	"github.com/gatehouse-project/gatehouse/referrerstore/disk/disktest"
)

func TestObtainThenGet(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		size int
		kind Kind
	}{
		{"empty blob", 0, Blob},
		{"small blob", 100, Blob},
		{"largest in the replica", MaxReplicated, Blob},
		{"smallest beyond it", MaxReplicated + 1, Blob},
		{"large blob", 1<<20 + 7, Blob},
		{"small manifest", 1000, Manifest},
		{"large manifest", 200 << 10, Manifest},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			data := noise(tt.size, 1)
			want := blobWant(data)
			want.Kind = tt.kind
			from := newUpstream(data)
			folder := disktest.New()
			c := openCache(t, folder, Options{})
			mustMiss(t, c, want)
			content, err := c.Obtain(t.Context(), want, from)
			if err != nil || content.Held() || content.Size() != int64(tt.size) {
				t.Fatalf("obtain: held %v, size %d, %v", content.Held(), content.Size(), err)
			}
			if got, err := read(content, nil); err != nil || !bytes.Equal(got, data) {
				t.Fatalf("obtained %d bytes, %v", len(got), err)
			}
			settle(t, c)
			mustObtain(t, c, want, data, from)
			unsized := want
			unsized.Size = -1
			mustHold(t, c, unsized, data)
			if from.count(want.Digest) != 1 {
				t.Errorf("%d pulls, want 1", from.count(want.Digest))
			}
			c.replica.drop(want.Digest) // so that it is read from its file
			mustHold(t, c, want, data)
			if err := c.Close(); err != nil {
				t.Fatalf("close: %v", err)
			}
			c = openCache(t, folder, Options{})
			mustHold(t, c, want, data)
			if !c.clean {
				t.Error("the end was clean and is not known to be")
			}
		})
	}
}

func TestGetRefuses(t *testing.T) {
	t.Parallel()
	manifest, blob := noise(300, 1), noise(300, 2)
	c := openCache(t, disktest.New(), Options{})
	for _, err := range []error{c.Put(manifestWant(manifest), manifest), c.Put(blobWant(blob), blob)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	other := func(change func(*Want)) Want {
		want := manifestWant(manifest)
		change(&want)
		return want
	}
	for name, tt := range map[string]struct {
		want Want
		err  error
	}{
		"manifest as blob":    {other(func(w *Want) { w.Kind = Blob }), ErrKind},
		"blob as manifest":    {manifestWant(blob), ErrKind},
		"of no kind":          {other(func(w *Want) { w.Kind = kinds }), ErrKind},
		"of another size":     {other(func(w *Want) { w.Size++ }), referrerstore.ErrDigestMismatch},
		"other repository":    {other(func(w *Want) { w.Scope.Repository = "b" }), referrerstore.ErrNotFound},
		"other registry":      {other(func(w *Want) { w.Scope.Registry = "b" }), referrerstore.ErrNotFound},
		"other identity":      {other(func(w *Want) { w.Scope.Identity = "b" }), referrerstore.ErrNotFound},
		"path as digest":      {other(func(w *Want) { w.Digest = "sha256:../../../etc/passwd" }), referrerstore.ErrProtocol},
		"other algorithm":     {other(func(w *Want) { w.Digest = "md5:d41d8cd98f00b204e9800998ecf8427e" }), referrerstore.ErrProtocol},
		"upper case digest":   {other(func(w *Want) { w.Digest = digest.Digest("sha256:" + strings.Repeat("A", 64)) }), referrerstore.ErrProtocol},
		"no digest whatever":  {other(func(w *Want) { w.Digest = "" }), referrerstore.ErrProtocol},
		"control in a digest": {other(func(w *Want) { w.Digest = digest.Digest("sha256:" + strings.Repeat("\x00", 64)) }), referrerstore.ErrProtocol},
	} {
		content, err := c.Get(tt.want)
		if !errors.Is(err, tt.err) || content != nil {
			t.Errorf("%s: %v, want %v", name, err, tt.err)
		}
	}
	c.Close()
	if _, err := c.Get(manifestWant(manifest)); !errors.Is(err, ErrClosed) {
		t.Errorf("get after close: %v", err)
	}
}

func TestPutRefuses(t *testing.T) {
	t.Parallel()
	data := noise(300, 1)
	c := openCache(t, disktest.New(), Options{})
	wrong := manifestWant(data)
	wrong.Size++
	huge := noise(MaxManifest+1, 1)
	for name, err := range map[string]error{
		"wrong bytes": c.Put(manifestWant(data), noise(300, 2)),
		"wrong size":  c.Put(wrong, data),
	} {
		if !errors.Is(err, referrerstore.ErrDigestMismatch) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := c.Put(manifestWant(huge), huge); !errors.Is(err, referrerstore.ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	if err := c.Put(manifestWant(data), data); err != nil {
		t.Fatal(err)
	}
	if err := c.Put(blobWant(data), data); !errors.Is(err, ErrKind) {
		t.Errorf("as another kind: %v", err)
	}
	mustMiss(t, c, manifestWant(huge))
}

func TestSHA512(t *testing.T) {
	t.Parallel()
	for _, size := range []int{100, 300 << 10} {
		data := noise(size, 1)
		want := blobWant(data)
		want.Digest = digest.SHA512.FromBytes(data)
		from := newUpstream()
		from.content[want.Digest] = data
		folder := disktest.New()
		c := openCache(t, folder, Options{})
		mustObtain(t, c, want, data, from)
		settle(t, c)
		c.Close()
		mustHold(t, openCache(t, folder, Options{}), want, data)
	}
}

// I10: what came by way of one scope is answered in another only once its own
// registry was asked.
func TestScopesAreAskedFor(t *testing.T) {
	t.Parallel()
	for _, size := range []int{100, 300 << 10} {
		data := noise(size, 1)
		c := openCache(t, disktest.New(), Options{})
		mustObtain(t, c, blobWant(data), data, newUpstream(data))
		settle(t, c)

		other := blobWant(data)
		other.Scope.Identity = "somebody"
		denying := newUpstream(data)
		denying.denied = referrerstore.ErrAuthDenied
		if _, err := c.Obtain(t.Context(), other, denying); !errors.Is(err, referrerstore.ErrAuthDenied) {
			t.Errorf("denied by its registry: %v", err)
		}
		if _, err := c.Obtain(t.Context(), other, newUpstream()); !errors.Is(err, referrerstore.ErrNotFound) {
			t.Errorf("unknown to its registry: %v", err)
		}
		mustMiss(t, c, other)
		allowing := newUpstream(data)
		mustObtain(t, c, other, data, allowing)
		mustHold(t, c, other, data)
		mustObtain(t, c, other, data, allowing)
		if allowing.confirmed() != 1 || allowing.count(other.Digest) != 0 {
			t.Errorf("asked %d times and pulled %d times, want 1 and 0", allowing.confirmed(), allowing.count(other.Digest))
		}
	}
}

// What one registry calls a manifest does not keep another's blob from being one.
func TestKindOfAnotherScope(t *testing.T) {
	t.Parallel()
	data := noise(5000, 1)
	c := openCache(t, disktest.New(), Options{})
	evil := manifestWant(data)
	evil.Scope.Repository = "evil"
	mustObtain(t, c, evil, data, newUpstream(data))
	from := newUpstream(data)
	mustObtain(t, c, blobWant(data), data, from)
	mustMiss(t, c, blobWant(data))
	if from.count(evil.Digest) != 1 {
		t.Errorf("%d pulls", from.count(evil.Digest))
	}
	if _, err := c.Get(Want{Scope: evil.Scope, Digest: evil.Digest, Size: -1}); !errors.Is(err, ErrKind) {
		t.Errorf("as a blob where it is a manifest: %v", err)
	}
}

// I3: a hit writes nothing, and one from the replica does not touch the disk.
func TestHitsWriteNothing(t *testing.T) {
	t.Parallel()
	small, large := noise(1000, 1), noise(300<<10, 1)
	folder := disktest.New()
	c := openCache(t, folder, Options{})
	for _, data := range [][]byte{small, large} {
		mustObtain(t, c, blobWant(data), data, newUpstream(data))
	}
	settle(t, c)
	before := folder.Ops()
	for range 10 {
		mustHold(t, c, blobWant(small), small)
	}
	if n := folder.Ops() - before; n != 0 {
		t.Errorf("hits of the replica took %d operations of the disk:\n%s", n, folder.Log())
	}
	folder.Before(func(op disktest.Op) error {
		switch op.Kind {
		case "open", "fstat", "read", "readat", "close":
		default:
			t.Errorf("a hit does %v", op)
		}
		return nil
	})
	for range 3 {
		mustHold(t, c, blobWant(large), large)
	}
	folder.Before(nil)
}

func TestContentIsAReadSeeker(t *testing.T) {
	t.Parallel()
	dir, err := disk.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	c := openCache(t, dir, Options{})
	for _, size := range []int{100, 200 << 10} {
		data := noise(size, 1)
		want := blobWant(data)
		mustObtain(t, c, want, data, newUpstream(data))
		settle(t, c)
		content, err := c.Get(want)
		if err != nil {
			t.Fatal(err)
		}
		if err := iotest.TestReader(content, data); err != nil {
			t.Error(err)
		}
		f, isFile := content.File()
		held, inMemory := content.Bytes()
		switch {
		case isFile == inMemory:
			t.Errorf("%d bytes: file %v, in memory %v", size, isFile, inMemory)
		case isFile:
			if held, err = io.ReadAll(f); err != nil {
				t.Error(err)
			}
		}
		if !bytes.Equal(held, data) {
			t.Errorf("%d bytes are others than %d", len(held), size)
		}
		if err := errors.Join(content.Close(), content.Close()); err != nil {
			t.Error(err)
		}
		if _, err := content.Read(make([]byte, 1)); !errors.Is(err, os.ErrClosed) {
			t.Errorf("read after close: %v", err)
		}
	}
}

// A file that is gone, cut or changed behind the cache's back is a miss.
func TestDamagedFile(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1000, 300 << 10} {
		for name, damage := range map[string]func(string) error{
			"gone":   os.Remove,
			"cut":    func(path string) error { return os.Truncate(path, 10) },
			"longer": func(path string) error { return os.Truncate(path, int64(size)+1) },
		} {
			root := t.TempDir()
			dir, err := disk.Open(root)
			if err != nil {
				t.Fatal(err)
			}
			c := openCache(t, dir, Options{})
			data := noise(size, 1)
			want := blobWant(data)
			mustObtain(t, c, want, data, newUpstream(data))
			settle(t, c)
			c.replica.drop(want.Digest)
			if err := damage(filepath.Join(root, c.path(want.Digest))); err != nil {
				t.Fatal(err)
			}
			mustMiss(t, c, want)
			from := newUpstream(data)
			mustObtain(t, c, want, data, from)
			settle(t, c)
			c.replica.drop(want.Digest)
			mustHold(t, c, want, data)
			if from.count(want.Digest) != 1 {
				t.Errorf("%s: %d pulls, want 1", name, from.count(want.Digest))
			}
			if lost := c.quarantined.Load() + c.missing.Load(); lost != 1 {
				t.Errorf("%s: %d counted, want 1", name, lost)
			}
			c.Close()
			dir.Close()
		}
	}
}

func TestParents(t *testing.T) {
	t.Parallel()
	child, config := digest.FromString("layer"), digest.FromString("config")
	image := []byte(`{"mediaType":"` + testMediaType + `","config":{"digest":"` + config.String() + `"},"layers":[{"digest":"` + child.String() + `"}]}`)
	index := []byte(`{"manifests":[{"digest":"` + digest.FromBytes(image).String() + `"}],"subject":{"digest":"` + child.String() + `"}}`)
	both := []byte(`{"manifests":[],"layers":[{"digest":"` + child.String() + `"}]}`)
	folder := disktest.New()
	c := openCache(t, folder, Options{})
	for _, data := range [][]byte{image, index, both} {
		if err := c.Put(manifestWant(data), data); err != nil {
			t.Fatal(err)
		}
	}
	settle(t, c)
	check := func(c *Cache) {
		t.Helper()
		if got := c.Parents(testScope, child); len(got) != 2 {
			t.Errorf("parents of the layer: %v", got)
		}
		want := []Parent{{Digest: digest.FromBytes(image), MediaType: testMediaType}}
		if diff := cmp.Diff(want, c.Parents(testScope, config)); diff != "" {
			t.Errorf("parents of the config: %s", diff)
		}
		want = []Parent{{Digest: digest.FromBytes(index), MediaType: testMediaType, Index: true, Subject: child}}
		if diff := cmp.Diff(want, c.Parents(testScope, digest.FromBytes(image))); diff != "" {
			t.Errorf("parents of the image: %s", diff)
		}
		other := testScope
		other.Identity = "somebody"
		if got := c.Parents(other, child); got != nil {
			t.Errorf("parents in another scope: %v", got)
		}
		about, known := c.About(testScope, digest.FromBytes(both))
		if !known || !about.Ambiguous || about.Index {
			t.Errorf("about what is both: %+v, %v", about, known)
		}
		if _, known := c.About(other, digest.FromBytes(both)); known {
			t.Error("about, in another scope")
		}
	}
	check(c)
	c.Close()
	check(openCache(t, folder, Options{}))
}

// What was proven in this process and altered since is met by whoever reads it to
// its end; once he says so, nobody else gets it.
func TestDoubt(t *testing.T) {
	t.Parallel()
	for _, size := range []int{100, 3 * MaxReplicated} {
		folder := disktest.New()
		c := openCache(t, folder, Options{})
		data := noise(size, 3)
		want := blobWant(data)
		mustObtain(t, c, want, data, newUpstream(data))
		settle(t, c)
		altered := bytes.Clone(data)
		altered[size/2] ^= 1
		folder.Put(c.path(want.Digest), altered)
		c.Doubt(want.Digest)
		if got, err := read(c.Get(want)); err == nil {
			t.Errorf("%d bytes: %d bytes were handed out", size, len(got))
		}
		mustMiss(t, c, want)
		mustObtain(t, c, want, data, newUpstream(data))
	}
}
