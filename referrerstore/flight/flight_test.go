package flight_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/gatehouse-project/gatehouse/referrerstore/flight"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errGone = errors.New("caller has gone")

type result struct {
	value string
	err   error
}

// call is one flight that the test lands itself.
type call struct {
	ctx  context.Context // the function's
	land chan result
}

// tower runs a group whose flights wait to be landed.
type tower struct {
	*flight.Group[string, string]
	calls chan *call
	over  chan struct{} // lands what a failed test left in the air
}

func newTower(t *testing.T) *tower {
	t.Helper()
	g := &tower{
		Group: flight.New[string, string](t.Context()),
		calls: make(chan *call, 1000),
		over:  make(chan struct{}),
	}
	t.Cleanup(func() { close(g.over); g.Close() })
	return g
}

// do asks for key on its own goroutine; the flight it starts, if any, is put
// in calls and heeds no cancellation.
func (g *tower) do(ctx context.Context, key string) <-chan result {
	done := make(chan result, 1)
	go func() {
		value, err := g.Do(ctx, key, func(ctx context.Context) (string, error) {
			c := &call{ctx, make(chan result)}
			g.calls <- c
			select {
			case r := <-c.land:
				return r.value, r.err
			case <-g.over:
				return "", errGone
			}
		})
		done <- result{value, err}
	}()
	synctest.Wait()
	return done
}

// flights takes the calls so far.
func (g *tower) flights(t *testing.T, n int) []*call {
	t.Helper()
	synctest.Wait()
	if len(g.calls) != n {
		t.Fatalf("%d flights, want %d", len(g.calls), n)
	}
	var calls []*call
	for range n {
		calls = append(calls, <-g.calls)
	}
	return calls
}

func expect(t *testing.T, what string, done <-chan result, want result) {
	t.Helper()
	synctest.Wait()
	select {
	case got := <-done:
		if got.value != want.value || !errors.Is(got.err, want.err) {
			t.Errorf("%s: %q, %v; want %q, %v", what, got.value, got.err, want.value, want.err)
		}
	default:
		t.Errorf("%s: still waiting", what)
	}
}

func expectWaiting(t *testing.T, what string, done <-chan result) {
	t.Helper()
	synctest.Wait()
	select {
	case got := <-done:
		t.Errorf("%s: %q, %v; want it to wait", what, got.value, got.err)
	default:
	}
}

func TestThousandShareOneFlight(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	for _, want := range []result{{value: "v"}, {err: broken}} {
		synctest.Test(t, func(t *testing.T) {
			g := newTower(t)
			var waiters []<-chan result
			for range 1000 {
				waiters = append(waiters, g.do(t.Context(), "k"))
			}
			c := g.flights(t, 1)[0]
			c.land <- want
			for i, done := range waiters {
				expect(t, fmt.Sprint("waiter ", i), done, want)
			}
			if c.ctx.Err() == nil {
				t.Error("the landed flight's context stays in the group's")
			}
			// The outcome is forgotten, an error like a value.
			again := g.do(t.Context(), "k")
			g.flights(t, 1)[0].land <- result{value: "anew"}
			expect(t, "after", again, result{value: "anew"})
		})
	}
}

func TestDifferentKeysNeverMeet(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newTower(t)
		a, b := g.do(t.Context(), "a"), g.do(t.Context(), "b")
		calls := g.flights(t, 2)
		calls[1].land <- result{value: "of b"}
		expect(t, "b", b, result{value: "of b"})
		expectWaiting(t, "a", a)
		calls[0].land <- result{err: errGone}
		expect(t, "a", a, result{err: errGone})
	})
}

func TestFirstCancels(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newTower(t)
		ctx, cancel := context.WithCancelCause(t.Context())
		first, second := g.do(ctx, "k"), g.do(t.Context(), "k")
		cancel(errGone)
		expect(t, "first", first, result{err: errGone})
		c := g.flights(t, 1)[0]
		if c.ctx.Err() != nil {
			t.Errorf("the flight went with its first caller: %v", context.Cause(c.ctx))
		}
		expectWaiting(t, "second", second)
		third := g.do(t.Context(), "k")
		c.land <- result{value: "v"}
		expect(t, "second", second, result{value: "v"})
		expect(t, "third", third, result{value: "v"})
		g.flights(t, 0)
	})
}

func TestAllCancel(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newTower(t)
		ctx, cancel := context.WithCancelCause(t.Context())
		first, second := g.do(ctx, "k"), g.do(ctx, "k")
		cancel(errGone)
		expect(t, "first", first, result{err: errGone})
		expect(t, "second", second, result{err: errGone})
		old := g.flights(t, 1)[0]
		if !errors.Is(old.ctx.Err(), context.Canceled) {
			t.Error("the flight goes on though nobody needs it")
		}
		// The old function is still on its way out: nobody joins it.
		newcomer := g.do(t.Context(), "k")
		fresh := g.flights(t, 1)[0]
		if fresh.ctx.Err() != nil {
			t.Error("the newcomer's flight is cancelled")
		}
		old.land <- result{value: "stale", err: old.ctx.Err()}
		expectWaiting(t, "newcomer", newcomer)
		// The old one's end must not have taken the new one's place.
		joined := g.do(t.Context(), "k")
		fresh.land <- result{value: "fresh"}
		expect(t, "newcomer", newcomer, result{value: "fresh"})
		expect(t, "joined", joined, result{value: "fresh"})
		g.flights(t, 0)
	})
}

func TestAllRunOutOfTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newTower(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		first, second := g.do(ctx, "k"), g.do(ctx, "k")
		time.Sleep(time.Second)
		expect(t, "first", first, result{err: context.DeadlineExceeded})
		expect(t, "second", second, result{err: context.DeadlineExceeded})
		c := g.flights(t, 1)[0]
		if _, bounded := c.ctx.Deadline(); bounded || c.ctx.Err() != nil {
			t.Errorf("the flight has a caller's deadline: %v", c.ctx.Err())
		}
		newcomer := g.do(t.Context(), "k")
		c.land <- result{value: "v"}
		expect(t, "newcomer", newcomer, result{value: "v"})
		g.flights(t, 0)
	})
}

// Whoever ran out of time wants the result, whatever the others do and in
// whichever order they leave.
func TestKeptForOneOutOfTime(t *testing.T) {
	t.Parallel()
	for name, after := range map[string]time.Duration{"cancelled first": 0, "cancelled last": 2 * time.Second} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				g := newTower(t)
				timed, stop := context.WithTimeoutCause(t.Context(), time.Second, errGone)
				defer stop()
				ctx, cancel := context.WithCancel(t.Context())
				late, needless := g.do(timed, "k"), g.do(ctx, "k")
				time.AfterFunc(after, cancel)
				time.Sleep(3 * time.Second)
				expect(t, "late", late, result{err: errGone})
				expect(t, "needless", needless, result{err: context.Canceled})
				c := g.flights(t, 1)[0]
				if c.ctx.Err() != nil {
					t.Errorf("cancelled: %v", context.Cause(c.ctx))
				}
				retry := g.do(t.Context(), "k")
				c.land <- result{value: "v"}
				expect(t, "retry", retry, result{value: "v"})
				g.flights(t, 0)
			})
		})
	}
}

func TestPanicReachesAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := flight.New[int, int](t.Context())
		defer g.Close()
		start := make(chan struct{})
		results := make(chan error, 3)
		for range cap(results) {
			go func() {
				_, err := g.Do(t.Context(), 1, func(context.Context) (int, error) { <-start; panic("boom") })
				results <- err
			}()
		}
		synctest.Wait()
		close(start)
		for range cap(results) {
			err := <-results
			var p *flight.PanicError
			if !errors.As(err, &p) || p.Value != "boom" || err.Error() != "panic: boom" {
				t.Errorf("%v", err)
				continue
			}
			if !strings.Contains(string(p.Stack), "TestPanicReachesAll") {
				t.Error("the stack does not show where")
			}
		}
		if v, err := g.Do(t.Context(), 1, func(context.Context) (int, error) { return 7, nil }); v != 7 || err != nil {
			t.Errorf("after the panic: %d, %v", v, err)
		}
	})
}

func TestGoexitReachesAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := flight.New[int, int](t.Context())
		defer g.Close()
		results := make(chan error, 3)
		for range cap(results) {
			go func() {
				_, err := g.Do(t.Context(), 1, func(context.Context) (int, error) {
					time.Sleep(time.Second) // until all wait
					runtime.Goexit()
					return 0, nil
				})
				results <- err
			}()
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if len(results) != cap(results) {
			t.Fatal("the function ended its goroutine and left its waiters hanging")
		}
		for range cap(results) {
			if err := <-results; !errors.Is(err, flight.ErrExited) {
				t.Errorf("%v", err)
			}
		}
		if v, err := g.Do(t.Context(), 1, func(context.Context) (int, error) { return 7, nil }); v != 7 || err != nil {
			t.Errorf("afterwards: %d, %v", v, err)
		}
	})
}

func TestEndedContextStartsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newTower(t)
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errGone)
		expect(t, "alone", g.do(ctx, "k"), result{err: errGone})
		g.flights(t, 0)
		under := g.do(t.Context(), "k")
		expect(t, "beside a flight", g.do(ctx, "k"), result{err: errGone})
		c := g.flights(t, 1)[0]
		if c.ctx.Err() != nil {
			t.Error("took the flight along")
		}
		c.land <- result{value: "v"}
		expect(t, "the other", under, result{value: "v"})
	})
}

func TestCloseDuringFlight(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newTower(t)
		waiter := g.do(t.Context(), "k")
		c := g.flights(t, 1)[0]
		var closed atomic.Int32
		for range 2 {
			go func() { g.Close(); closed.Add(1) }()
		}
		synctest.Wait()
		if !errors.Is(context.Cause(c.ctx), flight.ErrClosed) {
			t.Errorf("the function is not told: %v", context.Cause(c.ctx))
		}
		if closed.Load() != 0 {
			t.Error("Close did not wait for the function")
		}
		expect(t, "newcomer to the same key", g.do(t.Context(), "k"), result{err: flight.ErrClosed})
		expect(t, "newcomer", g.do(t.Context(), "other"), result{err: flight.ErrClosed})
		c.land <- result{err: context.Cause(c.ctx)}
		expect(t, "waiter", waiter, result{err: flight.ErrClosed})
		if closed.Load() != 2 {
			t.Error("Close goes on waiting")
		}
		g.flights(t, 0)
	})
}

func TestCloseEndsWhatWasKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := flight.New[int, int](t.Context())
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var cause error
		_, err := g.Do(ctx, 1, func(ctx context.Context) (int, error) {
			<-ctx.Done()
			cause = context.Cause(ctx)
			return 0, cause
		})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		g.Close() // orders the write of cause before its read
		if !errors.Is(cause, flight.ErrClosed) {
			t.Error(cause)
		}
	})
}

func TestGroupEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		g := flight.New[int, int](ctx)
		defer g.Close()
		time.AfterFunc(time.Second, func() { cancel(errGone) })
		_, err := g.Do(t.Context(), 1, func(ctx context.Context) (int, error) {
			<-ctx.Done()
			return 0, context.Cause(ctx)
		})
		if !errors.Is(err, errGone) {
			t.Error(err)
		}
	})
}
