package referrerstore

import (
	"context"
	"fmt"
	"sync/atomic"

	"golang.org/x/sync/semaphore"
)

// Budget bounds the bytes that all workers together hold in memory. Bytes are
// taken before they are read and given back when they are dropped.
//
// To stay free of deadlock a holder never waits: whoever holds bytes takes
// more with TryAcquire or not at all.
type Budget struct {
	size  int64
	inUse atomic.Int64
	sem   *semaphore.Weighted
}

// NewBudget makes a budget of size bytes, which must be positive.
func NewBudget(size int64) *Budget {
	return &Budget{size: size, sem: semaphore.NewWeighted(size)}
}

// Acquire waits for n bytes until ctx ends. More than the whole budget is
// ErrTooLarge at once; a wait that ctx ended is ErrBusy.
func (b *Budget) Acquire(ctx context.Context, n int64) error {
	if n > b.size {
		return fmt.Errorf("%w: %d bytes, the whole budget is %d", ErrTooLarge, n, b.size)
	}
	if err := b.sem.Acquire(ctx, n); err != nil {
		return fmt.Errorf("%w: %w", ErrBusy, context.Cause(ctx))
	}
	b.inUse.Add(n)
	return nil
}

// TryAcquire takes n bytes if they are free now.
func (b *Budget) TryAcquire(n int64) bool {
	if !b.sem.TryAcquire(n) {
		return false
	}
	b.inUse.Add(n)
	return true
}

// Release gives back n bytes taken before.
func (b *Budget) Release(n int64) {
	b.inUse.Add(-n)
	b.sem.Release(n)
}

// InUse is the number of bytes taken at this moment.
func (b *Budget) InUse() int64 { return b.inUse.Load() }

// Size is the whole budget in bytes.
func (b *Budget) Size() int64 { return b.size }
