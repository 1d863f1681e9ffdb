package monitoring

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.yaml.in/yaml/v3"
)

const (
	rulesFile = "../../charts/gatehouse/monitoring/alerts.yaml"
	testsFile = "alerts_test.yaml"
	runbook   = "https://github.com/gatehouse-project/gatehouse/blob/main/docs/operate.md#"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rule is an alert of the rule file.
type rule struct {
	Alert, Expr, For    string
	Labels, Annotations map[string]string
}

// rules are the alerts by name.
func rules(t *testing.T) map[string]rule {
	t.Helper()
	var file struct {
		Groups []struct{ Rules []rule }
	}
	decode(t, rulesFile, &file)
	all := map[string]rule{}
	for _, group := range file.Groups {
		for _, r := range group.Rules {
			if _, twice := all[r.Alert]; twice {
				t.Errorf("%s stands there twice", r.Alert)
			}
			all[r.Alert] = r
		}
	}
	if len(all) < 10 {
		t.Fatalf("only %d alerts", len(all))
	}
	return all
}

func decode(t *testing.T, file string, into any) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, into); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

// promtool builds Prometheus' tool, once, and says where it is.
var promtool = sync.OnceValues(func() (string, error) {
	cmd := exec.Command("go", "tool", "-n", "promtool")
	cmd.Dir = "tools"
	cmd.Env = append(os.Environ(), "GOFLAGS=-tags=remove_all_sd", "GOWORK=off")
	path, err := cmd.Output()
	return strings.TrimSpace(string(path)), err
})

// run runs promtool, which must end well, and gives what it says.
func run(t *testing.T, args ...string) string {
	t.Helper()
	path, err := promtool()
	if err != nil {
		t.Fatalf("build promtool: %v", err)
	}
	out, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput()
	if err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestRules(t *testing.T) {
	t.Parallel()
	run(t, "check", "rules", "--lint=all", "--lint-fatal", rulesFile)
	for name, r := range rules(t) {
		if !regexp.MustCompile(`^Gatehouse[A-Z][A-Za-z]+$`).MatchString(name) {
			t.Errorf("%s is no name for an alert", name)
		}
		if r.For == "" || (r.Labels["severity"] != "warning" && r.Labels["severity"] != "critical") {
			t.Errorf("%s: for %q, severity %q", name, r.For, r.Labels["severity"])
		}
		if want := runbook + strings.ToLower(name); r.Annotations["runbook_url"] != want {
			t.Errorf("%s: runbook_url %q, want %q", name, r.Annotations["runbook_url"], want)
		}
		for _, text := range []string{"summary", "description"} {
			if !strings.HasSuffix(r.Annotations[text], ".") {
				t.Errorf("%s: the %s is no sentence: %q", name, text, r.Annotations[text])
			}
		}
	}
}

// Each alert fires when it must and is quiet when it must not.
func TestAlerts(t *testing.T) {
	t.Parallel()
	var file struct {
		Tests []struct {
			Name  string
			Cases []struct {
				Alert    string `yaml:"alertname"`
				Expected []any  `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
	decode(t, testsFile, &file)
	fires, quiet := map[string]bool{}, map[string]bool{}
	for _, test := range file.Tests {
		for _, one := range test.Cases {
			if len(one.Expected) > 0 {
				fires[one.Alert] = true
			} else {
				quiet[one.Alert] = true
			}
		}
	}
	for name := range rules(t) {
		if !fires[name] || !quiet[name] {
			t.Errorf("%s: shown to fire: %t, to be quiet: %t", name, fires[name], quiet[name])
		}
	}
	began := time.Now()
	run(t, "test", "rules", testsFile)
	t.Logf("%d tests took %s", len(file.Tests), time.Since(began).Round(time.Millisecond))
}

// The tests of the rules can fail: promtool finds an alert that never fires.
func TestTestsCanFail(t *testing.T) {
	t.Parallel()
	path, err := promtool()
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	text, err := os.ReadFile(testsFile)
	if err != nil {
		t.Fatal(err)
	}
	changed, err := os.ReadFile(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	broken := strings.Replace(string(changed), "gatehouse_config_current == 0", "gatehouse_config_current == 2", 1)
	for name, content := range map[string]string{
		"alerts.yaml": broken, testsFile: strings.Replace(string(text), rulesFile, "alerts.yaml", 1),
	} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.CommandContext(t.Context(), path, "test", "rules", "--run=GatehouseConfigRefused.*", filepath.Join(folder, testsFile)).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "GatehouseConfigRefused") {
		t.Errorf("a rule that never fires was not found: %v\n%s", err, out)
	}
}
