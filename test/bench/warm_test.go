package bench

import (
	"fmt"
	"os/exec"
	"slices"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/gatehouse-project/gatehouse/httpserver"
	"github.com/gatehouse-project/gatehouse/test/bench/results"
	"github.com/gatehouse-project/gatehouse/test/process"
)

const (
	// clients ask at once, each on a connection of its own.
	clients = 16
	// pairs are the rounds of each server; they take turns.
	pairs = 5
)

// BenchmarkWarm measures what a process answers that knows everything, beside
// an echo of the same bytes: by the same clients, in turns, both as processes of
// their own, plain HTTP, logs at their default level into files.
func BenchmarkWarm(b *testing.B) {
	lasting := span(b, "ROUND", 5*time.Second)
	s := newSeed(b)
	binary := must(process.Build(b.Context()))(b)
	gate := launch(b, exec.Command(binary.Path(), "serve", "--config", write(b, s.config(every), "")))
	mirror := launchEcho(b, gate, s.keys)
	for b.Loop() {
		publish(b, inTurns(b, gate, mirror, s.keys, lasting))
	}
}

// TestWarm asks the way that the benchmark does, for a moment.
func TestWarm(t *testing.T) {
	t.Parallel()
	s := newSeed(t)
	binary := must(process.Build(t.Context()))(t)
	config := s.config(every)
	config.Timeout = maxTimeout
	gate := launch(t, exec.Command(binary.Path(), "serve", "--config", write(t, config, "")))
	mirror := launchEcho(t, gate, s.keys)
	s.reset()
	var answered int
	for _, server := range []launched{gate, mirror} {
		m := load(t, server, request(t, server.address, s.keys...), 300*time.Millisecond)
		if m.rate <= 0 || m.p99 <= 0 {
			t.Errorf("%+v", m)
		}
		answered += m.answered
	}
	if stats := s.stats(); stats.Total != 0 {
		t.Errorf("%d registry requests for %d warm ones: %+v", stats.Total, answered, stats)
	}
}

// launchEcho starts an echo of what Gatehouse answers when all is verified.
func launchEcho(tb testing.TB, gate launched, keys []string) launched {
	tb.Helper()
	client := process.Client{URL: "http://" + gate.address + httpserver.VerifyPath}
	for range 2 { // the second answer is a warm one
		answer := must(client.Ask(tb.Context(), keys...))(tb)
		if got := verified(tb, answer, keys); got != images*signatures {
			tb.Fatalf("%d signatures verified, want %d", got, images*signatures)
		}
	}
	answer := must(client.Ask(tb.Context(), keys...))(tb)
	return launch(tb, echoCommand(tb, answer.Body, answer.Header.Get("Content-Length") != ""))
}

// loaded is what one round found.
type loaded struct {
	answered int
	rate     float64 // a second
	p50, p99 time.Duration
	bytes    int // of an answer
}

func inTurns(b *testing.B, gate, mirror launched, keys []string, lasting time.Duration) results.Result {
	b.Helper()
	servers := []launched{gate, mirror}
	found := make([][]loaded, 2)
	for i, server := range servers { // warms both up
		load(b, server, request(b, server.address, keys...), lasting/5)
		found[i] = nil
	}
	for range pairs {
		for i, server := range servers {
			found[i] = append(found[i], load(b, server, request(b, server.address, keys...), lasting))
		}
	}
	return compared(found[0], found[1], lasting)
}

// compared sets the medians of both beside each other.
func compared(gate, mirror []loaded, lasting time.Duration) results.Result {
	rate := func(l loaded) float64 { return l.rate }
	p99 := func(l loaded) float64 { return millis(l.p99) }
	p50 := func(l loaded) float64 { return millis(l.p50) }
	of := func(all []loaded, value func(loaded) float64) float64 {
		values := make([]float64, len(all))
		for i, l := range all {
			values[i] = value(l)
		}
		return median(values)
	}
	ratios := make([]float64, len(gate))
	for i := range gate {
		ratios[i] = gate[i].rate / mirror[i].rate
	}
	r := results.Result{Name: "warm", Note: fmt.Sprintf("%d clients, %d rounds of %s each in turns, answers of %d bytes; of each round, Gatehouse by echo: %.2f",
		clients, len(gate), lasting, gate[0].bytes, ratios)}
	r.Add(
		results.Figure{Name: "answers", Value: of(gate, rate), Unit: "/s", Floor: new(of(mirror, rate))},
		results.Figure{Name: "echo", Value: of(mirror, rate), Unit: "/s"},
		results.Figure{Name: "answers by echo", Value: of(gate, rate) / of(mirror, rate), AtLeast: new(0.85)},
		results.Figure{Name: "p50", Value: of(gate, p50), Unit: "ms", Floor: new(of(mirror, p50))},
		results.Figure{Name: "p99", Value: of(gate, p99), Unit: "ms", Floor: new(of(mirror, p99)), AtMost: new(1.5 * of(mirror, p99))},
		results.Figure{Name: "echo p99", Value: of(mirror, p99), Unit: "ms"},
	)
	return r
}

// load lets all clients ask a server, one request after the other, for a time.
func load(tb testing.TB, server launched, request []byte, lasting time.Duration) loaded {
	tb.Helper()
	times := make([][]time.Duration, clients)
	lengths := make([]int, clients)
	var group errgroup.Group
	start := time.Now()
	end := start.Add(lasting)
	for i := range clients {
		times[i] = make([]time.Duration, 0, 1<<16)
		group.Go(func() error {
			w, err := dial(tb.Context(), server.address)
			if err != nil {
				return err
			}
			defer w.close()
			for began := time.Now(); began.Before(end); {
				body, err := w.exchange(tb.Context(), request)
				if err != nil {
					return err
				}
				now := time.Now()
				times[i], lengths[i] = append(times[i], now.Sub(began)), len(body)
				began = now
			}
			return nil
		})
	}
	err := group.Wait()
	took := time.Since(start)
	if err != nil {
		tb.Fatalf("under load: %v", err)
	}
	all := slices.Sorted(slices.Values(slices.Concat(times...)))
	return loaded{
		answered: len(all), rate: float64(len(all)) / took.Seconds(), bytes: lengths[0],
		p50: all[len(all)/2], p99: all[len(all)*99/100],
	}
}
