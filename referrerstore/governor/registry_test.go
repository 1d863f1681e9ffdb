package governor_test

import (
	"context"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/governor"
)

// registry is a model of a registry that is so far away and limits requests by
// a token bucket that may change over time.
type registry struct {
	latency    time.Duration
	jitter     time.Duration // up to so much more each way
	retryAfter time.Duration // that a 429 names

	mu       sync.Mutex // guards the fields that follow it
	rate     float64    // 0: none
	burst    float64
	noise    float64 // part of requests refused by chance
	level    float64
	at       time.Time
	answered map[int]int
	now, max int // at once
	times    []time.Time
}

func newRegistry(rate, burst float64, latency time.Duration) *registry {
	return &registry{rate: rate, burst: burst, level: burst, latency: latency, at: time.Now(), answered: make(map[int]int)}
}

func (r *registry) way() time.Duration {
	if r.jitter == 0 {
		return r.latency / 2
	}
	return r.latency/2 + rand.N(r.jitter)
}

// serve answers a request, which takes the latency.
func (r *registry) serve() governor.Outcome {
	time.Sleep(r.way())
	status := r.decide()
	time.Sleep(r.way())
	out := governor.Outcome{Status: status}
	if status == http.StatusTooManyRequests {
		out.RetryAfter = r.retryAfter
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now--
	return out
}

func (r *registry) decide() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	r.now++
	r.max = max(r.max, r.now)
	r.times = append(r.times, now)
	status := http.StatusOK
	if r.rate > 0 {
		r.level = min(r.burst, r.level+r.rate*now.Sub(r.at).Seconds())
		if r.level < 1-1e-9 {
			status = http.StatusTooManyRequests
		} else {
			r.level--
		}
	}
	r.at = now
	if r.noise > 0 && rand.Float64() < r.noise {
		status = http.StatusTooManyRequests
	}
	r.answered[status]++
	return status
}

func (r *registry) set(rate, burst float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rate, r.burst, r.level, r.at = rate, burst, min(r.level, burst), time.Now()
}

func (r *registry) count(status int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.answered[status]
}

// ask sends one request until it is not refused.
func ask(ctx context.Context, t testing.TB, h *governor.Host, r *registry) bool {
	for {
		p, err := h.Acquire(ctx)
		if err != nil {
			// A pause that outlasts the context is the end of it.
			if _, ends := ctx.Deadline(); ctx.Err() == nil && (!ends || referrerstore.RetryAfter(err) == 0) {
				t.Errorf("Acquire: %v", err)
			}
			return false
		}
		out := r.serve()
		p.Answered(out)
		p.Release()
		if out.Status != http.StatusTooManyRequests {
			return true
		}
	}
}

// rush asks for works times each requests at once, and returns when all are
// answered.
func rush(t testing.TB, h *governor.Host, r *registry, works, each int) time.Duration {
	begun := time.Now()
	var all sync.WaitGroup
	for range works {
		work := referrerstore.NewWork(begun, referrerstore.LaneAdmission)
		work.SetLeft(each)
		ctx := referrerstore.WithWork(t.Context(), work)
		for range each {
			all.Go(func() {
				ask(ctx, t, h, r)
				work.AddLeft(-1)
			})
		}
	}
	all.Wait()
	return time.Since(begun)
}

// load keeps workers asking until the context ends.
func load(ctx context.Context, t testing.TB, h *governor.Host, r *registry, workers int) {
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for ask(ctx, t, h, r) {
			}
		})
	}
	all.Wait()
}

func newGovernor(t testing.TB, options governor.Options) *governor.Governor {
	t.Helper()
	g, err := governor.New(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return g
}

var key = governor.Key{Host: "registry.example.com"}
