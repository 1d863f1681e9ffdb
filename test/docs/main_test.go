package docs

import (
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// root is the repository, as seen from this folder.
const root = "../.."

var update = flag.Bool("update", false, "write the generated tables into the documents")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// read gives a file of the repository by its path from the root.
func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// documents are the paths of all Markdown files, from the root.
func documents(t *testing.T) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && path != root && (name == ".git" || name == "bin" || name == "dist" || name == "testdata") {
			return fs.SkipDir
		}
		if !d.IsDir() && strings.HasSuffix(name, ".md") {
			rel, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			found = append(found, filepath.ToSlash(rel))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, must := range []string{
		"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md",
		"docs/configuration.md", "docs/codes.md", "charts/README.md",
	} {
		if !slices.Contains(found, must) {
			t.Errorf("%s is missing", must)
		}
	}
	return found
}

// block is a fenced block of a document.
type block struct {
	line           int // of its first line, counted from one
	language, text string
}

// blocks are the fenced blocks of a Markdown text.
func blocks(text string) []block {
	var all []block
	var open *block
	for i, line := range strings.Split(text, "\n") {
		fence, isFence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case isFence && open == nil:
			open = &block{line: i + 2, language: fence}
		case isFence:
			all, open = append(all, *open), nil
		case open != nil:
			open.text += line + "\n"
		}
	}
	return all
}

// prose is a Markdown text with its fenced blocks blanked, line for line.
func prose(text string) string {
	lines, fenced := strings.Split(text, "\n"), false
	for i, line := range lines {
		isFence := strings.HasPrefix(strings.TrimSpace(line), "```")
		if fenced || isFence {
			lines[i] = ""
		}
		fenced = fenced != isFence
	}
	return strings.Join(lines, "\n")
}

// between is what stands between two marks of a document, each of which it
// must have once, in this order.
func between(t *testing.T, name, text, mark string) (before, inside, after string) {
	t.Helper()
	first, last := "<!-- "+mark+" -->", "<!-- /"+mark+" -->"
	if strings.Count(text, first) != 1 || strings.Count(text, last) != 1 {
		t.Fatalf("%s: want the marks %s and %s once each", name, first, last)
	}
	before, rest, _ := strings.Cut(text, first)
	inside, after, found := strings.Cut(rest, last)
	if !found {
		t.Fatalf("%s: %s comes before %s", name, last, first)
	}
	return before + first, inside, last + after
}

// rows are the cells of a Markdown table's rows, without its head.
func rows(table string) [][]string {
	var all [][]string
	for line := range strings.SplitSeq(table, "\n") {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") || strings.Trim(line, "|-: ") == "" {
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		all = append(all, cells)
	}
	if len(all) == 0 {
		return nil
	}
	return all[1:]
}

// code is the text of a cell that is in backticks as a whole.
func code(cell string) (string, bool) {
	inner, found := strings.CutPrefix(cell, "`")
	inner, closed := strings.CutSuffix(inner, "`")
	return inner, found && closed && inner != "" && !strings.Contains(inner, "`")
}
