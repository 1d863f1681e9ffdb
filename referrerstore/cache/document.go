package cache

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// maxListed bounds what a manifest lists. Without it a short text of many empty
// objects would decode into many times its size.
const maxListed = 1000

// reference is a descriptor without the fields that would let a short text decode
// into many times its size.
type reference struct {
	Digest digest.Digest `json:"digest"`
}

// references decodes a list of descriptors one by one, up to a bound. A key that
// a document has twice counts twice.
type references struct {
	all     []digest.Digest
	present bool
}

var errTooManyListed = errors.New("too many descriptors")

func (l *references) UnmarshalJSON(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	open, err := dec.Token()
	if err != nil || open == nil {
		return err
	}
	if open != json.Delim('[') {
		return fmt.Errorf("a list of descriptors begins with %v", open)
	}
	l.present = true
	for dec.More() {
		if len(l.all) == maxListed {
			return errTooManyListed
		}
		var r reference
		if err := dec.Decode(&r); err != nil {
			return err
		}
		l.all = append(l.all, r.Digest)
	}
	return nil
}

// parseDocument reads what an OCI or Docker manifest or index lists. Of what is
// neither, or lists too much, the digest is all that is known.
func parseDocument(data []byte) document {
	var m struct {
		MediaType string     `json:"mediaType"`
		Manifests references `json:"manifests"`
		Config    *reference `json:"config"`
		Layers    references `json:"layers"`
		Blobs     references `json:"blobs"` // of the older artifact manifest
		Subject   *reference `json:"subject"`
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return document{}
	}
	d := document{index: m.Manifests.present}
	if len(m.MediaType) <= maxMediaType {
		d.mediaType = m.MediaType
	}
	d.ambiguous = d.index && (m.Config != nil || m.Layers.present || m.Blobs.present)
	listed := slices.Concat(m.Manifests.all, m.Layers.all, m.Blobs.all)
	if m.Config != nil {
		listed = append(listed, m.Config.Digest)
	}
	if len(listed) > maxListed {
		return document{}
	}
	d.lists = distinct(listed)
	if m.Subject != nil && validDigest(m.Subject.Digest) == nil {
		d.subject = m.Subject.Digest
	}
	return d
}

// maxMediaType bounds what is kept of a media type; real ones are of 127
// characters at most on each side of their slash (RFC 6838).
const maxMediaType = 255

// distinct sorts out what is listed twice or is no digest.
func distinct(all []digest.Digest) []digest.Digest {
	all = slices.DeleteFunc(all, func(d digest.Digest) bool { return validDigest(d) != nil })
	slices.Sort(all)
	return slices.Clip(slices.Compact(all))
}

// validDigest refuses what is no digest of sha256 or sha512 in its canonical form:
// digests become names of files.
func validDigest(d digest.Digest) error {
	const sha256Len, sha512Len = len("sha256:") + 64, len("sha512:") + 128
	text := string(d)
	switch {
	case len(text) == sha256Len && text[:7] == "sha256:":
	case len(text) == sha512Len && text[:7] == "sha512:":
	default:
		return fmt.Errorf("digest %.160q: %w", text, errNoDigest)
	}
	for i := len("sha256:"); i < len(text); i++ {
		if c := text[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return fmt.Errorf("digest %q: %w", text, errNoDigest)
		}
	}
	return nil
}

var errNoDigest = fmt.Errorf("%w: not a digest of sha256 or sha512", referrerstore.ErrProtocol)
