package archive

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
)

// What docker save wrote before it wrote layouts: layers are shared by links, and
// have no manifest.
func TestLoadDocker(t *testing.T) {
	t.Parallel()
	content, links := dockerTree()
	c := openCache(t)
	loaded, err := load(t, write(t, content.tar(links...)), c, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, image := range loaded.Images {
		names = append(names, image.Reference.String())
		expectDocker(t, c, image)
	}
	if diff := cmp.Diff([]string{"docker.io/library/one:v1", "docker.io/library/one:v2", "registry.example.com/two:v1"}, names); diff != "" {
		t.Error(diff)
	}
}

// dockerTree has two images that share a layer.
func dockerTree() (tree, []tar.Header) {
	content := tree{"a/layer.tar": layer("base"), "b/layer.tar": []byte("top"), "a/VERSION": []byte("1.0"), "repositories": []byte("{}")}
	images := []dockerImage{
		{RepoTags: []string{"one:v1", "one:v2"}, Layers: []string{"a/layer.tar", "b/layer.tar"}},
		{RepoTags: []string{"registry.example.com/two:v1"}, Layers: []string{"c/layer.tar"}},
	}
	for i, diffs := range [][]digest.Digest{
		{digest.FromBytes(layer("base")), digest.FromString("top")}, {digest.FromBytes(layer("base"))},
	} {
		config, _ := json.Marshal(ocispec.Image{RootFS: ocispec.RootFS{Type: "layers", DiffIDs: diffs}})
		images[i].Config = digest.FromBytes(config).Encoded() + ".json"
		content[images[i].Config] = config
	}
	content[dockerFile], _ = json.Marshal(images)
	return content, []tar.Header{{Typeflag: tar.TypeSymlink, Name: "c/layer.tar", Linkname: "../a/layer.tar"}}
}

// expectDocker reads an image that was made of layers, and hashes all of it.
func expectDocker(t *testing.T, c *cache.Cache, image Image) {
	t.Helper()
	scope := Item{Reference: image.Reference}.scope()
	read := func(desc ocispec.Descriptor, kind cache.Kind) []byte {
		got, err := c.Get(cache.Want{Scope: scope, Digest: desc.Digest, Kind: kind, Size: desc.Size})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = got.Close() }()
		data, err := io.ReadAll(got)
		if err != nil || digest.FromBytes(data) != desc.Digest {
			t.Fatalf("%s: %v", desc.Digest, err)
		}
		return data
	}
	var manifest ocispec.Manifest
	if err := json.Unmarshal(read(image.Descriptor, cache.Manifest), &manifest); err != nil {
		t.Fatal(err)
	}
	var config ocispec.Image
	if err := json.Unmarshal(read(manifest.Config, cache.Blob), &config); err != nil {
		t.Fatal(err)
	}
	if manifest.MediaType != referrerstore.MediaTypeDockerManifest || manifest.SchemaVersion != 2 || manifest.Config.MediaType != mediaTypeDockerConfig || len(manifest.Layers) != len(config.RootFS.DiffIDs) {
		t.Errorf("manifest %+v", manifest)
	}
	for i, layer := range manifest.Layers {
		read(layer, cache.Blob)
		if layer.MediaType == mediaTypeDockerLayer && layer.Digest != config.RootFS.DiffIDs[i] {
			t.Errorf("layer %d is %s, the config says %s", i, layer.Digest, config.RootFS.DiffIDs[i])
		}
	}
}

func TestLoadDockerHostile(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(content tree)
		err    error
	}{
		"altered layer":  {func(c tree) { c["b/layer.tar"] = []byte("pot") }, referrerstore.ErrDigestMismatch},
		"missing layer":  {func(c tree) { delete(c, "b/layer.tar") }, os.ErrNotExist},
		"altered config": {func(c tree) { changeConfig(c, func(b []byte) []byte { return append(b, ' ') }) }, referrerstore.ErrDigestMismatch},
		"not JSON":       {func(c tree) { c[dockerFile] = []byte("[{]") }, ErrInvalid},
		"no images":      {func(c tree) { c[dockerFile] = []byte("[]") }, ErrInvalid},
		"a path out": {func(c tree) {
			c[dockerFile] = []byte(`[{"Config":"../../etc/passwd","RepoTags":["a:b"],"Layers":[]}]`)
		}, ErrInvalid},
		"an absolute path": {func(c tree) {
			c[dockerFile] = []byte(`[{"Config":"/etc/passwd","RepoTags":["a:b"],"Layers":[]}]`)
		}, os.ErrNotExist},
		"no layers": {func(c tree) {
			c[dockerFile] = []byte(strings.Replace(string(c[dockerFile]), `"a/layer.tar",`, "", 1))
		}, ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			content, links := dockerTree()
			tt.change(content)
			if _, err := load(t, write(t, content.tar(links...)), openCache(t), Options{}); !errors.Is(err, tt.err) {
				t.Errorf("%v, want %v", err, tt.err)
			}
		})
	}
}

func changeConfig(c tree, change func([]byte) []byte) {
	for name, data := range c {
		if len(name) == 64+len(".json") {
			c[name] = change(data)
		}
	}
}

// A layout that docker wrote has its names in a file of its own.
func TestLoadDockerLayout(t *testing.T) {
	t.Parallel()
	content := newTree()
	image := content.image("a", nil)
	config := digest.FromString(`{"architecture":"amd64","os":"linux","author":"a"}`)
	content.list(image)
	content[dockerFile], _ = json.Marshal([]dockerImage{{Config: blobPath(config), RepoTags: []string{app}}})
	loaded, err := load(t, write(t, content.tar()), openCache(t), Options{})
	if diff := cmp.Diff([]Image{{parse(t, app), image}}, loaded.Images); diff != "" || err != nil {
		t.Error(diff, err)
	}
}
