package executor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/verifier"
)

// maxLayers bounds the layers of an artifact's manifest. Without it a short
// text of many empty objects would decode into thirty times its size.
const maxLayers = 256

// content reads one artifact for all its verifiers: each thing once, every
// byte taken from the budget before it is read and given back by release.
type content struct {
	ctx      context.Context //nolint:containedctx // one artifact's reading, shared by its verifiers
	from     referrerstore.Fetcher
	subject  referrerstore.Subject
	budget   *referrerstore.HostBudget
	tracer   tracer
	manifest func() (verifier.Manifest, error)

	mu    sync.Mutex // guards the fields that follow it
	held  int64
	blobs map[digest.Digest]func() ([]byte, error)
}

func (e *Executor) newContent(ctx context.Context, from referrerstore.Fetcher, subject referrerstore.Subject, artifact ocispec.Descriptor) *content {
	c := &content{ctx: ctx, from: from, subject: subject, budget: e.opts.Budget.Host(subject.Reference.Registry), tracer: e.tracer, blobs: make(map[digest.Digest]func() ([]byte, error))}
	c.manifest = sync.OnceValues(func() (verifier.Manifest, error) {
		return c.readManifest(artifact, e.opts.ManifestBytes)
	})
	return c
}

// Manifest implements [verifier.Content].
func (c *content) Manifest(context.Context) (verifier.Manifest, error) { return c.manifest() }

// Blob implements [verifier.Content].
func (c *content) Blob(_ context.Context, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	if desc.Size < 0 || desc.Size > limit {
		return nil, fmt.Errorf("blob %s: %w: %d bytes, at most %d", desc.Digest, referrerstore.ErrTooLarge, desc.Size, limit)
	}
	c.mu.Lock()
	read, ok := c.blobs[desc.Digest]
	if !ok {
		read = sync.OnceValues(func() ([]byte, error) { return c.readBlob(desc) })
		c.blobs[desc.Digest] = read
	}
	c.mu.Unlock()
	return read()
}

// readManifest gives its bytes back as soon as they are parsed, so that the
// artifact holds none when it comes to wait for its blob's.
func (c *content) readManifest(desc ocispec.Descriptor, limit int64) (verifier.Manifest, error) {
	if desc.Size < 0 || desc.Size > limit {
		return verifier.Manifest{}, fmt.Errorf("manifest %s: %w: %d bytes, at most %d", desc.Digest, referrerstore.ErrTooLarge, desc.Size, limit)
	}
	if err := c.acquire(desc.Size); err != nil {
		return verifier.Manifest{}, err
	}
	defer c.budget.Release(desc.Size)
	data, err := c.read(desc, limit)
	if err != nil {
		return verifier.Manifest{}, err
	}
	return parseManifest(data, c.subject.Descriptor.Digest)
}

func (c *content) readBlob(desc ocispec.Descriptor) ([]byte, error) {
	if err := c.take(desc.Size); err != nil {
		return nil, err
	}
	return c.read(desc, desc.Size)
}

// read reads content whole, once more if it breaks off: the store tries again
// what was not answered, but cannot take back what it has handed out.
func (c *content) read(desc ocispec.Descriptor, limit int64) ([]byte, error) {
	data, err := referrerstore.ReadAll(c.ctx, c.from, c.subject, desc, limit)
	if errors.Is(err, referrerstore.ErrBrokenOff) && c.ctx.Err() == nil {
		data, err = referrerstore.ReadAll(c.ctx, c.from, c.subject, desc, limit)
	}
	return data, err
}

// take draws on the budget. Only an artifact that holds nothing may wait: two
// that each hold a part and wait for the other's would wait for ever.
func (c *content) take(n int64) error {
	c.mu.Lock()
	first := c.held == 0
	c.held += n
	c.mu.Unlock()
	if first {
		if err := c.acquire(n); err != nil {
			c.forget(n)
			return err
		}
		return nil
	}
	if !c.budget.TryAcquire(n) {
		c.forget(n)
		return fmt.Errorf("%w: an artifact of several blobs", referrerstore.ErrBusy)
	}
	return nil
}

// acquire waits for bytes of the budget; only a wait that is one has a span.
func (c *content) acquire(n int64) error {
	if c.budget.TryAcquire(n) {
		return nil
	}
	ctx, span := c.tracer.start(c.ctx, "wait for memory")
	err := c.budget.Acquire(ctx, n)
	failed(span, Result{}, err)
	span.End()
	return err
}

func (c *content) forget(n int64) {
	c.mu.Lock()
	c.held -= n
	c.mu.Unlock()
}

// release gives everything back; nothing may be read afterwards.
func (c *content) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.budget.Release(c.held)
	c.held = 0
	c.budget.Close()
}

// descriptor is a content descriptor without the fields that would let a short
// text decode into many times its size: URLs, annotations, platforms, data.
type descriptor struct {
	MediaType string        `json:"mediaType"`
	Digest    digest.Digest `json:"digest"`
	Size      int64         `json:"size"`
}

func (d descriptor) descriptor() ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
}

// layers decodes a list of descriptors one by one, up to a bound.
type layers []ocispec.Descriptor

func (l *layers) UnmarshalJSON(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	open, err := dec.Token()
	if err != nil || open == nil {
		return err
	}
	if open != json.Delim('[') {
		return fmt.Errorf("a list of descriptors begins with %v", open)
	}
	for dec.More() {
		if len(*l) == maxLayers {
			return fmt.Errorf("%w: more than %d layers", referrerstore.ErrTooLarge, maxLayers)
		}
		var d descriptor
		if err := dec.Decode(&d); err != nil {
			return err
		}
		*l = append(*l, d.descriptor())
	}
	return nil
}

// parseManifest reads an OCI image manifest (image-spec 1.1) or an artifact
// manifest of its release candidates, and checks that it names the subject.
// What it returns is smaller than data, but for a fixed sum.
func parseManifest(data []byte, subject digest.Digest) (verifier.Manifest, error) {
	var m struct {
		ArtifactType string      `json:"artifactType"`
		Config       descriptor  `json:"config"`
		Layers       layers      `json:"layers"`
		Blobs        layers      `json:"blobs"`
		Subject      *descriptor `json:"subject"`
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return verifier.Manifest{}, fmt.Errorf("%w: %w", verifier.ErrNotReferrer, err)
	}
	if m.Subject == nil || m.Subject.Digest != subject {
		return verifier.Manifest{}, verifier.ErrNotReferrer
	}
	return verifier.Manifest{
		ArtifactType: m.ArtifactType,
		Config:       m.Config.descriptor(),
		Layers:       append(m.Layers, m.Blobs...),
	}, nil
}
