package registry

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// Media types of manifests beside those of the image specification.
const (
	typeDockerManifest = referrerstore.MediaTypeDockerManifest
	typeDockerIndex    = referrerstore.MediaTypeDockerIndex
	typeArtifact       = referrerstore.MediaTypeArtifact
	typeORAS           = referrerstore.MediaTypeORAS
)

const (
	// maxListed bounds what a manifest lists, at more than is ever brought in of an
	// image. Without it a text of many empty objects would decode into many times
	// its size.
	maxListed = 16 << 10
	// maxMediaType bounds what is remembered of a media type: RFC 6838 has 127
	// characters for each half.
	maxMediaType = 255
)

// document is what a manifest is, by its bytes alone.
type document struct {
	// mediaType is what it says of itself; it may say nothing.
	mediaType string
	index     bool
	artifact  bool // of one of the former artifact manifests
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
		return unread(err.Error())
	}
	var p parsed
	var config entry
	var children, layers, blobs entries
	for _, field := range []struct {
		name string
		into any
	}{
		{"mediaType", &p.mediaType}, {"config", &config}, {"manifests", &children}, {"layers", &layers}, {"blobs", &blobs},
	} {
		if raw, ok := found[field.name]; ok {
			if err := json.Unmarshal(raw, field.into); errors.Is(err, errTooMuch) {
				return unread(errTooMuch.Error())
			} else if err != nil {
				return unread("its field " + field.name + " is not of its kind")
			}
		}
	}
	switch {
	case len(p.mediaType) > maxMediaType:
		return unread("its media type is too long")
	case len(children)+len(layers)+len(blobs) >= maxListed: // there may be a config
		return unread(errTooMuch.Error())
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
	p.children = children.descriptors()
	if has("config") {
		p.parts = append(p.parts, config.descriptor())
	}
	p.parts = append(append(p.parts, layers.descriptors()...), blobs.descriptors()...)
	return p
}

// unread is a document of which nothing is known but that it must not go out
// where anything depends on it.
func unread(problem string) parsed { return parsed{document: document{problem: problem}} }

// entry is a descriptor without the fields that would let a short text decode into
// many times its size.
type entry struct {
	MediaType   string            `json:"mediaType"`
	Digest      digest.Digest     `json:"digest"`
	Size        int64             `json:"size"`
	Platform    *ocispec.Platform `json:"platform"`
	Annotations struct {
		Describes string `json:"vnd.docker.reference.digest"`
	} `json:"annotations"`
}

func (e entry) descriptor() ocispec.Descriptor {
	desc := ocispec.Descriptor{MediaType: e.MediaType, Digest: e.Digest, Size: e.Size, Platform: e.Platform}
	if about := e.Annotations.Describes; about != "" {
		desc.Annotations = map[string]string{describes: about}
	}
	return desc
}

// entries is a list of descriptors, decoded one by one, up to a bound.
type entries []entry

var errTooMuch = fmt.Errorf("it lists %d things or more", maxListed)

// UnmarshalJSON implements [json.Unmarshaler].
func (l *entries) UnmarshalJSON(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	open, err := dec.Token()
	if err != nil || open == nil {
		return err
	}
	if open != json.Delim('[') {
		return fmt.Errorf("a list begins with %v", open)
	}
	for dec.More() {
		if len(*l) == maxListed {
			return errTooMuch
		}
		var e entry
		if err := dec.Decode(&e); err != nil {
			return err
		}
		*l = append(*l, e)
	}
	return nil
}

func (l entries) descriptors() []ocispec.Descriptor {
	all := make([]ocispec.Descriptor, len(l))
	for i, e := range l {
		all[i] = e.descriptor()
	}
	return all
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
// unless the config is the empty one, of which nothing can be run. Docker takes
// many a type for that of a config, or layer, if all of them are such.
func runnable(config entry, layers entries) bool {
	if ofImages(config.MediaType) {
		return true
	}
	if empty := []byte("{}"); config.Digest == digest.SHA256.FromBytes(empty) || config.Digest == digest.SHA512.FromBytes(empty) {
		return false
	}
	docker := config.Digest != "" && isVague(config.MediaType) && len(layers) > 0
	for _, layer := range layers {
		mediaType := strings.ToLower(layer.MediaType)
		if strings.Contains(mediaType, ".layer.") || strings.Contains(mediaType, ".rootfs.") {
			return true
		}
		docker = docker && (isVague(mediaType) || ofImages(mediaType))
	}
	return docker
}

// ofImages says whether a media type is one of those made for images.
func ofImages(mediaType string) bool {
	mediaType = strings.ToLower(mediaType)
	return strings.HasPrefix(mediaType, "application/vnd.oci.image.") || strings.HasPrefix(mediaType, "application/vnd.docker.")
}

// isVague says whether a media type, without parameters, is what a registry says
// that does not know.
func isVague(mediaType string) bool {
	switch strings.ToLower(mediaType) {
	case "", "application/octet-stream", "application/json", "text/plain", "text/html":
		return true
	default:
		return false
	}
}

// servedAs is the media type that a document goes out under, by what its registry
// says.
func (d document) servedAs(said string) string {
	base, vague := plainType(said)
	if vague {
		return d.likelyType()
	}
	return base
}

// plainType is a media type without its parameters, and whether it says nothing.
func plainType(said string) (base string, vague bool) {
	base, _, err := mime.ParseMediaType(said)
	return base, err != nil || isVague(base)
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
	case typeArtifact, typeORAS:
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
	case d.mediaType != "" && mediaTypePattern.MatchString(d.mediaType):
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
