package e2e

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// docBlock is a fenced block of a page, with what the comments before it say.
type docBlock struct {
	line           int // of its first line in the text
	language, text string
	// fails and prints are what the last command says as it fails, or prints.
	fails, prints string
	within        time.Duration
	file          string
}

var docComment = regexp.MustCompile(`^<!-- (?:(fails|prints|file): (.+)|within ([0-9]+s)) -->$`)

// docBlocks reads a page. A comment that it does not know fails the test.
func docBlocks(t *testing.T, text string) []docBlock {
	t.Helper()
	var all []docBlock
	next, open, indent := docBlock{}, false, ""
	for i, raw := range strings.Split(text, "\n") {
		line := strings.TrimSpace(raw)
		language, fence := strings.CutPrefix(line, "```")
		m := docComment.FindStringSubmatch(line)
		switch {
		case fence && !open:
			open, indent = true, raw[:strings.Index(raw, "`")]
			next.line, next.language = i+2, language
		case fence:
			all, next, open = append(all, next), docBlock{}, false
		case open:
			next.text += strings.TrimPrefix(raw, indent) + "\n"
		case m != nil:
			next.told(t, m)
		case line != "":
			if next != (docBlock{}) {
				t.Errorf("line %d: a comment that is for no block is above %q", i, line)
			}
			next = docBlock{}
		}
	}
	return all
}

// told notes a comment.
func (b *docBlock) told(t *testing.T, comment []string) {
	t.Helper()
	switch comment[1] {
	case "fails":
		b.fails = comment[2]
	case "prints":
		b.prints = comment[2]
	case "file":
		b.file = comment[2]
	default:
		b.within = must(time.ParseDuration(comment[3]))(t)
	}
}

// commands are the lines of a block, those that end with a backslash joined.
func (b docBlock) commands() []string {
	var all []string
	for line := range strings.SplitSeq(strings.ReplaceAll(b.text, "\\\n", " "), "\n") {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			all = append(all, line)
		}
	}
	return all
}

// writes makes a file of a block. What belongs to another configuration, the
// page's own, is laid over that; and every whole one must be valid.
func (r *reader) writes(b docBlock) {
	r.t.Helper()
	name, text := b.file, r.substituted(b.text)
	if name == "" {
		name = fmt.Sprintf("fragment-%d.yaml", b.line)
	}
	if r.base != "" && !strings.HasPrefix(text, "version:") {
		var whole, over map[string]yaml.Node
		r.ok(yaml.Unmarshal([]byte(r.substituted(r.base)), &whole))
		r.ok(yaml.Unmarshal([]byte(text), &over))
		maps.Copy(whole, over)
		text = string(must(yaml.Marshal(whole))(r.t))
	}
	r.file(name, []byte(text))
	if r.base != "" {
		if out, err := r.shell(r.t.Context(), "gatehouse config validate "+name); err != nil {
			r.t.Errorf("the configuration at line %d: %v: %s", b.line, err, out)
		}
	}
}

// types runs one command and looks at what came of it, with what the block's
// former commands said. It gives what this one says.
func (r *reader) types(b docBlock, command, said string, last bool) string {
	r.t.Helper()
	runs, play := r.instead(command)
	if !last {
		b.fails, b.prints, b.within = "", "", 0
	}
	if runs == "" {
		if b.fails != "" || b.prints != "" {
			r.t.Errorf("line %d: %s: something is expected of a command that is not run", b.line, command)
		}
		return ""
	}
	began := time.Now()
	defer func() { r.t.Logf("%5.1fs %s", time.Since(began).Seconds(), command) }()
	deadline := began.Add(b.within)
	for {
		if play.before != nil {
			play.before(r)
		}
		r.file("gatehouse.log", []byte(r.nodes.log()))
		out, err := r.shell(r.t.Context(), runs)
		if play.after != nil {
			play.after(r, out)
		}
		wrong := b.judge(said, out, err)
		if wrong == "" {
			return out
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("line %d: %s\nwas run as: %s\n%s:\n%s", b.line, command, runs, wrong, out)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// judge says what is not as the page says.
func (b docBlock) judge(said, out string, err error) string {
	switch {
	case b.fails != "" && err == nil:
		return "it should fail"
	case b.fails != "" && !strings.Contains(out, b.fails):
		return fmt.Sprintf("it fails, and should say %q", b.fails)
	case b.fails == "" && err != nil:
		return "it fails: " + err.Error()
	case !strings.Contains(said+out, b.prints):
		return fmt.Sprintf("it should print %q", b.prints)
	}
	return ""
}

var traceID = regexp.MustCompile(`\b[0-9a-f]{32}\b`)

// shell runs a command line as the reader's shell does, with the programs of the
// table and those of any system, and gives all that it prints.
func (r *reader) shell(ctx context.Context, line string) (string, error) {
	r.t.Helper()
	r.known(line)
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-o", "pipefail", "-c", line)
	cmd.Dir = r.home
	cmd.Env = []string{"PATH=" + r.path, "HOME=" + r.home, "KUBECONFIG=" + r.adminKubeconfig()}
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), "denied the request") && traceID.Match(out) {
		r.denials = string(out)
	}
	return string(out), err
}

// programsOfPages are what the pages may call. All others are neither run nor
// excused.
var programsOfPages = []string{"kubectl", "helm", "gatehouse", "notation", "curl", "grep", "tail", "tr", "sort", "mkdir", "cp", "cat", "true"}

var firstWords = regexp.MustCompile(`(?:^|\| *|&& *|\$\()([a-z][a-z-]*)`)

// known asserts that every program of a command line is one of those, and there.
func (r *reader) known(line string) {
	r.t.Helper()
	quoted := regexp.MustCompile(`'[^']*'`)
	for _, m := range firstWords.FindAllStringSubmatch(quoted.ReplaceAllString(line, "''"), -1) {
		if !slices.Contains(programsOfPages, m[1]) {
			r.t.Fatalf("%s: %s is neither run nor excused", line, m[1])
		}
	}
}

// goCommand asks the go command about one of the tools' modules.
func goCommand(t *testing.T, folder string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = folder
	cmd.Env = append(os.Environ(), "GOFLAGS=")
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
}

// quietly runs kubectl for what is no part of a page, also after the test.
func (r *reader) quietly(args ...string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.t.Context()), 20*time.Second)
	defer cancel()
	o, err := r.Kubectl(ctx, "", args...)
	if err == nil && !o.OK() {
		err = fmt.Errorf("kubectl %s: %s", strings.Join(args, " "), o)
	}
	return err
}

// adminKubeconfig is the path of the administrator's credentials.
func (r *reader) adminKubeconfig() string {
	r.t.Helper()
	path := filepath.Join(r.home, "kubeconfig")
	if _, err := os.Stat(path); err != nil {
		text := must(os.ReadFile(must(r.Kubeconfig("admin", "system:masters"))(r.t)))(r.t)
		r.file("kubeconfig", text)
	}
	return path
}
