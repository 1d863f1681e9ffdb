package monitoring

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	metricRow = regexp.MustCompile("(?m)^\\| `(gatehouse_[a-z_]+)` \\| ([a-z]+) \\| ([^|]*) \\|")
	labelName = regexp.MustCompile("`([a-z_]+)`")
	// selector is a metric in an expression, with its matchers if it has some.
	selector = regexp.MustCompile(`\b(gatehouse_[a-z_]+|apiserver_[a-z_]+|up|process_[a-z_]+|go_[a-z_]+)\b(?:\{([^}]*)\})?`)
	matcher  = regexp.MustCompile(`([a-z_]+)\s*(?:=~|!~|!=|=)\s*"`)
	grouping = regexp.MustCompile(`\b(?:by|on|without|ignoring)\s*\(([^)]*)\)`)
)

// ofTargets are the labels that Prometheus gives to what it scrapes.
var ofTargets = []string{"namespace", "job", "instance", "pod"}

// ofOthers are metrics that other programs than ours show, with their labels.
var ofOthers = map[string][]string{
	"up": {}, // Prometheus
	"apiserver_admission_webhook_fail_open_count": {"name", "type"}, // kube-apiserver 1.24 and later
}

// documented are the labels of each metric, by the names of its series.
func documented(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	all := maps.Clone(ofOthers)
	for _, m := range metricRow.FindAllStringSubmatch(string(text), -1) {
		labels := []string{}
		for _, l := range labelName.FindAllStringSubmatch(m[3], -1) {
			labels = append(labels, l[1])
		}
		all[m[1]] = labels
		if m[2] == "histogram" {
			all[m[1]+"_bucket"], all[m[1]+"_sum"], all[m[1]+"_count"] = append(labels, "le"), labels, labels
			delete(all, m[1])
		}
	}
	if len(all) < 30 {
		t.Fatalf("only %d metrics are documented", len(all))
	}
	return all
}

// checkNames says what an expression names that no process shows.
func checkNames(t *testing.T, where, expr string, known map[string][]string) {
	t.Helper()
	selectors := selector.FindAllStringSubmatch(expr, -1)
	if len(selectors) == 0 {
		t.Errorf("%s: no metric in %s", where, expr)
	}
	var some []string // labels of any metric in the expression
	for _, m := range selectors {
		labels, ok := known[m[1]]
		if !ok && !strings.HasPrefix(m[1], "process_") && !strings.HasPrefix(m[1], "go_") {
			t.Errorf("%s: docs/metrics.md has no metric %s", where, m[1])
		}
		some = append(some, labels...)
		for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
			if !slices.Contains(labels, l[1]) && !slices.Contains(ofTargets, l[1]) {
				t.Errorf("%s: %s has no label %s", where, m[1], l[1])
			}
		}
	}
	for _, m := range grouping.FindAllStringSubmatch(expr, -1) {
		for l := range strings.SplitSeq(m[1], ",") {
			if l = strings.TrimSpace(l); l != "" && !slices.Contains(some, l) && !slices.Contains(ofTargets, l) {
				t.Errorf("%s: no metric in it has the label %s", where, l)
			}
		}
	}
}

func TestRuleNames(t *testing.T) {
	t.Parallel()
	known := documented(t)
	for name, r := range rules(t) {
		checkNames(t, name, r.Expr, known)
	}
}

// Each alert has a section in docs/operate.md that says what to type, and there is
// none of an alert that there is not.
func TestRunbook(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/operate.md")
	if err != nil {
		t.Fatal(err)
	}
	_, alerts, found := strings.Cut(string(text), "\n## Alerts\n")
	if !found {
		t.Fatal("docs/operate.md has no section Alerts")
	}
	alerts, _, _ = strings.Cut(alerts, "\n## ")
	unwritten := rules(t)
	for section := range strings.SplitSeq("\n"+alerts, "\n### ") {
		name, body, ok := strings.Cut(section, "\n")
		if !ok || !strings.HasPrefix(name, "Gatehouse") {
			continue
		}
		if _, exists := unwritten[name]; !exists {
			t.Errorf("docs/operate.md: there is no alert %s, or it stands there twice", name)
		}
		delete(unwritten, name)
		if !strings.Contains(body, "```sh\n") {
			t.Errorf("docs/operate.md: %s does not say what to type", name)
		}
	}
	for name := range unwritten {
		t.Errorf("docs/operate.md: there is no section on %s", name)
	}
}
