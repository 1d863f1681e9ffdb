package e2e

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// gauges is what the API server and Gatekeeper tell of webhooks that did not
// answer, since a moment.
type gauges struct {
	w        *world
	failOpen float64
	failed   float64
	log      int64 // length of Gatekeeper's
}

func (w *world) gauges() gauges {
	w.t.Helper()
	text := w.apiMetrics()
	g := gauges{w: w, failOpen: failOpen(text), failed: callFailures(text)}
	if info, err := os.Stat(w.gatekeeperLog()); err == nil {
		g.log = info.Size()
	}
	return g
}

func (w *world) gatekeeperLog() string { return filepath.Join(w.Dir(), "gatekeeper.log") }

func (w *world) apiMetrics() []byte {
	w.t.Helper()
	answer := must(w.api.Do(w.t.Context(), http.MethodGet, "/metrics", nil))(w.t)
	if !answer.OK() {
		w.t.Fatal(answer.Message())
	}
	return answer.Body
}

// failOpen counts calls of webhooks that failed and were gone by.
func failOpen(metrics []byte) float64 {
	return sum(metrics, "apiserver_admission_webhook_fail_open_count")
}

// callFailures counts requests that were denied because a webhook's call failed.
func callFailures(metrics []byte) float64 {
	const name = "apiserver_admission_webhook_rejection_count"
	return sum(metrics, name, `error_type="calling_webhook_error"`) + sum(metrics, name, `error_type="apiserver_internal_error"`)
}

// sum adds up the series of a name that have all the labels.
func sum(metrics []byte, name string, labels ...string) (total float64) {
lines:
	for line := range bytes.Lines(metrics) {
		text := strings.TrimSpace(string(line))
		rest, found := strings.CutPrefix(text, name)
		if !found || (!strings.HasPrefix(rest, "{") && !strings.HasPrefix(rest, " ")) {
			continue
		}
		for _, label := range labels {
			if !strings.Contains(rest, label) {
				continue lines
			}
		}
		value, err := strconv.ParseFloat(text[strings.LastIndexByte(text, ' ')+1:], 64)
		if err == nil {
			total += value
		}
	}
	return total
}

// failOpens is how many calls were gone by since, and failures how many requests
// were denied because a call failed.
func (g gauges) since() (failOpens, failures int) {
	g.w.t.Helper()
	text := g.w.apiMetrics()
	return int(failOpen(text) - g.failOpen), int(callFailures(text) - g.failed)
}

var trouble = regexp.MustCompile(`(?i)context cancell?ed|deadline exceeded|timeout|timed out`)

// troubles are the lines of Gatekeeper's log since that tell of lost time.
func (g gauges) troubles() (lines []string) {
	g.w.t.Helper()
	text := must(os.ReadFile(g.w.gatekeeperLog()))(g.w.t)
	for line := range bytes.Lines(text[min(g.log, int64(len(text))):]) {
		if trouble.Match(line) {
			lines = append(lines, string(bytes.TrimSpace(line)))
		}
	}
	return lines
}

// allAnswered asserts that no call of a webhook failed since.
func (g gauges) allAnswered() {
	g.w.t.Helper()
	failOpens, failures := g.since()
	if failOpens != 0 || failures != 0 {
		g.w.t.Errorf("calls of webhooks that failed: %d gone by, %d denied", failOpens, failures)
	}
}

// answered are the process's answers on a path, by its histogram: counts up to
// each bound, and their time in all.
type answered struct {
	count float64
	took  time.Duration
	upTo  map[time.Duration]float64
}

var bucket = regexp.MustCompile(`^gatehouse_http_duration_seconds_bucket\{(.*)le="([0-9.e+-]+)"(.*)\} (\S+)$`)

// answered reads what the process tells of a path: verify, mutate or audit.
func (w *world) answered(path string) answered {
	w.t.Helper()
	_, text, err := w.process.Admin(w.t.Context(), "/metrics")
	w.ok(err)
	return answeredIn(text, path)
}

func answeredIn(text []byte, path string) answered {
	const name = "gatehouse_http_duration_seconds"
	label := fmt.Sprintf("path=%q", path)
	a := answered{count: sum(text, name+"_count", label), took: secondsOf(sum(text, name+"_sum", label)), upTo: make(map[time.Duration]float64)}
	for line := range strings.Lines(string(text)) {
		match := bucket.FindStringSubmatch(strings.TrimSpace(line))
		if match == nil || !strings.Contains(match[1]+match[3], label) {
			continue
		}
		bound, _ := strconv.ParseFloat(match[2], 64) // the expression lets no other through
		count, _ := strconv.ParseFloat(match[4], 64)
		a.upTo[secondsOf(bound)] += count
	}
	return a
}

func secondsOf(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// since is what came after another.
func (a answered) since(before answered) answered {
	diff := answered{count: a.count - before.count, took: a.took - before.took, upTo: make(map[time.Duration]float64)}
	for bound, n := range a.upTo {
		diff.upTo[bound] = n - before.upTo[bound]
	}
	return diff
}

// within is the least bound that a share of all answers kept, 0 if none did.
func (a answered) within(share float64) time.Duration {
	for _, bound := range slices.Sorted(maps.Keys(a.upTo)) {
		if a.count > 0 && a.upTo[bound] >= share*a.count {
			return bound
		}
	}
	return 0
}

func TestSum(t *testing.T) {
	const text = "# HELP a_count x\na_count{x=\"1\",y=\"2\"} 3\na_count{x=\"2\"} 4\na_count_other 9\nb 1.5e+00\n"
	for _, test := range []struct {
		name   string
		labels []string
		want   float64
	}{{"a_count", nil, 7}, {"a_count", []string{`x="1"`, `y="2"`}, 3}, {"b", nil, 1.5}, {"c", nil, 0}} {
		if got := sum([]byte(text), test.name, test.labels...); got != test.want {
			t.Errorf("%s %v: %v", test.name, test.labels, got)
		}
	}
}

func TestAnswered(t *testing.T) {
	const name = "gatehouse_http_duration_seconds"
	text := func(fast, all int) []byte {
		return fmt.Appendf(nil, "%[1]s_bucket{path=\"verify\",le=\"0.001\"} %[2]d\n%[1]s_bucket{path=\"verify\",le=\"0.002\"} %[3]d\n%[1]s_bucket{path=\"verify\",le=\"+Inf\"} %[3]d\n"+
			"%[1]s_sum{path=\"verify\"} 0.5\n%[1]s_count{path=\"verify\"} %[3]d\n%[1]s_bucket{path=\"mutate\",le=\"0.001\"} 9\n%[1]s_count{path=\"mutate\"} 9\n", name, fast, all)
	}
	a := answeredIn(text(99, 101), "verify").since(answeredIn(text(0, 1), "verify"))
	if a.count != 100 || a.took != 0 || a.within(0.99) != time.Millisecond || a.within(0.995) != 2*time.Millisecond {
		t.Errorf("%+v", a)
	}
	if got := answeredIn(nil, "verify").within(0.5); got != 0 {
		t.Errorf("none within %s", got)
	}
}
