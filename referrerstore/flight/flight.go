// Package flight makes one fetch of many wishes: whoever wants the same thing
// at the same time waits for one flight and shares its outcome.
//
// A flight lives on its group's time, not on that of the caller who happened
// to be first. A caller's cancellation or deadline takes only that caller out.
// A flight that nobody waits for any more goes on if any of its waiters ran out
// of time, because its result will be wanted again, and is cancelled if all no
// longer needed it; a newcomer never joins a cancelled flight but starts
// another. How long a flight goes on that way, and how many do, is bounded by
// [Bounds]. An outcome reaches all that wait and is then forgotten: keeping
// results is the business of caches. A panic in the function is an error to
// its waiters, and so is runtime.Goexit.
package flight

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

var (
	// ErrClosed is what a group answers after Close.
	ErrClosed = errors.New("flight: group is closed")
	// ErrExited is what waiters receive when the function neither returned nor
	// panicked but ended its goroutine, as testing's FailNow does.
	ErrExited = errors.New("flight: the function ended its goroutine")
	// errNeedless cancels a flight whose last waiter had no more use for it.
	errNeedless = errors.New("flight: nobody needs the result")
	// errLingered ends a flight that nobody came back for in time.
	errLingered = errors.New("flight: nobody came back for the result")
)

// LateError as the cause of a caller's context says that the caller leaves
// before its deadline because it cannot be met: the flight is treated as if the
// caller had run out of time.
type LateError struct{ Err error }

func (e *LateError) Error() string { return e.Err.Error() }

// Unwrap gives the reason.
func (e *LateError) Unwrap() error { return e.Err }

// Bounds say what becomes of flights that all their waiters ran out of time
// for. The zero value keeps none.
type Bounds[K comparable] struct {
	// Linger is how long such a flight goes on without a waiter.
	Linger time.Duration
	// Number is how many such flights go on at once; one more is cancelled.
	Number int
	// Keep says for which keys; nil means all. It must not block.
	Keep func(K) bool
	// Always takes whoever leaves as one who ran out of time: nobody leaves for
	// want of interest.
	Always bool
}

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
	bounds *Bounds[K] // nil: kept flights bound themselves

	mu        sync.Mutex // guards the fields that follow it; never held across a call
	closed    bool
	flights   map[K]*flight[V]
	lingering int
}

type flight[V any] struct {
	done   chan struct{}
	cancel context.CancelCauseFunc

	// Guarded by Group.mu.
	waiters int
	kept    bool        // a waiter ran out of time
	over    bool        // the function has returned
	linger  *time.Timer // of a flight that goes on without a waiter

	// Written before done is closed, read after.
	value V
	err   error
}

// New makes a group whose flights end at the latest when ctx does. A flight that
// its waiters ran out of time for goes on for as long as its function does.
func New[K comparable, V any](ctx context.Context) *Group[K, V] {
	ctx, cancel := context.WithCancelCause(ctx)
	return &Group[K, V]{ctx: ctx, cancel: cancel, flights: make(map[K]*flight[V])}
}

// NewBounded is New with bounds on flights that nobody waits for.
func NewBounded[K comparable, V any](ctx context.Context, bounds Bounds[K]) *Group[K, V] {
	g := New[K, V](ctx)
	g.bounds = &bounds
	return g
}

// Do returns the outcome of the flight for key, starting one with fn if none
// is under way, or the cause of ctx's end if that comes first. The context
// that fn receives carries no deadline and no value of any caller: fn bounds
// itself.
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
		cause := context.Cause(ctx)
		_, late := errors.AsType[*LateError](cause)
		late = late || errors.Is(ctx.Err(), context.DeadlineExceeded) || (g.bounds != nil && g.bounds.Always)
		g.leave(key, f, late)
		return zero, cause
	}
}

// Start begins a flight that nobody waits for, within the bounds, and says
// whether it did: one that is under way already is left alone.
func (g *Group[K, V]) Start(key K, fn func(context.Context) (V, error)) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, busy := g.flights[key]; busy || g.closed || !g.mayLinger(key) {
		return false
	}
	f := g.begin(key, fn)
	f.kept = true
	g.abandon(key, f)
	return true
}

// Number is how many flights are under way, and how many of them nobody waits
// for.
func (g *Group[K, V]) Number() (all, lingering int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.flights), g.lingering
}

func (g *Group[K, V]) join(key K, fn func(context.Context) (V, error)) (*flight[V], error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, ErrClosed
	}
	f, ok := g.flights[key]
	if !ok {
		f = g.begin(key, fn)
	}
	g.attend(f)
	f.waiters++
	return f, nil
}

// begin is called with mu held.
func (g *Group[K, V]) begin(key K, fn func(context.Context) (V, error)) *flight[V] {
	ctx, cancel := context.WithCancelCause(g.ctx)
	f := &flight[V]{done: make(chan struct{}), cancel: cancel}
	g.flights[key] = f
	g.wg.Go(func() { g.fly(ctx, key, f, fn) })
	return f
}

func (g *Group[K, V]) fly(ctx context.Context, key K, f *flight[V], fn func(context.Context) (V, error)) {
	defer g.land(key, f)
	f.err = ErrExited // stands if run never comes back
	f.value, f.err = run(ctx, fn)
}

func (g *Group[K, V]) land(key K, f *flight[V]) {
	f.cancel(nil)
	g.mu.Lock()
	f.over = true
	g.attend(f)
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
	switch {
	case f.waiters > 0 || f.over:
	case f.kept && g.mayLinger(key):
		g.abandon(key, f)
	default:
		g.forget(key, f)
		f.cancel(errNeedless)
	}
}

// mayLinger says whether one more flight may go on without a waiter. Like the
// two below it is called with mu held.
func (g *Group[K, V]) mayLinger(key K) bool {
	b := g.bounds
	return b == nil || (b.Linger > 0 && g.lingering < b.Number && (b.Keep == nil || b.Keep(key)))
}

// abandon lets a flight go on without a waiter, for as long as the bounds say.
func (g *Group[K, V]) abandon(key K, f *flight[V]) {
	if g.bounds == nil {
		return
	}
	g.lingering++
	var timer *time.Timer
	timer = time.AfterFunc(g.bounds.Linger, func() { g.giveUp(key, f, &timer) })
	f.linger = timer
}

// attend ends what abandon began: somebody waits again, or it is over.
func (g *Group[K, V]) attend(f *flight[V]) {
	if f.linger != nil {
		f.linger.Stop()
		f.linger = nil
		g.lingering--
	}
}

// giveUp cancels a flight that lingered for too long. It is the timer's, which
// may have fired while somebody came or the flight landed.
func (g *Group[K, V]) giveUp(key K, f *flight[V], timer **time.Timer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if f.linger == nil || f.linger != *timer {
		return
	}
	g.attend(f)
	g.forget(key, f)
	f.cancel(errLingered)
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
