package docs

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/verifier"
)

const codesFile = "docs/codes.md"

// The words of docs/codes.md for what a code says of a key.
const (
	isVerdict = "yes"
	noVerdict = "no"
)

// documentedCodes maps each code of docs/codes.md to whether it is a verdict.
func documentedCodes(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	var table string
	for line := range strings.SplitSeq(read(t, codesFile)+"\n", "\n") {
		if strings.HasPrefix(line, "|") {
			table += line + "\n"
			continue
		}
		for _, row := range rows(table) {
			name, ok := code(row[0])
			if !ok || len(row) != 4 || row[2] == "" || row[3] == "" || (row[1] != isVerdict && row[1] != noVerdict) {
				t.Errorf("%s: %v is not a code, whether it is a verdict, its meaning, and what to do", codesFile, row)
				continue
			}
			if _, twice := found[name]; twice {
				t.Errorf("%s: %s stands there twice", codesFile, name)
			}
			found[name] = row[1]
		}
		table = ""
	}
	return found
}

// sourceCodes are the constants of type Code in a folder's packages.
func sourceCodes(t *testing.T, folder string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(filepath.Join(root, folder), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		found = append(found, codesOf(parsed)...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func codesOf(file *ast.File) []string {
	var found []string
	for _, decl := range file.Decls {
		group, ok := decl.(*ast.GenDecl)
		if !ok || group.Tok != token.CONST {
			continue
		}
		for _, spec := range group.Specs {
			values, _ := spec.(*ast.ValueSpec)
			if !isCode(values.Type) {
				continue
			}
			for _, value := range values.Values {
				if literal, ok := value.(*ast.BasicLit); ok {
					text, _ := strconv.Unquote(literal.Value)
					found = append(found, text)
				}
			}
		}
	}
	return found
}

// isCode tells Code and verifier.Code.
func isCode(t ast.Expr) bool {
	switch t := t.(type) {
	case *ast.Ident:
		return t.Name == "Code"
	case *ast.SelectorExpr:
		return t.Sel.Name == "Code"
	default:
		return false
	}
}

func TestEveryCodeIsDocumented(t *testing.T) {
	t.Parallel()
	var want []string
	for _, folder := range []string{"referrerstore", "verifier", "executor", "httpserver"} {
		want = append(want, sourceCodes(t, folder)...)
	}
	slices.Sort(want)
	if len(want) < 30 {
		t.Fatalf("only %d codes were found in the source", len(want))
	}
	var got []string
	for name := range documentedCodes(t) {
		got = append(got, name)
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s differs from the source (-source +document):\n%s", codesFile, diff)
	}
}

// What is documented as a verdict is what Explain gives for one.
func TestCodesTellVerdictsApart(t *testing.T) {
	t.Parallel()
	documented := documentedCodes(t)
	check := func(x executor.Explanation, want string) {
		t.Helper()
		if got := documented[string(x.Code)]; got != want {
			t.Errorf("%s: verdict %q, want %q", x.Code, got, want)
		}
	}
	ref, err := referrerstore.ParseReference("registry.example/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	result := executor.Result{Request: executor.Request{Reference: ref}}
	for _, err := range []error{
		referrerstore.ErrAuthDenied, referrerstore.ErrRateLimited, referrerstore.ErrUnavailable, referrerstore.ErrRefused,
		referrerstore.ErrProtocol, referrerstore.ErrDigestMismatch, referrerstore.ErrBusy, executor.ErrInconclusive,
		context.DeadlineExceeded, context.Canceled, errors.New("anything else"),
		&executor.ReportError{Report: verifier.Report{Reason: verifier.Reason{Code: verifier.CodeRevocationUnknown}}},
		&executor.ReportError{Report: verifier.Report{Reason: verifier.Reason{Code: verifier.CodeArtifactUnavailable}}},
		&executor.ReportError{Report: verifier.Report{Reason: verifier.Reason{Code: verifier.CodeVerificationAborted}}},
		&executor.ReportError{Report: verifier.Report{Reason: verifier.Reason{Err: referrerstore.ErrNotFound}}},
	} {
		check(executor.Explain(result, fmt.Errorf("verify: %w", err)), noVerdict)
	}
	for _, denial := range []error{
		executor.ErrNoRule, executor.ErrNamespaceMissing, executor.ErrNoStore, executor.ErrExemptionEnded, executor.ErrNoArtifacts,
		executor.ErrRequirement, referrerstore.ErrNotFound, referrerstore.ErrTooManyReferrers,
	} {
		denied := result
		denied.Decision, denied.Denial, denied.Exemption = executor.Denied, denial, &executor.Exemption{}
		check(executor.Explain(denied, nil), isVerdict)
	}
	for _, exemption := range []*executor.Exemption{nil, {}} {
		allowed := result
		allowed.Decision, allowed.Exemption = executor.Allowed, exemption
		check(executor.Explain(allowed, nil), isVerdict)
	}
	check(executor.ExplainInvalidKey(os.ErrInvalid), isVerdict)
	check(executor.ExplainReport(verifier.Report{Reason: verifier.Reason{Code: verifier.CodeVerified}}), isVerdict)
}
