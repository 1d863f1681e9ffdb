package registry

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
)

// blobs brings in what note took in.
func (w *warming) blobs(ctx context.Context, g *generation) error {
	there := make([]bool, len(g.blobs))
	group, within := errgroup.WithContext(ctx)
	group.SetLimit(blobsAtOnce)
	for i, desc := range g.blobs {
		if within.Err() != nil {
			break
		}
		group.Go(func() error {
			err := w.q.warmBlob(within, desc)
			if there[i] = err == nil; isMissing(err) && (g.number > 0 || isForeign(desc.MediaType)) {
				return nil
			}
			return err
		})
	}
	err := group.Wait()
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	for i, desc := range g.blobs {
		if there[i] {
			w.done.Objects++
			w.done.Bytes += desc.Size
		}
	}
	return err
}

// isForeign says whether a layer is one that registries need not have.
func isForeign(mediaType string) bool {
	return strings.Contains(mediaType, ".nondistributable.") || strings.Contains(mediaType, ".foreign.")
}

// warmBlob brings in one blob: it is read to its end, as by whoever pulls it.
func (q *request) warmBlob(ctx context.Context, desc ocispec.Descriptor) error {
	want := cache.Want{Scope: q.target.scope, Digest: desc.Digest, Kind: cache.Blob, Size: q.sizeOf(desc.Digest)}
	from := &counted{source: source{q.target}}
	content, err := q.s.cache.Obtain(ctx, want, from)
	if err != nil {
		return err
	}
	defer content.Close()
	size := content.Size()
	if !content.Held() {
		if size, err = io.Copy(io.Discard, io.LimitReader(content, desc.Size+1)); err != nil {
			return fmt.Errorf("read %s: %w", desc.Digest, err)
		}
	}
	if size != desc.Size {
		return fmt.Errorf("%s: %w: it does not have the %d bytes with which it is listed", desc.Digest, referrerstore.ErrDigestMismatch, desc.Size)
	}
	if content.Held() {
		return nil
	}
	return q.s.settled(ctx, want, from)
}

// settled waits until what was read whole is held: the disk is a little behind its
// readers. If the cache asks for it anew, it did not keep it.
func (s *Registry) settled(ctx context.Context, want cache.Want, from *counted) error {
	const longest = 50 * time.Millisecond
	before := from.pulls.Load()
	for pause := time.Millisecond; ; pause = min(2*pause, longest) {
		content, err := s.cache.Obtain(ctx, want, from)
		if err != nil {
			return err
		}
		held := content.Held()
		switch err := content.Close(); {
		case err != nil || held:
			return err
		case from.pulls.Load() != before:
			return fmt.Errorf("%s: %w", want.Digest, ErrNotKept)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// counted is a source that notes how often it is pulled from.
type counted struct {
	source
	pulls atomic.Int32
}

// Pull implements cache.Source.
func (c *counted) Pull(ctx context.Context, want cache.Want, offset int64) (referrerstore.Pulled, error) {
	c.pulls.Add(1)
	return c.source.Pull(ctx, want, offset)
}
