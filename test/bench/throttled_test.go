package bench

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/gatehouse-project/gatehouse/test/bench/results"
	"github.com/gatehouse-project/gatehouse/test/process"
	"github.com/gatehouse-project/gatehouse/test/registry"
)

// A hundred images with five signatures each, half of them in each of two
// registries, every image in a repository of its own: 2 challenges, 100 tokens,
// 100 resolutions, 100 lists, 500 manifests and 500 envelopes.
const (
	hundred        = 100
	floorHundred   = 1302
	mostHundred    = 1310
	mostThrottled  = 1367
	tries          = 6
	passingTry     = 3
	firstKeys      = 35
	betweenTries   = 2 * time.Second
	answerDeadline = 1900 * time.Millisecond
)

// BenchmarkHundred asks for a hundred images in one request: of registries
// that take any number of requests, and of such that take 100 a second.
func BenchmarkHundred(b *testing.B) {
	m := sign(b, hundred, mixed)
	b.Run("unthrottled", func(b *testing.B) {
		for b.Loop() {
			publish(b, unthrottled(b, m))
		}
	})
	for _, v := range []struct {
		name       string
		burst      int
		retryAfter string
	}{
		{"burst100", 100, ""},
		{"burst10", 10, ""},
		{"burst100-retry-after", 100, "1"},
		{"burst10-retry-after", 10, "1"},
	} {
		b.Run(v.name, func(b *testing.B) {
			opts := far()
			opts.Rate, opts.Burst, opts.RetryAfter = 100, v.burst, v.retryAfter
			for b.Loop() {
				r := throttled(b, m, opts)
				r.Name = "throttled/" + v.name
				publish(b, r)
			}
		})
	}
}

func unthrottled(b *testing.B, m *material) results.Result {
	b.Helper()
	var took, sums []time.Duration
	var counts []int64
	finished := hundred
	for range rounds {
		s := newSite(b, m, 2, far()).spread(b, hundred, false)
		sums = append(sums, crypto(b, m, signatures))
		p := process.Start(b, s.config(every))
		a := attempted(b, p, s.keys)
		finished = min(finished, a.finished)
		took, counts = append(took, a.took), append(counts, s.stats().Total)
		stop(b, p)
	}
	most := 1000 + millis(median(sums))
	r := results.Result{Name: "hundred", Note: fmt.Sprintf("100 images of 5 signatures, 25 ms away; medians of %d fresh processes: %v", rounds, took)}
	r.Add(
		results.Figure{Name: "time", Value: millis(median(took)), Unit: "ms", Floor: new(6*millis(latency) + millis(median(sums))), AtMost: &most},
		results.Figure{Name: "crypto", Value: millis(median(sums)), Unit: "ms"},
		results.Figure{Name: "keys finished, at least", Value: float64(finished), AtLeast: new(float64(hundred))},
		results.Figure{Name: "requests", Value: float64(median(counts)), Floor: new(float64(floorHundred)), AtMost: new(float64(mostHundred))},
	)
	return r
}

// attempt is one try of a client.
type attempt struct {
	took              time.Duration
	finished, refused int
	err               error
}

// attempted asks once. An answer that is late or breaks off is an attempt with
// an error, not the end of the experiment.
func attempted(tb testing.TB, p *process.Process, keys []string) attempt {
	tb.Helper()
	start := time.Now()
	answer, err := p.Ask(tb.Context(), keys...)
	a := attempt{took: time.Since(start), err: err}
	for _, item := range answer.Items {
		if item.Value.IsSuccess {
			a.finished++
		} else {
			a.refused++
		}
	}
	return a
}

// retried asks until all keys are finished, as often as allowed, each time so
// long after the last start.
func retried(tb testing.TB, p *process.Process, keys []string, atMost int, apart time.Duration) []attempt {
	tb.Helper()
	var all []attempt
	for tick := time.Now(); len(all) < atMost; tick = tick.Add(apart) {
		time.Sleep(time.Until(tick))
		all = append(all, attempted(tb, p, keys))
		if all[len(all)-1].finished == len(keys) {
			break
		}
	}
	return all
}

func throttled(b *testing.B, m *material, opts registry.Options) results.Result {
	b.Helper()
	s := newSite(b, m, 2, opts).spread(b, hundred, false)
	p := process.Start(b, s.config(every))
	all := retried(b, p, s.keys, tries, betweenTries)
	stats := s.stats()
	note := fmt.Sprintf("100 images of 5 signatures, %v requests a second and registry, bursts of %d, tries %s apart", opts.Rate, opts.Burst, betweenTries)
	if !p.Alive() {
		note += "; THE PROCESS DIED"
	}
	r := results.Result{Name: "throttled", Note: note}
	line := results.Series{Name: "keys finished"}
	longest, refused, failed := time.Duration(0), 0, 0
	for i, a := range all {
		f := results.Figure{Name: fmt.Sprintf("keys finished by try %d", i+1), Value: float64(a.finished)}
		switch i + 1 {
		case 1:
			f.AtLeast = new(float64(firstKeys))
		case passingTry:
			f.AtLeast = new(float64(hundred))
		}
		r.Add(f, results.Figure{Name: fmt.Sprintf("time of try %d", i+1), Value: millis(a.took), Unit: "ms", AtMost: new(millis(answerDeadline))})
		line.Points = append(line.Points, [2]float64{float64(i + 1), float64(a.finished)})
		longest, refused = max(longest, a.took), refused+a.refused
		if a.err != nil {
			failed++
			b.Logf("try %d: %v", i+1, a.err)
		}
	}
	passes := slices.IndexFunc(all, func(a attempt) bool { return a.finished == hundred }) + 1
	if passes == 0 {
		passes = tries + 1 // it never does
		r.Note += "; did not pass, so that the requests are not those of the whole"
	}
	r.Add(
		results.Figure{Name: "passes by try", Value: float64(passes), AtMost: new(float64(passingTry))},
		results.Figure{Name: "longest answer", Value: millis(longest), Unit: "ms", AtMost: new(millis(answerDeadline))},
		results.Figure{Name: "answers that broke off", Value: float64(failed), AtMost: new(0.0)},
		results.Figure{Name: "wrong denials", Value: float64(refused), AtMost: new(0.0)},
		results.Figure{Name: "requests with 429", Value: float64(stats.Total), Floor: new(float64(floorHundred)), AtMost: new(float64(mostThrottled))},
		results.Figure{Name: "answered 429", Value: float64(stats.Throttled)},
		results.Figure{Name: "tokens and 401", Value: float64(stats.Token + stats.Challenge)},
	)
	r.Series = append(r.Series, line)
	return r
}

// TestThrottled is the same in small: work that one try began is there for the
// next, nothing is asked for twice, and the lack of a verdict is never one.
func TestThrottled(t *testing.T) {
	t.Parallel()
	const count, floorSmall = 12, 1 + 12 + 12 + 12 + 24 + 24
	m := sign(t, count, []style{quick[0], {quick[0].key, "application/cose"}})
	opts := far()
	opts.Rate, opts.Burst = 20, 5
	s := newSite(t, m, 1, opts).spread(t, count, true) // no tag that has to be resolved again
	p := process.Start(t, s.config(every))
	// 73 requests that are limited take more than three seconds: one try of
	// 1.9 s cannot do it, and 12 are what a starved machine may need.
	all := retried(t, p, s.keys, 12, time.Second)
	stats := s.stats()
	t.Logf("%+v\n%+v", all, stats)
	last := all[len(all)-1]
	if last.finished != count {
		t.Errorf("%d of %d keys finished after %d tries", last.finished, count, len(all))
	}
	for i, a := range all {
		if a.refused > 0 || i > 0 && a.finished < all[i-1].finished {
			t.Errorf("try %d: %d keys finished, %d denied", i+1, a.finished, a.refused)
		}
	}
	if asked := stats.Total - stats.Throttled; asked > floorSmall {
		t.Errorf("%d requests that were answered, want %d at most: finished work was thrown away", asked, floorSmall)
	}
	if stats.Throttled > floorSmall/2 {
		t.Errorf("%d requests were answered 429: the rate was not learnt", stats.Throttled)
	}
}
