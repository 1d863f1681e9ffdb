package flight_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore/flight"
)

// lingering is a group whose flights count what becomes of them.
type lingering struct {
	*flight.Group[string, int]
	land      chan int
	cancelled atomic.Int64
}

func newLingering(t *testing.T, bounds flight.Bounds[string]) *lingering {
	t.Helper()
	l := &lingering{Group: flight.NewBounded[string, int](t.Context(), bounds), land: make(chan int)}
	t.Cleanup(l.Close)
	return l
}

func (l *lingering) fly(ctx context.Context) (int, error) {
	select {
	case v := <-l.land:
		return v, nil
	case <-ctx.Done():
		l.cancelled.Add(1)
		return 0, context.Cause(ctx)
	}
}

// late waits for a key until its time is up.
func (l *lingering) late(t *testing.T, key string, timeout time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	if _, err := l.Do(ctx, key, l.fly); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%v, want a deadline", err)
	}
}

func (l *lingering) expect(t *testing.T, all, alone, cancelled int) {
	t.Helper()
	synctest.Wait()
	if a, b := l.Number(); a != all || b != alone || l.cancelled.Load() != int64(cancelled) {
		t.Fatalf("%d flights, %d without a waiter, %d cancelled; want %d, %d and %d", a, b, l.cancelled.Load(), all, alone, cancelled)
	}
}

func TestLingerEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLingering(t, flight.Bounds[string]{Linger: 10 * time.Second, Number: 5})
		l.late(t, "a", time.Second)
		l.expect(t, 1, 1, 0)
		time.Sleep(10*time.Second - time.Nanosecond)
		l.expect(t, 1, 1, 0)
		time.Sleep(time.Nanosecond)
		l.expect(t, 0, 0, 1)
	})
}

func TestLingerBeginsAnewWithEachWaiter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLingering(t, flight.Bounds[string]{Linger: 10 * time.Second, Number: 5})
		for range 4 {
			l.late(t, "a", time.Second)
			time.Sleep(9 * time.Second)
		}
		l.expect(t, 1, 1, 0)
		done := make(chan int)
		go func() {
			v, _ := l.Do(t.Context(), "a", l.fly)
			done <- v
		}()
		l.expect(t, 1, 0, 0)
		time.Sleep(time.Minute) // whoever waits has all the time
		l.land <- 7
		if v := <-done; v != 7 {
			t.Errorf("the flight brought %d", v)
		}
		l.expect(t, 0, 0, 0)
	})
}

func TestLingerIsBoundedInNumber(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLingering(t, flight.Bounds[string]{Linger: time.Minute, Number: 2, Keep: func(key string) bool { return key != "never" }})
		l.late(t, "never", time.Second)
		l.expect(t, 0, 0, 1)
		l.late(t, "a", time.Second)
		l.late(t, "b", time.Second)
		l.late(t, "c", time.Second)
		l.expect(t, 2, 2, 2)
		if l.Start("d", l.fly) {
			t.Error("a third flight was begun without a waiter")
		}
		l.land <- 1
		l.expect(t, 1, 1, 2)
		if !l.Start("d", l.fly) || l.Start("d", l.fly) {
			t.Error("want one flight for d")
		}
		l.expect(t, 2, 2, 2)
	})
}

func TestLateLeavesTheFlightAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLingering(t, flight.Bounds[string]{Linger: time.Minute, Number: 2})
		why := errors.New("the registry pauses")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(&flight.LateError{Err: why}) })
		if _, err := l.Do(ctx, "a", l.fly); !errors.Is(err, why) {
			t.Fatalf("%v, want %v", err, why)
		}
		l.expect(t, 1, 1, 0)
	})
}

// TestLeavingALandedFlight leaves at the very moment of landing, many times:
// what is over must not be counted as lingering.
func TestLeavingALandedFlight(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLingering(t, flight.Bounds[string]{Linger: time.Minute, Number: 100})
		for range 200 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, _ = l.Do(ctx, "a", func(context.Context) (int, error) {
				time.Sleep(time.Second)
				return 1, nil
			})
			cancel()
		}
		time.Sleep(time.Second)
		l.expect(t, 0, 0, 0)
	})
}
