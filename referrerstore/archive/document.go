package archive

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// descriptor is a content descriptor as it was written: nothing in it is checked.
type descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       string            `json:"digest"`
	Size         int64             `json:"size"`
	ArtifactType string            `json:"artifactType"`
	Annotations  map[string]string `json:"annotations"`
	Platform     *platformField    `json:"platform"`
}

type platformField struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant"`
}

func (p platformField) platform() ocispec.Platform {
	return ocispec.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}
}

const maxMediaTypeBytes = 255 // 127 for each half, RFC 6838

// valid is the descriptor with what identifies content, and its artifact type.
func (d descriptor) valid() (ocispec.Descriptor, error) {
	of, err := referrerstore.ParseDigest(d.Digest)
	switch {
	case err != nil:
		return ocispec.Descriptor{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	case d.Size < 0:
		return ocispec.Descriptor{}, fmt.Errorf("%w: %s has size %d", ErrInvalid, of, d.Size)
	case len(d.MediaType) > maxMediaTypeBytes || len(d.ArtifactType) > maxMediaTypeBytes:
		return ocispec.Descriptor{}, fmt.Errorf("%w: %s has a type of more than %d bytes", ErrInvalid, of, maxMediaTypeBytes)
	}
	return ocispec.Descriptor{MediaType: d.MediaType, Digest: of, Size: d.Size, ArtifactType: d.ArtifactType}, nil
}

// list is a bounded list: without the bound a short text of many empty objects
// would decode into a hundred times its size.
type list[T any] []T

func (l *list[T]) UnmarshalJSON(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	open, err := dec.Token()
	if err != nil || open == nil {
		return err
	}
	if open != json.Delim('[') {
		return fmt.Errorf("a list begins with %v", open)
	}
	for dec.More() {
		if len(*l) == maxObjects {
			return fmt.Errorf("a list has more than %d elements", maxObjects)
		}
		var element T
		if err := dec.Decode(&element); err != nil {
			return err
		}
		*l = append(*l, element)
	}
	return nil
}

// document is an index or a manifest: what it lists, and what it refers to.
type document struct {
	MediaType    string           `json:"mediaType"`
	ArtifactType string           `json:"artifactType"`
	Config       *descriptor      `json:"config"`
	Layers       list[descriptor] `json:"layers"`
	Blobs        list[descriptor] `json:"blobs"` // of the artifact manifests before OCI 1.1
	Manifests    list[descriptor] `json:"manifests"`
	Subject      *descriptor      `json:"subject"`
}

// parseDocument reads what was listed as mediaType. One that says to be something
// else, or that could be read as both an index and a manifest, is refused.
func parseDocument(data []byte, mediaType string) (document, error) {
	var doc document
	if err := json.Unmarshal(data, &doc); err != nil {
		return document{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	leaf := doc.Config != nil || len(doc.Layers)+len(doc.Blobs) > 0
	switch {
	case doc.MediaType != "" && doc.MediaType != mediaType:
		return document{}, fmt.Errorf("%w: it is listed as %q and says to be %q", ErrInvalid, mediaType, doc.MediaType)
	case leaf && isIndex(mediaType), len(doc.Manifests) > 0 && !isIndex(mediaType):
		return document{}, fmt.Errorf("%w: it is listed as %q and has the parts of another kind", ErrInvalid, mediaType)
	}
	return doc, nil
}

// parts are the config, layers and blobs of a manifest.
func (d document) parts() []descriptor {
	var all []descriptor
	if d.Config != nil {
		all = append(all, *d.Config)
	}
	return append(append(all, d.Layers...), d.Blobs...)
}

// subject is the digest that a manifest refers to; empty if none.
func (d document) subject() (digest.Digest, error) {
	if d.Subject == nil {
		return "", nil
	}
	of, err := d.Subject.valid()
	return of.Digest, err
}

// artifactType is what a list of referrers says of the manifest, by the
// distribution specification.
func (d document) artifactType() string {
	if d.ArtifactType == "" && d.Config != nil {
		return d.Config.MediaType
	}
	return d.ArtifactType
}
