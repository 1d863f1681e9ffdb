package docs

import (
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"go/types"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The README's table of bounds names what sets each: a field, whose default
// must be the bound, or a constant as FOLDER.NAME, whose value must be.
func TestBounds(t *testing.T) {
	t.Parallel()
	_, table, _ := between(t, "README.md", read(t, "README.md"), "bounds")
	defaults := map[string]string{}
	for _, f := range fields(t) {
		defaults[f.Path] = f.Default
	}
	checked := 0
	for _, row := range rows(table) {
		if len(row) != 3 {
			t.Errorf("%v is not what is bound, the bound, and what sets it", row)
			continue
		}
		source, ok := code(row[2])
		if !ok {
			continue // the source has no name of its own
		}
		checked++
		want, isField := defaults[source]
		if !isField {
			want = constantText(t, source)
		}
		if got, want := normal(t, row[1]), normal(t, want); got != want {
			t.Errorf("%s: the bound is %s in the table and %s in %s", row[0], row[1], want, source)
		}
	}
	if checked < 20 {
		t.Errorf("only %d bounds were checked", checked)
	}
}

// constantText is the expression of a constant named as FOLDER.NAME.
func constantText(t *testing.T, source string) string {
	t.Helper()
	folder, name := path.Split(source)
	last, name, found := strings.Cut(name, ".")
	if !found {
		t.Fatalf("%s is neither a field nor a constant", source)
	}
	files, err := filepath.Glob(filepath.Join(root, folder, last, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: no such folder (%v)", source, err)
	}
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		if text := constantIn(parsed, name); text != "" {
			return text
		}
	}
	t.Fatalf("%s: no such constant", source)
	return ""
}

func constantIn(file *ast.File, name string) (text string) {
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok {
			for i, id := range spec.Names {
				if id.Name == name && i < len(spec.Values) {
					text = types.ExprString(spec.Values[i])
				}
			}
		}
		return text == ""
	})
	return text
}

var quantity = regexp.MustCompile(`^([0-9][0-9,]*) ?(KiB|MiB|GiB)?$`)

// normal is the number that a bound means, be it written for people, in the
// configuration's way, or in Go's.
func normal(t *testing.T, text string) string {
	t.Helper()
	expression := text
	if m := quantity.FindStringSubmatch(text); m != nil {
		shift := map[string]string{"KiB": " << 10", "MiB": " << 20", "GiB": " << 30"}[m[2]]
		expression = strings.ReplaceAll(m[1], ",", "") + shift
	}
	value, err := types.Eval(token.NewFileSet(), nil, token.NoPos, expression)
	if err != nil || value.Value == nil || value.Value.Kind() != constant.Int {
		t.Errorf("%q is not a number or a size", text)
		return text
	}
	return value.Value.ExactString()
}
