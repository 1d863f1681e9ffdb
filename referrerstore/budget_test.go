package referrerstore_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

func TestBudgetIsNeverExceeded(t *testing.T) {
	t.Parallel()
	const size = 100
	b := referrerstore.NewBudget(size)
	var held, most atomic.Int64
	var wg sync.WaitGroup
	for worker := range 16 {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(worker)))
			for range 300 {
				n := random.Int64N(size) + 1
				if worker%2 == 0 {
					if err := b.Acquire(t.Context(), n); err != nil {
						t.Error(err)
						return
					}
				} else if !b.TryAcquire(n) {
					continue
				}
				now := held.Add(n)
				for old := most.Load(); now > old && !most.CompareAndSwap(old, now); old = most.Load() {
				}
				if used := b.InUse(); now > size || used > size || used < n {
					t.Errorf("held %d, in use %d of %d", now, used, size)
				}
				runtime.Gosched()
				held.Add(-n)
				b.Release(n)
			}
		})
	}
	wg.Wait()
	if b.InUse() != 0 || b.Size() != size || most.Load() == 0 {
		t.Errorf("at the end %d in use of %d, most %d", b.InUse(), b.Size(), most.Load())
	}
	if !b.TryAcquire(size) {
		t.Error("the whole budget is not free again")
	}
}

func TestBudgetBounds(t *testing.T) {
	t.Parallel()
	b := referrerstore.NewBudget(10)
	if err := b.Acquire(t.Context(), 10); err != nil {
		t.Fatal(err)
	}
	if b.TryAcquire(1) {
		t.Error("more than there is")
	}
	// What can never fit does not wait for the rest to come back.
	if err := b.Acquire(t.Context(), 11); !errors.Is(err, referrerstore.ErrTooLarge) || errors.Is(err, referrerstore.ErrBusy) {
		t.Error(err)
	}
	if b.InUse() != 10 {
		t.Errorf("in use %d", b.InUse())
	}
	b.Release(10)
	if b.TryAcquire(11) || !b.TryAcquire(10) {
		t.Error("try at the bound")
	}
}

func TestBudgetWaitsUntilContextEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := referrerstore.NewBudget(10)
		if !b.TryAcquire(8) {
			t.Fatal("not free")
		}
		gone := errors.New("caller has gone")
		ctx, cancel := context.WithCancelCause(t.Context())
		results := make(chan error, 2)
		go func() { results <- b.Acquire(ctx, 5) }()
		synctest.Wait()
		cancel(gone)
		if err := <-results; !errors.Is(err, referrerstore.ErrBusy) || !errors.Is(err, gone) {
			t.Error(err)
		}
		timed, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		if err := b.Acquire(timed, 3); !errors.Is(err, referrerstore.ErrBusy) || !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if b.InUse() != 8 {
			t.Errorf("whoever gave up took %d", b.InUse()-8)
		}
		go func() { results <- b.Acquire(t.Context(), 10) }()
		synctest.Wait()
		b.Release(8)
		if err := <-results; err != nil || b.InUse() != 10 {
			t.Errorf("%v, in use %d", err, b.InUse())
		}
	})
}

// A host that takes its whole share keeps nothing else from others, and is
// forgotten when nobody uses its share.
func TestHostShares(t *testing.T) {
	t.Parallel()
	b := referrerstore.NewSharedBudget(100, 40)
	greedy, other := b.Host("greedy"), b.Host("other")
	if err := greedy.Acquire(t.Context(), 41); !errors.Is(err, referrerstore.ErrTooLarge) {
		t.Errorf("more than the share: %v", err)
	}
	if err := greedy.Acquire(t.Context(), 40); err != nil {
		t.Fatal(err)
	}
	again := b.Host("greedy")
	if again.TryAcquire(1) {
		t.Error("one share was taken twice")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := again.Acquire(ended, 1); !errors.Is(err, referrerstore.ErrBusy) || !errors.Is(err, context.Canceled) {
		t.Errorf("wait for the share: %v", err)
	}
	if !other.TryAcquire(40) || b.InUse() != 80 {
		t.Errorf("another host is kept from its share: %d in use", b.InUse())
	}
	// The whole is the bound of shares together.
	third := b.Host("third")
	if third.TryAcquire(21) || !third.TryAcquire(20) {
		t.Error("the whole is exceeded, or not used")
	}
	if err := third.Acquire(ended, 20); !errors.Is(err, referrerstore.ErrBusy) {
		t.Errorf("wait for the whole: %v", err)
	}
	third.Release(20)
	other.Release(40)
	greedy.Release(40)
	for _, h := range []*referrerstore.HostBudget{greedy, again, other, third} {
		h.Close()
	}
	if b.InUse() != 0 {
		t.Errorf("%d bytes are never given back", b.InUse())
	}
	if fresh := b.Host("greedy"); !fresh.TryAcquire(40) || fresh.Size() != 40 {
		t.Error("a forgotten host has no share")
	}
}
