package chart_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/gatehouse-project/gatehouse/config"
	"github.com/gatehouse-project/gatehouse/test/chart"
)

// readChart gives a file of the chart.
func readChart(t *testing.T, name string) []byte {
	t.Helper()
	dir, err := chart.Dir(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func defaults(t *testing.T) map[string]any {
	t.Helper()
	var values map[string]any
	if err := yaml.UnmarshalStrict(readChart(t, "values.yaml"), &values); err != nil {
		t.Fatal(err)
	}
	return values
}

// Each file in testdata/bad, over the minimal values, is refused with the message beside it.
// Its name begins with the section that it is about; every section has one.
func TestRefused(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	left := defaults(t)
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		section, _, _ := strings.Cut(name, "_")
		delete(left, section)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want, err := os.ReadFile(strings.TrimSuffix(file, ".yaml") + ".txt")
			if err != nil {
				t.Fatal(err)
			}
			text, err := chart.RenderText(t.Context(), chart.Options{Values: []string{minimal, file}})
			if err == nil || !strings.Contains(err.Error(), strings.TrimSpace(string(want))) {
				t.Errorf("rendered %d bytes, %v\nwant %s", len(text), err, want)
			}
		})
	}
	if len(left) > 0 {
		t.Errorf("no mistake in %v", slices.Sorted(maps.Keys(left)))
	}
}

// The times of Gatekeeper's defaults and of those that are advised, at their bounds.
func TestTimes(t *testing.T) {
	t.Parallel()
	const validating, mutating = "gatekeeper.validatingWebhookTimeoutSeconds=", "gatekeeper.mutatingWebhookTimeoutSeconds="
	for name, test := range map[string]struct {
		set     []string
		refused string
	}{
		"defaults":                   {nil, ""},
		"two templates in 5 s":       {[]string{validating + "5", "providers.verify.templates=2"}, ""},
		"three templates in 5 s":     {[]string{validating + "5", "providers.verify.templates=3"}, "6.5 s"},
		"4 s in 5 s":                 {[]string{validating + "5", "providers.verify.timeoutSeconds=4"}, ""},
		"5 s in 5 s":                 {[]string{validating + "5", "providers.verify.timeoutSeconds=5"}, "5.5 s"},
		"another's beside it":        {[]string{validating + "5", "gatekeeper.otherProviders[0].name=a", "gatekeeper.otherProviders[0].timeoutSeconds=1", "gatekeeper.otherProviders[0].templates=2"}, ""},
		"another's once too often":   {[]string{validating + "5", "gatekeeper.otherProviders[0].name=a", "gatekeeper.otherProviders[0].timeoutSeconds=1", "gatekeeper.otherProviders[0].templates=3"}, "5.5 s"},
		"the audit's is nobody's":    {[]string{"providers.audit.timeoutSeconds=30"}, ""},
		"mutation in 2 s":            {[]string{mutating + "2", "mutation.enabled=true"}, ""},
		"mutation in 1 s":            {[]string{"mutation.enabled=true"}, "mutatingWebhookTimeoutSeconds 1"},
		"mutation's answer, 999 ms":  {[]string{mutating + "2", "mutation.enabled=true", "config.server.mutateTimeout=999ms"}, ""},
		"mutation's answer, 1000 ms": {[]string{mutating + "2", "mutation.enabled=true", "config.server.mutateTimeout=1s"}, "mutateTimeout is 1000 ms"},
		"without it, no matter":      {[]string{"config.server.mutateTimeout=1s"}, ""},
		"an answer of 1999 ms":       {[]string{"config.server.verifyTimeout=1s999ms"}, ""},
		"an answer of 2000 ms":       {[]string{"config.server.verifyTimeout=2s"}, "verifyTimeout is 2000 ms"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := chart.RenderText(t.Context(), chart.Options{Values: []string{minimal}, Set: test.set})
			if test.refused == "" && err != nil || test.refused != "" && (err == nil || !strings.Contains(err.Error(), test.refused)) {
				t.Errorf("%v, want %q", err, test.refused)
			}
		})
	}
}

// What the chart takes for granted where a field is left out is the process's default.
func TestDefaultsOfTheProcess(t *testing.T) {
	t.Parallel()
	cfg, err := config.Parse("", []byte(config.Example()))
	if err != nil {
		t.Fatal(err)
	}
	const needed, replica = 64 << 20, 64 << 20
	for set, want := range map[string]string{
		"providers.verify.timeoutSeconds=1": fmt.Sprintf("verifyTimeout is %d ms", cfg.Server.VerifyTimeout.Milliseconds()),
		"resources.limits.memory=1Mi":       fmt.Sprintf("may use %d MiB", (cfg.Server.Limits.InFlightBytes+cfg.Proofs.MaxBytes+needed)>>20),
	} {
		if _, err := chart.RenderText(t.Context(), chart.Options{Values: []string{minimal}, Set: []string{set}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if cfg.Server.MutateTimeout.Milliseconds() != 700 {
		t.Errorf("mutateTimeout is %s: change templates/_checks.tpl", cfg.Server.MutateTimeout)
	}
	cached, err := config.Parse("", []byte("version: v1alpha1\nstores: [{name: a, type: oras}]\ncache: {directory: a}\nregistry: {address: \":1\", insecureHTTP: true, upstreams: [a.example]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if cached.Cache.ReplicaBytes != replica || cached.Cache.MaxBytes != 10<<30 {
		t.Errorf("replicaBytes %d, maxBytes %d: change templates/_checks.tpl and _config.tpl", cached.Cache.ReplicaBytes, cached.Cache.MaxBytes)
	}
}

// Each value is in the table of README.md with its default, and the table has no others.
func TestValuesInReadme(t *testing.T) {
	t.Parallel()
	want := map[string]string{}
	leaves(t, "", defaults(t), want)
	_, table, _ := strings.Cut(string(readChart(t, "README.md")), "<!-- values -->")
	table, _, _ = strings.Cut(table, "<!-- /values -->")
	got := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\| `([^`]*)` \\| .+ \\|$").FindAllStringSubmatch(table, -1) {
		got[row[1]] = row[2]
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-values.yaml +README.md\n%s", diff)
	}
}

// leaves collects the values that have no fields of their own, as JSON by path. Labels are
// one value.
func leaves(t *testing.T, path string, value any, into map[string]string) {
	t.Helper()
	fields, is := value.(map[string]any)
	if !is || len(fields) == 0 || strings.HasSuffix(path, ".labels") {
		text, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		into[path] = string(text)
		return
	}
	for name, field := range fields {
		leaves(t, strings.TrimPrefix(path+"."+name, "."), field, into)
	}
}

// Every paragraph of values.yaml says what it is for.
func TestValuesAreCommented(t *testing.T) {
	t.Parallel()
	for paragraph := range strings.SplitSeq(strings.TrimSpace(string(readChart(t, "values.yaml"))), "\n\n") {
		if !strings.Contains(paragraph, "# ") {
			t.Errorf("without a comment:\n%s", paragraph)
		}
	}
}

// The schema lets no field pass that it does not know, but in what is passed through.
func TestSchemaIsStrict(t *testing.T) {
	t.Parallel()
	var schema map[string]any
	if err := json.Unmarshal(readChart(t, "values.schema.json"), &schema); err != nil {
		t.Fatal(err)
	}
	open := map[string]bool{".definitions.kubernetes": true, ".properties.global": true}
	checked := 0
	var walk func(path string, node any)
	walk = func(path string, node any) {
		switch node := node.(type) {
		case map[string]any:
			if node["type"] == "object" && !open[path] {
				checked++
				if closed, said := node["additionalProperties"]; !said || closed == true && !strings.HasPrefix(path, ".definitions.config") {
					t.Errorf("%s lets any field pass", path)
				}
			}
			for name, child := range node {
				walk(path+"."+name, child)
			}
		case []any:
			for i, child := range node {
				walk(fmt.Sprintf("%s[%d]", path, i), child)
			}
		}
	}
	walk("", schema)
	if checked < 30 {
		t.Errorf("%d objects", checked)
	}
}

// A field that does not exist is refused wherever there are fields.
func TestUnknownFields(t *testing.T) {
	t.Parallel()
	sections := map[string]bool{}
	parents(defaults(t), "", sections)
	for path := range sections {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			_, err := chart.RenderText(t.Context(), chart.Options{Values: []string{minimal}, Set: []string{strings.TrimPrefix(path+".nosuchfield=1", ".")}})
			if err == nil || !strings.Contains(err.Error(), "'nosuchfield' not allowed") {
				t.Errorf("%v", err)
			}
		})
	}
}

func parents(value any, path string, into map[string]bool) {
	fields, is := value.(map[string]any)
	if !is || len(fields) == 0 || strings.HasSuffix(path, ".labels") {
		return
	}
	into[path] = true
	for name, field := range fields {
		parents(field, strings.TrimPrefix(path+"."+name, "."), into)
	}
}

// A section or value that is left empty, which is null, is as good as none or is refused
// by its name, never by a template that stumbles over it.
func TestNothing(t *testing.T) {
	t.Parallel()
	all := map[string]string{}
	leaves(t, "", defaults(t), all)
	sections := map[string]bool{}
	parents(defaults(t), "", sections)
	for path := range sections {
		all[path] = ""
	}
	delete(all, "")
	for path := range all {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			_, err := chart.RenderText(t.Context(), chart.Options{Values: []string{minimal}, Set: []string{path + "=null"}})
			last := path[strings.LastIndex(path, ".")+1:]
			if err != nil && !strings.Contains(err.Error(), "missing property '"+last+"'") && !strings.Contains(err.Error(), "config.stores is missing") {
				t.Errorf("%v", err)
			}
		})
	}
}

// The values that README.md shows are enough for a release.
func TestReadmeExample(t *testing.T) {
	t.Parallel()
	_, example, _ := strings.Cut(string(readChart(t, "README.md")), "```yaml\n")
	example, _, _ = strings.Cut(example, "```")
	file := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(example, "\n   ", "\n")[3:]), 0o600); err != nil {
		t.Fatal(err)
	}
	if objects := render(t, chart.Options{Values: []string{file}}); objects.Find("Deployment", "gatehouse") == nil {
		t.Error("no Deployment")
	}
}

func TestKubernetesVersion(t *testing.T) {
	t.Parallel()
	for version, refused := range map[string]bool{"v1.29.9": true, "v1.30.0": false, "v1.36.1": false} {
		_, err := chart.RenderText(t.Context(), chart.Options{Values: []string{minimal}, KubeVersion: version})
		if got := err != nil && strings.Contains(err.Error(), "does not know the lifecycle action sleep"); got != refused || err != nil && !got {
			t.Errorf("%s: %v", version, err)
		}
	}
}
