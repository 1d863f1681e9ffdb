package archive

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// dockerImage is an element of what docker save writes as manifest.json.
type dockerImage struct {
	Config   string       `json:"Config"`
	RepoTags list[string] `json:"RepoTags"`
	Layers   list[string] `json:"Layers"`
}

// readDocker reads docker's list of images; none if there is no such file.
func readDocker(from files) ([]dockerImage, error) {
	data, err := readFile(from, dockerFile)
	if isAbsent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var images list[dockerImage]
	if err := json.Unmarshal(data, &images); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrInvalid, dockerFile, err)
	}
	names := 0
	for _, image := range images {
		names += len(image.RepoTags)
	}
	if len(images) > maxImages || names > maxImages {
		return nil, errManyImages
	}
	return images, nil
}

// dockerLayout makes a layout of what docker save wrote before it wrote layouts.
// Its layers are not compressed and have no manifest: one is made of them as they
// are, so that the digests are those of what is served.
type dockerLayout struct {
	files
	made   map[string][]byte // manifests, by name
	bytes  int               // of them
	stored map[string]string // where content lies, by its name in a layout
}

// newDockerLayout hashes all that the images consist of.
func newDockerLayout(ctx context.Context, from files, images []dockerImage) ([]*root, error) {
	l := &dockerLayout{files: from, made: make(map[string][]byte), stored: make(map[string]string)}
	hashed := make(map[string]ocispec.Descriptor) // layers, by where they lie
	var roots []*root
	for i, image := range images {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		desc, err := l.add(ctx, image, hashed)
		if err != nil {
			return nil, fmt.Errorf("image %d of %s: %w", i, dockerFile, err)
		}
		roots = append(roots, &root{desc: desc, files: l, names: image.RepoTags})
	}
	return roots, nil
}

func (l *dockerLayout) add(ctx context.Context, image dockerImage, hashed map[string]ocispec.Descriptor) (ocispec.Descriptor, error) {
	config, diffIDs, err := l.config(image.Config)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if len(diffIDs) != len(image.Layers) {
		return ocispec.Descriptor{}, fmt.Errorf("%w: %d layers, of which the config has %d", ErrInvalid, len(image.Layers), len(diffIDs))
	}
	manifest := ocispec.Manifest{MediaType: referrerstore.MediaTypeDockerManifest, Config: config, Layers: []ocispec.Descriptor{}}
	manifest.SchemaVersion = 2
	for i, name := range image.Layers {
		layer, ok := hashed[name]
		if !ok {
			if layer, err = l.layer(ctx, name); err != nil {
				return ocispec.Descriptor{}, err
			}
			hashed[name] = layer
		}
		if layer.MediaType == mediaTypeDockerLayer && layer.Digest != diffIDs[i] {
			return ocispec.Descriptor{}, fmt.Errorf("%s: %w: the config says %q", name, referrerstore.ErrDigestMismatch, diffIDs[i])
		}
		manifest.Layers = append(manifest.Layers, layer)
	}
	return l.make(manifest)
}

func (l *dockerLayout) make(manifest ocispec.Manifest) (ocispec.Descriptor, error) {
	data, err := json.Marshal(manifest)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if l.bytes += len(data); len(data) > maxDocument || l.bytes > maxMade {
		return ocispec.Descriptor{}, fmt.Errorf("%w: a manifest would have %d bytes, all of them %d", ErrInvalid, len(data), l.bytes)
	}
	desc := ocispec.Descriptor{MediaType: manifest.MediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	l.made[blobPath(desc.Digest)] = data
	return desc, nil
}

// config reads an image's config, whose name says its digest, and what it says of
// the layers.
func (l *dockerLayout) config(name string) (ocispec.Descriptor, []digest.Digest, error) {
	data, err := l.readNamed(name)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	var image struct {
		RootFS struct {
			DiffIDs list[digest.Digest] `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := json.Unmarshal(data, &image); err != nil {
		return ocispec.Descriptor{}, nil, fmt.Errorf("%w: %s: %w", ErrInvalid, name, err)
	}
	desc := ocispec.Descriptor{MediaType: mediaTypeDockerConfig, Digest: digest.FromBytes(data), Size: int64(len(data))}
	said := digest.NewDigestFromEncoded(digest.SHA256, strings.TrimSuffix(path.Base(name), ".json"))
	if said.Validate() == nil && said != desc.Digest {
		return ocispec.Descriptor{}, nil, fmt.Errorf("%s: %w", name, referrerstore.ErrDigestMismatch)
	}
	l.stored[blobPath(desc.Digest)], _ = cleanName(name)
	return desc, image.RootFS.DiffIDs, nil
}

func (l *dockerLayout) readNamed(name string) ([]byte, error) {
	clean, ok := cleanName(name)
	if !ok {
		return nil, fmt.Errorf("%w: %q names no file", ErrInvalid, name)
	}
	return readFile(l.files, clean)
}

// layer describes a layer as it lies there.
func (l *dockerLayout) layer(ctx context.Context, name string) (ocispec.Descriptor, error) {
	clean, ok := cleanName(name)
	if !ok {
		return ocispec.Descriptor{}, fmt.Errorf("%w: %q names no file", ErrInvalid, name)
	}
	f, err := l.files.open(clean)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer func() { _ = f.Close() }() // it was only read
	desc := ocispec.Descriptor{MediaType: mediaTypeDockerLayer, Size: f.size()}
	start := make([]byte, 2)
	if n, _ := f.ReadAt(start, 0); isGzip(start[:n]) { // a failure shows again below
		desc.MediaType = mediaTypeDockerLayerZip
	}
	if desc.Digest, err = sum(ctx, f, digest.SHA256); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("read %s: %w", name, err)
	}
	l.stored[blobPath(desc.Digest)] = clean
	return desc, nil
}

func (l *dockerLayout) open(name string) (file, error) {
	if data, ok := l.made[name]; ok {
		return inMemory(data), nil
	}
	if where, ok := l.stored[name]; ok {
		name = where
	}
	return l.files.open(name)
}
