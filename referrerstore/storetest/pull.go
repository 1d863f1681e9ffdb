package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// maxTags is the role's bound.
const maxTags = 10_000

// Pull is what a method of Puller was asked for.
type Pull struct {
	// Call is the method's name.
	Call      string
	Reference referrerstore.Reference
	// Blob and Offset are for PullBlob, Blob also for HasBlob.
	Blob   digest.Digest
	Offset int64
}

// PullManifest opens a manifest by tag or digest.
func (m *Memory) PullManifest(ctx context.Context, ref referrerstore.Reference) (referrerstore.Pulled, error) {
	m.count(func(c *Counts) { c.PullManifest++ })
	p := Pull{Call: "PullManifest", Reference: ref}
	if err := m.pullFault(ctx, p); err != nil {
		return referrerstore.Pulled{}, err
	}
	desc, data, ok := m.manifest(ref)
	if !ok {
		return referrerstore.Pulled{}, fmt.Errorf("pull %s: %w", ref, referrerstore.ErrNotFound)
	}
	return m.pulled(ctx, p, desc, data, referrerstore.Pulled{MediaType: desc.MediaType, Digest: desc.Digest}), nil
}

// PullBlob opens a blob at an offset; manifests are none. An offset behind the end
// is answered with the whole.
func (m *Memory) PullBlob(ctx context.Context, ref referrerstore.Reference, blob digest.Digest, offset int64) (referrerstore.Pulled, error) {
	m.count(func(c *Counts) { c.PullBlob++ })
	p := Pull{Call: "PullBlob", Reference: ref, Blob: blob, Offset: offset}
	if offset < 0 {
		return referrerstore.Pulled{}, fmt.Errorf("pull %s: there is no offset %d", blob, offset)
	}
	if err := m.pullFault(ctx, p); err != nil {
		return referrerstore.Pulled{}, err
	}
	data, ok := m.blob(ref, blob)
	if !ok {
		return referrerstore.Pulled{}, fmt.Errorf("pull %s: %w", blob, referrerstore.ErrNotFound)
	}
	if offset > int64(len(data)) {
		offset = 0
	}
	desc := ocispec.Descriptor{Digest: blob, Size: int64(len(data))}
	return m.pulled(ctx, p, desc, data, referrerstore.Pulled{Offset: offset}), nil
}

// HasBlob says how large a blob is.
func (m *Memory) HasBlob(ctx context.Context, ref referrerstore.Reference, blob digest.Digest) (int64, error) {
	m.count(func(c *Counts) { c.HasBlob++ })
	if err := m.pullFault(ctx, Pull{Call: "HasBlob", Reference: ref, Blob: blob}); err != nil {
		return 0, err
	}
	data, ok := m.blob(ref, blob)
	if !ok {
		return 0, fmt.Errorf("blob %s: %w", blob, referrerstore.ErrNotFound)
	}
	return int64(len(data)), nil
}

// Tags lists tags in the order of their bytes.
func (m *Memory) Tags(ctx context.Context, ref referrerstore.Reference, n int, last string) (tags []string, more bool, err error) {
	m.count(func(c *Counts) { c.Tags++ })
	if err := m.pullFault(ctx, Pull{Call: "Tags", Reference: ref}); err != nil {
		return nil, false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.repos[ref.Name()]
	if !ok || len(r.content) == 0 {
		return nil, false, fmt.Errorf("tags of %s: %w", ref.Name(), referrerstore.ErrNotFound)
	}
	all := slices.Sorted(maps.Keys(r.tags))
	behind, found := slices.BinarySearch(all, last)
	if found {
		behind++
	}
	all = all[behind:]
	if n <= 0 {
		n = maxTags
	}
	n = min(n, maxTags, len(all))
	return all[:n:n], n < len(all), nil
}

func (m *Memory) pullFault(ctx context.Context, p Pull) error {
	err := fault(ctx, func() error { return call(ctx, m.PullFault, p) })
	if err != nil {
		return fmt.Errorf("%s of %s: %w", p.Call, p.Reference, err)
	}
	return nil
}

func (m *Memory) manifest(ref referrerstore.Reference) (desc ocispec.Descriptor, data []byte, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.repo(ref.Name())
	d := ref.Digest
	if d == "" {
		d = r.tags[ref.Tag]
	}
	desc, ok = r.manifests[d]
	return desc, r.content[d], ok
}

func (m *Memory) blob(ref referrerstore.Reference, blob digest.Digest) ([]byte, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.repo(ref.Name())
	if _, is := r.manifests[blob]; is {
		return nil, false
	}
	data, ok := r.content[blob]
	return data, ok
}

// pulled completes what a pull answers.
func (m *Memory) pulled(ctx context.Context, p Pull, desc ocispec.Descriptor, data []byte, pulled referrerstore.Pulled) referrerstore.Pulled {
	if m.Alter != nil {
		data = m.Alter(desc, data)
	}
	pulled.Size = int64(len(data))
	pulled.Body = &pullBody{ctx: ctx, store: m, pull: p, rest: bytes.NewReader(data[min(pulled.Offset, pulled.Size):])}
	m.count(func(c *Counts) { c.Open++ })
	if m.BendPull != nil {
		m.BendPull(p, &pulled)
	}
	return pulled
}

type pullBody struct {
	ctx   context.Context
	store *Memory
	pull  Pull
	rest  *bytes.Reader
	given int64
	close sync.Once
}

func (b *pullBody) Read(p []byte) (int, error) {
	if err := fault(b.ctx, func() error { return b.fault() }); err != nil {
		return 0, fmt.Errorf("read what %s opened: %w", b.pull.Call, err)
	}
	n, err := b.rest.Read(p)
	b.given += int64(n)
	b.store.count(func(c *Counts) { c.Bytes += int64(n) })
	if err != nil && !errors.Is(err, io.EOF) {
		return n, fmt.Errorf("read what %s opened: %w", b.pull.Call, err)
	}
	return n, err
}

func (b *pullBody) fault() error {
	if b.store.PullReadFault == nil {
		return nil
	}
	return b.store.PullReadFault(b.ctx, b.pull, b.given)
}

func (b *pullBody) Close() error {
	b.close.Do(func() { b.store.count(func(c *Counts) { c.Open-- }) })
	return nil
}
