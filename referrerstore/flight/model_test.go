package flight_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"

	"github.com/gatehouse-project/gatehouse/referrerstore/flight"
)

// The model says what a group must do, in one thread: which flights are under
// way, who waits for which, and which are cancelled. The test takes random
// steps with both and compares after each.
type model struct {
	group   *flight.Group[string, string]
	started chan *modelFlight
	over    chan struct{}

	current map[string]*modelFlight // those that a newcomer joins
	flights []*modelFlight          // those whose function has not returned
	waiters []*modelWaiter          // those who wait
	number  int
}

type modelFlight struct {
	ctx       context.Context
	land      chan result
	key       string
	waiters   int
	kept      bool
	cancelled bool
}

type modelWaiter struct {
	ctx    *manualContext
	done   chan result
	flight *modelFlight
	key    string
}

// manualContext ends when and as the test says.
type manualContext struct {
	context.Context
	done chan struct{}
	err  error // written before done is closed
}

func (c *manualContext) Done() <-chan struct{} { return c.done }

func (c *manualContext) Err() error {
	select {
	case <-c.done:
		return c.err
	default:
		return nil
	}
}

func (m *model) do(t *rapid.T) {
	key := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "key")
	w := &modelWaiter{
		ctx:  &manualContext{Context: t.Context(), done: make(chan struct{})},
		done: make(chan result, 1), key: key,
	}
	go func() {
		value, err := m.group.Do(w.ctx, key, func(ctx context.Context) (string, error) {
			f := &modelFlight{ctx: ctx, land: make(chan result), key: key}
			m.started <- f
			select {
			case r := <-f.land:
				return r.value, r.err
			case <-m.over:
				return "", errGone
			}
		})
		w.done <- result{value, err}
	}()
	synctest.Wait()
	m.waiters = append(m.waiters, w)
	if m.current[key] == nil {
		if len(m.started) != 1 {
			t.Fatalf("%s: no flight was started", key)
		}
		f := <-m.started
		m.current[key] = f
		m.flights = append(m.flights, f)
	}
	w.flight = m.current[key]
	w.flight.waiters++
}

func (m *model) leave(t *rapid.T, err error) {
	if len(m.waiters) == 0 {
		t.Skip("nobody waits")
	}
	i := rapid.IntRange(0, len(m.waiters)-1).Draw(t, "waiter")
	w := m.waiters[i]
	m.waiters = slices.Delete(m.waiters, i, i+1)
	w.ctx.err = err
	close(w.ctx.done)
	synctest.Wait()
	m.wantResult(t, w, result{err: err})
	f := w.flight
	f.waiters--
	f.kept = f.kept || errors.Is(err, context.DeadlineExceeded)
	if f.waiters == 0 && !f.kept {
		f.cancelled = true
		delete(m.current, f.key)
	}
}

func (m *model) land(t *rapid.T) {
	if len(m.flights) == 0 {
		t.Skip("none is under way")
	}
	i := rapid.IntRange(0, len(m.flights)-1).Draw(t, "flight")
	f := m.flights[i]
	m.flights = slices.Delete(m.flights, i, i+1)
	m.number++
	r := result{value: fmt.Sprint(f.key, m.number)}
	if rapid.Bool().Draw(t, "fails") {
		r = result{err: fmt.Errorf("failure %d", m.number)}
	}
	f.land <- r
	synctest.Wait()
	if m.current[f.key] == f {
		delete(m.current, f.key)
	}
	m.waiters = slices.DeleteFunc(m.waiters, func(w *modelWaiter) bool {
		if w.flight == f {
			m.wantResult(t, w, r)
		}
		return w.flight == f
	})
}

func (m *model) wantResult(t *rapid.T, w *modelWaiter, want result) {
	t.Helper()
	select {
	case got := <-w.done:
		if got.value != want.value || !errors.Is(got.err, want.err) {
			t.Fatalf("%s: %q, %v; want %q, %v", w.key, got.value, got.err, want.value, want.err)
		}
	default:
		t.Fatalf("%s: still waiting", w.key)
	}
}

// check compares what goes on with what should.
func (m *model) check(t *rapid.T) {
	synctest.Wait()
	if len(m.started) != 0 {
		t.Fatalf("%d flights too many were started", len(m.started))
	}
	for _, f := range m.flights {
		if (f.ctx.Err() != nil) != f.cancelled {
			t.Fatalf("%s with %d waiters: %v, cancelled in the model: %t", f.key, f.waiters, f.ctx.Err(), f.cancelled)
		}
	}
	for _, w := range m.waiters {
		if len(w.done) != 0 {
			t.Fatalf("%s: was answered too early", w.key)
		}
	}
}

// end lands all, so that no goroutine stays behind.
func (m *model) end() {
	close(m.over)
	m.group.Close()
	synctest.Wait()
}

// noDeadline hides the test's deadline, which means nothing in a bubble's time.
type noDeadline struct{ rapid.TB }

func TestModel(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rapid.Check(noDeadline{t}, func(t *rapid.T) {
			m := &model{
				group:   flight.New[string, string](t.Context()),
				started: make(chan *modelFlight, 100),
				over:    make(chan struct{}),
				current: make(map[string]*modelFlight),
			}
			defer m.end()
			t.Repeat(map[string]func(*rapid.T){
				"do":     m.do,
				"cancel": func(t *rapid.T) { m.leave(t, context.Canceled) },
				"expire": func(t *rapid.T) { m.leave(t, context.DeadlineExceeded) },
				"land":   m.land,
				"":       m.check,
			})
		})
	})
}
