package governor

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// fairTime is how long a request must have been under way, or four times the
// host's usual latency if that is more, for its caller's deadline to say
// anything about the host. One sent shortly before its deadline proves nothing.
const fairTime = time.Second

// Outcome is what came of a request: a status, or an error in place of one.
type Outcome struct {
	// Status of the answer, after redirects that the client followed; 0 if
	// there was an error.
	Status int
	// Err is why there is no answer. An error in whose chain context.Canceled
	// or [referrerstore.ErrRefused] is says nothing about the host, nor does
	// context.DeadlineExceeded if the host had little time.
	Err error
	// RetryAfter is what a 429 or 503 asked for; 0 if it named no time.
	RetryAfter time.Duration
	// Latency from sending to the header; 0 stands for the time since the
	// permit was granted.
	Latency time.Duration
}

// Permit is the right to send one request. Its methods are safe for concurrent
// use.
type Permit struct {
	host       *Host
	seq        uint64
	at         time.Time
	background bool
	probe      bool

	// Guarded by host.mu.
	answered, released bool
}

// Answered tells what came of the request, when the header or the error is
// there. Only the first call before Release counts; a permit that is released
// without one was not used, or given up, and counts for nothing.
func (p *Permit) Answered(o Outcome) {
	h := p.host
	h.mu.Lock()
	defer h.mu.Unlock()
	if p.answered || p.released {
		return
	}
	p.answered = true
	now := time.Now()
	if o.Latency <= 0 {
		o.Latency = now.Sub(p.at)
	}
	h.learn(now, p, o)
	h.dispatch(now)
}

// Release gives the place back, once the answer's body is closed. Further calls
// do nothing.
func (p *Permit) Release() {
	h := p.host
	h.mu.Lock()
	if p.released {
		h.mu.Unlock()
		return
	}
	p.released = true
	h.inFlight--
	if p.background {
		h.background--
	}
	if h.probe.out == p {
		h.probe.out = nil
	}
	if !h.named {
		h.governor.pool.put()
	}
	if len(h.waiters) > 0 {
		h.dispatch(time.Now())
	}
	h.mu.Unlock()
	if !h.named {
		h.governor.pool.offer()
	}
}

// learn tells all that adapt what an outcome means for them.
func (h *Host) learn(now time.Time, p *Permit, o Outcome) {
	h.settle(now)
	switch {
	case o.Err != nil:
		if h.blames(o) {
			h.failed(now, p, line(o.Err.Error()))
		}
	case o.Status == http.StatusTooManyRequests:
		h.throttled(now, p, o)
	case o.Status == http.StatusServiceUnavailable:
		h.limiter.shed(p.seq, h.seq)
		if o.RetryAfter <= 0 {
			h.failed(now, p, "status 503")
			break
		}
		h.lastError, h.lastErrAt = "status 503", now
		h.stop(now, p, o.RetryAfter, h.why(referrerstore.ErrUnavailable, "503"))
	case o.Status >= http.StatusInternalServerError:
		h.failed(now, p, fmt.Sprintf("status %d", o.Status))
	default:
		h.succeeded(now, p, o)
	}
}

// blames is whether an error says anything about the host.
func (h *Host) blames(o Outcome) bool {
	switch {
	case errors.Is(o.Err, context.Canceled), errors.Is(o.Err, referrerstore.ErrRefused):
		return false
	case errors.Is(o.Err, context.DeadlineExceeded):
		return o.Latency >= max(fairTime, 4*h.limiter.latency.usual())
	default:
		return true
	}
}

func (h *Host) succeeded(now time.Time, p *Permit, o Outcome) {
	h.limiter.success(now, p.seq, o.Latency, h.inFlight >= h.limiter.limit)
	h.pacer.admitted(now, p.at)
	h.breaker.succeed(p.seq)
	if p.seq > h.pause.seq {
		h.pause.barren = 0
	}
	if p.seq > h.pause.seq && p.seq > h.breaker.seq {
		h.probe = probe{} // sent after all that called for one
	}
}

func (h *Host) failed(now time.Time, p *Permit, text string) {
	h.lastError, h.lastErrAt = text, now
	if h.breaker.fail(now, p.seq, h.seq) {
		h.counts.opened.Add(1)
		h.probe = probe{}
	}
	if h.probe.out == p {
		h.probe.out = nil
	}
}

// throttled notes a 429. Those to requests that were sent before the last one
// was known belong to it.
func (h *Host) throttled(now time.Time, p *Permit, o Outcome) {
	h.counts.throttled.Add(1)
	h.lastError, h.lastErrAt = "status 429", now
	why := h.why(referrerstore.ErrRateLimited, "429")
	if p.seq <= h.pause.seq {
		h.pacer.again(now, p.at)
		if o.RetryAfter > 0 {
			h.extend(now, o.RetryAfter, why)
		}
		return
	}
	wait := min(o.RetryAfter, h.governor.options.MaxRetryAfter)
	fresh := h.pacer.refuse(now, p.at, wait)
	if wait <= 0 && (fresh || p.probe || h.pacer.fixed || h.pause.barren >= barrenMost) {
		wait = min(unasked(h.pause.barren), h.governor.options.MaxRetryAfter)
	}
	h.pause.barren++
	h.stop(now, p, wait, why)
}

// stop begins a pause of a length, 0 for none, for the outcome of a permit.
func (h *Host) stop(now time.Time, p *Permit, wait time.Duration, why error) {
	if p.seq <= h.pause.seq {
		h.extend(now, wait, why)
		return
	}
	h.pause.seq = h.seq
	if h.probe.out == p {
		h.probe.out = nil
	}
	if wait > 0 {
		h.halt(now, wait, why)
	}
}

// extend lets a pause that is on last as long as a late answer asks for.
func (h *Host) extend(now time.Time, wait time.Duration, why error) {
	if h.pause.on && wait > 0 {
		h.halt(now, wait, why)
	}
}

// halt has everybody wait, and turns away who cannot.
func (h *Host) halt(now time.Time, wait time.Duration, why error) {
	until := now.Add(min(wait, h.governor.options.MaxRetryAfter))
	h.pause.begin(now, until, why)
	for _, w := range slices.Backward(h.waiters) { // fail moves only those behind
		if !w.deadline.IsZero() && w.deadline.Before(h.pause.until) {
			h.fail(w, h.pause.held)
			continue
		}
		h.hold(now, w)
	}
}

func (h *Host) why(sentinel error, status string) error {
	return fmt.Errorf("%w: %s answered %s", sentinel, h.key.Host, status)
}
