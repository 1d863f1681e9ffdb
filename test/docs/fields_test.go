package docs

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/gatehouse-project/gatehouse/config"
	"github.com/gatehouse-project/gatehouse/referrerstore/oras"
	"github.com/gatehouse-project/gatehouse/verifier/notation"
)

// readmeFields are the fields that the README lists; docs/configuration.md has
// all of them.
var readmeFields = []string{
	"version", "server.address", "server.tls.certificate", "server.tls.key", "server.tls.clientCA", "server.tls.clientNames",
	"server.tls.insecureAnyClient", "server.insecureHTTP", "server.verifyTimeout", "server.onFailure", "server.namespaceFrom",
	"server.limits.bodyBytes", "server.limits.keys", "server.limits.keyBytes", "server.limits.connections", "server.limits.inFlightBytes",
	"admin.address",
	"stores[].name", "stores[].type", "stores[].hosts", "stores[].plainHTTP", "stores[].allowPrivate", "stores[].ca", "stores[].mirrors",
	"stores[].credentials", "stores[].realms",
	"trust.certificates[].name", "trust.certificates[].type", "trust.certificates[].files", "trust.certificates[].inline",
	"verifiers[].name", "verifiers[].type", "verifiers[].revocation.mode", "verifiers[].revocation.timeout",
	"verifiers[].revocation.cacheBytes", "verifiers[].trustPolicy", "verifiers[].unsafeAllowUnauthenticated",
	"policy.rules[].name", "policy.rules[].images", "policy.rules[].namespaces", "policy.rules[].evaluate",
	"policy.rules[].require", "policy.rules[].allow",
}

func TestFieldTables(t *testing.T) {
	t.Parallel()
	all := fields(t)
	main := slices.DeleteFunc(slices.Clone(all), func(f config.FieldDoc) bool { return !slices.Contains(readmeFields, f.Path) })
	if len(main) != len(readmeFields) {
		t.Errorf("the README is to list %d fields, of which %d are known", len(readmeFields), len(main))
	}
	for name, want := range map[string]string{
		"README.md":             fieldTable(main),
		"docs/configuration.md": fieldTable(all),
	} {
		text := read(t, name)
		before, inside, after := between(t, name, text, "fields")
		if inside == want {
			continue
		}
		if !*update {
			t.Errorf("%s: the table of fields is out of date: go test ./test/docs -update", name)
			continue
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte(before+want+after), 0o600); err != nil {
			t.Error(err)
		}
	}
}

// fields are those of the file, with the options of each known component in
// its place.
func fields(t *testing.T) []config.FieldDoc {
	t.Helper()
	options := map[string][]config.FieldDoc{
		"stores[].type":    config.OptionFields("stores[]", oras.Options{}),
		"verifiers[].type": config.OptionFields("verifiers[]", notation.Options{}),
	}
	comments := fieldComments(t, "stores[]", "referrerstore/oras/options.go")
	var all []config.FieldDoc
	for _, f := range config.Fields() {
		all = append(append(all, f), options[f.Path]...)
		delete(options, f.Path)
	}
	if len(options) > 0 {
		t.Errorf("no place for the options of %v", options)
	}
	for i := range all {
		if all[i].Doc == "" {
			all[i].Doc = comments[all[i].Path]
		}
		if all[i].Doc == "" {
			t.Errorf("%s has no documentation", all[i].Path)
		}
	}
	return all
}

func fieldTable(all []config.FieldDoc) string {
	escape := strings.NewReplacer("|", `\|`, "*", `\*`, "<", "&lt;", "\n", " ")
	var b strings.Builder
	b.WriteString("\n| Field | Type | Default | Meaning |\n|---|---|---|---|\n")
	for _, f := range all {
		standard := ""
		switch {
		case f.Required:
			standard = "required"
		case f.Default != "":
			standard = "`" + f.Default + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.Path, f.Type, standard, escape.Replace(f.Doc))
	}
	return b.String()
}

// fieldComments takes the documentation of fields without a doc tag from the
// comments of the struct Options in a file, under their paths.
func fieldComments(t *testing.T, path, file string) map[string]string {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, file), nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	structs := map[string]*ast.StructType{}
	ast.Inspect(parsed, func(n ast.Node) bool {
		if spec, ok := n.(*ast.TypeSpec); ok {
			if s, ok := spec.Type.(*ast.StructType); ok {
				structs[spec.Name.Name] = s
			}
		}
		return true
	})
	comments := map[string]string{}
	var walk func(path, name string)
	walk = func(path, name string) {
		for _, f := range structs[name].Fields.List {
			if f.Tag == nil {
				continue
			}
			tag, err := strconv.Unquote(f.Tag.Value)
			if err != nil {
				t.Fatal(err)
			}
			at := path + "." + reflect.StructTag(tag).Get("yaml")
			comments[at] = strings.Join(strings.Fields(f.Doc.Text()), " ")
			if list, ok := f.Type.(*ast.ArrayType); ok {
				if inner, ok := list.Elt.(*ast.Ident); ok && structs[inner.Name] != nil {
					walk(at+"[]", inner.Name)
				}
			}
		}
	}
	walk(path, "Options")
	return comments
}
