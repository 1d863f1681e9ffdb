package registry

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// describes is the annotation by which an entry of an index, whose own platform is
// unknown, says which other entry it is about.
const describes = "vnd.docker.reference.digest"

// warming is an image that is brought in. It is for one goroutine.
type warming struct {
	q      *request
	chosen func(ocispec.Platform) bool
	known  map[digest.Digest]bool
	done   Warmed
}

// generation is the image itself, or what refers to that before it.
type generation struct {
	number    int
	manifests []digest.Digest
	blobs     []ocispec.Descriptor
}

// run brings in an image whole before anything that refers to it: what anybody may
// attach to it must not keep it from coming.
func (w *warming) run(ctx context.Context) error {
	root, err := w.q.warmRoot(ctx)
	if err != nil {
		return err
	}
	level := []ocispec.Descriptor{root}
	for number := 0; len(level) > 0; number++ {
		g := &generation{number: number}
		for _, desc := range level {
			if err := w.manifest(ctx, g, desc.Digest, 0); err != nil {
				return err
			}
		}
		if err := w.blobs(ctx, g); err != nil {
			return err
		}
		if level = nil; number < maxWarmDepth {
			if level, err = w.referrers(g.manifests); err != nil {
				return err
			}
		}
	}
	return nil
}

// first says whether an object is met for the first time, and counts it.
func (w *warming) first(d digest.Digest) (bool, error) {
	if w.known[d] {
		return false, nil
	}
	if len(w.known) == maxWarmObjects {
		return false, fmt.Errorf("%w: more than %d", ErrTooMuch, maxWarmObjects)
	}
	w.known[d] = true
	return true, nil
}

// manifest brings in a manifest with those that it lists, and notes the blobs.
func (w *warming) manifest(ctx context.Context, g *generation, d digest.Digest, depth int) error {
	first, err := w.first(d)
	if err != nil || !first {
		return err
	}
	doc, err := w.read(ctx, d)
	switch {
	case isMissing(err) && g.number > 0:
		return nil
	case err != nil:
		return err
	}
	g.manifests = append(g.manifests, d)
	root := g.number == 0 && depth == 0
	if w.q.snap.Enforce == EnforceOn && g.number > 0 && doc.runnable {
		return nil // it would not be served
	}
	switch {
	case doc.problem != "" && root:
		return errDocument(doc.problem)
	case doc.problem != "":
		return nil // it may list anything, depending on who reads it
	case doc.index:
		return w.children(ctx, g, doc.children, depth)
	}
	return w.note(g, doc.parts)
}

// read brings in one manifest.
func (w *warming) read(ctx context.Context, d digest.Digest) (parsed, error) {
	want := wantChild(w.q.target.scope, d)
	from := &counted{source: source{w.q.target}}
	content, err := w.q.s.cache.Obtain(ctx, want, from)
	if err != nil {
		return parsed{}, err
	}
	defer content.Close()
	data, release, err := w.q.bytesOf(content)
	if err != nil {
		return parsed{}, err
	}
	defer release()
	if !content.Held() {
		if err := w.q.s.settled(ctx, want, from); err != nil {
			return parsed{}, err
		}
	}
	w.done.Objects++
	w.done.Bytes += int64(len(data))
	return parseDocument(data), nil
}

// children brings in those children of an index that are chosen.
func (w *warming) children(ctx context.Context, g *generation, listed []ocispec.Descriptor, depth int) error {
	children := chooseFrom(listed, w.chosen)
	switch {
	case len(children) > 0 && depth == maxWarmDepth:
		return fmt.Errorf("%w: more than %d indexes within each other", ErrTooMuch, maxWarmDepth)
	case len(children) == 0 && len(listed) > 0 && g.number == 0 && depth == 0:
		return ErrNoPlatform
	}
	for _, child := range children {
		if err := w.manifest(ctx, g, child.Digest, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// chooseFrom are the manifests among the entries of an index that are meant.
func chooseFrom(entries []ocispec.Descriptor, chosen func(ocispec.Platform) bool) []ocispec.Descriptor {
	meant := make(map[digest.Digest]bool)
	for _, e := range entries {
		if e.Platform == nil || chosen(*e.Platform) {
			meant[e.Digest] = true
		}
	}
	var all []ocispec.Descriptor
	for _, e := range entries {
		if referrerstore.IsManifest(e.MediaType) && (meant[e.Digest] || meant[digest.Digest(e.Annotations[describes])]) {
			all = append(all, e)
		}
	}
	return all
}

// note takes in the blobs that a manifest lists.
func (w *warming) note(g *generation, parts []ocispec.Descriptor) error {
	for _, part := range parts {
		first, err := w.first(part.Digest)
		if err != nil {
			return err
		}
		if first {
			g.blobs = append(g.blobs, part)
		}
	}
	return nil
}

// referrers are what refers to the manifests of a generation, after the lists of
// that are noted.
func (w *warming) referrers(of []digest.Digest) ([]ocispec.Descriptor, error) {
	var all []ocispec.Descriptor
	for _, subject := range of {
		listed, err := w.q.about(subject).referrers()
		if err != nil {
			return nil, fmt.Errorf("referrers of %s: %w", subject, err)
		}
		for _, desc := range listed {
			if referrerstore.IsManifest(desc.MediaType) && !w.known[desc.Digest] {
				all = append(all, desc)
			}
		}
		if len(all) > maxWarmObjects {
			return nil, fmt.Errorf("%w: more than %d referrers", ErrTooMuch, maxWarmObjects)
		}
	}
	return all, nil
}
