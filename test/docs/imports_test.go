package docs

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/gatehouse-project/gatehouse"

// layers are the folders of the product, each above those before it.
var layers = []string{"referrerstore", "verifier", "executor", "httpserver", "cmd"}

// shared are packages within a folder that its implementations may import,
// and whether layers above may too. All else in it is an implementation.
var shared = map[string]bool{"referrerstore/flight": true, "referrerstore/certfile": true, "referrerstore/guard": false, "referrerstore/governor": false, "referrerstore/credential": false, "referrerstore/disk": false, "referrerstore/journal": false, "referrerstore/cache": true, "verifier/trust": false}

// suites are for tests.
var suites = []string{"referrerstore/storetest", "referrerstore/disk/disktest", "verifier/verifiertest"}

// libraries are those that one package, or the tests, may import.
var libraries = map[string]string{
	"oras.land/oras-go/":        "referrerstore/oras",
	"github.com/notaryproject/": "verifier/notation",
	"go.yaml.in/yaml/":          "config",
	"github.com/gorilla/mux":    "httpserver",
	"github.com/prometheus/client_golang/prometheus/promhttp": "httpserver",
}

// refusal says why a package of ours may not import another, both by their
// paths from the root; empty if it may.
func refusal(from, to string) string {
	tree, target := folder(from), folder(to)
	rank, targetRank := slices.Index(layers, tree), slices.Index(layers, target)
	isTest := tree == "test" || slices.Contains(suites, from)
	switch {
	case target == "cmd":
		return "nothing imports a command"
	case tree == "config":
		return "config imports none of ours"
	case tree == "test" || (tree == "cmd" && !slices.Contains(suites, to)):
		return ""
	case target == "test" || (slices.Contains(suites, to) && !isTest):
		return "products do not import tests"
	case target == "config":
		return "only cmd knows the configuration file"
	case rank < 0:
		return "the folder is in no layer"
	case targetRank > rank:
		return target + " lies above " + tree
	case tree == target:
		return withinFolder(from, to)
	case target == to || shared[to] || slices.Contains(suites, to):
		return ""
	default:
		return "only roles are known across layers"
	}
}

// withinFolder is refusal for two packages of one folder.
func withinFolder(from, to string) string {
	_, helper := shared[to]
	switch {
	case from == folder(from):
		return "a role knows no implementation"
	case to == folder(to) || helper:
		return ""
	default:
		return "an implementation knows no sibling"
	}
}

func folder(path string) string {
	first, _, _ := strings.Cut(path, "/")
	return first
}

func TestRefusal(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		from, to string
		refused  bool
	}{
		{"cmd/gatehouse", "referrerstore/oras", false},
		{"cmd/gatehouse", "config", false},
		{"cmd/gatehouse", "test/registry", false},
		{"cmd/gatehouse", "verifier/verifiertest", true},
		{"config", "referrerstore", true},
		{"executor", "verifier", false},
		{"executor", "referrerstore", false},
		{"executor", "referrerstore/flight", false},
		{"executor", "executor/policy", true},
		{"executor", "referrerstore/oras", true},
		{"executor", "verifier/trust", true},
		{"executor", "httpserver", true},
		{"executor", "config", true},
		{"executor/policy", "executor", false},
		{"httpserver", "executor", false},
		{"httpserver", "executor/policy", true},
		{"httpserver", "config", true},
		{"referrerstore", "verifier", true},
		{"referrerstore", "referrerstore/flight", true},
		{"referrerstore/oras", "referrerstore/guard", false},
		{"referrerstore/oras", "referrerstore/governor", false},
		{"executor", "referrerstore/governor", true},
		{"executor", "executor/proofs", true},
		{"referrerstore/cache", "referrerstore/oras", true},
		{"referrerstore/cache", "referrerstore/disk", false},
		{"referrerstore/evidence", "referrerstore/cache", false},
		{"httpserver/registry", "referrerstore/cache", false},
		{"httpserver", "referrerstore/disk", true},
		{"referrerstore/oras", "referrerstore/credential", false},
		{"referrerstore/oras", "referrerstore/credential/azure", true},
		{"referrerstore/credential/azure", "referrerstore/credential", false},
		{"referrerstore/credential/azure", "referrerstore/credential/aws", true},
		{"referrerstore/oras", "test/registry", true},
		{"referrerstore/oras", "referrerstore/storetest", true},
		{"referrerstore/storetest", "referrerstore", false},
		{"verifier/notation", "verifier/trust", false},
		{"verifier/notation", "verifier/cosign", true},
		{"verifier/notation", "referrerstore/guard", true},
		{"verifier/verifiertest", "referrerstore/storetest", false},
		{"test/bench", "httpserver", false},
		{"test/bench", "cmd/gatehouse", true},
		{"elsewhere", "referrerstore", true},
	} {
		if why := refusal(tt.from, tt.to); (why != "") != tt.refused {
			t.Errorf("%s imports %s: refused %q", tt.from, tt.to, why)
		}
	}
}

// packages are those of the module, by their path from the root, with their
// imports outside of tests.
func packages(t *testing.T) map[string][]string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=ImportPath,Imports", "./...")
	cmd.Dir = root
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v: %s", err, complaints.String())
	}
	ours := map[string][]string{}
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if path, ok := strings.CutPrefix(p.ImportPath, module+"/"); ok {
			ours[path] = p.Imports
		}
	}
	if len(ours) < 10 {
		t.Fatalf("only %d packages were found", len(ours))
	}
	return ours
}

func TestDependencyDirection(t *testing.T) {
	t.Parallel()
	for from, imports := range packages(t) {
		for _, to := range imports {
			if own, ok := strings.CutPrefix(to, module+"/"); ok {
				if why := refusal(from, own); why != "" {
					t.Errorf("%s imports %s: %s", from, own, why)
				}
				continue
			}
			for library, owner := range libraries {
				if strings.HasPrefix(to, library) && from != owner && folder(from) != "test" {
					t.Errorf("%s imports %s, which only %s may", from, to, owner)
				}
			}
		}
	}
}

// The package map of ARCHITECTURE.md has every package of the product, and
// none that does not exist. Of the tests it shows what others build on.
func TestPackageMap(t *testing.T) {
	t.Parallel()
	_, table, _ := between(t, "ARCHITECTURE.md", read(t, "ARCHITECTURE.md"), "packages")
	unlisted := packages(t)
	for _, row := range rows(table) {
		name, ok := code(row[0])
		if !ok || len(row) != 2 || row[1] == "" {
			t.Errorf("ARCHITECTURE.md: %v is not a package and what it is", row)
		}
		if _, exists := unlisted[name]; !exists {
			t.Errorf("ARCHITECTURE.md: the package %s stands there twice or does not exist", name)
		}
		delete(unlisted, name)
	}
	for name := range unlisted {
		if folder(name) != "test" {
			t.Errorf("ARCHITECTURE.md: the package %s is not in the map", name)
		}
	}
}
