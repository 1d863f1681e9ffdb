package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
)

// Source is what Export needs of a [cache.Cache].
type Source interface {
	Get(want cache.Want) (*cache.Content, error)
	Tag(scope cache.Scope, tag string) (cache.Tag, bool)
	Referrers(scope cache.Scope, subject digest.Digest) (listed []ocispec.Descriptor, at time.Time, known bool)
}

var (
	_ Source = (*cache.Cache)(nil)
	_ Into   = (*cache.Cache)(nil)
)

// Item is what to export: a tag or a digest, on the word that its registry gave
// to the identity.
type Item struct {
	Reference referrerstore.Reference
	Identity  string
}

func (i Item) scope() cache.Scope {
	return cache.Scope{Registry: i.Reference.Registry, Repository: i.Reference.Repository, Identity: i.Identity}
}

// ExportOptions of Export. The zero value takes all platforms and no referrers.
type ExportOptions struct {
	// Platforms chooses among the images of an index; none means all that it
	// lists. See the package comment.
	Platforms []Platform
	// Referrers takes along what refers to the images: signatures and the like.
	Referrers bool
	// Progress is told how many bytes of how many are done, now and then and
	// at the end; nil is nobody. It must not block.
	Progress func(done, total int64)
}

// Exported is what was written.
type Exported struct {
	// Images are the items, with what they are.
	Images []Image
	// Objects and Bytes are of all that they consist of.
	Objects int
	Bytes   int64
}

// Export writes what a cache holds of the items as an OCI image layout, which is
// the same, byte for byte, as long as the items and what is held are. If anything
// is not held, it writes nothing and fails with a *MissingError that lists it. Else
// errors are ErrInvalid, ErrNoPlatform, referrerstore.ErrDigestMismatch, those of
// cache and target, or the cause of ctx's end; what was written then is no layout.
func Export(ctx context.Context, from Source, items []Item, to Target, opts ExportOptions) (Exported, error) {
	x := &exporting{from: from, opts: opts, known: make(map[digest.Digest]bool), visited: make(map[place]bool)}
	for _, item := range items {
		if err := x.item(ctx, item); err != nil {
			return Exported{}, fmt.Errorf("export %s: %w", item.Reference, err)
		}
	}
	if err := x.missing.orNil(); err != nil {
		return Exported{}, fmt.Errorf("export: %w", err)
	}
	if err := x.write(ctx, to); err != nil {
		return Exported{}, fmt.Errorf("export: %w", err)
	}
	return Exported{Images: x.images, Objects: len(x.objects), Bytes: x.total}, nil
}

// exporting is what an export found in the cache.
type exporting struct {
	from    Source
	opts    ExportOptions
	objects []cache.Want
	known   map[digest.Digest]bool // in objects
	visited map[place]bool
	total   int64
	images  []Image
	refer   []ocispec.Descriptor // manifests that are in no index
	missing MissingError
}

func (x *exporting) item(ctx context.Context, item Item) error {
	scope, d := item.scope(), item.Reference.Digest
	if d == "" {
		tag, ok := x.from.Tag(scope, item.Reference.Tag)
		if !ok {
			x.missing.add(fmt.Sprintf("the tag %s", item.Reference))
			return nil
		}
		d = tag.Descriptor.Digest
	}
	root, err := x.root(scope, d)
	if err != nil || root.Digest == "" {
		return err
	}
	x.images = append(x.images, Image{Reference: item.Reference, Descriptor: root})
	return x.walk(ctx, scope, root, 0)
}

// root describes a manifest that is held; the zero descriptor if it is not.
func (x *exporting) root(scope cache.Scope, d digest.Digest) (ocispec.Descriptor, error) {
	held, err := x.from.Get(cache.Want{Scope: scope, Digest: d, Kind: cache.Manifest, Size: -1})
	if err != nil {
		return ocispec.Descriptor{}, x.lacks(err, d, "the manifest")
	}
	desc := ocispec.Descriptor{MediaType: held.MediaType(), Digest: d, Size: held.Size()}
	return desc, held.Close()
}

// lacks notes that something is not held, or returns why that is not known.
func (x *exporting) lacks(err error, d digest.Digest, what string) error {
	if errors.Is(err, referrerstore.ErrNotFound) || errors.Is(err, cache.ErrKind) {
		x.missing.add(fmt.Sprintf("%s %s", what, d))
		return nil
	}
	return fmt.Errorf("%s: %w", d, err)
}

// walk takes in an object and all that it lists.
func (x *exporting) walk(ctx context.Context, scope cache.Scope, desc ocispec.Descriptor, depth int) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	at := place{scope, desc.Digest}
	if x.visited[at] {
		return nil
	}
	x.visited[at] = true
	if len(x.visited) > maxObjects || depth > maxDepth {
		return fmt.Errorf("%w: more than %d objects, or %d indexes within each other", ErrInvalid, maxObjects, maxDepth)
	}
	want := cache.Want{Scope: scope, Digest: desc.Digest, Kind: kindOf(desc.MediaType), Size: desc.Size}
	if want.Kind == cache.Manifest {
		want.MediaType = desc.MediaType
	}
	held, err := x.from.Get(want)
	if err != nil {
		if isForeign(desc.MediaType) {
			return nil
		}
		return x.lacks(err, desc.Digest, desc.MediaType)
	}
	if !x.known[desc.Digest] {
		x.known[desc.Digest] = true
		x.objects = append(x.objects, want)
		x.total += desc.Size
	}
	if want.Kind == cache.Blob {
		return held.Close()
	}
	data, err := readManifest(held, desc)
	if err = errors.Join(err, held.Close()); err != nil {
		return fmt.Errorf("%s: %w", desc.Digest, err)
	}
	return x.walkInto(ctx, scope, desc, data, depth)
}

// readManifest reads a manifest that is held, and hashes it once more.
func readManifest(held io.Reader, desc ocispec.Descriptor) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(held, maxDocument+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) != desc.Size || desc.Digest.Algorithm().FromBytes(data) != desc.Digest {
		return nil, referrerstore.ErrDigestMismatch
	}
	return data, nil
}

func (x *exporting) walkInto(ctx context.Context, scope cache.Scope, desc ocispec.Descriptor, data []byte, depth int) error {
	doc, err := parseDocument(data, desc.MediaType)
	if err != nil {
		return fmt.Errorf("%s: %w", desc.Digest, err)
	}
	parts, below := doc.parts(), depth
	if isIndex(desc.MediaType) {
		chosen, matched := choose(doc.Manifests, x.opts.Platforms)
		if !matched {
			return fmt.Errorf("%w: %v of %s", ErrNoPlatform, x.opts.Platforms, desc.Digest)
		}
		parts, below = chosen, depth+1
	}
	for _, part := range parts {
		child, err := part.valid()
		if err != nil {
			return err
		}
		if err := x.walk(ctx, scope, child, below); err != nil {
			return err
		}
	}
	if !x.opts.Referrers {
		return nil
	}
	return x.referrers(ctx, scope, desc, depth)
}

// referrers takes in what is known to refer to a manifest. For what is an image by
// itself that has to be known; of its platforms, and of signatures, nobody may ever
// have asked.
func (x *exporting) referrers(ctx context.Context, scope cache.Scope, subject ocispec.Descriptor, depth int) error {
	listed, _, known := x.from.Referrers(scope, subject.Digest)
	if !known && x.isRoot(subject.Digest) {
		x.missing.add(fmt.Sprintf("the list of what refers to %s", subject.Digest))
	}
	for _, desc := range listed {
		if !slices.ContainsFunc(x.refer, func(d ocispec.Descriptor) bool { return d.Digest == desc.Digest }) {
			entry := plain(desc)
			entry.ArtifactType = desc.ArtifactType
			x.refer = append(x.refer, entry)
		}
		if err := x.walk(ctx, scope, desc, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (x *exporting) isRoot(d digest.Digest) bool {
	return slices.ContainsFunc(x.images, func(i Image) bool { return i.Descriptor.Digest == d })
}

// index lists the images by their names, and behind them what refers to them.
func (x *exporting) index() ocispec.Index {
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	index.SchemaVersion = 2
	for _, image := range x.images {
		desc := image.Descriptor
		desc.Annotations = map[string]string{containerdID: image.Reference.String()}
		if tag := image.Reference.Tag; tag != "" {
			desc.Annotations[ocispec.AnnotationRefName] = tag
		}
		index.Manifests = append(index.Manifests, desc)
	}
	slices.SortFunc(x.refer, func(a, b ocispec.Descriptor) int { return strings.Compare(a.Digest.String(), b.Digest.String()) })
	for _, desc := range x.refer {
		if !x.isRoot(desc.Digest) {
			index.Manifests = append(index.Manifests, desc)
		}
	}
	return index
}
