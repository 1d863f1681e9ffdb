package referrerstore

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/semaphore"
)

// Budget bounds the bytes that all workers together hold in memory. Bytes are
// taken before they are read and given back when they are dropped.
//
// To stay free of deadlock a holder never waits: whoever holds bytes takes
// more with TryAcquire or not at all.
type Budget struct {
	size    int64
	perHost int64
	inUse   atomic.Int64
	sem     *semaphore.Weighted

	mu    sync.Mutex // guards the field that follows it
	hosts map[string]*hostShare
}

// hostShare is the part of a budget that is open to one host.
type hostShare struct {
	sem   *semaphore.Weighted
	users int // guarded by Budget.mu
}

// NewBudget makes a budget of size bytes, which must be positive.
func NewBudget(size int64) *Budget { return NewSharedBudget(size, size) }

// NewSharedBudget makes a budget of which no host may take more than perHost
// bytes, so that one that announces much and delivers nothing leaves the rest
// to others. Both must be positive.
func NewSharedBudget(size, perHost int64) *Budget {
	return &Budget{size: size, perHost: min(perHost, size), sem: semaphore.NewWeighted(size), hosts: make(map[string]*hostShare)}
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

// Host opens the share of a host; the caller closes it when all that it took
// is given back. A host is forgotten when nobody has its share open.
func (b *Budget) Host(name string) *HostBudget {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, ok := b.hosts[name]
	if !ok {
		s = &hostShare{sem: semaphore.NewWeighted(b.perHost)}
		b.hosts[name] = s
	}
	s.users++
	return &HostBudget{whole: b, name: name, share: s}
}

// HostBudget is a budget as one host may use it: what it takes counts against
// the host's share and against the whole.
type HostBudget struct {
	whole *Budget
	name  string
	share *hostShare
}

// Size is the host's share in bytes.
func (h *HostBudget) Size() int64 { return h.whole.perHost }

// Acquire is [Budget.Acquire] within the share. It waits for the share before
// the whole, so that those who wait for their host keep nothing from others.
func (h *HostBudget) Acquire(ctx context.Context, n int64) error {
	if n > h.whole.perHost {
		return fmt.Errorf("%w: %d bytes, the share of a host is %d", ErrTooLarge, n, h.whole.perHost)
	}
	if err := h.share.sem.Acquire(ctx, n); err != nil {
		return fmt.Errorf("%w: %w", ErrBusy, context.Cause(ctx))
	}
	if err := h.whole.Acquire(ctx, n); err != nil {
		h.share.sem.Release(n)
		return err
	}
	return nil
}

// TryAcquire is [Budget.TryAcquire] within the share.
func (h *HostBudget) TryAcquire(n int64) bool {
	if !h.share.sem.TryAcquire(n) {
		return false
	}
	if !h.whole.TryAcquire(n) {
		h.share.sem.Release(n)
		return false
	}
	return true
}

// Release gives back n bytes taken before.
func (h *HostBudget) Release(n int64) {
	h.whole.Release(n)
	h.share.sem.Release(n)
}

// Close ends the use of the share, once.
func (h *HostBudget) Close() {
	h.whole.mu.Lock()
	defer h.whole.mu.Unlock()
	if h.share.users--; h.share.users == 0 {
		delete(h.whole.hosts, h.name)
	}
}
