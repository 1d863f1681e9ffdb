package bench

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/gatehouse-project/gatehouse/test/bench/results"
	"github.com/gatehouse-project/gatehouse/test/process"
	"github.com/gatehouse-project/gatehouse/test/registry"
)

const (
	mib = float64(1 << 20)
	// mostMemory is the peak above idle that default bounds allow, in MiB.
	mostMemory = 150
	// askers send batches of keys at once.
	askers = 4
	// asks is how often a key may be asked for until there is a verdict.
	asks = 10
)

// BenchmarkMemory verifies many distinct images once, and asks for many more
// that do not exist.
func BenchmarkMemory(b *testing.B) {
	b.Run("images", func(b *testing.B) {
		n := size(b, "IMAGES", 10_000)
		for b.Loop() {
			r := manyImages(b, n)
			publish(b, r)
		}
	})
	b.Run("absent", func(b *testing.B) {
		n := size(b, "ABSENT", 200_000)
		for b.Loop() {
			publish(b, manyAbsent(b, n))
		}
	})
}

// TestMemory is the same in small. A bound that small numbers do not reach
// cannot be seen here; what leaks for every key or holds all content can.
func TestMemory(t *testing.T) {
	t.Parallel()
	for _, r := range []results.Result{manyImages(t, 600), manyAbsent(t, 12_000)} {
		var table strings.Builder
		if err := r.Table(&table); err != nil {
			t.Fatal(err)
		}
		t.Log(table.String())
		if missed := r.Missed(); len(missed) > 0 {
			t.Errorf("%s: %v", r.Name, missed)
		}
	}
}

func manyImages(tb testing.TB, n int) results.Result {
	tb.Helper()
	s := newSite(tb, sign(tb, n, quick), 1, registry.Options{}).spread(tb, max(n/100, 1), true)
	p := process.Start(tb, s.config(one))
	idle := reset(tb, p)
	line := results.Series{Name: "resident"}
	left := inBatches(tb, p, s.keys, 100, func(done int) {
		line.Points = append(line.Points, [2]float64{float64(done), float64(must(p.Memory())(tb).Resident) / mib})
	})
	after, stats := must(p.Memory())(tb), s.stats()
	r := results.Result{Name: "memory/images", Note: fmt.Sprintf("%d distinct images of one signature, each verified once, %d at a time in %d requests", n, 100, askers)}
	r.Add(
		results.Figure{Name: "idle", Value: idle / mib, Unit: "MiB"},
		results.Figure{Name: "peak above idle", Value: (float64(after.Peak) - idle) / mib, Unit: "MiB", AtMost: new(float64(mostMemory))},
		results.Figure{Name: "in the end", Value: float64(after.Resident) / mib, Unit: "MiB"},
		results.Figure{Name: "images", Value: float64(n)},
		results.Figure{Name: "without a verdict", Value: float64(left), AtMost: new(0.0)},
		results.Figure{Name: "registry requests", Value: float64(stats.Total), Floor: new(float64(4 * n))},
	)
	r.Series = append(r.Series, line)
	return r
}

// manyAbsent asks for keys of which the registry says that there is no such
// thing: half of them tags, half digests, over many repositories.
func manyAbsent(tb testing.TB, n int) results.Result {
	tb.Helper()
	s := newSite(tb, sign(tb, 1, quick), 1, registry.Options{}).spread(tb, 1, false)
	host := s.registries[0].Host()
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("%s/gone/app-%d:v%d", host, i%1000, i)
		if i%2 == 1 {
			keys[i] = fmt.Sprintf("%s/gone/app-%d@sha256:%064x", host, i%1000, i)
		}
	}
	p := process.Start(tb, s.config(one))
	idle := reset(tb, p)
	line := results.Series{Name: "resident"}
	var live []float64
	left := inBatches(tb, p, keys, 500, func(done int) {
		line.Points = append(line.Points, [2]float64{float64(done), float64(must(p.Memory())(tb).Resident) / mib})
		live = append(live, liveHeap(tb, p)/mib)
	})
	after := must(p.Memory())(tb)
	r := results.Result{Name: "memory/absent", Note: fmt.Sprintf("%d distinct keys that resolve to nothing", n), Series: []results.Series{line}}
	quarters := make([]float64, 4)
	for _, point := range line.Points {
		quarters[min(int(point[0]-1)*4/n, 3)] = point[1]
	}
	// The least of each half is without what requests held just then.
	before, then := slices.Min(live[:(len(live)+1)/2]), slices.Min(live[len(live)/2:])
	for i, resident := range quarters {
		r.Add(results.Figure{Name: fmt.Sprintf("resident after %d", n*(i+1)/4), Value: resident, Unit: "MiB"})
	}
	r.Add(
		results.Figure{Name: "idle", Value: idle / mib, Unit: "MiB"},
		results.Figure{Name: "peak above idle", Value: (float64(after.Peak) - idle) / mib, Unit: "MiB", AtMost: new(float64(mostMemory))},
		// What is resident breathes with the collector, by more than what a few
		// bytes a key would show: what was live when it last ran does not.
		results.Figure{Name: "live in the first half, at least", Value: before, Unit: "MiB"},
		results.Figure{Name: "live in the second half, at least", Value: then, Unit: "MiB"},
		results.Figure{Name: "growth in the second half", Value: then - before, Unit: "MiB", AtMost: new(16.0)},
		results.Figure{Name: "without a verdict", Value: float64(left), AtMost: new(0.0)},
	)
	return r
}

// liveHeap is about what was live when the collector last ran: it lets the heap
// double from there (GOGC is 100).
func liveHeap(tb testing.TB, p *process.Process) float64 {
	tb.Helper()
	const name = "go_memstats_next_gc_bytes"
	target, ok := must(p.Metrics(tb.Context()))(tb)[name]
	if !ok {
		tb.Fatalf("%s is not shown", name)
	}
	return target / 2
}

// reset lets the peak begin anew and returns what an idle process holds.
func reset(tb testing.TB, p *process.Process) (idle float64) {
	tb.Helper()
	if err := p.ResetPeak(); err != nil {
		tb.Skipf("memory cannot be measured here: %v", err)
	}
	return float64(must(p.Memory())(tb).Resident)
}

// inBatches asks for all keys, so many at a time, again for those without a
// verdict, and returns how many are left without one in the end. After each
// round of batches it tells how many keys are through.
func inBatches(tb testing.TB, p *process.Process, keys []string, batch int, told func(done int)) (left int) {
	tb.Helper()
	for start := 0; start < len(keys); start += askers * batch {
		round := keys[start:min(start+askers*batch, len(keys))]
		open := make([]int, askers)
		var group errgroup.Group
		for i := range askers {
			group.Go(func() error {
				mine := round[min(i*batch, len(round)):min((i+1)*batch, len(round))]
				var err error
				open[i], err = untilJudged(tb, p, mine)
				return err
			})
		}
		if err := group.Wait(); err != nil {
			tb.Fatal(err)
		}
		for _, n := range open {
			left += n
		}
		told(start + len(round))
	}
	return left
}

// untilJudged asks for keys until each has a verdict, and returns how many have
// none after the last time.
func untilJudged(tb testing.TB, p *process.Process, keys []string) (left int, err error) {
	for range asks {
		if len(keys) == 0 {
			return 0, nil
		}
		answer, err := p.Ask(tb.Context(), keys...)
		if err != nil {
			return 0, err
		}
		judged := make(map[string]bool, len(answer.Items))
		for _, item := range answer.Items {
			judged[item.Key] = true
		}
		var open []string
		for _, key := range keys {
			if !judged[key] {
				open = append(open, key)
			}
		}
		keys = open
	}
	return len(keys), nil
}
