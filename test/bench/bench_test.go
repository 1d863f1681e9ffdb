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

// rounds is how many fresh processes a median is of.
const rounds = 5

// BenchmarkSeed measures the seed's deployment. Times are from before the
// request's first byte to after the answer's last.
//
//   - cold: the first request of a fresh process, with what the process asked
//     while it started.
//   - warm: the second request of the same process.
//   - one: cold, where one good signature an image is enough.
func BenchmarkSeed(b *testing.B) {
	s := newSeed(b)
	b.Run("cold", func(b *testing.B) {
		for b.Loop() {
			publish(b, seedCold(b, s, "seed/cold", every, signatures, floorRequests))
		}
	})
	b.Run("one", func(b *testing.B) {
		for b.Loop() {
			publish(b, seedCold(b, s, "seed/one", one, 1, maxOne))
		}
	})
	b.Run("warm", func(b *testing.B) {
		for b.Loop() {
			publish(b, seedWarm(b, s))
		}
	})
}

// measured is what the rounds found.
type measured struct {
	took, trips, crypto []time.Duration
	stats               []registry.Stats
}

func seedCold(b *testing.B, s *site, name, require string, ofEach, atMost int) results.Result {
	b.Helper()
	var m measured
	for range rounds {
		m.trips = append(m.trips, floor(b, s.registries[0], seedRepo(0), "signed").cold)
		m.crypto = append(m.crypto, crypto(b, s.material, ofEach))
		s.reset()
		p := process.Start(b, s.config(require))
		m.ask(b, s, p, images*ofEach)
		stop(b, p)
	}
	r := results.Result{Name: name, Note: fmt.Sprintf("medians of %d fresh processes: %v", rounds, m.took)}
	trips, sums := millis(median(m.trips)), millis(median(m.crypto))
	least := trips + sums
	r.Add(
		results.Figure{Name: "time", Value: millis(median(m.took)), Unit: "ms", Floor: new(least), AtMost: new(1.2 * least)},
		results.Figure{Name: "six round trips", Value: trips, Unit: "ms"},
		results.Figure{Name: "crypto", Value: sums, Unit: "ms"},
	)
	requests := float64(floorRequests)
	if ofEach == 1 {
		requests = floorOne
	}
	r.Add(m.counts(requests, float64(atMost))...)
	return r
}

func seedWarm(b *testing.B, s *site) results.Result {
	b.Helper()
	var m measured
	for range rounds {
		p := process.Start(b, s.config(every))
		verified(b, ask(b, p, s.keys), s.keys)
		s.reset()
		m.ask(b, s, p, images*signatures)
		stop(b, p)
	}
	r := results.Result{Name: "seed/warm", Note: fmt.Sprintf("second request of a process; medians of %d: %v", rounds, m.took)}
	r.Add(results.Figure{Name: "time", Value: millis(median(m.took)), Unit: "ms"})
	r.Add(m.counts(0, 0)...)
	return r
}

func (m *measured) ask(b *testing.B, s *site, p *process.Process, atLeast int) {
	b.Helper()
	answer := ask(b, p, s.keys)
	m.took = append(m.took, answer.Elapsed)
	m.stats = append(m.stats, s.stats())
	if got := verified(b, answer, s.keys); got < atLeast {
		b.Fatalf("%d signatures verified, want %d", got, atLeast)
	}
}

// counts are the medians of what registries were asked for.
func (m *measured) counts(least, most float64) []results.Figure {
	count := func(of func(registry.Stats) int64) float64 {
		counts := make([]int64, len(m.stats))
		for i, s := range m.stats {
			counts[i] = of(s)
		}
		return float64(median(counts))
	}
	return []results.Figure{
		{Name: "requests", Value: count(func(s registry.Stats) int64 { return s.Total }), Floor: &least, AtMost: &most},
		{Name: "answered 401", Value: count(func(s registry.Stats) int64 { return s.Challenge }), AtMost: new(2.0)},
		{Name: "tokens", Value: count(func(s registry.Stats) int64 { return s.Token })},
		{Name: "resolved", Value: count(func(s registry.Stats) int64 { return s.Resolve })},
		{Name: "lists", Value: count(func(s registry.Stats) int64 { return s.Referrers })},
		{Name: "manifests", Value: count(func(s registry.Stats) int64 { return s.Manifest })},
		{Name: "blobs", Value: count(func(s registry.Stats) int64 { return s.Blob })},
		{Name: "other", Value: count(func(s registry.Stats) int64 { return s.Other })},
		{Name: "most at once, a registry", Value: count(func(s registry.Stats) int64 { return s.Peak })},
		{Name: "connections", Value: count(func(s registry.Stats) int64 { return s.Connections })},
	}
}

// median is the middle of the sorted values, the upper one of two.
func median[T int64 | float64 | time.Duration](all []T) T {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}
