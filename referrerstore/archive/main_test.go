package archive

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
	"github.com/gatehouse-project/gatehouse/referrerstore/disk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// openCache is a cache in a folder of its own.
func openCache(t testing.TB) *cache.Cache {
	t.Helper()
	folder, err := disk.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c, err := cache.Open(t.Context(), folder, cache.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// tree is an archive as names and bytes.
type tree map[string][]byte

// newTree is a layout without images.
func newTree() tree {
	return tree{layoutFile: []byte(`{"imageLayoutVersion":"1.0.0"}`)}
}

func (t tree) blob(mediaType string, data []byte) ocispec.Descriptor {
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	t[blobPath(desc.Digest)] = data
	return desc
}

func (t tree) json(mediaType string, document any) ocispec.Descriptor {
	data, err := json.Marshal(document)
	if err != nil {
		panic(err)
	}
	return t.blob(mediaType, data)
}

// layer is of more bytes than the cache's replica takes, and of any seed its own.
func layer(seed string) []byte {
	return bytes.Repeat(append([]byte(seed), 0), cache.MaxReplicated/len(seed)+100)
}

// image adds an image with a small and a large layer.
func (t tree) image(seed string, subject *ocispec.Descriptor) ocispec.Descriptor {
	m := ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest, Subject: subject,
		Config: t.blob(ocispec.MediaTypeImageConfig, []byte(`{"architecture":"amd64","os":"linux","author":"`+seed+`"}`)),
		Layers: []ocispec.Descriptor{
			t.blob(ocispec.MediaTypeImageLayer, []byte("small "+seed)), t.blob(ocispec.MediaTypeImageLayer, layer(seed)),
		},
	}
	m.SchemaVersion = 2
	return t.json(m.MediaType, m)
}

// signature adds an artifact that refers to a manifest.
func (t tree) signature(subject ocispec.Descriptor, seed string) ocispec.Descriptor {
	subject = plain(subject)
	m := ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "example/signature", Subject: &subject,
		Config: t.blob(ocispec.MediaTypeEmptyJSON, []byte("{}")),
		Layers: []ocispec.Descriptor{t.blob("example/envelope", []byte("signed by "+seed))},
	}
	m.SchemaVersion = 2
	desc := t.json(m.MediaType, m)
	desc.ArtifactType = m.ArtifactType
	return desc
}

// index adds an index of images for platforms.
func (t tree) index(children ...ocispec.Descriptor) ocispec.Descriptor {
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: children}
	index.SchemaVersion = 2
	return t.json(index.MediaType, index)
}

// list writes the archive's own index.
func (t tree) list(roots ...ocispec.Descriptor) {
	index := ocispec.Index{Manifests: roots}
	index.SchemaVersion = 2
	t[indexFile], _ = json.Marshal(index)
}

func on(desc ocispec.Descriptor, platform string) ocispec.Descriptor {
	p, err := ParsePlatform(platform)
	if err != nil {
		panic(err)
	}
	desc.Platform = &ocispec.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}
	return desc
}

func called(desc ocispec.Descriptor, annotations ...string) ocispec.Descriptor {
	desc.Annotations = make(map[string]string)
	for i := 0; i < len(annotations); i += 2 {
		desc.Annotations[annotations[i]] = annotations[i+1]
	}
	return desc
}

// named has the full name that containerd writes.
func named(desc ocispec.Descriptor, name string) ocispec.Descriptor {
	return called(desc, containerdID, name)
}

// folder writes the tree to a folder.
func (t tree) folder(tb testing.TB) string {
	tb.Helper()
	dir := tb.TempDir()
	for name, data := range t {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	return dir
}

// tar writes the tree as a tarball, behind the entries given, without content.
func (t tree) tar(first ...tar.Header) []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	add := func(header tar.Header, data []byte) {
		header.Mode, header.Size = 0o644, int64(len(data))
		if err := w.WriteHeader(&header); err != nil {
			panic(err)
		}
		if _, err := w.Write(data); err != nil {
			panic(err)
		}
	}
	for _, header := range first {
		add(header, nil)
	}
	for _, name := range slices.Sorted(maps.Keys(t)) {
		add(tar.Header{Typeflag: tar.TypeReg, Name: name}, t[name])
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return out.Bytes()
}

func zipped(data []byte) []byte {
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	if _, err := zip.Write(data); err != nil {
		panic(err)
	}
	if err := zip.Close(); err != nil {
		panic(err)
	}
	return out.Bytes()
}

func write(t testing.TB, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "archive")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// load loads what lies at a path.
func load(t testing.TB, path string, into Into, opts Options) (Loaded, error) {
	t.Helper()
	temp := t.TempDir()
	from, err := Open(t.Context(), path, OpenOptions{TempDir: temp})
	if err != nil {
		return Loaded{}, err
	}
	defer func() {
		if err := from.Close(); err != nil {
			t.Error(err)
		}
		if left, _ := os.ReadDir(temp); len(left) > 0 {
			t.Errorf("%d temporary files are left", len(left))
		}
	}()
	return Load(t.Context(), from, into, opts)
}

func parse(t testing.TB, name string) referrerstore.Reference {
	t.Helper()
	ref, err := referrerstore.ParseReference(name)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func scopeOf(t testing.TB, name string) cache.Scope {
	t.Helper()
	return Item{Reference: parse(t, name)}.scope()
}

// holds says whether a digest is answered in the scope of an image.
func holds(t testing.TB, c Source, image string, desc ocispec.Descriptor) bool {
	t.Helper()
	got, err := c.Get(cache.Want{Scope: scopeOf(t, image), Digest: desc.Digest, Kind: kindOf(desc.MediaType), Size: desc.Size})
	if err != nil {
		return false
	}
	if err := got.Close(); err != nil {
		t.Error(err)
	}
	return true
}
