package docs

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/open-policy-agent/frameworks/constraint/pkg/externaldata"
	"go.yaml.in/yaml/v3"

	"github.com/gatehouse-project/gatehouse/config"
	"github.com/gatehouse-project/gatehouse/test/signing"
)

// eachBlock calls a function with each fenced block of a language.
func eachBlock(t *testing.T, languages []string, do func(name string, b block)) {
	t.Helper()
	for _, name := range documents(t) {
		for _, b := range blocks(read(t, name)) {
			if slices.Contains(languages, b.language) {
				do(name, b)
			}
		}
	}
}

// What looks like a whole configuration is one.
func TestConfigurations(t *testing.T) {
	t.Parallel()
	found := 0
	eachBlock(t, []string{"yaml"}, func(name string, b block) {
		if !strings.HasPrefix(b.text, "version:") {
			return
		}
		found++
		if _, err := config.Parse(name, []byte(b.text)); err != nil {
			t.Errorf("%s:%d: %v", name, b.line, err)
		}
	})
	if found == 0 {
		t.Error("no document shows a configuration")
	}
}

// Gatekeeper gives up at the Provider's timeout; the answer must come before.
func TestProviderOutlastsTheAnswer(t *testing.T) {
	t.Parallel()
	found := 0
	eachBlock(t, []string{"yaml"}, func(name string, b block) {
		if !strings.Contains(b.text, "kind: Provider\n") {
			return
		}
		found++
		var provider struct {
			APIVersion string `yaml:"apiVersion"`
			Spec       struct {
				URL, CABundle string
				Timeout       int
			}
		}
		if err := yaml.Unmarshal([]byte(b.text), &provider); err != nil {
			t.Fatalf("%s:%d: %v", name, b.line, err)
		}
		cfg, err := config.Parse("", []byte(config.Example()))
		if err != nil {
			t.Fatal(err)
		}
		spec := provider.Spec
		if provider.APIVersion != "externaldata.gatekeeper.sh/v1beta1" || !strings.HasPrefix(spec.URL, "https://") ||
			cfg.Server.VerifyTimeout.Seconds() >= float64(spec.Timeout) {
			t.Errorf("%s:%d: %+v", name, b.line, provider)
		}
	})
	if found == 0 {
		t.Error("no document shows a Provider")
	}
}

// The answer that the README shows has the fields of the one that the server's
// tests have.
func TestAnswer(t *testing.T) {
	t.Parallel()
	want := answerFields(t, read(t, "httpserver/testdata/value.json"))
	found := 0
	eachBlock(t, []string{"json"}, func(name string, b block) {
		if !json.Valid([]byte(b.text)) {
			t.Errorf("%s:%d: it is not JSON", name, b.line)
		}
		if !strings.Contains(b.text, `"ProviderResponse"`) {
			return
		}
		found++
		if got := answerFields(t, b.text); !slices.Equal(got, want) {
			t.Errorf("%s:%d: the fields are %v, want %v", name, b.line, got, want)
		}
	})
	if found == 0 {
		t.Error("no document shows an answer")
	}
}

// answerFields are the names of the fields of an answer's values and reports.
func answerFields(t *testing.T, text string) []string {
	t.Helper()
	var answer externaldata.ProviderResponse
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, item := range answer.Response.Items {
		value, _ := item.Value.(map[string]any)
		delete(value, "held") // rare, and told of below the answer
		reports, _ := value["verifierReports"].([]any)
		for _, one := range append(reports, value) {
			fields, _ := one.(map[string]any)
			for name := range fields {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

var target = regexp.MustCompile("(?:^|[\\s`])make ([a-z0-9]+)\\b")

func TestMakeTargets(t *testing.T) {
	t.Parallel()
	makefile, found := read(t, "Makefile"), map[string]bool{}
	inBackticks := regexp.MustCompile("`make [a-z0-9]+")
	for _, name := range documents(t) {
		text := strings.Join(inBackticks.FindAllString(read(t, name), -1), "\n")
		for _, b := range blocks(read(t, name)) {
			if b.language == "sh" {
				text += "\n" + b.text
			}
		}
		for _, m := range target.FindAllStringSubmatch(text, -1) {
			found[m[1]] = true
			if !strings.Contains(makefile, "\n"+m[1]+":") {
				t.Errorf("%s: the Makefile has no target %s", name, m[1])
			}
		}
	}
	if !found["demo"] || !found["test"] {
		t.Error("no document says make demo and make test")
	}
}

// binary builds gatehouse as the Makefile does, so that the two share what the
// toolchain keeps.
func binary(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "gatehouse")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-tags", "grpcnotrace", "-ldflags", "-s -w", "-o", path, "./cmd/gatehouse")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	return path
}

// Every command line of ours that a document shows names a command and flags
// that exist; and the README's configuration passes the validation that it
// asks the reader for.
func TestCommandLines(t *testing.T) {
	t.Parallel()
	gatehouse := binary(t)
	found := 0
	for _, name := range documents(t) {
		for line := range strings.SplitSeq(shell(read(t, name)), "\n") {
			for _, args := range invocations(line) {
				found++
				tryHelp(t, gatehouse, name, args)
			}
		}
	}
	if found < 20 {
		t.Errorf("only %d command lines were tried", found)
	}
	t.Run("validate", func(t *testing.T) { t.Parallel(); validateReadme(t, gatehouse) })
}

var inline = regexp.MustCompile("`(gatehouse [^`]+)`")

// shell is what a document shows of command lines, in blocks and in the text.
func shell(text string) string {
	var b strings.Builder
	for _, block := range blocks(text) {
		if block.language == "sh" {
			b.WriteString(strings.ReplaceAll(block.text, "\\\n", " "))
		}
	}
	for _, m := range inline.FindAllStringSubmatch(prose(text), -1) {
		b.WriteString(m[1] + "\n")
	}
	return b.String()
}

// tryHelp runs a command line with --help: unknown flags are errors then, and
// an unknown command is answered with the help of the one above it.
func tryHelp(t *testing.T, gatehouse, name string, args []string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), gatehouse, append(slices.Clone(args), "--help")...).CombinedOutput()
	if err != nil {
		t.Errorf("%s: gatehouse %s: %v: %s", name, strings.Join(args, " "), err, out)
		return
	}
	_, usage, found := strings.Cut(string(out), "Usage:\n  gatehouse")
	usage, _, _ = strings.Cut(usage, "\n")
	if command, group := commandOf(usage); !found || len(args) < len(command) || !slices.Equal(args[:len(command)], command) ||
		(group && len(args) > len(command) && !strings.HasPrefix(args[len(command)], "-")) {
		t.Errorf("%s: gatehouse %s: no such command; the nearest is gatehouse%s", name, strings.Join(args, " "), usage)
	}
}

// commandOf reads a line of usage: the words of the command, and whether it
// has commands below it.
func commandOf(usage string) (command []string, group bool) {
	for word := range strings.FieldsSeq(usage) {
		if strings.Trim(word, "abcdefghijklmnopqrstuvwxyz") != "" {
			break
		}
		command = append(command, word)
	}
	return command, strings.Contains(usage, "[command]")
}

// invocations are the arguments of each call of gatehouse in a line of shell. Only
// the first word of a command calls: to others, gatehouse may be an argument.
func invocations(line string) [][]string {
	var calls [][]string
	var call []string
	first := true
	for _, word := range append(strings.Fields(line), "|") {
		switch {
		case word == "|" || word == ">" || word == "&&" || word == "||" || word == "#" || word == "&" || word == "<" || word == ";":
			if call != nil {
				calls = append(calls, call[1:])
			}
			call, first = nil, true
			if word == "#" {
				return calls
			}
		case call != nil && strings.Trim(word, "ABCDEFGHIJKLMNOPQRSTUVWXYZ.") == "":
			// It stands for something.
		case call != nil:
			call = append(call, strings.Trim(word, `'"`))
		case first && (word == "gatehouse" || word == "bin/gatehouse"):
			call = []string{word}
		default:
			first = first && variable.MatchString(word)
		}
	}
	return calls
}

// variable is an assignment before a command.
var variable = regexp.MustCompile(`^[A-Z_]+=`)

// validateReadme tries the README's configuration with a real certificate.
func validateReadme(t *testing.T, gatehouse string) {
	dir := t.TempDir()
	authority, err := signing.NewAuthority("acme root", signing.ECDSA256, signing.AuthorityOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blocks(read(t, "README.md")) {
		if b.language != "yaml" || !strings.HasPrefix(b.text, "version:") {
			continue
		}
		file := filepath.Join(dir, "gatehouse.yaml")
		write := func(name string, data []byte) {
			if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(name, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write(file, []byte(b.text))
		write(filepath.Join(dir, "certs", "acme-root.crt"), authority.PEM())
		var stderr bytes.Buffer
		cmd := exec.CommandContext(t.Context(), gatehouse, "config", "validate", file)
		cmd.Stderr = &stderr
		if out, err := cmd.Output(); err != nil || !strings.Contains(string(out), "is valid") || stderr.Len() > 0 {
			t.Errorf("README.md:%d: %v: %s%s", b.line, err, out, stderr.String())
		}
		return
	}
	t.Error("the README shows no configuration")
}
