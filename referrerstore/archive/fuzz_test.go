package archive

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// fixed is an archive whose names are those of a tree.
type fixed struct{ tree }

func (f fixed) open(name string) (file, error) {
	if !fs.ValidPath(name) {
		panic("a name leads out: " + name)
	}
	data, ok := f.tree[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return inMemory(data), nil
}

func (fixed) close() error { return nil }

// plans sees to it that whatever is planned has bytes, within bounds.
func plans(t *testing.T, content tree) {
	p, err := newPlan(t.Context(), fixed{content}, Options{Name: "registry.example.com/fuzz"})
	if err != nil {
		return
	}
	total := int64(0)
	for _, s := range p.steps {
		f, err := s.from.open(blobPath(s.want.Digest))
		if err != nil || f.size() != s.want.Size {
			t.Fatalf("%s is planned: %v", s.want.Digest, err)
		}
		total += f.size()
	}
	if total != p.total || len(p.steps) > maxObjects || len(p.images) > maxImages || len(p.images) == 0 {
		t.Errorf("%d steps of %d bytes for %d images", len(p.steps), p.total, len(p.images))
	}
}

func FuzzIndex(f *testing.F) {
	content := newTree()
	image := content.image("a", nil)
	content.list(named(image, app), content.signature(image, "a"))
	f.Add(content[indexFile])
	f.Add([]byte(`{"manifests":null}`))
	f.Add([]byte(`{"manifests":[{},{}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		again := newTree()
		again.image("a", nil)
		again[indexFile] = data
		plans(t, again)
	})
}

func FuzzManifest(f *testing.F) {
	content := newTree()
	image := content.image("a", nil)
	f.Add(content[blobPath(image.Digest)], false)
	f.Add(content[blobPath(content.index(on(image, "linux/amd64")).Digest)], true)
	f.Add([]byte(`{"manifests":[],"layers":[]}`), true)
	f.Fuzz(func(t *testing.T, data []byte, index bool) {
		again := newTree()
		again.image("a", nil)
		mediaType := ocispec.MediaTypeImageManifest
		if index {
			mediaType = ocispec.MediaTypeImageIndex
		}
		again.list(named(again.blob(mediaType, data), app))
		plans(t, again)
	})
}

func FuzzDocker(f *testing.F) {
	content, _ := dockerTree()
	f.Add(content[dockerFile])
	f.Add([]byte(`[{"Config":"../x","Layers":["/a/layer.tar"]}]`))
	f.Add([]byte(`[{"Config":"a//b/../../c"}]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		again, _ := dockerTree()
		again[dockerFile] = data
		plans(t, again)
	})
}

func FuzzTarball(f *testing.F) {
	content := newTree()
	content.list(named(content.blob(ocispec.MediaTypeImageManifest, []byte("{}")), app))
	content["../escape"], content["/absolute"], content["a/../b"] = nil, nil, nil
	_, links := dockerTree()
	f.Add(content.tar(links...))
	f.Fuzz(func(t *testing.T, data []byte) {
		at := filepath.Join(t.TempDir(), "archive")
		if err := os.WriteFile(at, data, 0o600); err != nil {
			t.Fatal(err)
		}
		a, err := Open(context.WithoutCancel(t.Context()), at, OpenOptions{TempDir: t.TempDir(), MaxBytes: 1 << 20})
		if err != nil {
			return
		}
		defer func() { _ = a.Close() }()
		for name := range a.files.(*tarball).table {
			if !fs.ValidPath(name) || name == "." {
				t.Errorf("the name %q", name)
			}
			got, err := readFile(a.files, name)
			if err == nil && !bytes.HasPrefix(data, []byte{0x1f, 0x8b}) && !bytes.Contains(data, got) {
				t.Errorf("%q has bytes that the archive has not", name)
			}
		}
	})
}

func FuzzPlatform(f *testing.F) {
	f.Add("linux/arm64/v8")
	f.Fuzz(func(t *testing.T, text string) {
		if p, err := ParsePlatform(text); err == nil && p.String() != text {
			t.Errorf("%q is read as %q", text, p)
		}
	})
}
