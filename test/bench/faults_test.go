package bench

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/test/bench/results"
	"github.com/gatehouse-project/gatehouse/test/process"
	"github.com/gatehouse-project/gatehouse/test/registry"
	"github.com/gatehouse-project/gatehouse/verifier"
)

// trouble is what befalls one registry while another serves.
type trouble struct {
	name string
	// fault is nil for a registry that goes away: nobody listens any more.
	fault registry.Fault
	// code, where not empty, is one that answers about the registry must have
	// while it lasts.
	code string
}

func troubles() []trouble {
	later := http.Header{"Retry-After": {"86400"}}
	return []trouble{
		{name: "hangs", fault: registry.Hang()},
		{name: "resets", fault: registry.Reset(), code: string(executor.CodeUnavailable)},
		{name: "slow byte by byte", fault: registry.SlowBytes(20 * time.Millisecond)},
		{name: "429 for 20 %", fault: registry.Status(http.StatusTooManyRequests, nil, 0.2, 7)},
		{name: "Retry-After 86400", fault: registry.Status(http.StatusTooManyRequests, later, 1, 7), code: string(executor.CodeRateLimited)},
		{name: "away"},
	}
}

// BenchmarkFaults lets registries fail, each beside a healthy one. Each try asks
// for an image of either that nobody asked for before.
func BenchmarkFaults(b *testing.B) {
	away := span(b, "AWAY", 6*time.Second)
	for b.Loop() {
		r := results.Result{Name: "faults", Note: fmt.Sprintf("each fault lasts %s, a try a second, deadline %s", away, answerDeadline)}
		var table strings.Builder
		columns := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
		_, _ = fmt.Fprintln(columns, "  \tfailing registry\thealthy one\tlongest\trecovers after\tgoroutines\tfiles\tunder way\t")
		for _, trouble := range troubles() {
			found := suffer(b, trouble, ordeal{max(int(away/time.Second), 1), time.Second, answerDeadline, ""})
			_, _ = fmt.Fprintf(columns, "  %s\t%s\t%s\t%.2f s\t%.1f s\t%v -> %v\t%v -> %v\t%v\t\n", trouble.name, counted(found.failing), counted(found.healthy),
				found.longest.Seconds(), found.recovery.Seconds(), found.idle.goroutines, found.after.goroutines, found.idle.files, found.after.files, found.underWay)
			r.Add(found.figures(trouble.name)...)
		}
		if err := columns.Flush(); err != nil {
			b.Fatal(err)
		}
		publish(b, r)
		if _, err := os.Stdout.WriteString(table.String()); err != nil {
			b.Fatal(err)
		}
	}
}

// TestFaults is the same for a moment each: the healthy registry's image is
// allowed whatever the other does, no lack of an answer is a denial, answers
// come in time, the registry is served again afterwards, and nothing is left.
func TestFaults(t *testing.T) {
	t.Parallel()
	for _, trouble := range troubles() {
		t.Run(trouble.name, func(t *testing.T) {
			t.Parallel()
			found := suffer(t, trouble, ordeal{2, 100 * time.Millisecond, time.Second, brief})
			t.Logf("%+v", found)
			if found.healthy[allowed] != 2 {
				t.Errorf("the healthy registry's images: %v", found.healthy)
			}
			if trouble.code != "" && found.failing[trouble.code] == 0 {
				t.Errorf("the failing registry's images: %v, want %s", found.failing, trouble.code)
			}
			if found.definitive > 0 {
				t.Errorf("%d denials of images that are signed: %v", found.definitive, found.failing)
			}
			// A starved machine may add as much to any answer.
			if found.longest > time.Second+1500*time.Millisecond {
				t.Errorf("answered after %s of 1s", found.longest)
			}
			if found.recovery < 0 {
				t.Error("not served again")
			}
			if found.left() {
				t.Errorf("left: %+v, idle: %+v, %d requests under way", found.after, found.idle, found.underWay)
			}
		})
	}
}

// suffered is what came of a trouble.
type suffered struct {
	// failing and healthy count the codes of answers, "allowed" among them.
	failing, healthy map[string]int
	definitive       int
	longest          time.Duration
	recovery         time.Duration // negative: it never does
	idle, after      level
	underWay         int64 // requests that the registry still has
}

// level is what a process holds open.
type level struct{ goroutines, files float64 }

// spare is what comes and goes: goroutines of the runtime, connections that
// are kept for a while.
const (
	spareGoroutines = 8
	spareFiles      = 4
)

func (s suffered) left() bool {
	return s.after.goroutines > s.idle.goroutines+spareGoroutines || s.after.files > s.idle.files+spareFiles || s.underWay > 0
}

func (s suffered) figures(name string) []results.Figure {
	return []results.Figure{
		{Name: name + ": longest answer", Value: millis(s.longest), Unit: "ms", AtMost: new(millis(answerDeadline))},
		{Name: name + ": healthy images allowed", Value: float64(s.healthy[allowed])},
		{Name: name + ": healthy images not allowed", Value: float64(sum(s.healthy) - s.healthy[allowed]), AtMost: new(0.0)},
		{Name: name + ": wrong denials", Value: float64(s.definitive), AtMost: new(0.0)},
		{Name: name + ": recovers after", Value: s.recovery.Seconds(), Unit: "s", AtLeast: new(0.0)},
		{Name: name + ": goroutines left", Value: max(s.after.goroutines-s.idle.goroutines, 0), AtMost: new(float64(spareGoroutines))},
		{Name: name + ": files left", Value: max(s.after.files-s.idle.files, 0), AtMost: new(float64(spareFiles))},
		{Name: name + ": requests left", Value: float64(s.underWay), AtMost: new(0.0)},
	}
}

func sum(counts map[string]int) int {
	n := 0
	for _, c := range counts {
		n += c
	}
	return n
}

func counted(counts map[string]int) string {
	parts := make([]string, 0, len(counts))
	for _, code := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%dx %s", counts[code], code))
	}
	return strings.Join(parts, ", ")
}

// patience bounds the wait until nothing is left: longer than background work
// may last by default.
const patience = 30 * time.Second

// ordeal says how often, how far apart and under which deadline and further
// sections of the configuration a trouble is met.
type ordeal struct {
	times           int
	apart, deadline time.Duration
	sections        string
}

// brief shortens what a process waits for, so that tests need not.
const brief = "governor: {perHost: {maxRetryAfter: 2s}, background: {maxDuration: 3s}}"

// suffer asks for fresh images of two registries while the first one fails,
// then until it is served again, then waits until nothing is left.
func suffer(tb testing.TB, trouble trouble, o ordeal) suffered {
	tb.Helper()
	pair := newPair(tb, o.times)
	config := pair.config(one)
	config.Timeout = o.deadline
	config.Server = process.Map{"onFailure": "value"} // which tells codes key by key
	p := start(tb, config, o.sections)
	for range 2 { // connections to both
		pair.ask(tb, p, 0)
	}
	found := suffered{failing: map[string]int{}, healthy: map[string]int{}, idle: levelOf(tb, p)}
	end := pair.begin(tb, trouble)
	for i, tick := 0, time.Now(); i < o.times; i++ {
		time.Sleep(time.Until(tick.Add(time.Duration(i) * o.apart)))
		failing, healthy, took := pair.ask(tb, p, i+1)
		found.failing[failing]++
		found.healthy[healthy]++
		found.longest = max(found.longest, took)
		if definitive(failing) {
			found.definitive++
		}
	}
	end()
	found.recovery = recovered(tb, pair, p, o.times+1)
	found.settle(tb, p, pair.registries[0])
	return found
}

// definitive tells whether a code is a verdict against an image, where there
// should be none: they are all signed.
func definitive(code string) bool {
	switch verifier.Code(code) {
	case "", allowed, unclear, silent,
		executor.CodeDeadline, executor.CodeCanceled, executor.CodeRateLimited, executor.CodeUnavailable, executor.CodeAuthDenied,
		executor.CodeProtocol, executor.CodeDigest, executor.CodeBusy, executor.CodeInconclusive,
		verifier.CodeArtifactUnavailable, verifier.CodeVerificationAborted:
		return false
	default:
		return true
	}
}

// What stands where an answer has no code.
const (
	allowed = "allowed"
	unclear = "not answered" // the answer does not have the key
	silent  = "no answer"
)

// recovered asks for images of the registry that failed until one is allowed.
func recovered(tb testing.TB, pair *pair, p *process.Process, image int) time.Duration {
	tb.Helper()
	start := time.Now()
	for time.Since(start) < recovery {
		if failing, _, _ := pair.ask(tb, p, image); failing == allowed {
			return time.Since(start)
		}
		time.Sleep(200 * time.Millisecond)
	}
	return -1
}

// recovery bounds the wait for a registry that is well again: longer than the
// longest pause that a registry may ask for by default.
const recovery = 75 * time.Second

// settle waits until no more is open than before, or patience ends.
func (s *suffered) settle(tb testing.TB, p *process.Process, r *registry.Registry) {
	tb.Helper()
	for start := time.Now(); ; time.Sleep(200 * time.Millisecond) {
		s.after, s.underWay = levelOf(tb, p), underWay(r)
		if !s.left() || time.Since(start) > patience {
			return
		}
	}
}

// underWay are the requests that a registry has not answered.
func underWay(r *registry.Registry) int64 {
	r.ResetStats() // the peak begins at what is under way
	return r.Stats().Peak
}

func levelOf(tb testing.TB, p *process.Process) level {
	tb.Helper()
	metrics := must(p.Metrics(tb.Context()))(tb)
	return level{metrics["go_goroutines"], metrics["process_open_fds"]}
}

// pair is two registries with as many images each.
type pair struct{ *site }

// newPair makes images for so many tries, and one before and one after them.
func newPair(tb testing.TB, times int) *pair {
	tb.Helper()
	return &pair{newSite(tb, sign(tb, 2*(times+2), quick), 2, registry.Options{BearerAuth: true}).spread(tb, 1, true)}
}

// ask asks for an image of each registry: the codes and the time.
func (p *pair) ask(tb testing.TB, gate *process.Process, image int) (failing, healthy string, took time.Duration) {
	tb.Helper()
	keys := p.keys[2*image : 2*image+2]
	start := time.Now()
	answer, err := gate.Ask(tb.Context(), keys...)
	took = time.Since(start)
	if err != nil {
		tb.Logf("no answer: %v", err)
		return silent, silent, took
	}
	return codeOf(answer, keys[0]), codeOf(answer, keys[1]), took
}

func codeOf(answer process.Answer, key string) string {
	item, found := answer.Item(key)
	switch {
	case !found:
		return unclear
	case item.Value.IsSuccess:
		return allowed
	default:
		return item.Value.Code()
	}
}

// begin lets the first registry fail until the function that it returns is
// called.
func (p *pair) begin(tb testing.TB, trouble trouble) (end func()) {
	tb.Helper()
	r := p.registries[0]
	if trouble.fault != nil {
		r.SetIntercept(trouble.fault)
		return func() { r.SetIntercept(nil) }
	}
	r.Close()
	return func() {
		again := must(registry.Start(registry.Options{BearerAuth: true, Listener: r.Host()}))(tb)
		tb.Cleanup(again.Close)
		p.registries[0] = again
		for i := 0; i < len(p.material.images); i += 2 {
			p.material.push(tb, again, i, "team/app-000", "")
		}
	}
}
