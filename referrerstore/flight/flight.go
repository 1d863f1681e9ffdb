// Package flight makes one fetch of many wishes: whoever wants the same thing
// at the same time waits for one flight and shares its outcome.
//
// A flight lives on its group's time, not on that of the caller who happened
// to be first. A caller's cancellation or deadline takes only that caller out.
// A flight that nobody waits for any more goes on if any of its waiters ran out
// of time, because its result will be wanted again, and is cancelled if all no
// longer needed it; a newcomer never joins a cancelled flight but starts
// another. An outcome reaches all that wait and is then forgotten: keeping
// results is the business of caches. A panic in the function is an error to
// its waiters, and so is runtime.Goexit.
package flight

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
)

var (
	// ErrClosed is what a group answers after Close.
	ErrClosed = errors.New("flight: group is closed")
	// ErrExited is what waiters receive when the function neither returned nor
	// panicked but ended its goroutine, as testing's FailNow does.
	ErrExited = errors.New("flight: the function ended its goroutine")
	// errNeedless cancels a flight whose last waiter had no more use for it.
	errNeedless = errors.New("flight: nobody needs the result")
)

// PanicError is what waiters receive when the function panicked.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// Group holds the flights of one kind of thing. Use New; a Group must not be
// copied. All methods are safe for concurrent use.
type Group[K comparable, V any] struct {
	ctx    context.Context //nolint:containedctx // the group's own time is what it is for
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup

	mu      sync.Mutex // guards the fields that follow it; never held across a call
	closed  bool
	flights map[K]*flight[V]
}

type flight[V any] struct {
	done    chan struct{}
	cancel  context.CancelCauseFunc
	waiters int  // guarded by Group.mu
	kept    bool // guarded by Group.mu: a waiter ran out of time

	// Written before done is closed, read after.
	value V
	err   error
}

// New makes a group whose flights end at the latest when ctx does.
func New[K comparable, V any](ctx context.Context) *Group[K, V] {
	ctx, cancel := context.WithCancelCause(ctx)
	return &Group[K, V]{ctx: ctx, cancel: cancel, flights: make(map[K]*flight[V])}
}

// Do returns the outcome of the flight for key, starting one with fn if none
// is under way, or the cause of ctx's end if that comes first. The context
// that fn receives carries no deadline of any caller: fn bounds itself.
func (g *Group[K, V]) Do(ctx context.Context, key K, fn func(context.Context) (V, error)) (V, error) {
	var zero V
	if ctx.Err() != nil {
		return zero, context.Cause(ctx)
	}
	f, err := g.join(key, fn)
	if err != nil {
		return zero, err
	}
	select {
	case <-f.done:
		return f.value, f.err
	case <-ctx.Done():
		g.leave(key, f, errors.Is(ctx.Err(), context.DeadlineExceeded))
		return zero, context.Cause(ctx)
	}
}

func (g *Group[K, V]) join(key K, fn func(context.Context) (V, error)) (*flight[V], error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, ErrClosed
	}
	if f, ok := g.flights[key]; ok {
		f.waiters++
		return f, nil
	}
	ctx, cancel := context.WithCancelCause(g.ctx)
	f := &flight[V]{done: make(chan struct{}), cancel: cancel, waiters: 1}
	g.flights[key] = f
	g.wg.Go(func() { g.fly(ctx, key, f, fn) })
	return f, nil
}

func (g *Group[K, V]) fly(ctx context.Context, key K, f *flight[V], fn func(context.Context) (V, error)) {
	defer g.land(key, f)
	f.err = ErrExited // stands if run never comes back
	f.value, f.err = run(ctx, fn)
}

func (g *Group[K, V]) land(key K, f *flight[V]) {
	f.cancel(nil)
	g.mu.Lock()
	g.forget(key, f)
	g.mu.Unlock()
	close(f.done)
}

// leave takes one waiter out; late says that time ran out, not interest.
func (g *Group[K, V]) leave(key K, f *flight[V], late bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f.waiters--
	f.kept = f.kept || late
	if f.waiters > 0 || f.kept {
		return
	}
	g.forget(key, f)
	f.cancel(errNeedless)
}

// forget removes f unless a successor has taken its place.
func (g *Group[K, V]) forget(key K, f *flight[V]) {
	if g.flights[key] == f {
		delete(g.flights, key)
	}
}

// Close cancels what is under way, refuses what comes, and returns when the
// last flight's function has.
func (g *Group[K, V]) Close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.cancel(ErrClosed)
	g.wg.Wait()
}

func run[V any](ctx context.Context, fn func(context.Context) (V, error)) (value V, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &PanicError{Value: p, Stack: debug.Stack()}
		}
	}()
	return fn(ctx)
}
