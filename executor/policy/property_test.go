package policy_test

import (
	"maps"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"pgregory.net/rapid"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/executor/policy"
	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/verifier"
)

func nodes(depth int) *rapid.Generator[policy.Node] {
	return rapid.Custom(func(t *rapid.T) policy.Node {
		kind := rapid.IntRange(0, 3).Draw(t, "kind")
		if depth == 0 && kind > 1 {
			kind -= 2
		}
		name := rapid.SampledFrom([]string{"v", "w"}).Draw(t, "verifier")
		switch kind {
		case 0:
			n := rapid.IntRange(1, 3).Draw(t, "n")
			return policy.Node{Verifier: name, AtLeast: &n}
		case 1:
			return policy.Node{Verifier: name, Every: true}
		case 2:
			return policy.Node{AllOf: rapid.SliceOfN(nodes(depth-1), 1, 3).Draw(t, "all")}
		default:
			return policy.Node{AnyOf: rapid.SliceOfN(nodes(depth-1), 1, 3).Draw(t, "any")}
		}
	})
}

func reports() *rapid.Generator[[]verifier.Report] {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) verifier.Report {
		return verifier.Report{
			Verifier:  rapid.SampledFrom([]string{"v", "w"}).Draw(t, "of"),
			Outcome:   rapid.SampledFrom([]verifier.Outcome{verifier.Inconclusive, verifier.Failed, verifier.Passed}).Draw(t, "outcome"),
			Statement: digest.Digest(rapid.SampledFrom([]string{"1", "2", "3"}).Draw(t, "statement")),
		}
	}), 0, 6)
}

func compiled(t *rapid.T) executor.Requirement {
	requirement, err := policy.Compile(nodes(3).Draw(t, "tree"), []string{"v", "w"})
	if err != nil {
		t.Fatal(err)
	}
	return requirement
}

// Doubt never allows: turning any report from Passed to Inconclusive, or any
// settled evidence into unsettled, never turns a decision into Allowed.
func TestDoubtNeverAllows(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		requirement := compiled(t)
		before := executor.Evidence{Reports: reports().Draw(t, "reports"), Settled: rapid.Bool().Draw(t, "settled")}
		after := executor.Evidence{Reports: append([]verifier.Report(nil), before.Reports...), Settled: before.Settled && rapid.Bool().Draw(t, "still")}
		for i := range after.Reports {
			if after.Reports[i].Outcome == verifier.Passed && rapid.Bool().Draw(t, "doubt") {
				after.Reports[i].Outcome = verifier.Inconclusive
			}
		}
		if requirement.Decide(after) == executor.Allowed && requirement.Decide(before) != executor.Allowed {
			t.Fatalf("more doubt allowed: %v from %v", after, before)
		}
	})
}

// A decision made early is the one that all evidence would have given, in
// whatever order it comes, and settled evidence without doubt always decides.
func TestEarlyDecisionsStand(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		requirement := compiled(t)
		all := reports().Draw(t, "reports")
		last := requirement.Decide(executor.Evidence{Reports: all, Settled: true})
		order := rapid.Permutation(all).Draw(t, "order")
		for n := range order {
			early := requirement.Decide(executor.Evidence{Reports: order[:n]})
			if early != executor.Undecided && early != last {
				t.Fatalf("%v after %d of %d reports, %v in the end", early, n, len(order), last)
			}
		}
		doubt := false
		for _, r := range all {
			doubt = doubt || r.Outcome == verifier.Inconclusive
		}
		if !doubt && last == executor.Undecided {
			t.Fatal("no doubt is left and yet nothing is decided")
		}
	})
}

// An inconclusive report leaves open exactly what resolving it could change:
// a decision in spite of it holds however it turns out.
func TestDecisionsInDoubtHoldEitherWay(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		requirement := compiled(t)
		all := reports().Draw(t, "reports")
		decision := requirement.Decide(executor.Evidence{Reports: all, Settled: true})
		if decision == executor.Undecided {
			return
		}
		resolved := append([]verifier.Report(nil), all...)
		for i := range resolved {
			if resolved[i].Outcome == verifier.Inconclusive {
				resolved[i].Outcome = rapid.SampledFrom([]verifier.Outcome{verifier.Failed, verifier.Passed}).Draw(t, "turns out")
			}
		}
		if got := requirement.Decide(executor.Evidence{Reports: resolved, Settled: true}); got != decision {
			t.Fatalf("%v in doubt, %v once it is resolved", decision, got)
		}
	})
}

// Whoever fetches only what Needs asks for, and all that is left once it asks
// for nothing, comes to the decision that all reports would have given; and if
// fewer reports than it needs pass, that is no allowance.
func TestNeedsLeadToTheDecision(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		requirement := compiled(t)
		all := reports().Draw(t, "reports")
		want := requirement.Decide(executor.Evidence{Reports: all, Settled: true})
		var got []verifier.Report
		rest := append([]verifier.Report(nil), all...)
		for len(rest) > 0 && requirement.Decide(executor.Evidence{Reports: got}) == executor.Undecided {
			next := pick(rest, requirement.Needs(executor.Evidence{Reports: got}))
			got = append(got, rest[next])
			rest = append(rest[:next], rest[next+1:]...)
		}
		if early := requirement.Decide(executor.Evidence{Reports: got, Settled: len(rest) == 0}); early != want {
			t.Fatalf("%v after %d of %d reports, %v with all", early, len(got), len(all), want)
		}
	})
}

// pick is the first report that is needed, or else the first.
func pick(rest []verifier.Report, needs map[string]int) int {
	for i, r := range rest {
		if needs[r.Verifier] > 0 {
			return i
		}
	}
	return 0
}

func TestNeeds(t *testing.T) {
	t.Parallel()
	two := 2
	passed := func(name, statement string) verifier.Report {
		return verifier.Report{Verifier: name, Outcome: verifier.Passed, Statement: digest.Digest(statement)}
	}
	v, w := policy.Node{Verifier: "v"}, policy.Node{Verifier: "w", AtLeast: &two}
	tests := []struct {
		name    string
		node    policy.Node
		reports []verifier.Report
		want    map[string]int
	}{
		{"one", v, nil, map[string]int{"v": 1}},
		{"two", w, nil, map[string]int{"w": 2}},
		{"two, one passed twice", w, []verifier.Report{passed("w", "1"), passed("w", "1")}, map[string]int{"w": 1}},
		{"every", policy.Node{Verifier: "v", Every: true}, nil, map[string]int{"v": executor.AllReports}},
		{"both", policy.Node{AllOf: []policy.Node{v, w}}, nil, map[string]int{"v": 1, "w": 2}},
		{"both, one done", policy.Node{AllOf: []policy.Node{v, w}}, []verifier.Report{passed("v", "1")}, map[string]int{"w": 2}},
		{"either", policy.Node{AnyOf: []policy.Node{v, w}}, nil, map[string]int{"v": 1, "w": 2}},
	}
	for _, test := range tests {
		requirement, err := policy.Compile(test.node, []string{"v", "w"})
		if err != nil {
			t.Fatal(err)
		}
		if got := requirement.Needs(executor.Evidence{Reports: test.reports}); !maps.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}

func patterns() *rapid.Generator[string] {
	segment := rapid.StringOfN(rapid.RuneFrom([]rune("ab*")), 1, 3, -1).Filter(func(s string) bool { return !strings.Contains(s, "**") })
	return rapid.Custom(func(t *rapid.T) string {
		if rapid.IntRange(0, 9).Draw(t, "bare") == 0 {
			return "**"
		}
		host := rapid.SampledFrom([]string{"a.b", "*.b", "a.*", "*.*", "**", "a.b:1"}).Draw(t, "host")
		path := rapid.SliceOfN(rapid.OneOf(segment, rapid.Just("**")), 1, 3).Draw(t, "path")
		return host + "/" + strings.Join(path, "/")
	})
}

func images() *rapid.Generator[referrerstore.Reference] {
	return rapid.Custom(func(t *rapid.T) referrerstore.Reference {
		host := rapid.SampledFrom([]string{"a.b", "b.b", "a.b:1", "a.a"}).Draw(t, "host")
		path := rapid.SliceOfN(rapid.StringOfN(rapid.RuneFrom([]rune("ab")), 1, 3, -1), 1, 4).Draw(t, "path")
		return referrerstore.Reference{Registry: host, Repository: strings.Join(path, "/"), Tag: "t"}
	})
}

// Covers is what it says: a covered pattern never matches an image that the
// covering one does not.
func TestCoversImpliesMatch(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p, err := policy.ParsePattern(patterns().Draw(t, "p"))
		if err != nil {
			t.Fatal(err)
		}
		q, err := policy.ParsePattern(patterns().Draw(t, "q"))
		if err != nil {
			t.Fatal(err)
		}
		if !p.Covers(p) || !q.Covers(q) {
			t.Fatal("a pattern does not cover itself")
		}
		image := images().Draw(t, "image")
		if p.Covers(q) && q.Match(image) && !p.Match(image) {
			t.Fatalf("%s covers %s, which alone matches %s", p, q, image)
		}
	})
}

func FuzzParsePattern(f *testing.F) {
	for _, seed := range []string{"**", "docker.io/library/*", "*.azurecr.io/**", "r:5/a**", "[::1]:5/x", "//", "a/@"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := policy.ParsePattern(text)
		if err == nil && !p.Covers(p) {
			t.Fatalf("%q does not cover itself", text)
		}
	})
}
