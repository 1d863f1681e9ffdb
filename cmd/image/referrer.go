package main

import (
	"encoding/json"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// referrer is a document about an image, attached to it as the OCI image
// specification 1.1 says: a manifest whose subject is the image's.
type referrer struct {
	artifactType string
	subject      v1.Descriptor
	image        v1.Image // the manifest, as the library handles it
	descriptor   v1.Descriptor
}

// document is the content of a referrer.
type document struct {
	kind        string // media type and artifact type
	file        string // what it is called when it is downloaded
	content     []byte
	annotations map[string]string // of the manifest
}

// newReferrer attaches a document to a manifest.
func newReferrer(subject v1.Descriptor, doc document) (referrer, error) {
	subject = v1.Descriptor{MediaType: subject.MediaType, Size: subject.Size, Digest: subject.Digest}
	core := &artifact{config: static.NewLayer([]byte("{}"), types.OCIEmptyJSON), content: static.NewLayer(doc.content, types.MediaType(doc.kind))}
	config, err := partial.Descriptor(core.config)
	if err != nil {
		return referrer{}, err
	}
	content, err := partial.Descriptor(core.content)
	if err != nil {
		return referrer{}, err
	}
	content.Annotations = map[string]string{titleKey: doc.file}
	core.manifest, err = json.Marshal(v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: doc.kind,
		Config: *config, Layers: []v1.Descriptor{*content}, Subject: &subject, Annotations: doc.annotations,
	})
	if err != nil {
		return referrer{}, err
	}
	img, err := partial.CompressedToImage(core)
	if err != nil {
		return referrer{}, err
	}
	desc, err := partial.Descriptor(img)
	if err != nil {
		return referrer{}, err
	}
	desc.ArtifactType, desc.Annotations = doc.kind, doc.annotations
	return referrer{artifactType: doc.kind, subject: subject, image: img, descriptor: *desc}, nil
}

// artifact is what the library needs to know of a manifest with an empty config and
// one blob.
type artifact struct {
	manifest        []byte
	config, content v1.Layer
}

var _ partial.CompressedImageCore = (*artifact)(nil)

// RawConfigFile implements [partial.CompressedImageCore].
func (a *artifact) RawConfigFile() ([]byte, error) { return []byte("{}"), nil }

// MediaType implements [partial.CompressedImageCore].
func (a *artifact) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }

// RawManifest implements [partial.CompressedImageCore].
func (a *artifact) RawManifest() ([]byte, error) { return a.manifest, nil }

// LayerByDigest implements [partial.CompressedImageCore].
func (a *artifact) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	for _, layer := range []v1.Layer{a.config, a.content} {
		if digest, err := layer.Digest(); err == nil && digest == h {
			return layer, nil
		}
	}
	return nil, fmt.Errorf("the manifest has no blob %s", h)
}
