package policy_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/executor/policy"
	"github.com/gatehouse-project/gatehouse/referrerstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func ref(t testing.TB, text string) referrerstore.Reference {
	t.Helper()
	r, err := referrerstore.ParseReference(text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// What no namespace leads to a demand of is known without one.
func TestMayDemand(t *testing.T) {
	t.Parallel()
	require, lasting := &policy.Node{Verifier: "v"}, &executor.Exemption{Reason: "T-1", Until: time.Now().Add(time.Hour)}
	p, err := policy.New([]policy.Rule{
		{Name: "a", Images: []string{"r.example/a"}, Namespaces: []string{"prod"}, Allow: lasting},
		{Name: "b", Images: []string{"r.example/b"}, Namespaces: []string{"*"}, Allow: lasting},
		{Name: "c", Images: []string{"r.example/c"}, Allow: lasting},
		{Name: "d", Images: []string{"r.example/d"}, Namespaces: []string{"prod"}, Require: require},
		{Name: "all", Images: []string{"r.example/**"}, Require: require},
		{Name: "e", Images: []string{"s.example/e"}, Namespaces: []string{"prod"}, Allow: lasting},
	}, []string{"v"})
	if err != nil {
		t.Fatal(err)
	}
	for image, want := range map[string]bool{
		"r.example/a": true, "r.example/b": false, "r.example/c": false, "r.example/d": true, "r.example/x/y": true, "s.example/e": false, "s.example/f": false,
	} {
		found := false
		for _, namespace := range []string{"prod", "dev"} {
			rule, ok, err := p.Match(ref(t, image), namespace)
			found = found || (ok && err == nil && rule.Requirement != nil)
		}
		if got := p.MayDemand(ref(t, image)); got != want || got != found {
			t.Errorf("%s: %t, want %t; by namespaces %t", image, got, want, found)
		}
	}
}

func TestPatternMatch(t *testing.T) {
	t.Parallel()
	tests := []struct {
		pattern string
		yes, no []string
	}{
		{"**", []string{"nginx", "r.example/a/b/c", "localhost:5000/x"}, nil},
		{"docker.io/library/busybox", []string{"busybox", "index.docker.io/busybox", "registry-1.docker.io/library/busybox:1"}, []string{"busybox2", "docker.io/library/busy", "docker.io/other/busybox", "r.example/library/busybox"}},
		{"index.docker.io/library/*", []string{"nginx"}, []string{"me/nginx"}},
		{"r.example/prod/**", []string{"r.example/prod/a", "r.example/prod/a/b", "R.EXAMPLE:443/prod/a"}, []string{"r.example/prod", "r.example/production/a", "r.example/x/prod/a", "xr.example/prod/a", "r.example.evil/prod/a"}},
		{"r.example/*/app", []string{"r.example/a/app"}, []string{"r.example/app", "r.example/a/b/app", "r.example/a/app2"}},
		{"r.example/**/app", []string{"r.example/a/app", "r.example/a/b/app"}, []string{"r.example/app"}},
		{"r.example/a*c", []string{"r.example/ac", "r.example/abc"}, []string{"r.example/ab", "r.example/a/c"}},
		{"*.azurecr.io/**", []string{"acme.azurecr.io/x"}, []string{"azurecr.io/x", "a.b.azurecr.io/x", "acme.azurecr.io:5000/x", "acme.azurecr.io.evil.example/x"}},
		{"r.example:5000/**", []string{"r.example:5000/x"}, []string{"r.example/x", "r.example:5001/x"}},
		{"**/app", []string{"r.example/app", "localhost:5/app"}, []string{"r.example/a/app"}},
	}
	for _, test := range tests {
		p, err := policy.ParsePattern(test.pattern)
		if err != nil {
			t.Errorf("%s: %v", test.pattern, err)
			continue
		}
		for _, image := range test.yes {
			if !p.Match(ref(t, image)) {
				t.Errorf("%s does not match %s", test.pattern, image)
			}
		}
		for _, image := range test.no {
			if p.Match(ref(t, image)) {
				t.Errorf("%s matches %s", test.pattern, image)
			}
		}
	}
}

func TestPatternRefused(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		"":                        "empty",
		"nginx":                   "docker.io/library/nginx",
		"library/nginx":           "docker.io/library/nginx",
		"r.example/app:v1":        "tag or digest",
		"r.example/app@sha256:00": "tag or digest",
		"r.example/":              "empty path segment",
		"r.example//app":          "empty path segment",
		"r.example/App":           "lower case",
		"r.example/a**":           "whole segments",
		"*/app":                   `"**"`,
		"**.example/app":          `"**"`,
		"r.example:*/app":         "port",
		"r example/app":           "not read as a registry host",
		"docker.io/nginx":         "docker.io/library/nginx",
		"index.docker.io/*":       "docker.io/library/*",
	}
	for text, want := range tests {
		if _, err := policy.ParsePattern(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want one with %q", text, err, want)
		}
	}
}

func node(verifier string) *policy.Node { return &policy.Node{Verifier: verifier} }

func TestFirstMatchWins(t *testing.T) {
	t.Parallel()
	p, err := policy.New([]policy.Rule{
		{Name: "prod", Images: []string{"r.example/**"}, Namespaces: []string{"prod-*"}, Require: node("v")},
		{Name: "exempt", Images: []string{"r.example/legacy"}, Allow: &executor.Exemption{Reason: "T-1", Until: time.Now().Add(time.Hour)}},
		{Name: "rest", Images: []string{"r.example/**"}, Require: node("v")},
	}, []string{"v"})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct{ image, namespace, rule string }{
		{"r.example/legacy", "prod-a", "prod"},
		{"r.example/legacy", "dev", "exempt"},
		{"r.example/app", "dev", "rest"},
		{"r.example/app", "prod-", "prod"},
		{"r.example/app", "xprod-a", "rest"},
		{"other.example/app", "dev", ""},
	}
	for _, test := range tests {
		rule, found, err := p.Match(ref(t, test.image), test.namespace)
		if err != nil || rule.Name != test.rule || found != (test.rule != "") {
			t.Errorf("%s in %s: rule %q, %v, %v; want %q", test.image, test.namespace, rule.Name, found, err, test.rule)
		}
	}
	if _, _, err := p.Match(ref(t, "r.example/app"), ""); !errors.Is(err, executor.ErrNamespaceMissing) {
		t.Errorf("without a namespace: %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	zero, two := 0, 2
	all := []string{"**"}
	exemption := &executor.Exemption{Reason: "T", Until: time.Now()}
	tests := []struct {
		name string
		rule policy.Rule
		want string
	}{
		{"no images", policy.Rule{Require: node("v")}, "images is empty"},
		{"bad image", policy.Rule{Images: []string{"nginx"}, Require: node("v")}, "docker.io/library/nginx"},
		{"neither", policy.Rule{Images: all}, "either require or allow"},
		{"both", policy.Rule{Images: all, Require: node("v"), Allow: exemption}, "either require or allow"},
		{"unknown verifier", policy.Rule{Images: all, Require: node("w")}, `no verifier is named "w"`},
		{"empty node", policy.Rule{Images: all, Require: &policy.Node{}}, "exactly one of"},
		{"two kinds", policy.Rule{Images: all, Require: &policy.Node{Verifier: "v", AllOf: []policy.Node{*node("v")}}}, "exactly one of"},
		{"empty allOf", policy.Rule{Images: all, Require: &policy.Node{AllOf: []policy.Node{}}}, "at least one"},
		{"empty anyOf", policy.Rule{Images: all, Require: &policy.Node{AnyOf: []policy.Node{}}}, "at least one"},
		{"zero", policy.Rule{Images: all, Require: &policy.Node{Verifier: "v", AtLeast: &zero}}, "least is 1"},
		{"every and atLeast", policy.Rule{Images: all, Require: &policy.Node{Verifier: "v", AtLeast: &two, Every: true}}, "exclude"},
		{"every beside anyOf", policy.Rule{Images: all, Require: &policy.Node{AnyOf: []policy.Node{*node("v")}, Every: true}}, "beside verifier"},
		{"no reason", policy.Rule{Images: all, Allow: &executor.Exemption{Until: time.Now()}}, "reason"},
		{"no end", policy.Rule{Images: all, Allow: &executor.Exemption{Reason: "T"}}, "date"},
		{"evaluate beside allow", policy.Rule{Images: all, Allow: exemption, EvaluateAll: true}, "evaluate"},
		{"bad namespace", policy.Rule{Images: all, Namespaces: []string{"Prod"}, Require: node("v")}, "namespace pattern"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.rule.Name = "r"
			_, err := policy.New([]policy.Rule{test.rule}, []string{"v"})
			var of *policy.RuleError
			if !errors.As(err, &of) || of.Index != 0 || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
		})
	}
	if _, err := policy.New(nil, nil); err == nil {
		t.Error("a policy without rules is accepted")
	}
	deep := *node("v")
	for range policy.MaxDepth {
		deep = policy.Node{AllOf: []policy.Node{deep}}
	}
	if _, err := policy.Compile(deep, []string{"v"}); err == nil {
		t.Error("bottomless nesting is accepted")
	}
}

func TestShadowedRuleIsRefused(t *testing.T) {
	t.Parallel()
	rule := func(name string, namespaces []string, images ...string) policy.Rule {
		return policy.Rule{Name: name, Images: images, Namespaces: namespaces, Require: node("v")}
	}
	tests := []struct {
		name          string
		first, second policy.Rule
		shadowed      bool
	}{
		{"everything first", rule("a", nil, "**"), rule("b", nil, "r.example/x"), true},
		{"narrow first", rule("a", nil, "r.example/x"), rule("b", nil, "**"), false},
		{"the same", rule("a", nil, "r.example/*"), rule("b", nil, "r.example/*"), true},
		{"wider glob", rule("a", nil, "r.example/**"), rule("b", nil, "r.example/a/*"), true},
		{"star does not cover starstar", rule("a", nil, "r.example/*"), rule("b", nil, "r.example/**"), false},
		{"one of two images left", rule("a", nil, "r.example/a"), rule("b", nil, "r.example/a", "r.example/b"), false},
		{"two patterns together", rule("a", nil, "r.example/a", "r.example/b"), rule("b", nil, "r.example/a", "r.example/b"), true},
		{"alias of the host", rule("a", nil, "index.docker.io/library/*"), rule("b", nil, "docker.io/library/nginx"), true},
		{"former only in a namespace", rule("a", []string{"prod"}, "**"), rule("b", nil, "r.example/x"), false},
		{"latter in a covered namespace", rule("a", []string{"prod-*"}, "**"), rule("b", []string{"prod-eu-*"}, "r.example/x"), true},
		{"latter in another namespace", rule("a", []string{"prod-*"}, "**"), rule("b", []string{"p*"}, "r.example/x"), false},
		{"former in all namespaces by a glob", rule("a", []string{"*"}, "**"), rule("b", nil, "r.example/x"), true},
		{"glob in the host", rule("a", nil, "*.example/**"), rule("b", nil, "r.example/x"), true},
	}
	for _, test := range tests {
		_, err := policy.New([]policy.Rule{test.first, test.second}, []string{"v"})
		if (err != nil) != test.shadowed {
			t.Errorf("%s: %v", test.name, err)
		}
		var of *policy.RuleError
		if test.shadowed && (!errors.As(err, &of) || of.Index != 1) {
			t.Errorf("%s: error %v does not point at the second rule", test.name, err)
		}
	}
}
