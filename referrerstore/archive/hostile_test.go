package archive

import (
	"archive/tar"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
)

// Archives that are not what they say: none is loaded, no tag leads anywhere, and
// no error is one that another try would mend.
func TestLoadHostile(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(content tree, image ocispec.Descriptor)
		err    error
	}{
		"altered layer": {func(c tree, _ ocispec.Descriptor) {
			at := blobPath(digest.FromBytes(layer("a")))
			c[at] = []byte(strings.Replace(string(c[at]), "a", "b", 1))
		}, referrerstore.ErrDigestMismatch},
		"altered small layer": {func(c tree, _ ocispec.Descriptor) {
			c[blobPath(digest.FromString("small a"))] = []byte("small b")
		}, referrerstore.ErrDigestMismatch},
		"altered manifest": {func(c tree, image ocispec.Descriptor) {
			c[blobPath(image.Digest)] = []byte(strings.Replace(string(c[blobPath(image.Digest)]), "2", "3", 1))
		}, referrerstore.ErrDigestMismatch},
		"short layer": {func(c tree, _ ocispec.Descriptor) {
			at := blobPath(digest.FromBytes(layer("a")))
			c[at] = c[at][1:]
		}, referrerstore.ErrDigestMismatch},
		"missing layer": {func(c tree, _ ocispec.Descriptor) {
			delete(c, blobPath(digest.FromString("small a")))
		}, ErrMissing},
		"missing manifest": {func(c tree, image ocispec.Descriptor) {
			delete(c, blobPath(image.Digest))
		}, os.ErrNotExist},
		"no index":      {func(c tree, _ ocispec.Descriptor) { delete(c, indexFile) }, ErrInvalid},
		"no layout":     {func(c tree, _ ocispec.Descriptor) { delete(c, layoutFile) }, ErrInvalid},
		"other version": {func(c tree, _ ocispec.Descriptor) { c[layoutFile] = []byte(`{"imageLayoutVersion":"2"}`) }, ErrInvalid},
		"no images":     {func(c tree, _ ocispec.Descriptor) { c.list() }, ErrNoPlatform},
		"not JSON":      {func(c tree, _ ocispec.Descriptor) { c[indexFile] = []byte("{") }, ErrInvalid},
		"a path as digest": {func(c tree, image ocispec.Descriptor) {
			image.Digest = "sha256:../../../../etc/passwd"
			c.list(named(image, app))
		}, ErrInvalid},
		"a weak digest": {func(c tree, image ocispec.Descriptor) {
			image.Digest = "md5:d41d8cd98f00b204e9800998ecf8427e"
			c.list(named(image, app))
		}, ErrInvalid},
		"a negative size": {func(c tree, image ocispec.Descriptor) {
			image.Size = -1
			c.list(named(image, app))
		}, ErrInvalid},
		"another media type": {func(c tree, image ocispec.Descriptor) {
			image.MediaType = referrerstore.MediaTypeDockerManifest
			c.list(named(image, app))
		}, ErrInvalid},
		"index and manifest": {func(c tree, image ocispec.Descriptor) {
			c.list(named(c.json(ocispec.MediaTypeImageManifest, map[string]any{
				"config": image, "layers": []any{}, "manifests": []any{image},
			}), app))
		}, ErrInvalid},
		"a manifest as layer": {func(c tree, image ocispec.Descriptor) {
			c.list(named(c.json(ocispec.MediaTypeImageManifest, map[string]any{"layers": []any{image}}), app))
		}, ErrInvalid},
		"deep indexes": {func(c tree, image ocispec.Descriptor) {
			for range maxDepth + 1 {
				image = c.index(image)
			}
			c.list(named(image, app))
		}, ErrInvalid},
		"many layers": {func(c tree, image ocispec.Descriptor) {
			layer := c.blob(ocispec.MediaTypeImageLayer, []byte("x"))
			layers := make([]ocispec.Descriptor, maxObjects+1)
			for i := range layers {
				layers[i] = layer
			}
			c.list(named(c.json(ocispec.MediaTypeImageManifest, map[string]any{"layers": layers}), app))
		}, ErrInvalid},
		"many names": {func(c tree, image ocispec.Descriptor) {
			roots := make([]ocispec.Descriptor, maxImages+1)
			for i := range roots {
				roots[i] = named(image, fmt.Sprintf("registry.example.com/a:%d", i))
			}
			c.list(roots...)
		}, ErrInvalid},
		"large index": {func(c tree, _ ocispec.Descriptor) {
			c[indexFile] = []byte(`{"manifests":[]` + strings.Repeat(" ", maxDocument) + `}`)
		}, ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			content := newTree()
			image := content.image("a", nil)
			content.list(named(image, app))
			tt.change(content, image)
			for _, at := range []string{content.folder(t), write(t, content.tar()), write(t, zipped(content.tar()))} {
				c := openCache(t)
				_, err := load(t, at, c, Options{})
				if !errors.Is(err, tt.err) {
					t.Errorf("%v, want %v", err, tt.err)
				}
				if _, ok := c.Tag(scopeOf(t, app), "v1"); ok {
					t.Error("a tag was set")
				}
			}
		})
	}
}

// Nothing outside of an archive is read, whatever it links to.
func TestLoadStaysInside(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("small a"), 0o600); err != nil {
		t.Fatal(err)
	}
	content := newTree()
	content.list(named(content.image("a", nil), app))
	hidden := blobPath(digest.FromString("small a"))
	delete(content, hidden)

	dir := content.folder(t)
	if err := os.Symlink(secret, filepath.Join(dir, filepath.FromSlash(hidden))); err != nil {
		t.Fatal(err)
	}
	if _, err := load(t, dir, openCache(t), Options{}); err == nil {
		t.Error("a link out of the folder was followed")
	}
	for _, link := range []tar.Header{
		{Typeflag: tar.TypeSymlink, Name: hidden, Linkname: secret},
		{Typeflag: tar.TypeSymlink, Name: hidden, Linkname: "../../../../../.." + secret},
		{Typeflag: tar.TypeLink, Name: hidden, Linkname: secret},
		{Typeflag: tar.TypeSymlink, Name: hidden, Linkname: filepath.Base(hidden)},
		{Typeflag: tar.TypeFifo, Name: hidden},
		{Typeflag: tar.TypeReg, Name: "../" + hidden},
	} {
		_, err := load(t, write(t, content.tar(link)), openCache(t), Options{})
		if !errors.Is(err, ErrMissing) && !errors.Is(err, ErrInvalid) {
			t.Errorf("%q to %q: %v", link.Name, link.Linkname, err)
		}
	}
}

func TestOpenBounds(t *testing.T) {
	t.Parallel()
	content := newTree()
	content.list(named(content.image("a", nil), app))
	whole := content.tar()
	for name, data := range map[string][]byte{
		"empty": {}, "text": []byte(strings.Repeat("no archive ", 100)),
		"cut in a header": whole[:len(whole)-1024-700], "cut in a file": whole[:2000],
		"cut when zipped": zipped(whole)[:1000],
	} {
		if a, err := Open(t.Context(), write(t, data), OpenOptions{TempDir: t.TempDir()}); err == nil {
			t.Errorf("%s: no error", name)
			_ = a.Close()
		}
	}
	temp := t.TempDir()
	if _, err := Open(t.Context(), write(t, zipped(whole)), OpenOptions{TempDir: temp, MaxBytes: int64(len(whole)) - 1}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a bomb: %v", err)
	}
	if left, _ := os.ReadDir(temp); len(left) > 0 {
		t.Errorf("%d temporary files are left", len(left))
	}
	many := make([]tar.Header, maxEntries+1)
	for i := range many {
		many[i] = tar.Header{Typeflag: tar.TypeReg, Name: "x"}
	}
	if _, err := Open(t.Context(), write(t, tree{}.tar(many...)), OpenOptions{}); !errors.Is(err, ErrInvalid) {
		t.Errorf("many entries: %v", err)
	}
	gone := errors.New("the caller has gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	for _, data := range [][]byte{whole, zipped(whole)} {
		if _, err := Open(ctx, write(t, data), OpenOptions{TempDir: t.TempDir()}); !errors.Is(err, gone) {
			t.Errorf("an ended context: %v", err)
		}
	}
	a, err := Open(t.Context(), write(t, whole), OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = a.Close() }()
	if _, err := Load(ctx, a, openCache(t), Options{}); !errors.Is(err, gone) {
		t.Errorf("an ended context: %v", err)
	}
}

// What another repository has is not had by whoever knows its digest: the archive
// must have the bytes.
func TestLoadProvesWhatIsHeld(t *testing.T) {
	t.Parallel()
	content := newTree()
	image := content.image("a", nil)
	content.list(named(image, app))
	c := openCache(t)
	if _, err := load(t, content.folder(t), c, Options{}); err != nil {
		t.Fatal(err)
	}
	const other = "registry.example.com/other:v1"
	large := digest.FromBytes(layer("a"))
	pretend := maps.Clone(content)
	pretend[blobPath(large)] = make([]byte, len(layer("a")))
	pretend.list(named(image, other))
	if _, err := load(t, pretend.folder(t), c, Options{}); !errors.Is(err, referrerstore.ErrDigestMismatch) {
		t.Errorf("an archive without the bytes: %v", err)
	}
	desc := ocispec.Descriptor{Digest: large, Size: int64(len(layer("a")))}
	if holds(t, c, other, desc) {
		t.Error("it is handed out nevertheless")
	}
	content.list(named(image, other))
	if _, err := load(t, content.folder(t), c, Options{}); err != nil || !holds(t, c, other, desc) {
		t.Errorf("an archive with the bytes: %v", err)
	}
}

// forgetful is a cache that keeps nothing.
type forgetful struct{ *cache.Cache }

func (forgetful) Get(cache.Want) (*cache.Content, error) { return nil, referrerstore.ErrNotFound }

func TestLoadIntoFullCache(t *testing.T) {
	t.Parallel()
	content := newTree()
	content.list(named(content.image("a", nil), app))
	c := openCache(t)
	if _, err := load(t, content.folder(t), forgetful{c}, Options{}); !errors.Is(err, ErrNotKept) {
		t.Error(err)
	}
	if _, ok := c.Tag(scopeOf(t, app), "v1"); ok {
		t.Error("a tag leads to what is not there")
	}
}

// What docker's list calls images is bounded before anything is done with it: a
// list within the bound of documents has half a million names, each for any number
// of manifests.
func TestManyDockerNames(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ manifests, images, names int }{
		"of one manifest":      {1, 3, maxImages/3 + 1},
		"of each of many":      {3, 1, maxImages/3 + 1},
		"of one that is alone": {1, 1, maxImages + 1},
	} {
		for _, layout := range []bool{true, false} {
			if !layout && tt.manifests > 1 {
				continue
			}
			c := newTree()
			config := c.blob(ocispec.MediaTypeImageConfig, []byte(`{"os":"linux","rootfs":{"diff_ids":[]}}`))
			var roots []ocispec.Descriptor
			for i := range tt.manifests {
				roots = append(roots, c.json(ocispec.MediaTypeImageManifest, ocispec.Manifest{
					MediaType: ocispec.MediaTypeImageManifest, Config: config, Annotations: map[string]string{"number": fmt.Sprint(i)},
				}))
			}
			if c.list(roots...); !layout {
				delete(c, indexFile)
			}
			var images []dockerImage
			for i := range tt.images {
				image := dockerImage{Config: blobPath(config.Digest)}
				for j := range tt.names {
					image.RepoTags = append(image.RepoTags, fmt.Sprintf("no name %d-%d", i, j))
				}
				images = append(images, image)
			}
			c[dockerFile], _ = json.Marshal(images)
			if _, err := load(t, c.folder(t), openCache(t), Options{}); !errors.Is(err, errManyImages) {
				t.Errorf("%s, layout %t: %v", name, layout, err)
			}
		}
	}
}

// What an archive, or a manifest that a cache holds, says reaches the terminal of
// whoever loads or exports it, and must not take that over.
func TestErrorsCanBeShown(t *testing.T) {
	t.Parallel()
	const evil = "\x1b]0;evil\x07\u009b2J\u202e"
	image := func(c tree) ocispec.Descriptor {
		lost := ocispec.Descriptor{MediaType: "x/" + evil, Digest: digest.FromString("lost"), Size: 4}
		return c.json(ocispec.MediaTypeImageManifest, ocispec.Manifest{
			MediaType: ocispec.MediaTypeImageManifest, Config: c.blob(ocispec.MediaTypeImageConfig, []byte("{}")), Layers: []ocispec.Descriptor{lost},
		})
	}
	docker := func(c tree, image dockerImage) {
		image.Config = cmp.Or(image.Config, "config.json")
		c["config.json"] = []byte(`{"rootfs":{"diff_ids":["sha256:` + "\\u001b]0;evil" + `"]}}`)
		c[evil] = []byte("not JSON")
		c["layer"] = []byte("layer")
		c[dockerFile], _ = json.Marshal([]dockerImage{image})
		delete(c, layoutFile)
	}
	for name, change := range map[string]func(tree){
		"a missing layer": func(c tree) { c.list(named(image(c), app)) },
		"a missing image": func(c tree) {
			c.list(named(c.index(ocispec.Descriptor{MediaType: evil, Digest: digest.FromString("lost")}), app))
		},
		"a config's name":   func(c tree) { docker(c, dockerImage{Config: evil}) },
		"a missing config":  func(c tree) { docker(c, dockerImage{Config: evil + "2"}) },
		"a layer's name":    func(c tree) { docker(c, dockerImage{Layers: []string{evil + "2"}}) },
		"a config's digest": func(c tree) { docker(c, dockerImage{Layers: []string{"layer"}}) },
	} {
		c := newTree()
		change(c)
		_, err := load(t, write(t, c.tar()), openCache(t), Options{})
		if err == nil || strings.Map(printable, err.Error()) != err.Error() {
			t.Errorf("%s: %q", name, err)
		}
	}
	c, into := newTree(), openCache(t)
	manifest := image(c)
	at := Item{Reference: parse(t, app)}
	want := cache.Want{Scope: at.scope(), Digest: manifest.Digest, Kind: cache.Manifest, Size: -1, MediaType: manifest.MediaType}
	if err := into.Put(want, c[blobPath(manifest.Digest)]); err != nil {
		t.Fatal(err)
	}
	at.Reference = at.Reference.Pinned(manifest.Digest)
	_, err := Export(t.Context(), into, []Item{at}, Tar(io.Discard), ExportOptions{})
	if !errors.Is(err, ErrMissing) || strings.Map(printable, err.Error()) != err.Error() {
		t.Errorf("export: %q", err)
	}
}
