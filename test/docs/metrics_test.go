package docs

import (
	"bufio"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const metricsFile = "docs/metrics.md"

// family is a metric as a process shows it.
type family struct {
	name, kind, help string
	series           []series
}

// series are the labels of one of its lines, without those of histograms.
type series map[string]string

// labels are the names of all its labels, sorted.
func (f *family) labels() []string {
	names := map[string]bool{}
	for _, s := range f.series {
		for name := range s {
			names[name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// docs/metrics.md has the metrics that a process shows of itself, and none that it
// does not; and what the process shows is bounded, whoever asks for whatever.
func TestMetrics(t *testing.T) {
	t.Parallel()
	s := newMetricsSite(t)
	families := parseMetrics(t, s.drive(t))
	for _, name := range []string{"go_goroutines", "process_resident_memory_bytes"} {
		if families[name] == nil {
			t.Errorf("there is no %s", name)
		}
	}
	maps.DeleteFunc(families, func(name string, _ *family) bool { return !strings.HasPrefix(name, "gatehouse_") })
	checkBounds(t, families, s)
	text := read(t, metricsFile)
	before, inside, after := between(t, metricsFile, text, "metrics")
	want := metricsTable(families)
	if inside == want {
		return
	}
	if !*update {
		t.Errorf("%s: the table is not what a process shows: go test ./test/docs -update\n%s", metricsFile, difference(inside, want))
		return
	}
	if err := os.WriteFile(filepath.Join(root, metricsFile), []byte(before+want+after), 0o600); err != nil {
		t.Error(err)
	}
}

// difference are the lines that only one of two texts has.
func difference(document, shown string) string {
	var lines []string
	for _, side := range []struct{ mark, text, other string }{{"documented: ", document, shown}, {"shown: ", shown, document}} {
		for line := range strings.SplitSeq(side.text, "\n") {
			if !slices.Contains(strings.Split(side.other, "\n"), line) {
				lines = append(lines, side.mark+line)
			}
		}
	}
	return strings.Join(lines, "\n")
}

func metricsTable(families map[string]*family) string {
	var table strings.Builder
	table.WriteString("\n| Metric | Type | Labels | Meaning |\n|---|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(families)) {
		f := families[name]
		labels := make([]string, 0, 4)
		for _, label := range f.labels() {
			labels = append(labels, "`"+label+"`")
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s | %s |\n", f.name, f.kind, strings.Join(labels, ", "), strings.ReplaceAll(f.help, "|", `\|`))
	}
	return table.String()
}

// maxSeries bounds what one process shows about itself after [metricsSite.drive]:
// each metric has its own few, and histograms one for each bucket.
const maxSeries = 700

// plain is a value that the source has as a word: an outcome, a kind, a lane.
var plain = regexp.MustCompile(`^[a-z][a-z_-]{0,30}$`)

// checkBounds holds the labels to values that nobody who asks can choose.
func checkBounds(t *testing.T, families map[string]*family, s *metricsSite) {
	t.Helper()
	codes := documentedCodes(t)
	status, count := regexp.MustCompile(`^([1-5][0-9]{2}|[1-5]xx|error|other)$`), 0
	allowed := map[string]func(string) bool{
		"status":   status.MatchString,
		"code":     func(v string) bool { _, known := codes[v]; return known },
		"reason":   func(v string) bool { _, known := codes[v]; return known },
		"rule":     func(v string) bool { return v == "" || slices.Contains(s.rules(), v) },
		"host":     func(v string) bool { return v == "other" || v == s.Host() },
		"upstream": func(v string) bool { return v == "" || plain.MatchString(v) || v == s.Host() },
		"image":    func(v string) bool { return v == s.good || v == s.unsigned },
		"verifier": func(v string) bool { return v == "notation" },
	}
	for _, word := range []string{"decision", "outcome", "kind", "lane", "source", "state", "use", "protocol", "result", "expected", "path"} {
		allowed[word] = plain.MatchString
	}
	distinct := map[string]map[string]bool{}
	for _, f := range families {
		count += len(f.series)
		for _, one := range f.series {
			for label, value := range one {
				if check := allowed[label]; check == nil || !check(value) {
					t.Errorf("%s: the label %s=%q is not one of a known, bounded set", f.name, label, value)
				}
				if distinct[label] == nil {
					distinct[label] = map[string]bool{}
				}
				distinct[label][value] = true
			}
		}
	}
	for label, values := range distinct {
		if len(values) > 30 {
			t.Errorf("the label %s has %d values", label, len(values))
		}
	}
	t.Logf("%d series of %d metrics", count, len(families))
	if count > maxSeries || count < 100 {
		t.Errorf("%d series, want at most %d", count, maxSeries)
	}
}

var (
	sample = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{.*\})? \S+$`)
	pairs  = regexp.MustCompile(`([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"`)
)

// parseMetrics reads the text format.
func parseMetrics(t *testing.T, text string) map[string]*family {
	t.Helper()
	families := map[string]*family{}
	of := func(name string) *family {
		if families[name] == nil {
			families[name] = &family{name: name}
		}
		return families[name]
	}
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		line := lines.Text()
		if words := strings.SplitN(line, " ", 4); words[0] == "#" && len(words) == 4 {
			if words[1] == "HELP" {
				of(words[2]).help = words[3]
			} else {
				of(words[2]).kind = words[3]
			}
			continue
		}
		m := sample.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("metrics: %q is not a sample", line)
		}
		f := families[m[1]]
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			if base, ok := strings.CutSuffix(m[1], suffix); ok && f == nil {
				f = families[base]
			}
		}
		if f == nil || f.help == "" || f.kind == "" {
			t.Fatalf("metrics: %q has neither help nor type", line)
		}
		f.series = append(f.series, labelsOf(m[2]))
	}
	return families
}

func labelsOf(text string) series {
	s := series{}
	for _, m := range pairs.FindAllStringSubmatch(text, -1) {
		if m[1] != "le" && m[1] != "quantile" {
			s[m[1]] = m[2]
		}
	}
	return s
}
