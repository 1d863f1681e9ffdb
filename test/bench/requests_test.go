package bench

import (
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gatehouse-project/gatehouse/test/bench/results"
	"github.com/gatehouse-project/gatehouse/test/process"
	"github.com/gatehouse-project/gatehouse/test/registry"
)

// ask is one request over a connection of its own, as a Gatekeeper that has
// just started makes it.
func ask(tb testing.TB, p *process.Process, keys []string) process.Answer {
	tb.Helper()
	answer := must(p.Ask(tb.Context(), keys...))(tb)
	if answer.Status != http.StatusOK {
		tb.Fatalf("status %d: %s", answer.Status, answer.Body)
	}
	return answer
}

func stop(tb testing.TB, p *process.Process) {
	tb.Helper()
	if err := p.Stop(); err != nil {
		tb.Fatal(err)
	}
}

// TestSeedRequests holds the seed's deployment to what does not depend on time:
// all signatures are verified, registries are asked for each thing once, and
// for nothing a second time. What a process asks while it starts counts.
func TestSeedRequests(t *testing.T) {
	t.Parallel()
	s := newSeed(t)
	config := s.config(every)
	config.Timeout = maxTimeout
	p := process.Start(t, config)
	if got := verified(t, ask(t, p, s.keys), s.keys); got != images*signatures {
		t.Errorf("%d signatures verified, want %d", got, images*signatures)
	}
	stats := s.stats()
	t.Logf("cold: %+v", stats)
	if stats.Total != floorRequests {
		t.Errorf("%d requests, want %d", stats.Total, floorRequests)
	}
	if want := int64(len(s.registries)); stats.Challenge > want || stats.Unauthorized != 0 {
		t.Errorf("%d challenges, %d of them with credentials; want one a registry", stats.Challenge, stats.Unauthorized)
	}
	s.reset()
	if got := verified(t, ask(t, p, s.keys), s.keys); got != images*signatures {
		t.Errorf("warm: %d signatures verified, want %d", got, images*signatures)
	}
	if stats := s.stats(); stats.Total != 0 {
		t.Errorf("warm: %d requests, want none; %+v", stats.Total, stats)
	}
}

// TestSeedOneSignature lets one good signature an image be enough: what is not
// needed is not fetched.
func TestSeedOneSignature(t *testing.T) {
	t.Parallel()
	s := newSeed(t)
	config := s.config(one)
	config.Timeout = maxTimeout
	p := process.Start(t, config)
	if got := verified(t, ask(t, p, s.keys), s.keys); got < images {
		t.Errorf("%d signatures verified, want %d", got, images)
	}
	stats := s.stats()
	t.Logf("%+v", stats)
	// A starved machine makes candidates look slow, which hedges; it never
	// makes up for a first front of more than one.
	if stats.Total < floorOne || stats.Total > maxOne {
		t.Errorf("%d requests, want %d to %d", stats.Total, floorOne, maxOne)
	}
}

// crowd is how many ask for one image at once.
const crowd = 64

// TestCrowd lets many ask for one unknown image at once: the registry sees the
// requests of one.
func TestCrowd(t *testing.T) {
	t.Parallel()
	single, many := crowdStats(t, 1), crowdStats(t, crowd)
	if diff := cmp.Diff(kindsOf(single), kindsOf(many)); diff != "" {
		t.Errorf("%d at once ask otherwise than one (-one +many):\n%s", crowd, diff)
	}
}

// BenchmarkCrowd is TestCrowd as a table.
func BenchmarkCrowd(b *testing.B) {
	for b.Loop() {
		single, many := kindsOf(crowdStats(b, 1)), kindsOf(crowdStats(b, crowd))
		r := results.Result{Name: "crowd", Note: "64 requests at once for one unknown image of five signatures, beside one request"}
		for _, name := range []string{"challenge", "token", "resolve", "referrers", "manifest", "blob", "other", "requests"} {
			r.Add(results.Figure{Name: name, Value: many[name], Floor: new(single[name]), AtMost: new(single[name])})
		}
		publish(b, r)
	}
}

// crowdStats lets n clients ask a fresh process for the same image.
func crowdStats(tb testing.TB, n int) registry.Stats {
	tb.Helper()
	s := newSite(tb, sign(tb, 1, mixed), 1, far()).spread(tb, 1, false)
	config := s.config(every)
	config.Timeout = maxTimeout
	p := process.Start(tb, config)
	answers := make([]process.Answer, n)
	errs := make([]error, n)
	begin := make(chan struct{})
	var clients sync.WaitGroup
	for i := range n {
		clients.Go(func() {
			<-begin
			answers[i], errs[i] = p.Ask(tb.Context(), s.keys...)
		})
	}
	time.Sleep(10 * time.Millisecond) // all clients stand at the door, or nearly
	close(begin)
	clients.Wait()
	for i := range n {
		if errs[i] != nil {
			tb.Fatal(errs[i])
		}
		if got := verified(tb, answers[i], s.keys); got != signatures {
			tb.Errorf("%d signatures verified, want %d", got, signatures)
		}
	}
	return s.stats()
}

// kindsOf are the counts that do not depend on time.
func kindsOf(s registry.Stats) map[string]float64 {
	return map[string]float64{
		"challenge": float64(s.Challenge), "token": float64(s.Token), "resolve": float64(s.Resolve),
		"referrers": float64(s.Referrers), "manifest": float64(s.Manifest), "blob": float64(s.Blob),
		"other": float64(s.Other), "requests": float64(s.Total),
	}
}
