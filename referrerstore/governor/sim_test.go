package governor_test

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore/governor"
)

// TestAsFastAsAllowed holds the governor against what the registry's bucket
// lets through at best: (requests - burst) / rate. Chance plays a part, so the
// median of five runs counts.
func TestAsFastAsAllowed(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name           string
		rate, burst    float64
		latency, after time.Duration
		requests       int
		atMost         float64 // times the best
		refused        int
	}{
		{"a second's burst", 100, 100, 25 * time.Millisecond, 0, 600, 1.10, 28},
		{"a tenth of a second's burst", 100, 10, 25 * time.Millisecond, 0, 600, 1.12, 28},
		{"no burst", 100, 1, 25 * time.Millisecond, 0, 600, 1.5, 40},
		{"with Retry-After", 100, 100, 25 * time.Millisecond, time.Second, 600, 1.3, 100},
		{"with Retry-After and little burst", 100, 10, 25 * time.Millisecond, time.Second, 600, 5, 80},
		{"slow", 10, 10, 25 * time.Millisecond, 0, 300, 1.15, 80},
		{"slow without burst", 10, 1, 25 * time.Millisecond, 0, 300, 1.5, 80},
		{"fast", 1000, 1000, 25 * time.Millisecond, 0, 6000, 1.25, 150},
		{"fast with little burst", 1000, 100, 25 * time.Millisecond, 0, 6000, 1.3, 150},
		{"near", 100, 100, 5 * time.Millisecond, 0, 600, 1.15, 80},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var times []float64
			var refused []int
			for range 5 {
				synctest.Test(t, func(t *testing.T) {
					g := newGovernor(t, governor.Options{})
					r := newRegistry(test.rate, test.burst, test.latency)
					r.retryAfter = test.after
					took := rush(t, g.Host(key), r, test.requests/12, 12)
					times = append(times, took.Seconds()*test.rate/(float64(test.requests)-test.burst))
					refused = append(refused, r.count(http.StatusTooManyRequests))
				})
			}
			t.Logf("times the best: %.3f, answers of 429: %d", times, refused)
			slices.Sort(times)
			slices.Sort(refused)
			if times[2] > test.atMost {
				t.Errorf("took %.2f times the best, want at most %.2f", times[2], test.atMost)
			}
			if refused[2] > test.refused {
				t.Errorf("%d answers of 429, want at most %d", refused[2], test.refused)
			}
		})
	}
}

func TestUnthrottled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGovernor(t, governor.Options{})
		r := newRegistry(0, 0, 25*time.Millisecond)
		if took := rush(t, g.Host(key), r, 131, 5); took > 650*time.Millisecond {
			t.Errorf("655 requests took %v", took)
		}
		if r.max > 64 {
			t.Errorf("%d requests at once", r.max)
		}
	})
}

func TestLongRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGovernor(t, governor.Options{})
		r := newRegistry(100, 20, 25*time.Millisecond)
		r.jitter = 5 * time.Millisecond
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		load(ctx, t, g.Host(key), r, 100)
		if n := r.count(200); n < 5700 {
			t.Errorf("%d admitted in a minute at 100 a second", n)
		}
		if n := r.count(429); n > 120 {
			t.Errorf("%d of %d refused", n, r.count(200)+n)
		}
	})
}

func TestTwoProcesses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(100, 20, 25*time.Millisecond)
		r.jitter = 5 * time.Millisecond
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var all sync.WaitGroup
		for range 2 {
			g := newGovernor(t, governor.Options{})
			all.Go(func() { load(ctx, t, g.Host(key), r, 50) })
		}
		all.Wait()
		t.Logf("admitted %d, refused %d", r.count(200), r.count(429))
		if n := r.count(200); n < 5400 {
			t.Errorf("%d admitted in a minute at 100 a second", n)
		}
		if n := r.count(429); n > 600 {
			t.Errorf("%d refused", n)
		}
	})
}

func TestRefusedByChance(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGovernor(t, governor.Options{})
		r := newRegistry(0, 0, 25*time.Millisecond)
		r.noise = 0.2
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		load(ctx, t, g.Host(key), r, 100)
		t.Logf("admitted %d, refused %d", r.count(200), r.count(429))
		if n := r.count(200); n < 60*20 {
			t.Errorf("%d admitted in a minute", n)
		}
	})
}

func TestFasterAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGovernor(t, governor.Options{})
		h := g.Host(key)
		r := newRegistry(50, 5, 25*time.Millisecond)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		load(ctx, t, h, r, 50)
		cancel()
		if s := g.Status()[0]; s.RateSource != "learned" || s.Rate < 35 || s.Rate > 75 {
			t.Errorf("after ten seconds at 50 a second: %s %.1f", s.RateSource, s.Rate)
		}
		r.set(0, 0)
		ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		load(ctx, t, h, r, 50)
		if s := g.Status()[0]; s.RateSource != "unlimited" {
			t.Errorf("a minute after the registry ceased to limit: %s %.1f", s.RateSource, s.Rate)
		}
	})
}

func TestSlowerNow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGovernor(t, governor.Options{})
		h := g.Host(key)
		r := newRegistry(200, 20, 25*time.Millisecond)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		load(ctx, t, h, r, 50)
		cancel()
		r.set(50, 5)
		before := r.count(429)
		ctx, cancel = context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		load(ctx, t, h, r, 50)
		if s := g.Status()[0]; s.Rate < 35 || s.Rate > 75 {
			t.Errorf("20 s after the rate fell to 50 a second: %.1f", s.Rate)
		}
		if n := r.count(429) - before; n > 100 {
			t.Errorf("%d refused", n)
		}
	})
}

func TestIdleIsForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGovernor(t, governor.Options{})
		r := newRegistry(100, 10, 25*time.Millisecond)
		rush(t, g.Host(key), r, 20, 10)
		time.Sleep(10 * time.Minute)
		ask(t.Context(), t, g.Host(key), r)
		if s := g.Status()[0]; s.RateSource != "unlimited" {
			t.Errorf("ten minutes later: %s %.1f", s.RateSource, s.Rate)
		}
	})
}

func TestFixedRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGovernor(t, governor.Options{Rate: 50})
		r := newRegistry(0, 0, 25*time.Millisecond)
		took := rush(t, g.Host(key), r, 10, 10)
		if want := 99 * 20 * time.Millisecond; took < want || took > want+50*time.Millisecond {
			t.Errorf("100 requests at 50 a second took %v", took)
		}
		for i := 1; i < len(r.times); i++ {
			if gap := r.times[i].Sub(r.times[i-1]); gap < 19*time.Millisecond {
				t.Fatalf("requests %d and %d are %v apart", i-1, i, gap)
			}
		}
		if s := g.Status()[0]; s.RateSource != "fixed" || s.Rate != 50 {
			t.Errorf("%s %.1f", s.RateSource, s.Rate)
		}
	})
}
