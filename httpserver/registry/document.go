package registry

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types of manifests beside those of the image specification.
const (
	typeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	typeDockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
	typeArtifact       = "application/vnd.oci.artifact.manifest.v1+json"
	typeDockerConfig   = "application/vnd.docker.container.image.v1+json"
)

// document is what a manifest is, by its bytes alone.
type document struct {
	// mediaType is what it says of itself; it may say nothing.
	mediaType string
	index     bool
	artifact  bool // of the former artifact manifest
	// runnable says that a node might run it as an image.
	runnable bool
	// problem is why it could be taken for two things, empty if it could not.
	problem string
}

// parsed is a document with what it lists.
type parsed struct {
	document
	children []ocispec.Descriptor // manifests
	parts    []ocispec.Descriptor // blobs, the config first
}

// fields are the parts of a manifest that decide on what it is.
var fields = [...]string{"mediaType", "manifests", "config", "layers", "blobs", "fsLayers", "subject", "artifactType"} //nolint:gochecknoglobals // a constant table

// parseDocument looks at a manifest as a careful reader does: what careless ones
// read differently is a problem.
func parseDocument(data []byte) parsed {
	found, err := members(data)
	if err != nil {
		return parsed{document: document{problem: err.Error()}}
	}
	var p parsed
	var config ocispec.Descriptor
	var layers, blobs []ocispec.Descriptor
	for _, field := range []struct {
		name string
		into any
	}{
		{"mediaType", &p.mediaType}, {"config", &config}, {"manifests", &p.children}, {"layers", &layers}, {"blobs", &blobs},
	} {
		raw, ok := found[field.name]
		if ok && json.Unmarshal(raw, field.into) != nil {
			p.problem = "its field " + field.name + " is not of its kind"
			return p
		}
	}
	has := func(name string) bool { _, ok := found[name]; return ok }
	p.index = has("manifests")
	p.artifact = has("blobs")
	image := has("config") || has("layers")
	switch {
	case p.index && has("layers"):
		p.problem = "it has both manifests and layers"
	case has("fsLayers") || (p.index && (image || p.artifact)) || (p.artifact && image):
		p.problem = "it has the fields of two kinds of manifest"
	case !p.index && !image && !p.artifact:
		p.problem = "it lists nothing"
	}
	p.runnable = image && runnable(config, layers)
	if has("config") {
		p.parts = append(p.parts, config)
	}
	p.parts = append(append(p.parts, layers...), blobs...)
	return p
}

// members are the fields of a JSON object that decide, each at most once and
// spelled as the specification does.
func members(data []byte) (map[string]json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("it is no JSON object")
	}
	found := make(map[string]json.RawMessage, len(fields))
	for dec.More() {
		t, err := dec.Token()
		name, _ := t.(string)
		var value json.RawMessage
		if err != nil || dec.Decode(&value) != nil {
			return nil, errors.New("it is no JSON object")
		}
		for _, field := range fields {
			if !strings.EqualFold(name, field) {
				continue
			}
			if _, twice := found[field]; twice || name != field {
				return nil, fmt.Errorf("its field %s stands there twice or under another spelling", field)
			}
			found[field] = value
		}
	}
	if _, err := dec.Token(); err != nil {
		return nil, errors.New("it is no JSON object")
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows its JSON object")
	}
	return found, nil
}

// runnable says whether a node could make a container of it. Some container
// runtimes do not look at the type of the config, so layers of images are enough,
// unless the config is the empty one, of which nothing can be run.
func runnable(config ocispec.Descriptor, layers []ocispec.Descriptor) bool {
	if config.MediaType == ocispec.MediaTypeImageConfig || config.MediaType == typeDockerConfig {
		return true
	}
	if empty := []byte("{}"); config.Digest == digest.SHA256.FromBytes(empty) || config.Digest == digest.SHA512.FromBytes(empty) {
		return false
	}
	for _, layer := range layers {
		if strings.Contains(layer.MediaType, ".layer.") || strings.Contains(layer.MediaType, ".rootfs.") {
			return true
		}
	}
	return false
}

// conflict says why a document must not go out under a media type, given the one
// that was verified, empty if that is not known; empty if it may.
func (d document) conflict(served, verified string) string {
	switch {
	case d.problem != "":
		return d.problem
	case d.mediaType != "" && d.mediaType != served:
		return fmt.Sprintf("it says that it is %s and comes as %s", d.mediaType, served)
	case verified != "" && verified != served:
		return fmt.Sprintf("it was verified as %s and comes as %s", verified, served)
	}
	var fits bool
	switch served {
	case ocispec.MediaTypeImageIndex, typeDockerIndex:
		fits = d.index
	case ocispec.MediaTypeImageManifest, typeDockerManifest:
		fits = !d.index && !d.artifact
	case typeArtifact:
		fits = d.artifact
	default:
		return fmt.Sprintf("its media type %s is not known", served)
	}
	if !fits {
		return "it is not what its media type says"
	}
	return ""
}

// likelyType is the media type of a document of which nobody says one.
func (d document) likelyType() string {
	switch {
	case d.mediaType != "" && len(d.mediaType) < 256 && mediaTypePattern.MatchString(d.mediaType):
		return d.mediaType
	case d.index:
		return ocispec.MediaTypeImageIndex
	default:
		return ocispec.MediaTypeImageManifest
	}
}

// sizeOf is the size that the document lists a digest with, -1 if it does not, or
// says different things.
func (p parsed) sizeOf(d digest.Digest) int64 {
	size := int64(-1)
	for _, all := range [][]ocispec.Descriptor{p.children, p.parts} {
		for _, listed := range all {
			if listed.Digest != d {
				continue
			}
			if listed.Size < 0 || (size >= 0 && listed.Size != size) {
				return -1
			}
			size = listed.Size
		}
	}
	return size
}
