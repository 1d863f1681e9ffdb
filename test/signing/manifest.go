package signing

import (
	"encoding/json"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Artifact is a signature as a registry stores it: a manifest that refers to
// its subject, and the two blobs that the manifest names.
type Artifact struct {
	// Descriptor describes the manifest as the referrers API lists it.
	Descriptor ocispec.Descriptor
	// Bytes is the manifest.
	Bytes []byte
	// Manifest is the same, parsed.
	Manifest ocispec.Manifest
	// Blobs are the contents of the config and of the layer.
	Blobs map[digest.Digest][]byte
}

// Attach makes the manifest that notation pushes for the envelope: an OCI
// image manifest whose config carries the artifact type.
func (e Envelope) Attach(subject ocispec.Descriptor) (Artifact, error) {
	prints, err := json.Marshal(e.Thumbprints)
	if err != nil {
		return Artifact{}, err
	}
	layer := ocispec.Descriptor{MediaType: e.MediaType, Digest: digest.FromBytes(e.Bytes), Size: int64(len(e.Bytes))}
	config := ocispec.DescriptorEmptyJSON
	manifest := ocispec.Manifest{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   ocispec.MediaTypeImageManifest,
		Config:      ocispec.Descriptor{MediaType: ArtifactType, Digest: config.Digest, Size: config.Size},
		Layers:      []ocispec.Descriptor{layer},
		Subject:     &ocispec.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size},
		Annotations: map[string]string{ThumbprintAnnotation: string(prints)},
	}
	data, err := json.Marshal(manifest)
	if err != nil {
		return Artifact{}, err
	}
	return Artifact{
		Descriptor: ocispec.Descriptor{
			MediaType: manifest.MediaType, Digest: digest.FromBytes(data), Size: int64(len(data)),
			ArtifactType: ArtifactType, Annotations: manifest.Annotations,
		},
		Bytes:    data,
		Manifest: manifest,
		Blobs:    map[digest.Digest][]byte{config.Digest: config.Data, layer.Digest: e.Bytes},
	}, nil
}
