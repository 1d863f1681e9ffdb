package archive

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
)

// signed is a layout of an index for two platforms with a signature, and an image
// of another repository, loaded into a cache.
func signed(t *testing.T) (content tree, c *cache.Cache, items []Item) {
	t.Helper()
	content = newTree()
	index := content.index(on(content.image("amd64", nil), "linux/amd64"), on(content.image("arm64", nil), "linux/arm64"))
	other := content.image("other", nil)
	const second = "registry.example.com/other:v2"
	content.list(named(index, app), named(index, "registry.example.com/team/app:latest"), named(other, second), content.signature(index, "a"))
	c = openCache(t)
	if _, err := load(t, content.folder(t), c, Options{}); err != nil {
		t.Fatal(err)
	}
	c.SetReferrers(scopeOf(t, second), other.Digest, nil, c.Stats().Started)
	return content, c, []Item{{Reference: parse(t, app)}, {Reference: parse(t, app).Pinned(index.Digest)}, {Reference: parse(t, second)}}
}

// What was exported, loaded and exported again is the same to the byte.
func TestExportRoundTrip(t *testing.T) {
	t.Parallel()
	content, c, items := signed(t)
	var first, again, second bytes.Buffer
	done := int64(0)
	got, err := Export(t.Context(), c, items, Tar(&first), ExportOptions{Referrers: true, Progress: func(d, _ int64) { done = d }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Export(t.Context(), c, items, Tar(&again), ExportOptions{Referrers: true}); err != nil || !bytes.Equal(first.Bytes(), again.Bytes()) {
		t.Errorf("the same export is another: %v", err)
	}
	if got.Objects != len(content)-2 || done != got.Bytes || len(got.Images) != 3 {
		t.Errorf("exported %+v, progress %d; the layout has %d files", got, done, len(content))
	}
	fresh := openCache(t)
	loaded, err := load(t, write(t, zipped(first.Bytes())), fresh, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got.Images, loaded.Images); diff != "" {
		t.Error(diff)
	}
	fresh.SetReferrers(items[2].scope(), got.Images[2].Descriptor.Digest, nil, fresh.Stats().Started)
	if _, err := Export(t.Context(), fresh, items, Tar(&second), ExportOptions{Referrers: true}); err != nil || !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Errorf("what was loaded is exported as something else: %v", err)
	}
}

// A folder has the bytes that a tarball has.
func TestExportFolder(t *testing.T) {
	t.Parallel()
	content, c, items := signed(t)
	dir := filepath.Join(t.TempDir(), "a", "layout")
	if _, err := Export(t.Context(), c, items, Folder(dir), ExportOptions{Referrers: true}); err != nil {
		t.Fatal(err)
	}
	for name, want := range content {
		got, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
		if name == indexFile {
			continue // has annotations more
		}
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if loaded, err := load(t, dir, openCache(t), Options{}); err != nil || len(loaded.Images) != 3 {
		t.Errorf("%+v, %v", loaded, err)
	}
	if _, err := Export(t.Context(), c, items, Folder(dir), ExportOptions{}); !errors.Is(err, os.ErrExist) {
		t.Errorf("into a folder that is not empty: %v", err)
	}
}

func TestExportPlatform(t *testing.T) {
	t.Parallel()
	content, c, items := signed(t)
	var out bytes.Buffer
	if _, err := Export(t.Context(), c, items[:1], Tar(&out), ExportOptions{Platforms: []Platform{{OS: "linux", Architecture: "arm64"}}}); err != nil {
		t.Fatal(err)
	}
	names := tarNames(t, out.Bytes())
	for seed, want := range map[string]bool{"arm64": true, "amd64": false, "other": false} {
		if got := names[blobPath(digest.FromBytes(layer(seed)))]; got != want {
			t.Errorf("the layer of %s: %t", seed, got)
		}
	}
	if index := blobPath(content.index(on(content.image("amd64", nil), "linux/amd64"), on(content.image("arm64", nil), "linux/arm64")).Digest); !names[index] {
		t.Error("the index is not what it was")
	}
	if _, err := Export(t.Context(), c, items[:1], Tar(&out), ExportOptions{Platforms: []Platform{{OS: "windows", Architecture: "arm64"}}}); !errors.Is(err, ErrNoPlatform) {
		t.Error(err)
	}
}

func tarNames(t *testing.T, data []byte) map[string]bool {
	t.Helper()
	a, err := Open(t.Context(), write(t, data), OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = a.Close() }()
	names := make(map[string]bool)
	for name := range a.files.(*tarball).table {
		names[name] = true
	}
	return names
}

// lacking is a cache that lost some objects.
type lacking struct {
	*cache.Cache
	lost map[digest.Digest]bool
}

func (l lacking) Get(want cache.Want) (*cache.Content, error) {
	if l.lost[want.Digest] {
		return nil, referrerstore.ErrNotFound
	}
	return l.Cache.Get(want)
}

// What is missing is said before anything is written.
func TestExportMissing(t *testing.T) {
	t.Parallel()
	_, c, items := signed(t)
	small, large := digest.FromString("small arm64"), digest.FromBytes(layer("amd64"))
	items = append(items, Item{Reference: parse(t, "registry.example.com/nobody:v1")}, Item{Reference: parse(t, app), Identity: "somebody else"},
		Item{Reference: parse(t, app).Pinned(digest.FromString("nothing"))})
	var out bytes.Buffer
	_, err := Export(t.Context(), lacking{c, map[digest.Digest]bool{small: true, large: true}}, items, Tar(&out), ExportOptions{Referrers: true})
	missing, ok := errors.AsType[*MissingError](err)
	if !ok || !errors.Is(err, ErrMissing) {
		t.Fatal(err)
	}
	if missing.Number != 5 || out.Len() > 0 {
		t.Errorf("%d are missing, %d bytes were written: %v", missing.Number, out.Len(), missing.What)
	}
	for _, what := range []string{small.String(), large.String(), "nobody:v1", app, digest.FromString("nothing").String()} {
		if !strings.Contains(strings.Join(missing.What, "\n"), what) {
			t.Errorf("%s is missing in %q", what, missing.What)
		}
	}
	dir := filepath.Join(t.TempDir(), "none")
	if _, err := Export(t.Context(), c, items, Folder(dir), ExportOptions{}); !errors.Is(err, ErrMissing) {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a folder was made: %v", err)
	}
}

// Of an image that nobody asked for signatures of, it is not known whether it has
// any.
func TestExportUnknownReferrers(t *testing.T) {
	t.Parallel()
	content := newTree()
	content.list(named(content.image("a", nil), app))
	c := openCache(t)
	if _, err := load(t, content.folder(t), c, Options{}); err != nil {
		t.Fatal(err)
	}
	items := []Item{{Reference: parse(t, app)}}
	if _, err := Export(t.Context(), c, items, Tar(&bytes.Buffer{}), ExportOptions{Referrers: true}); !errors.Is(err, ErrMissing) {
		t.Error(err)
	}
	if _, err := Export(t.Context(), c, items, Tar(&bytes.Buffer{}), ExportOptions{}); err != nil {
		t.Error(err)
	}
}

func TestMissingError(t *testing.T) {
	t.Parallel()
	var e MissingError
	if e.orNil() != nil {
		t.Error("nothing is missing")
	}
	for range maxMissing + 7 {
		e.add("x")
	}
	if len(e.What) != maxMissing || e.Number != maxMissing+7 || !strings.Contains(e.Error(), "x, x and 1002 more") {
		t.Errorf("%d of %d: %v", len(e.What), e.Number, &e)
	}
}
