package storetest

import (
	_ "crypto/sha512" // digests of that algorithm are tested too
	"encoding/json"
	"fmt"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// Blob is content with its media type, such as the envelope of a signature.
type Blob struct {
	MediaType   string
	Data        []byte
	Annotations map[string]string
}

// AddImage makes an image under the reference, which is parsed as a user would
// write it, and tags it if the reference has a tag. Layers are its content;
// images of different references differ in any case. A digest in the reference
// is not allowed: it follows from the content.
func (m *Memory) AddImage(reference string, layers ...[]byte) referrerstore.Subject {
	ref, err := referrerstore.ParseReference(reference)
	if err != nil || ref.Digest != "" {
		panic(fmt.Sprintf("storetest: image %q: want a reference without digest (%v)", reference, err))
	}
	blobs := make([]Blob, len(layers))
	for i, layer := range layers {
		blobs[i] = Blob{MediaType: ocispec.MediaTypeImageLayer, Data: layer}
	}
	config := Blob{MediaType: ocispec.MediaTypeImageConfig, Data: fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","author":%q}`, ref)}
	desc := m.addManifest(ref, ocispec.Manifest{}, config, blobs)
	m.Tag(ref, desc)
	return referrerstore.Subject{Reference: ref, Descriptor: desc}
}

// AddReferrer makes an OCI manifest of the artifact type with the blobs as its
// layers, names the subject in it and lists it among the subject's referrers.
// The descriptor is the one listed: it carries the artifact type.
func (m *Memory) AddReferrer(subject referrerstore.Subject, artifactType string, blobs ...Blob) ocispec.Descriptor {
	of := plain(subject.Descriptor)
	config := Blob{MediaType: ocispec.MediaTypeEmptyJSON, Data: []byte(`{}`)}
	manifest := ocispec.Manifest{ArtifactType: artifactType, Subject: &of}
	desc := m.addManifest(subject.Reference, manifest, config, blobs)
	desc.ArtifactType = artifactType
	m.List(subject, desc)
	return desc
}

// AddBlob keeps data as a blob of the repository that the reference names.
func (m *Memory) AddBlob(ref referrerstore.Reference, blob Blob) ocispec.Descriptor {
	desc := ocispec.Descriptor{
		MediaType: blob.MediaType, Digest: digest.FromBytes(blob.Data), Size: int64(len(blob.Data)),
		Annotations: blob.Annotations,
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.repo(ref.Name()).content[desc.Digest] = append([]byte(nil), blob.Data...)
	return desc
}

// AddManifest keeps data, which may be anything, as a manifest that Resolve
// finds by its digest and Fetch delivers.
func (m *Memory) AddManifest(ref referrerstore.Reference, mediaType string, data []byte) ocispec.Descriptor {
	desc := m.AddBlob(ref, Blob{MediaType: mediaType, Data: data})
	m.mu.Lock()
	defer m.mu.Unlock()
	m.repo(ref.Name()).manifests[desc.Digest] = desc
	return desc
}

// List lists descriptors among the subject's referrers, whether or not there
// is content behind them. A digest listed before is not listed again.
func (m *Memory) List(subject referrerstore.Subject, descs ...ocispec.Descriptor) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.repo(subject.Reference.Name())
	for _, desc := range descs {
		list := r.referrers[subject.Descriptor.Digest]
		if !hasDigest(list, desc.Digest) {
			r.referrers[subject.Descriptor.Digest] = append(list, desc)
		}
	}
}

// Tag points the reference's tag, if it has one, at a manifest added before.
func (m *Memory) Tag(ref referrerstore.Reference, desc ocispec.Descriptor) {
	if ref.Tag == "" {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.repo(ref.Name()).tags[ref.Tag] = desc.Digest
}

func (m *Memory) addManifest(ref referrerstore.Reference, manifest ocispec.Manifest, config Blob, blobs []Blob) ocispec.Descriptor {
	manifest.Versioned = specs.Versioned{SchemaVersion: 2}
	manifest.MediaType = ocispec.MediaTypeImageManifest
	manifest.Config = m.AddBlob(ref, config)
	manifest.Layers = []ocispec.Descriptor{}
	for _, blob := range blobs {
		manifest.Layers = append(manifest.Layers, m.AddBlob(ref, blob))
	}
	data, err := json.Marshal(manifest)
	if err != nil {
		panic(fmt.Sprintf("storetest: manifest: %v", err))
	}
	return m.AddManifest(ref, manifest.MediaType, data)
}

// plain keeps what identifies content.
func plain(desc ocispec.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size}
}

func hasDigest(list []ocispec.Descriptor, d digest.Digest) bool {
	for _, desc := range list {
		if desc.Digest == d {
			return true
		}
	}
	return false
}
