package governor

import "time"

const (
	// bins of binTime are the last two seconds: registries store at most about
	// a second's worth of requests.
	bins    = 16
	binTime = 125 * time.Millisecond
)

// recent counts what was admitted lately.
type recent struct {
	counts [bins]int
	last   int64 // number of the newest bin
	begun  time.Time
}

func (r *recent) add(now time.Time) {
	if r.begun.IsZero() {
		r.begun = now
	}
	bin := now.UnixNano() / int64(binTime)
	if bin-r.last >= bins {
		r.counts = [bins]int{}
		r.begun = now
	} else {
		for b := r.last + 1; b <= bin; b++ {
			r.counts[b%bins] = 0
		}
	}
	r.last = max(bin, r.last)
	r.counts[r.last%bins]++
}

// spans calls fn with the requests admitted within each of the last spans of
// time, the shortest first.
func (r *recent) spans(at time.Time, fn func(n int, seconds float64)) {
	n := 0
	for back := range int64(bins) {
		bin := at.UnixNano()/int64(binTime) - back
		if bin > r.last-bins && bin <= r.last && bin >= 0 {
			n += r.counts[bin%bins]
		}
		begin := time.Unix(0, bin*int64(binTime))
		if begin.Before(r.begun) {
			begin = r.begun
		}
		fn(n, at.Sub(begin).Seconds())
	}
}

// average is the most that was admitted a second, on average over any of the
// last spans that is long enough to say anything; at least as much flowed into
// the host's bucket or was in it.
func (r *recent) average(at time.Time) (best float64, all int) {
	r.spans(at, func(n int, seconds float64) {
		best, all = max(best, float64(n)/max(seconds, 0.025)), n
	})
	return best, all
}

// burst is the most that was admitted beyond a rate.
func (r *recent) burst(at time.Time, rate float64) float64 {
	best := 1.0
	r.spans(at, func(n int, seconds float64) {
		best = max(best, float64(n)-rate*seconds)
	})
	return best
}

// beyond is the highest rate of a full bucket of a burst that runs dry at the
// time at of what was admitted after from.
func (r *recent) beyond(at, from time.Time, burst float64) float64 {
	best := 0.0
	r.spans(at, func(n int, seconds float64) {
		if seconds > 0 && seconds <= at.Sub(from).Seconds() {
			best = max(best, (float64(n)-burst)/seconds)
		}
	})
	return best
}
