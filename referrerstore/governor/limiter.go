package governor

import "time"

const (
	// On 503 the limit falls to seven tenths, as a host that sheds load asks
	// for; on rising latency to eight, because that has other causes too.
	shedFactor, slowFactor = 0.7, 0.8
	// Latency has risen if its short average is above twice what it lately was
	// at its best, and 50 ms: two busy cores alone make 5 ms into 30.
	slowTimes, slowExtra = 2, 50 * time.Millisecond
	// slowEvery is how often rising latency may count: what the last cut did
	// must be seen first, through an average over eight answers.
	slowEvery = time.Second
	// slowFloor is where latency stops to count: a host that is slow by itself
	// does not get faster when asked less, and four at once hurt none.
	slowFloor = 4
	// baselineWindow is how long the best latency is believed; a host that
	// moved away is measured anew after two of them.
	baselineWindow = 10 * time.Second
	// knownAfter is how many answers make a latency known.
	knownAfter = 4
)

// limiter adapts how many requests may be under way at once.
type limiter struct {
	limit, most int
	successes   int    // since the limit last changed, while it was used up
	cut         uint64 // requests up to this one were sent before the last cut
	slowAt      time.Time
	latency     latency
}

// success notes an answer that came in good time; full says that the limit is
// used up.
func (l *limiter) success(now time.Time, seq uint64, took time.Duration, full bool) {
	l.latency.add(now, took)
	if l.slow(now, seq) {
		l.slowAt = now
		l.shrink(slowFactor, slowFloor)
		return
	}
	if !full || l.limit >= l.most {
		return
	}
	if l.successes++; l.successes >= l.limit {
		l.limit++
		l.successes = 0
	}
}

// shed notes a 503. Those that were under way at the last cut say no more than
// the one that caused it.
func (l *limiter) shed(seq, last uint64) {
	if seq > l.cut {
		l.cut = last
		l.shrink(shedFactor, 1)
	}
}

func (l *limiter) slow(now time.Time, seq uint64) bool {
	return seq > l.cut && l.limit > slowFloor && now.Sub(l.slowAt) >= slowEvery && l.latency.risen()
}

func (l *limiter) shrink(factor float64, floor int) {
	l.limit = max(int(float64(l.limit)*factor), min(floor, l.limit))
	l.successes = 0
}

// latency keeps a smoothed mean and deviation of answers' headers as RFC 6298
// does for round trips, and the best mean of one to two windows.
type latency struct {
	n          int
	mean, dev  time.Duration
	best, last time.Duration // of this window and of the one before
	window     time.Time     // when this one began
}

func (l *latency) add(now time.Time, took time.Duration) {
	if l.n++; l.n == 1 {
		l.mean, l.dev = took, took/2
		l.best, l.last, l.window = took, took, now
		return
	}
	l.dev += ((took - l.mean).Abs() - l.dev) / 4
	l.mean += (took - l.mean) / 8
	if now.Sub(l.window) > baselineWindow {
		l.last, l.best, l.window = l.best, l.mean, now
	}
	l.best = min(l.best, l.mean)
}

func (l *latency) risen() bool {
	return l.n > 2*knownAfter && l.mean > slowTimes*min(l.best, l.last)+slowExtra
}

// usual is what all but a few answers in a hundred stay below: the mean and
// three mean deviations. Zero is unknown.
func (l *latency) usual() time.Duration {
	if l.n < knownAfter {
		return 0
	}
	return l.mean + 3*l.dev
}
