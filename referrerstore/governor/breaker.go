package governor

import (
	"math/rand/v2"
	"time"
)

const (
	// breakAfter failures in a row open the breaker. One proves nothing, and
	// five are had in one round trip when a host is gone.
	breakAfter = 5
	// openMin doubles with each probe that fails up to openMax: a restart is
	// noticed within a second, and a host that stays away is asked twice a
	// minute.
	openMin, openMax = time.Second, 30 * time.Second
	// openPatience is waited out rather than answered with an error: less than
	// that is lost by any caller's retry.
	openPatience = 250 * time.Millisecond
	// probeAgain is when a probe that has not been answered stops to keep
	// others from probing. A host that needs longer for a header serves nobody.
	probeAgain = 2 * time.Second
)

type breakerState int

const (
	breakerClosed breakerState = iota
	breakerOpen
	breakerHalfOpen
)

func (s breakerState) String() string {
	return [...]string{"closed", "open", "half-open"}[s]
}

// breaker counts failures in a row.
type breaker struct {
	state    breakerState
	failures int
	pause    time.Duration // how long it was last open
	until    time.Time
	seq      uint64 // requests up to this one were sent before it last opened
}

// fail notes a failure and says whether it opens the breaker. Requests sent
// before it opened say nothing new.
func (b *breaker) fail(now time.Time, seq, last uint64) bool {
	if seq <= b.seq {
		return false
	}
	b.failures++
	if b.state == breakerClosed && b.failures < breakAfter {
		return false
	}
	b.pause = min(max(2*b.pause, openMin), openMax)
	// Up to a quarter more, so that processes do not come back in step.
	b.until = now.Add(b.pause + rand.N(b.pause/4)) //nolint:gosec // to spread, not to hide
	b.state, b.seq = breakerOpen, last
	return true
}

func (b *breaker) succeed(seq uint64) {
	if seq > b.seq {
		*b = breaker{seq: b.seq}
	}
}

// rest is how long it stays open.
func (b *breaker) rest(now time.Time) time.Duration {
	if b.state != breakerOpen {
		return 0
	}
	return max(b.until.Sub(now), 0)
}
