// Package archive carries images in and out of a content cache as files: OCI image
// layouts (a folder, or a tarball, also gzip-compressed) and what docker save
// writes.
//
// [Open] opens what is there, [Load] brings its images into a cache under the
// names that they have, or that it is told. [Export] writes images of a cache as an
// OCI image layout, to a folder or a tarball, the same bytes each time.
//
//   - files.go, tarball.go: reading by name, from a folder or a tarball.
//   - document.go: indexes and manifests, read within bounds.
//   - docker.go: what docker save wrote before it wrote layouts.
//   - names.go: what the images of an archive are called.
//   - plan.go: what there is to load; load.go: loading it.
//   - export.go: what there is to write; write.go: writing it.
//   - platform.go: choosing among the platforms of an image.
//
// An archive is hostile: its entries, names, documents and their depth are bounded
// before they are believed, no name leads out of it, and no byte is kept that does
// not have the digest by which it is listed.
//
// An index is never changed by a choice of platforms: its digest is what was
// signed. It stays as it is, and of what it lists only the chosen children are
// loaded or written. Whoever pulls another platform later has to be given it from
// elsewhere.
package archive

import (
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
)

const (
	// maxObjects bounds the manifests and blobs of an archive, counted once for
	// each repository.
	maxObjects = 10_000
	// maxImages bounds the names of an archive's images.
	maxImages = 1000
	// maxDepth bounds indexes within indexes, and referrers of referrers.
	maxDepth = 4
	// maxDocument bounds what is parsed: an index, a manifest, or docker's list.
	maxDocument = cache.MaxManifest
	// maxEntries and maxNameBytes bound a tarball's table of contents, which is
	// held in memory. Of an image docker save writes four entries a layer.
	maxEntries   = 4 * maxObjects
	maxNameBytes = 512
	// maxUnpacked bounds what a compressed tarball unpacks to, if the options
	// set no bound.
	maxUnpacked = 64 << 30
	// maxMade bounds the manifests that are made for what docker saved without.
	maxMade = 64 << 20

	layoutFile   = "oci-layout"
	indexFile    = "index.json"
	dockerFile   = "manifest.json"
	blobsFolder  = "blobs"
	containerdID = "io.containerd.image.name"
)

var (
	// ErrInvalid says that the archive is none, or not of a kind that is read
	// here, or beyond a bound. No other try will help.
	ErrInvalid = errors.New("archive: not a valid archive")
	// ErrUnnamed says that no image of the archive has a full name: one has to be
	// given.
	ErrUnnamed = errors.New("archive: no image has a full name")
	// ErrAmbiguous says that the name that was given is that of one image, and
	// that the archive has several.
	ErrAmbiguous = errors.New("archive: one name for several images")
	// ErrNoPlatform says that an index lists nothing for the chosen platforms.
	ErrNoPlatform = errors.New("archive: not there for the platform")
	// ErrMissing says that an archive, or a cache, lacks what its images list.
	// See [MissingError].
	ErrMissing = errors.New("archive: incomplete")
	// ErrNotKept says that the cache did not keep what was loaded into it: its
	// disk is full or failing.
	ErrNotKept = errors.New("archive: the cache did not keep it")
)

var errManyImages = fmt.Errorf("%w: more than %d images", ErrInvalid, maxImages)

// MissingError is ErrMissing with what is missing.
type MissingError struct {
	// What is missing, each in words with its digest; at most 1,000.
	What []string
	// Number is how many there are.
	Number int
}

const maxMissing = 1000

func (e *MissingError) Error() string {
	const shown = 5
	text := strings.Join(e.What[:min(shown, len(e.What))], ", ")
	if e.Number > shown {
		text += fmt.Sprintf(" and %d more", e.Number-shown)
	}
	return fmt.Sprintf("%v: %s", ErrMissing, text)
}

// Unwrap is ErrMissing.
func (e *MissingError) Unwrap() error { return ErrMissing }

// add notes what is missing. Who listed it chose some of the words, and they are
// shown at a terminal.
func (e *MissingError) add(what string) {
	if e.Number++; len(e.What) < maxMissing {
		e.What = append(e.What, strings.Map(printable, what))
	}
}

func printable(r rune) rune {
	if !unicode.IsPrint(r) {
		return '?'
	}
	return r
}

// orNil is nil if nothing is missing.
func (e *MissingError) orNil() error {
	if e.Number == 0 {
		return nil
	}
	return e
}

const (
	mediaTypeDockerConfig   = "application/vnd.docker.container.image.v1+json"
	mediaTypeDockerLayer    = "application/vnd.docker.image.rootfs.diff.tar"
	mediaTypeDockerLayerZip = "application/vnd.docker.image.rootfs.diff.tar.gzip"
)

func isIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == referrerstore.MediaTypeDockerIndex
}

func kindOf(mediaType string) cache.Kind {
	if referrerstore.IsManifest(mediaType) {
		return cache.Manifest
	}
	return cache.Blob
}

// isForeign says whether a layer is one that need not be handed on: registries do
// not have it either.
func isForeign(mediaType string) bool {
	return strings.Contains(mediaType, ".nondistributable.") || strings.Contains(mediaType, ".foreign.")
}

// blobPath is where a layout keeps content.
func blobPath(d digest.Digest) string {
	return blobsFolder + "/" + d.Algorithm().String() + "/" + d.Encoded()
}
