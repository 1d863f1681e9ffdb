package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"golang.org/x/sync/errgroup"
)

const (
	// refNameKey is by which tools choose in a layout: LAYOUT:TAG.
	refNameKey = "org.opencontainers.image.ref.name"
	// containerdKey is the full name, for those that import without being told one.
	containerdKey = "io.containerd.image.name"
)

// release is all that a layout holds.
type release struct {
	opts       options
	src        source
	platforms  []platformImage
	index      v1.ImageIndex
	descriptor v1.Descriptor // of the index
	referrers  []referrer
}

// newRelease makes images of what was compiled, the index over them, and the
// documents about them.
func newRelease(opts options, src source, compiled [][]executable) (*release, error) {
	r := &release{opts: opts, src: src}
	if err := r.makeImages(compiled); err != nil {
		return nil, fmt.Errorf("make the images: %w", err)
	}
	var err error
	if r.index, err = newIndex(opts, src, r.platforms); err != nil {
		return nil, fmt.Errorf("make the index: %w", err)
	}
	desc, err := partial.Descriptor(r.index)
	if err != nil {
		return nil, fmt.Errorf("make the index: %w", err)
	}
	r.descriptor = *desc
	if err := r.attachSBOMs(); err != nil {
		return nil, fmt.Errorf("make the SBOM: %w", err)
	}
	if err := r.attachProvenance(); err != nil {
		return nil, fmt.Errorf("make the provenance: %w", err)
	}
	return r, nil
}

func (r *release) makeImages(compiled [][]executable) error {
	entries, err := baseEntries()
	if err != nil {
		return err
	}
	base, err := newLayer(entries)
	if err != nil {
		return err
	}
	r.platforms = make([]platformImage, len(compiled))
	var group errgroup.Group
	group.SetLimit(2) // compression is what takes time, and a platform's content is in memory
	for i, executables := range compiled {
		group.Go(func() error {
			var err error
			r.platforms[i], err = newPlatformImage(r.opts, r.src, base, r.opts.platforms[i], executables)
			return err
		})
	}
	return group.Wait()
}

// attachSBOMs attaches to each image what is in it, and to the index all of that.
func (r *release) attachSBOMs() error {
	all, err := newBill(r, nil)
	if err != nil {
		return err
	}
	if err := r.attach(r.descriptor, all); err != nil {
		return err
	}
	for i := range r.platforms {
		one, err := newBill(r, &r.platforms[i])
		if err != nil {
			return err
		}
		if err := r.attach(r.platforms[i].descriptor, one); err != nil {
			return err
		}
	}
	return nil
}

// attachProvenance attaches one statement about the index and all images to each.
func (r *release) attachProvenance() error {
	doc, err := newProvenance(r)
	if err != nil {
		return err
	}
	if err := r.attach(r.descriptor, doc); err != nil {
		return err
	}
	for _, p := range r.platforms {
		if err := r.attach(p.descriptor, doc); err != nil {
			return err
		}
	}
	return nil
}

func (r *release) attach(subject v1.Descriptor, doc document) error {
	a, err := newReferrer(subject, doc)
	r.referrers = append(r.referrers, a)
	return err
}

// documentAnnotations are what every attached document says of itself.
func (r *release) documentAnnotations() map[string]string {
	return map[string]string{createdKey: r.src.created.Format(time.RFC3339)}
}

// write writes the layout beside its place and then moves it there, so that nobody
// finds half of one. A layout that is there is replaced; anything else is not.
func (r *release) write(out string) (err error) {
	out = filepath.Clean(out)
	if err := replaceable(out); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil { //nolint:gosec // an image is no secret
		return err
	}
	next, err := os.MkdirTemp(filepath.Dir(out), ".image-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(next)) }() // gone already if all went well
	if _, err := layout.Write(next, r.top()); err != nil {
		return err
	}
	if err := readable(next); err != nil {
		return err
	}
	if err := os.RemoveAll(out); err != nil {
		return err
	}
	return os.Rename(next, out)
}

// readable gives all files one mode: the library's differ.
func readable(dir string) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		mode := fs.FileMode(0o644)
		if err == nil && entry.IsDir() {
			mode = 0o755
		}
		return errors.Join(err, os.Chmod(path, mode)) //nolint:gosec // an image is no secret
	})
}

// top is index.json. The documents stand in it beside the image, without a name: that
// is where clients look for what refers to an image in a layout.
func (r *release) top() v1.ImageIndex {
	adds := []mutate.IndexAddendum{{Add: r.index, Descriptor: v1.Descriptor{Annotations: map[string]string{
		refNameKey: r.src.version, containerdKey: r.opts.name + ":" + r.src.version,
	}}}}
	for _, a := range r.referrers {
		adds = append(adds, mutate.IndexAddendum{Add: a.image, Descriptor: v1.Descriptor{ArtifactType: a.artifactType, Annotations: a.descriptor.Annotations}})
	}
	return mutate.AppendManifests(empty.Index, adds...)
}

// replaceable refuses a folder that is not empty and no layout.
func replaceable(out string) error {
	entries, err := os.ReadDir(out)
	if errors.Is(err, os.ErrNotExist) || (err == nil && len(entries) == 0) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(out, "oci-layout")); err != nil {
		return errors.New("it has files and is no OCI layout; name another folder")
	}
	return nil
}
