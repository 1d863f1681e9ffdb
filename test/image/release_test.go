package image_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// workflow is what these tests read of GitHub's format.
type workflow struct {
	Permissions map[string]string
	Jobs        map[string]workflowJob
}

type workflowJob struct {
	Needs       any
	Permissions map[string]string
	Steps       []struct {
		Name, Uses, Run string
		Env             map[string]string
	}
}

func readRelease(t *testing.T) workflow {
	t.Helper()
	text, err := os.ReadFile("../../.github/workflows/release.yml")
	if err != nil {
		t.Fatal(err)
	}
	var w workflow
	if err := yaml.Unmarshal(text, &w); err != nil {
		t.Fatal(err)
	}
	return w
}

// script is all that a job runs.
func (j workflowJob) script() string {
	var all strings.Builder
	for _, step := range j.Steps {
		all.WriteString(step.Run + "\n")
	}
	return all.String()
}

// needs are the jobs that end well before this one begins.
func (w workflow) needs(name string) []string {
	var all []string
	switch needs := w.Jobs[name].Needs.(type) {
	case string:
		all = append(all, needs)
	case []any:
		for _, one := range needs {
			all = append(all, one.(string))
		}
	}
	for _, one := range slices.Clone(all) {
		all = append(all, w.needs(one)...)
	}
	return all
}

// What may write packages, or sign as this repository, runs code that cannot change under
// it, and no job has more rights than it says.
func TestReleaseIsPinned(t *testing.T) {
	t.Parallel()
	w := readRelease(t)
	if w.Permissions == nil || len(w.Permissions) > 0 {
		t.Errorf("all jobs have %v", w.Permissions)
	}
	pinned := regexp.MustCompile(`^[\w.-]+/[\w./-]+@[0-9a-f]{40}$`)
	for name, job := range w.Jobs {
		if len(job.Permissions) == 0 {
			t.Errorf("%s says nothing of its permissions", name)
		}
		for _, step := range job.Steps {
			if step.Uses != "" && !pinned.MatchString(step.Uses) {
				t.Errorf("%s uses %s, which may change", name, step.Uses)
			}
			if strings.Contains(step.Run, "${{") {
				t.Errorf("%s: %q puts an expression into a shell's text", name, step.Name)
			}
		}
		if regexp.MustCompile(`@latest|curl |wget `).MatchString(job.script()) {
			t.Errorf("%s fetches what is not pinned", name)
		}
	}
}

// Nobody finds the version before all signatures are there: the image is pushed by its
// digest, and its tag, and the chart that names it, come after every job that signs.
func TestReleaseTagsLast(t *testing.T) {
	t.Parallel()
	w := readRelease(t)
	tagging := regexp.MustCompile(`(?m)^\s*(oras tag|helm push) |oras cp .*"\$IMAGE:`)
	signing := regexp.MustCompile(`cosign (sign|attest) [^\n]*\$IMAGE@|notation`)
	var tags, signs []string
	for name, job := range w.Jobs {
		script := job.script()
		for _, step := range job.Steps {
			script += step.Uses + "\n"
		}
		if tagging.MatchString(script) {
			tags = append(tags, name)
		}
		if signing.MatchString(script) {
			signs = append(signs, name)
		}
	}
	slices.Sort(signs)
	if len(tags) != 1 || !slices.Equal(signs, []string{"notation", "publish"}) {
		t.Fatalf("%v tag, %v sign", tags, signs)
	}
	for _, name := range append(signs, "check") {
		if !slices.Contains(w.needs(tags[0]), name) {
			t.Errorf("%s does not wait for %s", tags[0], name)
		}
	}
}

// The name of a tag is somebody's text: it is looked at before it is a word of a command.
func TestReleaseLooksAtTheTag(t *testing.T) {
	t.Parallel()
	w := readRelease(t)
	look := regexp.MustCompile(`\[\[ \$GITHUB_REF_NAME =~ (\S+) \]\]`).FindStringSubmatch(w.Jobs["check"].script())
	if look == nil {
		t.Fatal("the job check does not look at the tag")
	}
	form := regexp.MustCompile(look[1])
	for name, want := range map[string]bool{
		"v1.2.3": true, "v0.1.0": true, "v1.2.3-rc.1": true,
		"v1": false, "vx": false, "v1.2.3;id": false, "v1.2.3-$(id)": false, "v1.2.3+x": false, "v1.2.3-": false,
	} {
		if form.MatchString(name) != want {
			t.Errorf("%s: %t", name, !want)
		}
	}
	for name := range w.Jobs {
		if name != "check" && !slices.Contains(w.needs(name), "check") {
			t.Errorf("%s does not wait for check", name)
		}
	}
}
