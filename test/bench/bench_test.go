package bench

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/gatehouse-project/gatehouse/test/process"
	"github.com/gatehouse-project/gatehouse/test/registry"
)

// BenchmarkSeed measures the seed's deployment, each figure as the median over
// the iterations. Times are from before the request's first byte to after the
// answer's last.
//
//   - cold: the first request of a fresh process.
//   - warm: the second request of the same process, which holds connections and
//     tokens: its floor is four round trips and 48 requests.
//   - one-signature: cold, where one good signature an image is enough.
func BenchmarkSeed(b *testing.B) {
	s := newSeed(b)
	b.Run("cold", func(b *testing.B) { cold(b, s, every, images*signatures) })
	b.Run("warm", func(b *testing.B) { warm(b, s) })
	b.Run("one-signature", func(b *testing.B) { cold(b, s, one, images) })
}

// measured is what the iterations found.
type measured struct {
	took, floor []time.Duration
	stats       []registry.Stats
}

func cold(b *testing.B, s *seed, require string, atLeast int) {
	var m measured
	for b.Loop() {
		b.StopTimer()
		p := process.Start(b, s.config(require))
		m.floor = append(m.floor, floor(b, s.registries[0], "notary/subjects/nginx", "signed").cold)
		b.StartTimer()
		m.measure(b, s, p, atLeast)
		b.StopTimer()
		stop(b, p)
		b.StartTimer()
	}
	m.report(b)
}

func warm(b *testing.B, s *seed) {
	var m measured
	for b.Loop() {
		b.StopTimer()
		p := process.Start(b, s.config(every))
		m.floor = append(m.floor, floor(b, s.registries[0], "notary/subjects/nginx", "signed").warm)
		verified(b, ask(b, s, p), s.keys)
		b.StartTimer()
		m.measure(b, s, p, images*signatures)
		b.StopTimer()
		stop(b, p)
		b.StartTimer()
	}
	m.report(b)
}

func (m *measured) measure(b *testing.B, s *seed, p *process.Process, atLeast int) {
	b.Helper()
	s.reset()
	answer := ask(b, s, p)
	b.StopTimer()
	m.took = append(m.took, answer.Elapsed)
	m.stats = append(m.stats, s.stats())
	if got := verified(b, answer, s.keys); got < atLeast {
		b.Fatalf("%d signatures verified, want %d", got, atLeast)
	}
	b.StartTimer()
}

// ask is one request over a connection of its own, as a Gatekeeper that has
// just started makes it.
func ask(tb testing.TB, s *seed, p *process.Process) process.Answer {
	tb.Helper()
	answer := must(p.Ask(tb.Context(), s.keys...))(tb)
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

// report gives the medians as metrics of the benchmark, and as a table.
func (m *measured) report(b *testing.B) {
	took, floor := millis(m.took), millis(m.floor)
	count := func(of func(registry.Stats) int64) float64 {
		counts := make([]int64, len(m.stats))
		for i, s := range m.stats {
			counts[i] = of(s)
		}
		return float64(median(counts))
	}
	rows := []struct {
		name     string
		decimals int
		value    float64
	}{
		{"ms", 1, took},
		{"floor-ms", 1, floor},
		{"x-floor", 2, took / floor},
		{"requests", 0, count(func(s registry.Stats) int64 { return s.Total })},
		{"challenge", 0, count(func(s registry.Stats) int64 { return s.Challenge })},
		{"token", 0, count(func(s registry.Stats) int64 { return s.Token })},
		{"resolve", 0, count(func(s registry.Stats) int64 { return s.Resolve })},
		{"referrers", 0, count(func(s registry.Stats) int64 { return s.Referrers })},
		{"manifest", 0, count(func(s registry.Stats) int64 { return s.Manifest })},
		{"blob", 0, count(func(s registry.Stats) int64 { return s.Blob })},
		{"peak", 0, count(func(s registry.Stats) int64 { return s.Peak })},
		{"connections", 0, count(func(s registry.Stats) int64 { return s.Connections })},
	}
	var table strings.Builder
	columns := tabwriter.NewWriter(&table, 0, 0, 2, ' ', tabwriter.AlignRight)
	var names, values string
	for _, row := range rows {
		b.ReportMetric(row.value, row.name)
		names, values = names+row.name+"\t", values+strconv.FormatFloat(row.value, 'f', row.decimals, 64)+"\t"
	}
	fmt.Fprintf(columns, "%s\n%s\n", names, values)
	if err := columns.Flush(); err != nil {
		b.Fatal(err)
	}
	fmt.Fprintf(&table, "  medians of %d: %v", len(m.took), m.took)
	// The time of an iteration has the means of a machine in it, not only ours.
	b.ReportMetric(0, "ns/op")
	b.Logf("\n%s", &table)
}

func millis(all []time.Duration) float64 { return float64(median(all)) / float64(time.Millisecond) }

// median is the middle of the sorted values, the upper one of two.
func median[T int64 | time.Duration](all []T) T {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}
