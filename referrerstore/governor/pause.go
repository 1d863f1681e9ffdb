package governor

import (
	"math/rand/v2"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

const (
	// A 429 without Retry-After has everybody pause for pauseMin to pauseMax:
	// what is under way comes back meanwhile and shows what still flows. The
	// spread keeps processes that were refused together from coming back so.
	pauseMin, pauseMax = 100 * time.Millisecond, 250 * time.Millisecond
	// Each time that nothing was admitted in between doubles it, up to
	// pauseLongest: some registries refuse for hours without saying so.
	pauseLongest = 30 * time.Second
	// barrenMost refusals without anything admitted between them are borne by
	// pacing alone.
	barrenMost = 3
)

// pause is the time in which everybody waits because the host said so.
type pause struct {
	on     bool
	until  time.Time
	why    error  // with its sentinel; tells of the host
	held   error  // what a Work is told
	barren int    // refusals since anything was admitted
	seq    uint64 // requests up to this one belong to the last refusal
}

// begin makes the pause last until a time, never less long than it does.
func (p *pause) begin(now, until time.Time, why error) {
	if p.on && !until.After(p.until) {
		return
	}
	p.on, p.until, p.why = true, until, why
	p.held = p.error(now)
}

func (p *pause) error(now time.Time) error {
	return &referrerstore.RetryAfterError{After: max(p.until.Sub(now), 0), Err: p.why}
}

func (p *pause) hold(now time.Time) referrerstore.Hold {
	if !p.on || !p.until.After(now) {
		return referrerstore.Hold{}
	}
	return referrerstore.Hold{Until: p.until, Err: p.held}
}

// unasked is how long to pause when the host did not say, after so many
// refusals in a row.
func unasked(barren int) time.Duration {
	wait := pauseMin + rand.N(pauseMax-pauseMin) //nolint:gosec // to spread, not to hide
	for range barren {
		if wait *= 2; wait >= pauseLongest {
			return pauseLongest
		}
	}
	return wait
}
