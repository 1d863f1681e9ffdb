package governor

import (
	"fmt"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

const (
	// ageBucket is the difference in age below which being nearer to done
	// counts more. It is about how long whoever was turned away waits to ask
	// again: work of the same wave is finished one after the other, and no
	// later wave can keep an earlier one from its turn.
	ageBucket = 2 * time.Second
	// backgroundTurn gives background work one grant of so many under a load of
	// admissions that never ends, or what it refreshes would end unrefreshed
	// and become that load.
	backgroundTurn = 16
)

// settle notices that an opening of the breaker or a pause is over. One probe
// goes before everybody else then.
func (h *Host) settle(now time.Time) {
	if h.breaker.state == breakerOpen && !h.breaker.until.After(now) {
		h.breaker.state = breakerHalfOpen
		h.probe = probe{wanted: true}
	}
	if h.pause.on && !h.pause.until.After(now) {
		h.pause.on = false
		h.probe = probe{wanted: true}
		h.pacer.resume(now)
	}
}

// dispatch grants what can be granted, and arms the timer for what only time
// is wanted for. It follows every change of what a grant depends on.
func (h *Host) dispatch(now time.Time) {
	h.settle(now)
	if len(h.waiters) == 0 {
		return
	}
	if err := h.broken(now); err != nil {
		h.failAll(err)
		return
	}
	for len(h.waiters) > 0 && h.mayGrant(now) {
		w := h.choose()
		if w == nil || !h.place() {
			break
		}
		h.remove(w)
		w.permit = h.grant(now, w.work.Lane())
		close(w.done)
	}
	h.arm(now)
}

// mayGrant is whether the host bears another request now.
func (h *Host) mayGrant(now time.Time) bool {
	switch {
	case h.inFlight >= h.limiter.limit, h.pause.on, h.breaker.state == breakerOpen:
		return false
	case h.probing(now):
		return false
	}
	return !h.pacer.ready(now).After(now)
}

// probing is whether a probe is under way that others have to wait for.
func (h *Host) probing(now time.Time) bool {
	return h.probe.wanted && h.probe.out != nil && now.Sub(h.probe.at) < probeAgain
}

// mayLane is whether the lane has a place left: background work has half.
func (h *Host) mayLane(lane referrerstore.Lane) bool {
	return lane != referrerstore.LaneBackground || h.background < max(h.limiter.limit/2, 1)
}

// place takes a place from the pool if the host needs one.
func (h *Host) place() bool { return h.named || h.governor.pool.take(h) }

// grant takes all that a request needs.
func (h *Host) grant(now time.Time, lane referrerstore.Lane) *Permit {
	h.seq++
	h.inFlight++
	p := &Permit{host: h, seq: h.seq, at: now, background: lane == referrerstore.LaneBackground}
	if p.background {
		h.background++
		h.passed = 0
	}
	h.pacer.take(now)
	if h.probe.wanted {
		p.probe = true
		h.probe.out, h.probe.at = p, now
	}
	return p
}

// choose finds whose turn it is. Lanes and what is left of a Work change while
// it waits, which no heap would notice: all are looked at, for each grant. Some
// thousand that wait cost tens of microseconds then, and a host that lets so
// many wait grants a few hundred times a second.
func (h *Host) choose() *waiter {
	var first [2]*waiter // by lane
	for _, w := range h.waiters {
		lane := referrerstore.LaneAdmission
		if w.work.Lane() == referrerstore.LaneBackground {
			lane = referrerstore.LaneBackground
		}
		if first[lane] == nil || w.before(first[lane]) {
			first[lane] = w
		}
	}
	admission, background := first[referrerstore.LaneAdmission], first[referrerstore.LaneBackground]
	if background == nil || !h.mayLane(referrerstore.LaneBackground) {
		return admission
	}
	if admission == nil || h.passed >= backgroundTurn-1 {
		return background
	}
	h.passed++
	return admission
}

// before is the order within a lane.
func (w *waiter) before(other *waiter) bool {
	if a, b := w.begun.UnixNano()/int64(ageBucket), other.begun.UnixNano()/int64(ageBucket); a != b {
		return a < b
	}
	if a, b := w.work.Left(), other.work.Left(); a != b {
		return a < b
	}
	if !w.begun.Equal(other.begun) {
		return w.begun.Before(other.begun)
	}
	return w.seq < other.seq
}

// ahead counts those who go before w as things are.
func (h *Host) ahead(w *waiter) int {
	n := 0
	for _, other := range h.waiters {
		if other == w {
			continue
		}
		if a, b := other.work.Lane(), w.work.Lane(); a < b || a == b && other.before(w) {
			n++
		}
	}
	return n
}

// arm sets the timer to the next moment at which time alone allows a grant.
func (h *Host) arm(now time.Time) {
	if len(h.waiters) == 0 {
		return
	}
	var at time.Time
	switch {
	case h.breaker.state == breakerOpen:
		at = h.breaker.until
	case h.pause.on:
		at = h.pause.until
	case h.probing(now):
		at = h.probe.at.Add(probeAgain)
		if slow := h.probeSlow(); h.breaker.state == breakerHalfOpen && slow.Before(at) {
			at = slow
		}
	case h.inFlight >= h.limiter.limit:
		return // a release comes
	default:
		at = h.pacer.ready(now)
		h.pacer.due = at
	}
	if !at.After(now) {
		return // a place is missing, and comes with a release
	}
	if h.timer == nil {
		h.timer = time.AfterFunc(at.Sub(now), h.wake)
		return
	}
	h.timer.Reset(at.Sub(now))
}

// wake is what the timer, and a free place of the pool, call.
func (h *Host) wake() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dispatch(time.Now())
}

// broken is why nobody is to wait: the breaker is open, or the probe of one
// that was is not answered as promptly as a host that is back would.
func (h *Host) broken(now time.Time) error {
	if rest := h.breaker.rest(now); rest > openPatience {
		return h.breakerError(rest)
	}
	if h.breaker.state == breakerHalfOpen && h.probe.out != nil {
		again := h.probe.at.Add(probeAgain)
		if !now.Before(h.probeSlow()) && now.Before(again) {
			return h.breakerError(again.Sub(now))
		}
	}
	return nil
}

// probeSlow is when the probe of a breaker is taken for a failure by those who
// wait for it.
func (h *Host) probeSlow() time.Time {
	return h.probe.at.Add(max(openPatience, 2*h.limiter.latency.usual()))
}

func (h *Host) breakerError(rest time.Duration) error {
	return &referrerstore.RetryAfterError{
		After: rest,
		Err: fmt.Errorf("%w: the breaker of %s is %v after %d failures in a row, the last: %s",
			referrerstore.ErrUnavailable, h.key.Host, h.breaker.state, h.breaker.failures, h.lastError),
	}
}
