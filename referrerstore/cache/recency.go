package cache

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	// staleRecency is by how much the journal may be behind: a crash loses as much
	// of what is known about when things were pulled.
	staleRecency = time.Hour
	// recencyBatch bounds the objects of one record.
	recencyBatch = 1024
)

// flushLoop brings to the disk now and then when things were pulled last. Nothing
// is written when they are.
func (c *Cache) flushLoop(ctx context.Context) {
	tick := time.NewTicker(c.opts.FlushInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := c.flush(ctx, staleRecency); err != nil && ctx.Err() == nil {
			c.log.Debug("flush recency", slog.Any("error", err))
		}
	}
}

// flush brings to the journal when roots, and what is leased, were pulled last, of
// those of which it is behind by so much or more; 0 is all that differ. What it could not write it
// tries again the next time.
func (c *Cache) flush(ctx context.Context, behind time.Duration) error {
	if c.scribe == nil {
		return nil
	}
	f := flushing{cache: c, behind: max(1, seconds(behind)), times: make(map[digest.Digest]int64, recencyBatch)}
	f.leased = c.now().Unix() - seconds(c.opts.Lease)
	c.index.each(func(e *entry) bool {
		f.add(ctx, e)
		return f.err == nil
	})
	f.write(ctx)
	if f.err != nil {
		return fmt.Errorf("flush recency: %w", f.err)
	}
	return nil
}

type flushing struct {
	cache  *Cache
	behind int64 // seconds
	leased int64 // since when what is listed counts by itself
	times  map[digest.Digest]int64
	of     []*entry
	err    error
}

func (f *flushing) add(ctx context.Context, e *entry) {
	pulled := e.pulled.Load()
	if differ := pulled - e.stamped.Load(); differ < f.behind && -differ < f.behind {
		return
	}
	if _, listed := f.cache.index.listed(e.digest); listed && pulled < f.leased {
		return // it goes with what lists it
	}
	f.times[e.digest] = pulled
	f.of = append(f.of, e)
	if len(f.of) >= recencyBatch {
		f.write(ctx)
	}
}

func (f *flushing) write(ctx context.Context) {
	if len(f.of) == 0 || f.err != nil {
		return
	}
	if f.err = f.cache.commit(ctx, record{Kind: recordPulled, Times: f.times}); f.err != nil {
		return
	}
	for _, e := range f.of {
		e.stamped.Store(f.times[e.digest])
	}
	f.of = f.of[:0]
	clear(f.times)
}
