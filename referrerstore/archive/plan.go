package archive

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
)

// step is one object to load, on the word of whoever loads.
type step struct {
	want cache.Want
	from files
}

// place is a digest in a scope.
type place struct {
	scope  cache.Scope
	digest digest.Digest
}

// plan is all that is to be loaded: manifests before what they list, so that what
// comes later is known to belong to something.
type plan struct {
	opts   Options
	steps  []step
	known  map[place]bool
	total  int64 // bytes
	images []Image
	scopes []cache.Scope                  // of the images
	lists  map[place][]ocispec.Descriptor // of referrers, by subject
	absent MissingError
	left   int // roots that belong to no image
}

// newPlan reads an archive's documents, each of which must have its digest.
func newPlan(ctx context.Context, from files, opts Options) (*plan, error) {
	names, err := newNaming(opts.Name)
	if err != nil {
		return nil, err
	}
	roots, err := readRoots(ctx, from)
	if err != nil {
		return nil, err
	}
	roots = slices.DeleteFunc(roots, func(r *root) bool { return !wanted(r, opts.Platforms) })
	if len(roots) == 0 {
		return nil, fmt.Errorf("%w: it has no image that is wanted", ErrNoPlatform)
	}
	if err := nameRoots(roots, names); err != nil {
		return nil, err
	}
	p := &plan{opts: opts, known: make(map[place]bool), lists: make(map[place][]ocispec.Descriptor)}
	if err := p.addRoots(ctx, roots); err != nil {
		return nil, err
	}
	return p, p.absent.orNil()
}

// wanted says whether a root that says its platform is one of those chosen.
func wanted(r *root, platforms []Platform) bool {
	return len(platforms) == 0 || r.platform == nil ||
		matches(platforms, r.platform)
}

// readRoots reads what the archive lists at its top, each digest once.
func readRoots(ctx context.Context, from files) ([]*root, error) {
	images, err := readDocker(from)
	if err != nil {
		return nil, err
	}
	data, err := readFile(from, indexFile)
	switch {
	case err == nil:
		return layoutRoots(from, data, images)
	case isAbsent(err) && len(images) > 0:
		return newDockerLayout(ctx, from, images)
	case isAbsent(err):
		return nil, fmt.Errorf("%w: it has neither %s nor %s", ErrInvalid, indexFile, dockerFile)
	default:
		return nil, err
	}
}

func layoutRoots(from files, data []byte, images []dockerImage) ([]*root, error) {
	if err := checkLayout(from); err != nil {
		return nil, err
	}
	var index document
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrInvalid, indexFile, err)
	}
	byDigest := make(map[digest.Digest]*root)
	var roots []*root
	for _, listed := range index.Manifests {
		desc, err := listed.valid()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", indexFile, err)
		}
		if !referrerstore.IsManifest(desc.MediaType) {
			continue // the image specification: not an error
		}
		r, ok := byDigest[desc.Digest]
		if !ok {
			r = &root{desc: desc, platform: listed.Platform, files: from}
			byDigest[desc.Digest] = r
			roots = append(roots, r)
		}
		r.addNames(listed.Annotations)
	}
	return roots, describe(roots, images)
}

func checkLayout(from files) error {
	data, err := readFile(from, layoutFile)
	if isAbsent(err) {
		return fmt.Errorf("%w: it has %s without %s", ErrInvalid, indexFile, layoutFile)
	}
	if err != nil {
		return err
	}
	var layout ocispec.ImageLayout
	if err := json.Unmarshal(data, &layout); err != nil || layout.Version != ocispec.ImageLayoutVersion {
		return fmt.Errorf("%w: %s: version %q", ErrInvalid, layoutFile, layout.Version)
	}
	return nil
}

// describe finds out what the roots refer to, and what docker calls them.
func describe(roots []*root, images []dockerImage) error {
	names := 0
	for _, r := range roots {
		data, err := readBlob(r.files, r.desc)
		if err != nil {
			return err
		}
		doc, err := parseDocument(data, r.desc.MediaType)
		if err != nil {
			return fmt.Errorf("%s: %w", r.desc.Digest, err)
		}
		if r.subject, err = doc.subject(); err != nil {
			return fmt.Errorf("%s: %w", r.desc.Digest, err)
		}
		for _, image := range images {
			if doc.Config != nil && image.Config == blobPath(digest.Digest(doc.Config.Digest)) {
				r.names = append(r.names, image.RepoTags...)
				names += len(image.RepoTags)
			}
		}
		if names > maxImages {
			return errManyImages
		}
	}
	return nil
}

// nameRoots gives images their names. What refers to others goes where they go.
func nameRoots(roots []*root, names naming) error {
	images := 0
	for _, r := range roots {
		if r.subject == "" {
			images++
		}
	}
	named := false
	for _, r := range roots {
		if r.subject != "" && len(r.names) == 0 {
			continue
		}
		refs, err := names.references(r, images == 1)
		if err != nil {
			return err
		}
		r.refs = refs
		named = named || len(refs) > 0
	}
	if !named {
		return ErrUnnamed
	}
	return nil
}

// addRoots plans the images that have names, and then what refers to
// anything that is planned.
func (p *plan) addRoots(ctx context.Context, roots []*root) error {
	var rest []*root
	for _, r := range roots {
		for _, ref := range r.refs {
			if len(p.images) == maxImages {
				return errManyImages
			}
			if err := p.add(ctx, r, p.scope(ref)); err != nil {
				return err
			}
			p.images = append(p.images, Image{Reference: ref, Descriptor: plain(r.desc)})
		}
		if len(r.refs) == 0 {
			rest = append(rest, r)
		}
	}
	for range maxDepth { // referrers of referrers
		for _, r := range rest {
			for _, scope := range p.scopesOf(r.subject) {
				if err := p.add(ctx, r, scope); err != nil {
					return err
				}
			}
		}
	}
	for _, r := range rest {
		if len(p.scopesOf(r.desc.Digest)) == 0 {
			p.left++
		}
	}
	return nil
}

func (p *plan) scope(ref referrerstore.Reference) cache.Scope {
	scope := cache.Scope{Registry: ref.Registry, Repository: ref.Repository}
	if p.opts.Identity != nil {
		scope.Identity = p.opts.Identity(ref.Registry)
	}
	return scope
}

// scopesOf are the scopes in which a digest is planned, in the order of images.
func (p *plan) scopesOf(d digest.Digest) []cache.Scope {
	var scopes []cache.Scope
	for _, scope := range p.scopes {
		if p.known[place{scope, d}] {
			scopes = append(scopes, scope)
		}
	}
	return scopes
}

func (p *plan) add(ctx context.Context, r *root, scope cache.Scope) error {
	if !slices.Contains(p.scopes, scope) {
		p.scopes = append(p.scopes, scope)
	}
	if err := p.walk(ctx, r.files, scope, r.desc, 0); err != nil {
		return fmt.Errorf("%s: %w", r.desc.Digest, err)
	}
	return nil
}

// walk plans an object and all that it lists.
func (p *plan) walk(ctx context.Context, from files, scope cache.Scope, desc ocispec.Descriptor, depth int) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if p.known[place{scope, desc.Digest}] {
		return nil
	}
	if len(p.steps) == maxObjects || depth > maxDepth {
		return fmt.Errorf("%w: more than %d objects, or %d indexes within each other", ErrInvalid, maxObjects, maxDepth)
	}
	there, err := p.look(from, desc)
	if err != nil || !there {
		return err
	}
	p.known[place{scope, desc.Digest}] = true
	p.total += desc.Size
	want := cache.Want{Scope: scope, Digest: desc.Digest, Kind: kindOf(desc.MediaType), Size: desc.Size}
	if want.Kind == cache.Manifest {
		want.MediaType = desc.MediaType
	}
	p.steps = append(p.steps, step{want: want, from: from})
	if want.Kind == cache.Blob {
		return nil
	}
	return p.walkInto(ctx, from, scope, desc, depth)
}

// look says whether the archive has a file for an object, of the size listed. One
// that it lacks is noted, unless nobody has it.
func (p *plan) look(from files, desc ocispec.Descriptor) (bool, error) {
	f, err := from.open(blobPath(desc.Digest))
	switch {
	case isAbsent(err):
		if !isForeign(desc.MediaType) {
			p.absent.add(fmt.Sprintf("%s (%s)", desc.Digest, desc.MediaType))
		}
		return false, nil
	case err != nil:
		return false, err
	}
	size := f.size()
	if err := f.Close(); err != nil {
		return false, err
	}
	if size != desc.Size {
		return false, fmt.Errorf("%s: %w: %d bytes, listed with %d", desc.Digest, referrerstore.ErrDigestMismatch, size, desc.Size)
	}
	return true, nil
}

func (p *plan) walkInto(ctx context.Context, from files, scope cache.Scope, desc ocispec.Descriptor, depth int) error {
	data, err := readBlob(from, desc)
	if err != nil {
		return err
	}
	doc, err := parseDocument(data, desc.MediaType)
	if err != nil {
		return err
	}
	if err := p.refer(scope, desc, doc); err != nil {
		return err
	}
	if isIndex(desc.MediaType) {
		return p.walkChildren(ctx, from, scope, doc.Manifests, depth)
	}
	for _, part := range doc.parts() {
		child, err := part.valid()
		if err != nil {
			return err
		}
		if referrerstore.IsManifest(child.MediaType) {
			return fmt.Errorf("%w: a manifest lists the manifest %s as its content", ErrInvalid, child.Digest)
		}
		if err := p.walk(ctx, from, scope, child, depth); err != nil {
			return err
		}
	}
	return nil
}

// walkChildren plans the chosen children of an index. Who saves an image commonly
// has one platform of it: where all are meant, those that are there suffice.
func (p *plan) walkChildren(ctx context.Context, from files, scope cache.Scope, listed []descriptor, depth int) error {
	chosen, matched := choose(listed, p.opts.Platforms)
	if !matched {
		return fmt.Errorf("%w: %v", ErrNoPlatform, p.opts.Platforms)
	}
	there := false
	var gone []descriptor
	for _, entry := range chosen {
		child, err := entry.valid()
		if err != nil {
			return err
		}
		if !has(from, child.Digest) {
			gone = append(gone, entry)
			continue
		}
		there = true
		if err := p.walk(ctx, from, scope, child, depth+1); err != nil {
			return err
		}
	}
	for _, entry := range gone {
		if !there || entry.named(p.opts.Platforms) {
			p.absent.add(fmt.Sprintf("%s (%s)", entry.Digest, entry.MediaType))
		}
	}
	return nil
}

func has(from files, d digest.Digest) bool {
	f, err := from.open(blobPath(d))
	return err == nil && f.Close() == nil
}

// refer notes that a manifest refers to another.
func (p *plan) refer(scope cache.Scope, desc ocispec.Descriptor, doc document) error {
	subject, err := doc.subject()
	if err != nil || subject == "" {
		return err
	}
	listed := plain(desc)
	listed.ArtifactType = doc.artifactType()
	if len(listed.ArtifactType) > maxMediaTypeBytes {
		return fmt.Errorf("%w: an artifact type of more than %d bytes", ErrInvalid, maxMediaTypeBytes)
	}
	at := place{scope, subject}
	p.lists[at] = append(p.lists[at], listed)
	return nil
}

func plain(desc ocispec.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size}
}
