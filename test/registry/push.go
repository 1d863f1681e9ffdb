package registry

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"

	"cuelabs.dev/go/oci/ociregistry"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// What is pushed here goes straight into memory, past authentication, latency,
// faults and statistics.

// PushImage stores a small, runnable-looking image for linux/amd64: a config
// and a layer with one file. The same seed makes the same image, another seed
// another. The tag may be empty.
func (r *Registry) PushImage(ctx context.Context, repo, tag, seed string) (ocispec.Descriptor, error) {
	desc, err := r.pushImage(ctx, repo, tag, seed, ocispec.Platform{OS: "linux", Architecture: "amd64"})
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("push image %s:%s: %w", repo, tag, err)
	}
	return desc, nil
}

// PushIndex stores an index of one image each for linux/amd64 and linux/arm64.
func (r *Registry) PushIndex(ctx context.Context, repo, tag, seed string) (ocispec.Descriptor, error) {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for _, architecture := range []string{"amd64", "arm64"} {
		platform := ocispec.Platform{OS: "linux", Architecture: architecture}
		desc, err := r.pushImage(ctx, repo, "", seed+"/"+architecture, platform)
		if err != nil {
			return ocispec.Descriptor{}, fmt.Errorf("push index %s:%s: %w", repo, tag, err)
		}
		desc.Platform = &platform
		index.Manifests = append(index.Manifests, desc)
	}
	return r.pushJSON(ctx, repo, tag, index.MediaType, index)
}

func (r *Registry) pushImage(ctx context.Context, repo, tag, seed string, platform ocispec.Platform) (ocispec.Descriptor, error) {
	layer, diffID, err := makeLayer(seed)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	config, err := json.Marshal(ocispec.Image{
		Platform: platform,
		Config:   ocispec.ImageConfig{Cmd: []string{"/seed"}},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{diffID}},
	})
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	if manifest.Config, err = r.PushBlob(ctx, repo, ocispec.MediaTypeImageConfig, config); err != nil {
		return ocispec.Descriptor{}, err
	}
	layerDesc, err := r.PushBlob(ctx, repo, ocispec.MediaTypeImageLayerGzip, layer)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	manifest.Layers = []ocispec.Descriptor{layerDesc}
	return r.pushJSON(ctx, repo, tag, manifest.MediaType, manifest)
}

// PushImageOf stores the manifest of an image for linux/amd64 with layers that are
// there already, or never come. It cannot be run.
func (r *Registry) PushImageOf(ctx context.Context, repo, tag string, layers ...ocispec.Descriptor) (ocispec.Descriptor, error) {
	config, err := json.Marshal(ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, RootFS: ocispec.RootFS{Type: "layers"},
	})
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	manifest := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Layers: append([]ocispec.Descriptor{}, layers...), // never null
	}
	if manifest.Config, err = r.PushBlob(ctx, repo, ocispec.MediaTypeImageConfig, config); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("push image %s:%s: %w", repo, tag, err)
	}
	return r.pushJSON(ctx, repo, tag, manifest.MediaType, manifest)
}

func makeLayer(seed string) (layer []byte, diffID digest.Digest, err error) {
	var packed bytes.Buffer
	digester := digest.Canonical.Digester()
	zip := gzip.NewWriter(&packed)
	archive := tar.NewWriter(io.MultiWriter(zip, digester.Hash()))
	err = archive.WriteHeader(&tar.Header{Name: "seed", Mode: 0o755, Size: int64(len(seed))})
	if err == nil {
		_, err = io.WriteString(archive, seed)
	}
	err = errors.Join(err, archive.Close(), zip.Close())
	return packed.Bytes(), digester.Digest(), err
}

// PushReferrer stores an artifact that refers to the subject: an image manifest
// of OCI 1.1 with an artifactType, the empty config, and the blob as its only
// layer (the empty one if blob is nil). Without the referrers API it adds the
// artifact to the index at the subject's [ReferrersTag] as well.
func (r *Registry) PushReferrer(ctx context.Context, repo string, subject ocispec.Descriptor, artifactType, blobMediaType string, blob []byte, annotations map[string]string) (ocispec.Descriptor, error) {
	desc, err := r.pushReferrer(ctx, repo, subject, artifactType, blobMediaType, blob, annotations)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("push referrer of %s@%s: %w", repo, subject.Digest, err)
	}
	return desc, nil
}

func (r *Registry) pushReferrer(ctx context.Context, repo string, subject ocispec.Descriptor, artifactType, blobMediaType string, blob []byte, annotations map[string]string) (ocispec.Descriptor, error) {
	config, err := r.PushBlob(ctx, repo, ocispec.MediaTypeEmptyJSON, ocispec.DescriptorEmptyJSON.Data)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	layer := config
	if blob != nil {
		if layer, err = r.PushBlob(ctx, repo, blobMediaType, blob); err != nil {
			return ocispec.Descriptor{}, err
		}
	}
	manifest := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: artifactType, Annotations: annotations,
		Config: config, Layers: []ocispec.Descriptor{layer},
		Subject: &ocispec.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size},
	}
	desc, err := r.pushJSON(ctx, repo, "", manifest.MediaType, manifest)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc.ArtifactType, desc.Annotations = artifactType, annotations
	if r.opts.DisableReferrersAPI {
		err = r.tagReferrer(ctx, repo, subject.Digest, desc)
	}
	return desc, err
}

// PushBlob stores a blob.
func (r *Registry) PushBlob(ctx context.Context, repo, mediaType string, data []byte) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	return r.content.PushBlob(ctx, repo, desc, bytes.NewReader(data))
}

// PushLarge makes a blob of size bytes that no compression makes smaller, the
// same for the same seed, and holds it once. It is for benchmarks: 256 MiB take
// well under a second.
func (r *Registry) PushLarge(repo, mediaType string, size int64, seed uint64) ocispec.Descriptor {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	data := make([]byte, size)
	_, _ = rand.NewChaCha8(key).Read(data) // never fails
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: size}
	c := r.content
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held[place{repo, desc.Digest, false}] = held{desc, data}
	return desc
}

// PushManifest stores a manifest, under a tag too if it is not empty. What it
// names need not exist, but of the OCI media types it must be JSON.
func (r *Registry) PushManifest(ctx context.Context, repo, tag, mediaType string, data []byte) (ocispec.Descriptor, error) {
	return r.content.PushManifest(ctx, repo, tag, data, mediaType)
}

func (r *Registry) pushJSON(ctx context.Context, repo, tag, mediaType string, manifest any) (ocispec.Descriptor, error) {
	data, err := json.Marshal(manifest)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return r.PushManifest(ctx, repo, tag, mediaType, data)
}

// Plant serves data as the manifest and as the blob that desc names, true or
// not: under another digest or another algorithm, or as a manifest that is
// none. Size and media type are what the headers say; if the announced size is
// not the real one, the answer breaks off.
func (r *Registry) Plant(repo string, desc ocispec.Descriptor, data []byte) {
	c := r.content
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held[place{repo, desc.Digest, true}] = held{desc, data}
	c.held[place{repo, desc.Digest, false}] = held{desc, data}
}

// PlantReferrer adds desc to what the referrers API lists for the subject,
// whatever is behind it. It does not touch the fallback tag.
func (r *Registry) PlantReferrer(repo string, subject digest.Digest, desc ocispec.Descriptor) {
	c, of := r.content, place{repo: repo, digest: subject}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.planted[of] = append(c.planted[of], desc)
	delete(c.lists, of)
}

// AddSHA512 makes a manifest or blob of the repository, tagged or not, also
// known under its sha512 digest, and returns the descriptor that says so.
func (r *Registry) AddSHA512(ctx context.Context, repo string, desc ocispec.Descriptor) (ocispec.Descriptor, error) {
	h, err := r.content.load(ctx, place{repo, desc.Digest, true})
	if errors.Is(err, ociregistry.ErrManifestUnknown) {
		h, err = r.content.load(ctx, place{repo, desc.Digest, false})
	}
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("add sha512 of %s@%s: %w", repo, desc.Digest, err)
	}
	desc.Digest = digest.SHA512.FromBytes(h.data)
	r.Plant(repo, desc, h.data)
	return desc, nil
}
