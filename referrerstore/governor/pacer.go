package governor

import (
	"math"
	"time"
)

const (
	// slack is how late a request may be and those after it still keep their
	// time: a timer's and a scheduler's lateness, not a burst. A registry that
	// allows no burst at all bears one request that comes close after another.
	slack = 0.010 // seconds
	// storeUse is the part of a host's known burst that is spent after a pause
	// or an idle time. The rest covers a wrong guess, which costs a 429.
	storeUse = 0.8
	// forgetting is the time in which the probing doubles even if little is
	// asked for, and after staleAfter without a 429 nothing is left of what was
	// learned: what a registry bears changes with its load and its other users.
	forgetting = 30 * time.Second
	staleAfter = 10 * forgetting
	// freeTimes is how far the rate must have been probed above what was
	// learned, without a 429 for freeAfter, until the host counts as unlimited
	// again. The time keeps the search after a first 429, which climbs fast
	// while it eats up what the host's bucket stored, from counting.
	freeTimes, freeAfter = 4, 10 * time.Second
	// aheadTimes what was admitted on average, since the host last refused, is
	// as fast as probing goes while nothing is known: what the bucket stored
	// would let it climb far beyond the rate, and all that is under way when
	// the bucket is empty comes back as 429.
	aheadTimes = 1.7
	// almost keeps rounding from arming a timer for a part of a nanosecond.
	almost = 1 - 1e-6
)

// pacer spreads requests over time as a token bucket does whose rate, and
// burst, are learned from the host's own. All of one host's requests go through
// it in the order in which they are sent. The learning is in learn.go.
type pacer struct {
	fixed bool
	base  float64 // requests a second; 0 while there is no limit
	span  float64 // requests after which the probing doubles
	since time.Time
	// probed are the requests admitted since then that had to wait for a token.
	probed int

	level float64 // tokens at the time at; below 0 is a debt
	at    time.Time
	burst float64   // what the host's bucket is known to store
	due   time.Time // when somebody wanted the next token; zero if nobody does

	learner
}

func newPacer(fixed float64) pacer {
	return pacer{fixed: fixed > 0, base: fixed, level: 1}
}

// rate is what requests are paced at: what was learned, and a probing above it
// that starts as one part in span and doubles with every span of requests. So
// the next 429 comes after about 1.3 spans if the rate learned is right, and
// soon after if it has become far too low. 0 is no limit.
func (p *pacer) rate(now time.Time) float64 {
	if p.base == 0 || p.fixed {
		return p.base
	}
	return p.base * (1 + p.excess(now))
}

func (p *pacer) excess(now time.Time) float64 {
	most := math.Inf(1)
	if busy := now.Sub(p.from).Seconds() - p.spare; p.trust <= searchSpan && busy > 0 {
		most = max(aheadTimes*float64(p.count)/busy/p.base, aheadTimes) - 1
	}
	doublings := float64(p.probed)/p.span + float64(now.Sub(p.since))/float64(forgetting)
	return min((math.Exp2(min(max(doublings, 0), 60))-1)/p.span, most)
}

// advance brings the level to now, and counts the time in which there were
// tokens that nobody took.
func (p *pacer) advance(now time.Time) {
	dt := now.Sub(p.at).Seconds()
	if dt <= 0 {
		return
	}
	p.at = now
	if p.base == 0 {
		return
	}
	rate := p.rate(now)
	if unused := dt - max(1-p.level, 0)/rate; unused > 0 {
		p.spare += unused
		stored := min(rate*unused, max(p.burst-p.gap, 0))
		p.gap += stored
		p.stored += stored
	}
	full := max(1, storeUse*p.burst)
	if !p.due.IsZero() {
		full += rate * min(max(now.Sub(p.due).Seconds(), 0), slack)
	}
	p.level = min(p.level+rate*dt, max(full, p.level))
}

// ready is when the next request may be sent; now or before is at once.
func (p *pacer) ready(now time.Time) time.Time {
	p.advance(now)
	if p.base == 0 || p.level >= almost {
		return now
	}
	wait := (1 - p.level) / p.rate(now)
	return now.Add(time.Duration(math.Ceil(wait * float64(time.Second))))
}

// take takes the token of a request that is being sent.
func (p *pacer) take(now time.Time) {
	p.advance(now)
	p.due = time.Time{}
	if p.base == 0 {
		return
	}
	if p.level--; p.level < 1 {
		p.gap = 0
	}
}

// giveBack returns the token of a request that was never sent.
func (p *pacer) giveBack() {
	if p.base > 0 {
		p.level++
	}
}

// admitted notes an answer that was no 429 to a request sent at a time.
func (p *pacer) admitted(now, sent time.Time) {
	p.advance(now)
	p.note(now, sent)
	if p.base == 0 || p.fixed {
		return
	}
	if p.level < 2 {
		p.probed++
	}
	if since := now.Sub(p.since); since >= staleAfter || since >= freeAfter && p.excess(now) >= freeTimes-1 {
		p.forget()
	}
}

// forget makes the host unlimited again.
func (p *pacer) forget() {
	*p = pacer{level: 1, at: p.at, learner: learner{recent: p.recent}}
}
