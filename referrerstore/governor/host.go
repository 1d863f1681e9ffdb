package governor

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

const (
	// maxWaiters bounds the requests that wait for one host: more than a
	// restarting cluster's, few enough to be looked through for each grant.
	maxWaiters = 8192
	// holdBeyond is the wait for a turn alone that is worth telling: shorter
	// ones are what pacing is, and end within most requests' time.
	holdBeyond = 10 * time.Second
)

// Host is what is known of one registry host, or token service, under one
// identity. All methods are safe for concurrent use.
type Host struct {
	governor *Governor
	key      Key
	named    bool
	counts   *counts

	queued bool // guarded by the governor's pool

	mu         sync.Mutex // guards the fields that follow it
	closed     bool
	seq        uint64 // of the last permit
	inFlight   int
	background int // of those in flight
	passed     int // admissions granted since background work last had a turn
	waiters    []*waiter
	limiter    limiter
	pacer      pacer
	pause      pause
	breaker    breaker
	probe      probe
	timer      *time.Timer
	lastError  string
	lastErrAt  time.Time
}

// probe is the one request that finds out whether others may follow.
type probe struct {
	wanted bool
	out    *Permit // under way
	at     time.Time
}

// waiter is one call of Acquire that waits. It is guarded by its host's mu
// until done is closed.
type waiter struct {
	work     *referrerstore.Work
	begun    time.Time
	deadline time.Time // zero for none
	seq      uint64    // order of arrival
	index    int       // in Host.waiters; -1 outside

	done   chan struct{}
	permit *Permit
	err    error

	held referrerstore.Hold
	told chan struct{} // has one element when held has changed
}

func newHost(g *Governor, key Key, named bool) *Host {
	start, most := g.options.StartInFlight, g.options.MaxInFlight
	if !named {
		most = min(most, poolPlacesPerHost)
		start = min(start, most)
	}
	return &Host{
		governor: g, key: key, named: named, counts: g.collector.countsFor(key, named),
		limiter: limiter{limit: start, most: most}, pacer: newPacer(g.options.Rate),
	}
}

// Acquire waits for the turn of a request whose context is ctx, and returns
// the permit to send it, which the caller gives back with [Permit.Release]. The
// request's [referrerstore.Work] says how urgent it is; without one it is an
// admission that begins now.
//
// Errors: the cause of ctx's end; a [referrerstore.RetryAfterError] at once if
// the host asked for a pause that ends after ctx's deadline (around
// [referrerstore.ErrRateLimited] or [referrerstore.ErrUnavailable]) or if its
// breaker is open; [referrerstore.ErrBusy] if too many wait already, or for
// background work on a host that the configuration does not name.
//
// While the host has everybody pause, or is so far behind that the turn is more
// than ten seconds away, the Work is told of a [referrerstore.Hold]; the hold
// is lifted when the permit is granted.
func (h *Host) Acquire(ctx context.Context) (*Permit, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	work := referrerstore.WorkOf(ctx)
	deadline, _ := ctx.Deadline()
	p, w, err := h.enter(work, deadline)
	if err != nil {
		return nil, err
	}
	if w != nil {
		since := time.Now()
		if p, err = h.wait(ctx, w); err != nil {
			return nil, err
		}
		h.governor.collector.waited(work.Lane(), since)
	}
	work.SetHold(referrerstore.Hold{})
	return p, nil
}

// enter grants a permit at once, or queues a waiter.
func (h *Host) enter(work *referrerstore.Work, deadline time.Time) (*Permit, *waiter, error) {
	lane := work.Lane()
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	h.settle(now)
	if err := h.refusal(now, lane, deadline); err != nil {
		return nil, nil, err
	}
	if len(h.waiters) == 0 && h.mayGrant(now) && h.mayLane(lane) && h.place() {
		return h.grant(now, lane), nil, nil
	}
	w := &waiter{
		work: work, begun: work.Begun(), deadline: deadline, seq: h.seq, index: len(h.waiters),
		done: make(chan struct{}), told: make(chan struct{}, 1),
	}
	if w.begun.IsZero() {
		w.begun = now
	}
	h.seq++
	h.waiters = append(h.waiters, w)
	h.dispatch(now)
	if w.index >= 0 {
		h.hold(now, w)
	}
	return nil, w, nil
}

// refusal is why a newcomer is not even queued.
func (h *Host) refusal(now time.Time, lane referrerstore.Lane, deadline time.Time) error {
	switch {
	case h.closed:
		return fmt.Errorf("%w: shutting down", referrerstore.ErrUnavailable)
	case !h.named && lane == referrerstore.LaneBackground:
		return fmt.Errorf("%w: no background work for %s, which the configuration does not name", referrerstore.ErrBusy, h.key.Host)
	case len(h.waiters) >= maxWaiters:
		return fmt.Errorf("%w: %d requests wait for %s", referrerstore.ErrBusy, len(h.waiters), h.key.Host)
	}
	if err := h.broken(now); err != nil {
		return err
	}
	if !deadline.IsZero() && deadline.Before(h.pause.until) {
		return h.pause.error(now)
	}
	return nil
}

// wait waits until w is granted, refused, or ctx ends. It is w's own goroutine
// that tells the Work of holds: so none can arrive after the permit.
func (h *Host) wait(ctx context.Context, w *waiter) (*Permit, error) {
	for {
		select {
		case <-w.done:
			return w.permit, w.err
		case <-w.told:
			h.mu.Lock()
			held := w.held
			h.mu.Unlock()
			w.work.SetHold(held)
		case <-ctx.Done():
			h.leave(w)
			return nil, context.Cause(ctx)
		}
	}
}

// leave takes out a waiter whose context ended. A permit that came at the same
// moment goes to somebody else.
func (h *Host) leave(w *waiter) {
	h.mu.Lock()
	granted := w.permit
	if granted != nil {
		h.pacer.giveBack()
	} else if w.index >= 0 {
		h.remove(w)
	}
	h.mu.Unlock()
	if granted != nil {
		granted.Release()
	}
}

// remove takes w out of the queue, whose order has no meaning.
func (h *Host) remove(w *waiter) {
	last := len(h.waiters) - 1
	h.waiters[w.index] = h.waiters[last]
	h.waiters[w.index].index = w.index
	h.waiters[last] = nil
	h.waiters = h.waiters[:last]
	w.index = -1
}

// fail ends the wait of w with an error.
func (h *Host) fail(w *waiter, err error) {
	h.remove(w)
	w.err = err
	close(w.done)
}

// failAll ends all waits.
func (h *Host) failAll(err error) {
	for len(h.waiters) > 0 {
		h.fail(h.waiters[len(h.waiters)-1], err)
	}
}

// hold tells w's Work, by way of the goroutine that waits, what keeps it.
func (h *Host) hold(now time.Time, w *waiter) {
	held := h.pause.hold(now)
	if held.Err == nil && h.turn(now, len(h.waiters)) > holdBeyond {
		if away := h.turn(now, h.ahead(w)); away > holdBeyond {
			held = referrerstore.Hold{Until: now.Add(away), Err: h.slowness(away)}
		}
	}
	if held.Err == nil || held == w.held {
		return
	}
	w.held = held
	select {
	case w.told <- struct{}{}:
	default:
	}
}

// Usual is how long the header of an answer usually takes at most: the moment
// from which on a second request is worth its cost. 0 is unknown.
func (h *Host) Usual() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.limiter.latency.usual()
}

// Throttled says what holds back requests to the host at this moment, and for
// about how long it would hold a new admission: its pause, its open breaker, or
// its rate. A nil error is nothing; otherwise the error is a
// [referrerstore.RetryAfterError] with the same time.
func (h *Host) Throttled() (time.Duration, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	h.settle(now)
	if err := h.broken(now); err != nil {
		return referrerstore.RetryAfter(err), err
	}
	if rest := h.breaker.rest(now); rest > 0 {
		return rest, h.breakerError(rest)
	}
	if h.pause.until.After(now) {
		return h.pause.until.Sub(now), h.pause.error(now)
	}
	if usual := h.limiter.latency.usual(); h.probe.wanted && h.breaker.state == breakerHalfOpen {
		return usual, h.breakerError(usual)
	} else if h.probe.wanted {
		return usual, &referrerstore.RetryAfterError{After: usual, Err: h.pause.why}
	}
	if away := h.turn(now, h.waiting().Admission); away > 0 {
		return away, h.slowness(away)
	}
	return 0, nil
}

// turn is when a request would be sent that ahead others go before, as far as
// the rate decides.
func (h *Host) turn(now time.Time, ahead int) time.Duration {
	if h.pacer.base == 0 {
		return 0
	}
	wait := max(h.pacer.ready(now).Sub(now), 0)
	return wait + time.Duration(float64(ahead)/h.pacer.rate(now)*float64(time.Second))
}

func (h *Host) slowness(away time.Duration) error {
	return &referrerstore.RetryAfterError{
		After: away,
		Err:   fmt.Errorf("%w: %s admits %.3g a second and %d wait", referrerstore.ErrRateLimited, h.key.Host, h.pacer.base, len(h.waiters)),
	}
}

// idle reports that nothing is under way and nobody waits.
func (h *Host) idle() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.inFlight == 0 && len(h.waiters) == 0
}

func (h *Host) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	h.failAll(fmt.Errorf("%w: shutting down", referrerstore.ErrUnavailable))
	if h.timer != nil {
		h.timer.Stop()
	}
}
