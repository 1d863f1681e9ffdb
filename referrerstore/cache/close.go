package cache

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// closeTime bounds how long Close waits for a disk that is slow.
const closeTime = 10 * time.Second

// begin starts all that goes on in the background.
func (c *Cache) begin() {
	c.loops.Go(func() { c.probeLoop(c.ctx) })
	c.loops.Go(func() { c.pruneLoop(c.ctx) })
	if c.scribe == nil {
		close(c.writer.done)
		return
	}
	// What was answered for is brought to the disk though the context ends.
	last := context.WithoutCancel(c.ctx)
	writing, stop := context.WithCancel(last) //nolint:gosec // Close calls it
	c.writer.stop = stop
	go c.scribe.run(last)
	go c.writeLoop(writing)
	c.loops.Go(func() { c.flushLoop(c.ctx) })
	c.loops.Go(func() { c.scrubLoop(c.ctx) })
}

// Close brings to disk what is not there yet, for at most ten seconds, and ends
// all background work, pulls, and a Prune or Scrub that is under way, which it waits
// for. Readers of what is held finish. What it could not
// write is an error, and lost to the next start.
func (c *Cache) Close() error { return c.close() }

func (c *Cache) shut() error {
	c.closed.Store(true)
	c.pullsUnderWay.mu.Lock()
	c.pullsUnderWay.closed = true
	c.pullsUnderWay.mu.Unlock()
	c.cancel(ErrClosed)
	c.pullsUnderWay.running.Wait()
	c.confirms.Close()
	c.loops.Wait()
	err := c.settleAll()
	c.metrics.unregister()
	if err = errors.Join(err, c.unlock()); err != nil {
		return fmt.Errorf("close cache: %w", err)
	}
	return nil
}

// during has something end with the cache that was begun from outside and changes
// the folder, and Close wait for it until done: the folder is another's then.
func (c *Cache) during(ctx context.Context) (within context.Context, done func(), err error) {
	all := &c.pullsUnderWay
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.closed {
		return nil, nil, ErrClosed
	}
	all.running.Add(1)
	within, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(c.ctx, func() { cancel(context.Cause(c.ctx)) })
	return within, func() {
		stop()
		cancel(nil)
		all.running.Done()
	}, nil
}

// settleAll brings all to the disk that is to survive.
func (c *Cache) settleAll() error {
	if c.scribe == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), closeTime)
	defer cancel()
	context.AfterFunc(ctx, c.writer.stop)
	c.writer.close()
	err := c.flush(ctx, 0)
	if err = errors.Join(err, c.scribe.close()); err != nil {
		return err
	}
	if !c.health.ok() || c.unproven() {
		return nil // the next start hashes what it hands out
	}
	return c.writeFile(cleanFile, c.mark())
}

// unproven says whether there is anything that was not hashed since an unclean
// end.
func (c *Cache) unproven() (any bool) {
	c.index.each(func(e *entry) bool {
		any = !e.proven.Load()
		return !any
	})
	return any
}

func (c *Cache) mark() string {
	if c.fast {
		return markFast + " " + c.boot
	}
	return markFull + " " + c.boot
}
