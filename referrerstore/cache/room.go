package cache

import "context"

// roomStep is by how much a pull of unknown size takes room.
const roomStep = 8 << 20

// room is what an object on its way takes of the cache's bounds.
type room struct {
	cache *Cache
	taken int64
}

// reserve takes room for an object on its way, for which others may have to go;
// nil if there is none, or the disk takes nothing at this time.
func (c *Cache) reserve(ctx context.Context, size int64) *room {
	r := &room{cache: c}
	if !c.health.ok() || c.scribe == nil || !r.grow(ctx, size) {
		return nil
	}
	return r
}

// grow takes more room, in steps, so that it holds size bytes at least.
func (r *room) grow(ctx context.Context, size int64) bool {
	if size <= r.taken && size > 0 {
		return true
	}
	more := size - r.taken
	if r.taken > 0 {
		more = max(more, roomStep)
	}
	r.cache.arriving.Add(more)
	r.taken += more
	if r.cache.makeRoom(ctx) {
		return true
	}
	r.release()
	return false
}

func (r *room) release() {
	r.cache.arriving.Add(-r.taken)
	r.taken = 0
}

// makeRoom says whether what is held and what arrives is within the bounds; what
// was not used for the longest time goes if it is not.
func (c *Cache) makeRoom(ctx context.Context) bool {
	if c.opts.MaxBytes == 0 && c.opts.MinFreeBytes == 0 {
		return true
	}
	if c.fits() {
		return true
	}
	select { // one at a time: each may drop all that the next one needs
	case c.making <- struct{}{}:
		defer func() { <-c.making }()
	case <-ctx.Done():
		return false
	}
	if c.fits() {
		return true
	}
	arriving := c.arriving.Load()
	if c.opts.MaxBytes > arriving {
		c.newRun(PruneRequest{ToBytes: c.opts.MaxBytes - arriving}, nil).do(ctx) //nolint:errcheck,gosec // what counts is whether it fits now
	}
	if c.opts.MinFreeBytes > 0 {
		c.newRun(PruneRequest{ToFree: c.opts.MinFreeBytes + arriving}, nil).do(ctx) //nolint:errcheck,gosec // likewise
	}
	return c.fits()
}

func (c *Cache) fits() bool {
	arriving := c.arriving.Load()
	if c.opts.MaxBytes > 0 && c.index.bytes.Load()+arriving > c.opts.MaxBytes {
		return false
	}
	if c.opts.MinFreeBytes == 0 {
		return true
	}
	free, _, err := c.folder.Free()
	return err == nil && free-arriving >= c.opts.MinFreeBytes
}
