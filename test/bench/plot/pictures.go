package main

import (
	"fmt"
	"strings"

	"github.com/gatehouse-project/gatehouse/test/bench/results"
)

// picture is one file.
type picture struct {
	file string
	// draw returns false where the results lack what is in the picture.
	draw func(all []results.Result) (string, bool)
}

func pictures() []picture {
	return []picture{
		{"seed.svg", seed},
		{"requests.svg", requests},
		{"throttled.svg", throttled},
		{"warm.svg", warm},
		{"restart.svg", restart},
		{"memory.svg", memory},
		{"pulls.svg", pulls},
	}
}

// seed sets the times of the seed's deployment beside their floors.
func seed(all []results.Result) (string, bool) {
	s := stacks{
		title: "Four images of five signatures, 25 ms away: the first request of a process",
		label: "ms; the dashed line is the bar, 1.2 times the floor",
		parts: []string{"floor: six round trips", "floor: crypto over the cores", "Gatehouse"},
	}
	for _, c := range []struct{ name, title string }{{"seed/cold", "all signatures"}, {"seed/one", "one is enough"}} {
		r, ok := results.Find(all, c.name)
		if !ok {
			return "", false
		}
		trips, _ := r.Value("six round trips")
		sums, _ := r.Value("crypto")
		f := figure(r, "time")
		if f.Floor == nil {
			return "", false
		}
		s.rows = append(s.rows,
			stack{name: c.title + ", floor", values: []float64{trips, sums}, note: short(trips+sums) + " ms", bar: -1},
			stack{name: c.title, values: []float64{0, 0, f.Value}, note: fmt.Sprintf("%s ms, x%.2f", short(f.Value), f.Value / *f.Floor), bar: *f.AtMost})
	}
	return s.String(), true
}

// figure finds a figure that the caller knows to be there.
func figure(r results.Result, name string) results.Figure {
	for _, f := range r.Figures {
		if f.Name == name {
			return f
		}
	}
	return results.Figure{}
}

// requests sets what registries were asked for beside what the protocol
// demands.
func requests(all []results.Result) (string, bool) {
	s := stacks{
		title: "Registry requests, by the least that the protocol demands",
		label: "times the floor; the dashed line is the bar",
		parts: []string{"answered", "answered 429"},
		guide: 1,
	}
	for _, c := range []struct{ name, title, figure string }{
		{"seed/cold", "4 images, all of 20 signatures", "requests"},
		{"seed/one", "4 images, one is enough", "requests"},
		{"crowd", "1 image, 64 at once", "requests"},
		{"hundred", "100 images, 500 signatures", "requests"},
		{"throttled/burst100", "the same at 100/s, in sum", "requests with 429"},
		{"throttled/burst10", "... and bursts of 10", "requests with 429"},
		{"restart/defaults", "restart of 10,000 pods", "requests with 429"},
		{"restart/rate45", "... rate configured", "requests with 429"},
	} {
		r, ok := results.Find(all, c.name)
		f := figure(r, c.figure)
		if !ok || f.Floor == nil || f.AtMost == nil {
			continue
		}
		note := fmt.Sprintf("%s of %s", short(f.Value), short(*f.Floor))
		if strings.Contains(r.Note, "did not pass") {
			note += ", did not pass"
		}
		refused, _ := r.Value("answered 429")
		s.rows = append(s.rows, stack{
			name: c.title, values: []float64{(f.Value - refused) / *f.Floor, refused / *f.Floor},
			note: note, bar: *f.AtMost / *f.Floor,
		})
	}
	return s.String(), len(s.rows) > 0
}

// throttled shows how many keys each try finished.
func throttled(all []results.Result) (string, bool) {
	l := lines{
		title:  "100 images of 5 signatures, two registries of 100 requests a second each",
		xLabel: "try, one every 2 s", yLabel: "keys finished by the deadline",
		dots: true, xLeast: 6, yLeast: 110,
		bars: []bar{{1, 35, "bar: 35"}, {3, 100, "bar: all"}},
	}
	for _, r := range all {
		if variant, ok := strings.CutPrefix(r.Name, "throttled/"); ok && len(r.Series) == 1 {
			name := strings.NewReplacer("burst", "bursts of ", "-retry-after", ", Retry-After").Replace(variant)
			l.series = append(l.series, results.Series{Name: name, Points: r.Series[0].Points})
		}
	}
	return l.String(), len(l.series) > 0
}

// warm sets rate and tail beside those of the echo.
func warm(all []results.Result) (string, bool) {
	r, ok := results.Find(all, "warm")
	rate, tail := figure(r, "answers"), figure(r, "p99")
	if !ok || rate.Floor == nil || tail.Floor == nil || *rate.Floor == 0 || *tail.Floor == 0 {
		return "", false
	}
	s := stacks{
		title: "Warm: 16 clients, four keys of five reports, beside an echo of the same bytes",
		label: "times the echo's figure; the dashed lines are the bars",
		parts: []string{"Gatehouse"}, guide: 1, guideText: "echo",
	}
	s.rows = []stack{
		{"rate (at least 0.85)", []float64{rate.Value / *rate.Floor}, fmt.Sprintf("%s of %s/s", short(rate.Value), short(*rate.Floor)), 0.85},
		{"p99 (at most 1.5)", []float64{tail.Value / *tail.Floor}, fmt.Sprintf("%s of %s ms", short(tail.Value), short(*tail.Floor)), 1.5},
	}
	return s.String(), true
}

// restart is the curve of admitted pods.
func restart(all []results.Result) (string, bool) {
	l := lines{
		title:  "A cluster restarts: 10,000 pods over 300 images, 2 processes, empty caches",
		xLabel: "s since the restart", yLabel: "pods admitted",
		xLeast: 60, yLeast: 10_000,
		bars: []bar{{60, -1, "bar: all within 60 s"}},
	}
	for _, c := range []struct{ name, title string }{{"restart/defaults", "defaults"}, {"restart/rate45", "governor.perHost.rate: 45"}} {
		if r, ok := results.Find(all, c.name); ok && len(r.Series) == 1 {
			l.series = append(l.series, results.Series{Name: c.title, Points: r.Series[0].Points})
		}
	}
	return l.String(), len(l.series) > 0
}

// memory is what a process occupies while many keys pass.
func memory(all []results.Result) (string, bool) {
	l := lines{
		title:  "Resident memory while distinct keys pass, default bounds",
		xLabel: "share of the keys, %", yLabel: "MiB", xLeast: 100,
	}
	for _, c := range []struct{ name, title string }{{"memory/images", "signed images"}, {"memory/absent", "keys that resolve to nothing"}} {
		r, ok := results.Find(all, c.name)
		if !ok || len(r.Series) != 1 || len(r.Series[0].Points) == 0 {
			continue
		}
		points := r.Series[0].Points
		n := points[len(points)-1][0]
		share := results.Series{Name: fmt.Sprintf("%s %s", short(n), c.title)}
		for _, p := range points {
			share.Points = append(share.Points, [2]float64{100 * p[0] / n, p[1]})
		}
		l.series = append(l.series, share)
		if idle, found := r.Value("idle"); found && len(l.bars) == 0 {
			l.bars = []bar{{-1, idle + 150, "bar: 150 MiB above idle"}}
			l.yLeast = idle + 150
		}
	}
	return l.String(), len(l.series) > 0
}

// pulls sets the rates of pulls through Gatehouse beside those of what it is
// compared with.
func pulls(all []results.Result) (string, bool) {
	s := stacks{
		title: "Pulls through Gatehouse, beside the same clients elsewhere",
		label: "by the rate of: a registry in memory, the upstream, the upstream, a file server; dashed: bars",
		parts: []string{"Gatehouse"}, guide: 1, guideText: "theirs",
	}
	for _, c := range []struct{ result, figure, title string }{
		{"pulls/cached", "images", "held"},
		{"pulls/cold", "images", "cold, on loopback"},
		{"pulls/far", "images", "cold, 25 ms away"},
		{"pulls/layer", "held", "256 MiB, held"},
	} {
		r, ok := results.Find(all, c.result)
		f := figure(r, c.figure)
		if !ok || f.Floor == nil || *f.Floor == 0 {
			return "", false
		}
		least := figure(r, "share").AtLeast
		switch {
		case least != nil:
		case f.AtLeast != nil:
			least = new(*f.AtLeast / *f.Floor)
		default:
			return "", false
		}
		s.rows = append(s.rows, stack{c.title, []float64{f.Value / *f.Floor}, fmt.Sprintf("%s of %s %s", short(f.Value), short(*f.Floor), f.Unit), *least})
	}
	return s.String(), true
}
