package flight_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore/flight"
)

// registrar checks that of each key at most one flight is wanted at any time.
type registrar struct {
	mu   sync.Mutex // guards live
	live map[int]context.Context
}

func (r *registrar) enter(t *testing.T, key int, ctx context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if ctx.Err() != nil {
		return // cancelled before its goroutine ran
	}
	if other, ok := r.live[key]; ok && other.Err() == nil {
		t.Errorf("two flights for %d", key)
	}
	r.live[key] = ctx
}

func (r *registrar) leave(key int, ctx context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.live[key] == ctx {
		delete(r.live, key)
	}
}

func TestStress(t *testing.T) {
	t.Parallel()
	const workers, rounds, keys = 16, 300, 3
	g := flight.New[int, int](t.Context())
	r := &registrar{live: make(map[int]context.Context)}
	fetch := func(key int) func(context.Context) (int, error) {
		return func(ctx context.Context) (int, error) {
			r.enter(t, key, ctx)
			defer r.leave(key, ctx)
			for range 5 {
				runtime.Gosched()
			}
			if ctx.Err() != nil {
				return 0, context.Cause(ctx)
			}
			return key, nil
		}
	}
	var wg sync.WaitGroup
	for worker := range workers {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(7, uint64(worker)))
			for range rounds {
				key := random.IntN(keys)
				ctx, cancel := impatient(t.Context(), random)
				value, err := g.Do(ctx, key, fetch(key))
				ended := ctx.Err() != nil
				cancel()
				if err == nil && value != key || err != nil && !ended {
					t.Errorf("asked for %d, got %d, %v", key, value, err)
				}
			}
		})
	}
	wg.Wait()
	g.Close()
	if _, err := g.Do(t.Context(), 1, fetch(1)); !errors.Is(err, flight.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if len(r.live) != 0 {
		t.Errorf("Close left %d functions running", len(r.live))
	}
}

// impatient ends soon, by a cancellation or a deadline, or not at all.
func impatient(ctx context.Context, random *rand.Rand) (context.Context, context.CancelFunc) {
	soon := time.Duration(random.IntN(20)) * time.Microsecond
	switch random.IntN(3) {
	case 0:
		return context.WithTimeout(ctx, soon)
	case 1:
		ctx, cancel := context.WithCancel(ctx)
		time.AfterFunc(soon, cancel)
		return ctx, cancel
	default:
		return context.WithCancel(ctx)
	}
}

func TestCloseAgainstDo(t *testing.T) {
	t.Parallel()
	for range 50 {
		g := flight.New[int, int](t.Context())
		var wg sync.WaitGroup
		for worker := range 8 {
			wg.Go(func() {
				for {
					value, err := g.Do(t.Context(), worker%2, func(ctx context.Context) (int, error) {
						runtime.Gosched()
						return worker % 2, nil
					})
					if errors.Is(err, flight.ErrClosed) {
						return
					}
					if err != nil || value != worker%2 {
						t.Errorf("%d, %v", value, err)
						return
					}
				}
			})
		}
		g.Close()
		wg.Wait()
	}
}
