package registry

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"iter"
	"slices"
	"sync"

	"cuelabs.dev/go/oci/ociregistry"
	"cuelabs.dev/go/oci/ociregistry/ocimem"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// content is the library's registry in memory with an answer to each read made
// once: by itself it hashes content anew for each request and looks through
// all manifests for each list of referrers. It also holds what was planted,
// which the library would not take.
type content struct {
	*ocimem.Registry // takes the writes

	mu      sync.RWMutex // guards the fields that follow it
	held    map[place]held
	lists   map[place][]ocispec.Descriptor
	planted map[place][]ocispec.Descriptor
}

// place is content in a repository. A manifest is no blob, and the other way
// round, as in the library.
type place struct {
	repo     string
	digest   digest.Digest
	manifest bool
}

type held struct {
	desc ocispec.Descriptor
	data []byte
}

func newContent() *content {
	return &content{
		Registry: ocimem.NewWithConfig(&ocimem.Config{LaxChildReferences: true}),
		held:     make(map[place]held),
		lists:    make(map[place][]ocispec.Descriptor),
		planted:  make(map[place][]ocispec.Descriptor),
	}
}

func (c *content) load(ctx context.Context, at place) (held, error) {
	c.mu.RLock()
	h, ok := c.held[at]
	c.mu.RUnlock()
	if ok {
		return h, nil
	}
	c.mu.Lock() // all is in memory: nobody waits long
	defer c.mu.Unlock()
	get := c.Registry.GetBlob
	if at.manifest {
		get = c.Registry.GetManifest
	}
	r, err := get(ctx, at.repo, at.digest)
	if err != nil {
		return held{}, err
	}
	h = held{desc: r.Descriptor(), data: make([]byte, r.Descriptor().Size)}
	if _, err := io.ReadFull(r, h.data); err != nil {
		return held{}, err
	}
	c.held[at] = h
	return h, r.Close()
}

func (c *content) open(ctx context.Context, at place, from, to int64) (ociregistry.BlobReader, error) {
	h, err := c.load(ctx, at)
	if err != nil {
		return nil, err
	}
	size := int64(len(h.data))
	if to < 0 || to > size {
		to = size
	}
	if from < 0 || from > to {
		return nil, ociregistry.ErrRangeInvalid
	}
	return &reader{Reader: bytes.NewReader(h.data[from:to]), desc: h.desc}, nil
}

// reader writes itself in one piece, so that sending needs no buffer.
type reader struct {
	*bytes.Reader
	desc ocispec.Descriptor
}

func (r *reader) Descriptor() ocispec.Descriptor { return r.desc }
func (r *reader) Close() error                   { return nil }

func (c *content) GetBlob(ctx context.Context, repo string, d digest.Digest) (ociregistry.BlobReader, error) {
	return c.open(ctx, place{repo, d, false}, 0, -1)
}

func (c *content) GetBlobRange(ctx context.Context, repo string, d digest.Digest, from, to int64) (ociregistry.BlobReader, error) {
	h, err := c.load(ctx, place{repo, d, false})
	if err == nil && from >= int64(len(h.data)) {
		return nil, ociregistry.ErrRangeInvalid // the library would answer 206 at the very end
	}
	return c.open(ctx, place{repo, d, false}, from, to)
}

func (c *content) GetManifest(ctx context.Context, repo string, d digest.Digest) (ociregistry.BlobReader, error) {
	return c.open(ctx, place{repo, d, true}, 0, -1)
}

func (c *content) GetTag(ctx context.Context, repo, tag string) (ociregistry.BlobReader, error) {
	desc, err := c.ResolveTag(ctx, repo, tag)
	if err != nil {
		return nil, err
	}
	return c.GetManifest(ctx, repo, desc.Digest)
}

func (c *content) ResolveBlob(ctx context.Context, repo string, d digest.Digest) (ocispec.Descriptor, error) {
	h, err := c.load(ctx, place{repo, d, false})
	return h.desc, err
}

func (c *content) ResolveManifest(ctx context.Context, repo string, d digest.Digest) (ocispec.Descriptor, error) {
	h, err := c.load(ctx, place{repo, d, true})
	return h.desc, err
}

// Referrers lists in the order of digests, so that pages follow each other.
func (c *content) Referrers(ctx context.Context, repo string, d digest.Digest, artifactType string) iter.Seq2[ocispec.Descriptor, error] {
	all, err := c.list(ctx, place{repo: repo, digest: d})
	if err != nil {
		return ociregistry.ErrorSeq[ocispec.Descriptor](err)
	}
	return func(yield func(ocispec.Descriptor, error) bool) {
		for _, desc := range all {
			if (artifactType == "" || desc.ArtifactType == artifactType) && !yield(desc, nil) {
				return
			}
		}
	}
}

func (c *content) list(ctx context.Context, of place) ([]ocispec.Descriptor, error) {
	c.mu.RLock()
	all, ok := c.lists[of]
	c.mu.RUnlock()
	if ok {
		return all, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	all, err := ociregistry.All(c.Registry.Referrers(ctx, of.repo, of.digest, ""))
	if err != nil && len(c.planted[of]) == 0 {
		return nil, err
	}
	all = append(all, c.planted[of]...)
	slices.SortStableFunc(all, func(a, b ocispec.Descriptor) int { return cmp.Compare(a.Digest, b.Digest) })
	c.lists[of] = all
	return all, nil
}

func (c *content) PushManifest(ctx context.Context, repo, tag string, data []byte, mediaType string) (ocispec.Descriptor, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.lists)
	delete(c.held, place{repo, digest.FromBytes(data), true}) // its media type may have changed
	return c.Registry.PushManifest(ctx, repo, tag, data, mediaType)
}

func (c *content) DeleteManifest(ctx context.Context, repo string, d digest.Digest) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.lists)
	delete(c.held, place{repo, d, true})
	return c.Registry.DeleteManifest(ctx, repo, d)
}

func (c *content) DeleteBlob(ctx context.Context, repo string, d digest.Digest) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.held, place{repo, d, false})
	return c.Registry.DeleteBlob(ctx, repo, d)
}
