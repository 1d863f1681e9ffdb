package governor

import (
	"math"
	"math/rand/v2"
	"time"
)

const (
	// minRate is where a learned rate ends. A host that refuses even that is
	// held by pauses, not by pacing.
	minRate = 2.0
	// searchSpan is the span while little is known: a fifth more after 32
	// requests, nearly twice as much after 64. That finds a rate of 100 a second
	// within a second, and overshoots it by little enough.
	searchSpan = 16
	// trustMin and trustMax bound the requests that a rate is taken to rest on,
	// and with them the cost of probing: one 429 in about 1.3 times as many.
	// trustTime lowers the upper bound for slow hosts, which would need minutes
	// to show that they have become faster, but not below trustSlow.
	trustMin, trustMax = 8, 300
	trustTime          = 10 // seconds
	trustSlow          = 100
	// pauseShare is how many times longer than a pause that a 429 brings the
	// time between two of them should be: it costs at most a tenth.
	pauseShare = 10
	// Refusals are weighed together once there are enowAdmitted answers between
	// them, or enowRefusals of them.
	enowAdmitted, enowRefusals = 16, 3
	// enowLater answers, or a refusal among them, tell the rate; fewer that were
	// all admitted only its lower end.
	enowLater = 4
	// fewAfter answers do not tell a rate, which may be farBelow times what they
	// would make it.
	fewAfter, farBelow = 2, 50
	// heavyPart is the part of refusals above which the rate was wrong rather than
	// probed. What is left after a rate was cut to what had been admitted,
	// stillHeavy of what it was, has nothing to do with the rate.
	heavyPart, stillHeavy = 1.0 / 8, 0.6
	// noiseMost is the part of refusals that can be taken for a habit of the
	// host. Above it the host is overloaded, whoever it is that does it.
	noiseMost = 0.35
	// noiseMore refused than that is due to the rate after all.
	noiseMore = 0.15
	// noiseClimb is by how much the rate rises with each weighing while what is
	// refused is a habit: from the least to a usual one in half a minute.
	noiseClimb = 1.5
)

// learner is what the rate is computed from. A bucket is empty whenever it
// refuses, so what it admits between two refusals is what flowed into it: its
// rate, whatever its burst, unless it overflowed in between.
type learner struct {
	recent recent
	first  *episode // while the rate after a first 429 is not known
	trust  float64  // requests that base rests on; 0 for a guess

	// Since the time from, at which the host refused and was weighed:
	from     time.Time
	count    int     // admitted
	spare    float64 // seconds in which more could have been sent, see advance
	stored   float64 // what a bucket of that burst stored meanwhile
	gap      float64 // of that in the present such time
	paused   float64 // seconds in which the host had everybody wait
	refusals int     // times that it refused
	refused  int     // requests that it refused

	cut   cut
	noise float64 // part of requests that the host refuses at any rate
}

// episode is a first 429 and what led to it.
type episode struct {
	at     time.Time
	sent   time.Time // its request
	before recent
	later  int // answers to those sent later
	after  int // admitted of those
}

// guess is the rate as far as the first 429 and what was under way then tell.
func (e *episode) guess() (least, likely float64) {
	// What was sent after the request refused, and before its answer, reached
	// the host within one latency, when its bucket was empty: what it admitted
	// of that is what flowed in.
	took := max(e.at.Sub(e.sent), time.Millisecond).Seconds()
	least = (float64(e.after) + 0.5) / took
	most, n := e.before.average(e.at)
	if n < trustMin {
		most = max(least, float64(n+1)/took)
	}
	least = min(least, most)
	if e.after < fewAfter {
		// So few say little, and a guess far below the rate takes long to mend.
		return least, math.Sqrt(least * min(most, farBelow*least))
	}
	if e.after == e.later && e.later < enowLater {
		return least, math.Sqrt(least * most)
	}
	return least, least
}

// cut is a rate that was given up because too much was refused.
type cut struct {
	rate, refused float64
}

// note counts an answer that was no 429.
func (p *pacer) note(now, sent time.Time) {
	p.count++
	if p.first != nil && p.base == 0 {
		if sent.After(p.first.sent) {
			p.first.later++
			p.first.after++
		} else {
			p.first.before.add(p.first.at)
		}
	}
	p.recent.add(now)
}

// again notes a 429 to a request that was under way when another one was
// answered so: the bucket is still empty, that is all.
func (p *pacer) again(now, sent time.Time) {
	p.refused++
	if p.first != nil && p.base == 0 && sent.After(p.first.sent) {
		p.first.later++
	}
	if p.refusals == 0 {
		p.advance(now)
		p.restart(now)
	}
}

// restart begins to count anew, from an empty bucket.
func (p *pacer) restart(now time.Time) {
	p.from, p.count, p.spare, p.stored, p.refusals, p.refused = now, 0, 0, 0, 0, 0
}

// refuse notes the 429 that begins an episode: to a request sent at a time, and
// after which everybody waits for the time pause. It says whether the host
// was taken for unlimited.
func (p *pacer) refuse(now, sent time.Time, pause time.Duration) (fresh bool) {
	p.advance(now)
	if p.fixed {
		return false
	}
	if p.base == 0 {
		if p.first == nil {
			p.first = &episode{at: now, sent: sent, before: p.recent}
		}
		p.from, p.count = now, 0
		return true
	}
	// What was believed to be in the bucket was not there.
	if p.level >= 1 {
		p.burst = max(storeUse*p.burst-p.level, 1)
	}
	p.refusals++
	p.refused++
	if p.count >= enowAdmitted || p.refusals >= enowRefusals {
		p.weigh(now, max(now.Sub(sent).Seconds(), 1e-3))
	}
	p.probed, p.since = 0, now.Add(pause)
	p.paused += pause.Seconds()
	p.span = p.spanFor(pause, now.Sub(sent))
	// One to two turns are left out, or one just refused would be followed by
	// another. Chance keeps processes that share a bucket out of step.
	p.level = -rand.Float64() //nolint:gosec // to spread, not to hide
	p.spare -= p.level / p.base
	p.stored += min(-p.level, max(p.burst-1, 0))
	return false
}

// spanFor is how gently to probe: as gently as the rate is well known, as a
// 429 is costly, and never so fast that the answers cannot keep up.
func (p *pacer) spanFor(pause, rtt time.Duration) float64 {
	span := max(p.trust, searchSpan, 2*p.base*rtt.Seconds())
	if p.trust > 2*searchSpan {
		span = max(span, pauseShare*p.base*pause.Seconds())
	}
	return span
}

// resume ends the pause of a first 429: pacing begins, with a guess.
func (p *pacer) resume(now time.Time) {
	if p.first == nil || p.base > 0 {
		return
	}
	least, guess := p.first.guess()
	p.base, p.trust, p.span = max(guess, minRate), 0, searchSpan
	if least == guess {
		p.span *= 2 // the guess is worth something
	}
	p.span = max(p.span, 2*p.base*p.first.at.Sub(p.first.sent).Seconds())
	p.since, p.probed, p.refusals, p.refused = now, 0, 0, 0
	p.at = now
	// What the pause has stored is not known yet. Half of what it may be is
	// used at once, the search finds the rest.
	stored := min(p.first.before.burst(p.first.at, least), least*now.Sub(p.first.at).Seconds())
	p.spare = now.Sub(p.from).Seconds()
	p.level = max(1, stored/2)
}

// weigh draws the conclusion from what was admitted and refused.
func (p *pacer) weigh(now time.Time, took float64) {
	rate, fresh := p.rate(now), p.first != nil
	all := max(now.Sub(p.from).Seconds(), 1e-3)
	flow := p.flow(now)
	part := float64(p.refused) / float64(p.refused+p.count)
	// More than one refusal within so few answers are not what probing brings.
	heavy := p.refusals > 1 && part >= heavyPart
	paused := p.trust > 0 && !fresh && p.paused > all/4
	switch {
	case p.noise > 0 && part <= p.noise+noiseMore:
		p.noise = (p.noise + part) / 2
		// As if it were not limited at first, but no more than that.
		p.base, p.trust = max(p.base, min(noiseClimb*p.base, defaultStart/took)), searchSpan
	case heavy && part <= noiseMost && part > stillHeavy*p.cut.refused && (rate < p.cut.rate/2 || p.base <= minRate):
		// To ask less has not helped: it is not the rate that is refused.
		p.noise = part
		p.base, p.trust, p.cut = max(p.cut.rate, p.base), 0, cut{}
	case heavy, paused:
		p.noise = 0
		if heavy && p.cut.rate == 0 {
			p.cut = cut{rate: rate, refused: part}
		}
		if p.paused > all/4 {
			p.bisect(flow, rate, all)
			break
		}
		p.burst = p.recent.burst(now, flow)
		p.set(flow, rate, float64(p.count))
	default:
		p.noise = 0
		if part < heavyPart/2 {
			p.cut = cut{}
		}
		p.correct(now, flow, rate)
	}
	p.restart(now)
	p.paused = 0
}

// flow is the rate that flowed into the host's bucket since it was last
// weighed; less than that if the bucket overflowed meanwhile.
func (p *pacer) flow(now time.Time) float64 {
	n, all := float64(p.count), max(now.Sub(p.from).Seconds(), 1e-3)
	flow, busy := n/all, all-p.spare
	if p.first != nil {
		flow = p.firstFlow(now, flow, busy)
		p.burst = p.first.before.burst(p.first.at, flow)
		p.first = nil
		return flow
	}
	// If it overflowed while nobody asked, then it held its burst.
	if busy > 0 && n-p.stored >= 4 {
		flow = max(flow, (n-p.stored)/busy)
	}
	return flow
}

// firstFlow is the highest rate that explains both the first 429 and the one
// now: what was admitted before the first is the bucket's burst and the flow
// until then, and what was admitted since is what the pause stored of that, and
// the flow.
func (p *pacer) firstFlow(now time.Time, least, busy float64) float64 {
	for r := p.rate(now); r > max(least, minRate); r *= 0.98 {
		if min(p.first.before.burst(p.first.at, r), r*p.spare)+r*busy <= float64(p.count) {
			return r
		}
	}
	return least
}

// bisect finds the rate of a host whose pauses are so long that most of what
// it admits was stored meanwhile: it lies between what was admitted in all the
// time and what was in the time without pauses.
func (p *pacer) bisect(flow, rate, all float64) {
	n, busy := float64(p.count), max(all-p.spare, 1e-3)
	low, high := n/all, min(n/busy, rate)
	middle := min(max(p.base, flow), max(high, p.base)) // refused after probing upwards
	switch {
	case p.refusals > 1 && high > 4*low:
		middle = math.Sqrt(low * high)
	case p.refusals > 1 || rate < 1.1*p.base:
		middle = max(low, min(flow, 0.8*p.base))
	}
	if p.refusals > 1 {
		p.burst = max((n-middle*busy)/float64(p.refusals), 1)
	}
	trust := float64(searchSpan)
	if math.Abs(middle-p.base) < 0.15*p.base {
		trust = 2 * max(p.trust, searchSpan)
	}
	p.set(middle, rate, trust)
}

// correct makes base of what flowed: together with what was known before where
// they agree, instead of it where they do not.
func (p *pacer) correct(now time.Time, flow, rate float64) {
	n := float64(p.count)
	// A bucket of that burst that was full until lately has this rate.
	if recent := min(p.recent.beyond(now, p.from, p.burst), rate); recent > 1.05*flow {
		base := max(recent*0.97, min(p.base, 0.99*rate))
		p.set(base, rate, max(searchSpan, 4/(rate/base-1)))
		return
	}
	if p.spare > now.Sub(p.from).Seconds()/2 && p.trust > 0 {
		// Little was asked for, so what was admitted says little.
		p.set(max(flow, 0.7*p.base), rate, searchSpan)
		return
	}
	if p.trust > 0 && math.Abs(flow-p.base) <= p.base*(2/n+2/p.trust+0.02) {
		p.set((p.trust+n)/(p.trust/p.base+n/flow), rate, p.trust+n)
		return
	}
	p.set(flow, rate, n)
}

func (p *pacer) set(base, rate, trust float64) {
	if p.count < trustMin {
		base = max(base, p.base/4)
	}
	p.base = max(min(base, rate), minRate)
	p.trust = min(max(trust, trustMin), min(max(p.base*trustTime, trustSlow), trustMax))
}
