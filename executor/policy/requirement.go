package policy

import (
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/verifier"
)

// MaxDepth bounds the nesting of a requirement.
const MaxDepth = 16

// Node is a requirement as written: exactly one of Verifier, AllOf and AnyOf.
type Node struct {
	// Verifier names the verifier whose reports are counted.
	Verifier string
	// AtLeast is the number of distinct statements that must have Passed; nil
	// means 1.
	AtLeast *int
	// Every demands that there is at least one report and all Passed. It
	// excludes AtLeast.
	Every bool
	AllOf []Node
	AnyOf []Node
}

// Compile checks a requirement and makes it decide. Known are the verifiers
// that it may name.
func Compile(n Node, known []string) (executor.Requirement, error) {
	return compile(n, known, MaxDepth)
}

func compile(n Node, known []string, depth int) (executor.Requirement, error) {
	if depth == 0 {
		return nil, fmt.Errorf("it is nested deeper than %d", MaxDepth)
	}
	kinds := 0
	for _, set := range []bool{n.Verifier != "", n.AllOf != nil, n.AnyOf != nil} {
		if set {
			kinds++
		}
	}
	if kinds != 1 {
		return nil, errors.New("a node of require is exactly one of verifier, allOf and anyOf")
	}
	if n.Verifier != "" {
		return compileLeaf(n, known)
	}
	if n.AtLeast != nil || n.Every {
		return nil, errors.New("atLeast and every belong beside verifier")
	}
	all, err := compileAll(append(slices.Clone(n.AllOf), n.AnyOf...), known, depth-1)
	if err != nil {
		return nil, err
	}
	if n.AllOf != nil {
		return allOf(all), nil
	}
	return anyOf(all), nil
}

func compileLeaf(n Node, known []string) (executor.Requirement, error) {
	switch {
	case !slices.Contains(known, n.Verifier):
		return nil, fmt.Errorf("no verifier is named %q", n.Verifier)
	case n.Every && n.AtLeast != nil:
		return nil, errors.New("every and atLeast exclude each other")
	case n.Every:
		return every(n.Verifier), nil
	case n.AtLeast == nil:
		return atLeast{n.Verifier, 1}, nil
	case *n.AtLeast < 1:
		return nil, fmt.Errorf("atLeast is %d; the least is 1", *n.AtLeast)
	default:
		return atLeast{n.Verifier, *n.AtLeast}, nil
	}
}

func compileAll(nodes []Node, known []string, depth int) ([]executor.Requirement, error) {
	if len(nodes) == 0 {
		return nil, errors.New("allOf and anyOf need at least one entry")
	}
	all := make([]executor.Requirement, len(nodes))
	for i, n := range nodes {
		r, err := compile(n, known, depth)
		if err != nil {
			return nil, err
		}
		all[i] = r
	}
	return all, nil
}

// atLeast counts distinct statements: a signature that was wrapped or listed
// twice is still one.
type atLeast struct {
	verifier string
	n        int
}

func (a atLeast) Verifiers() []string { return []string{a.verifier} }

func (a atLeast) Decide(e executor.Evidence) executor.Decision {
	passed := make(map[digest.Digest]bool)
	open := 0
	for _, r := range e.Reports {
		if r.Verifier != a.verifier {
			continue
		}
		switch r.Outcome {
		case verifier.Passed:
			passed[r.Statement] = true
		case verifier.Inconclusive:
			open++
		case verifier.Failed:
		}
	}
	switch {
	case len(passed) >= a.n:
		return executor.Allowed
	case e.Settled && len(passed)+open < a.n:
		return executor.Denied
	default:
		return executor.Undecided
	}
}

// Needs counts what is missing if each report still to come passes and says
// something new.
func (a atLeast) Needs(e executor.Evidence) map[string]int {
	passed := make(map[digest.Digest]bool)
	for _, r := range e.Reports {
		if r.Verifier == a.verifier && r.Outcome == verifier.Passed {
			passed[r.Statement] = true
		}
	}
	return map[string]int{a.verifier: max(a.n-len(passed), 0)}
}

// every wants at least one report, and all Passed.
type every string

func (v every) Verifiers() []string { return []string{string(v)} }

func (v every) Decide(e executor.Evidence) executor.Decision {
	reports, open := 0, 0
	for _, r := range e.Reports {
		if r.Verifier != string(v) {
			continue
		}
		reports++
		switch r.Outcome {
		case verifier.Failed:
			return executor.Denied
		case verifier.Inconclusive:
			open++
		case verifier.Passed:
		}
	}
	switch {
	case !e.Settled || open > 0:
		return executor.Undecided
	case reports == 0:
		return executor.Denied
	default:
		return executor.Allowed
	}
}

func (v every) Needs(executor.Evidence) map[string]int {
	return map[string]int{string(v): executor.AllReports}
}

type allOf []executor.Requirement

func (a allOf) Verifiers() []string { return union(a) }

func (a allOf) Decide(e executor.Evidence) executor.Decision {
	decision := executor.Allowed
	for _, r := range a {
		switch r.Decide(e) {
		case executor.Denied:
			return executor.Denied
		case executor.Undecided:
			decision = executor.Undecided
		case executor.Allowed:
		}
	}
	return decision
}

func (a allOf) Needs(e executor.Evidence) map[string]int { return needs(a, e) }

type anyOf []executor.Requirement

func (a anyOf) Verifiers() []string { return union(a) }

func (a anyOf) Decide(e executor.Evidence) executor.Decision {
	decision := executor.Denied
	for _, r := range a {
		switch r.Decide(e) {
		case executor.Allowed:
			return executor.Allowed
		case executor.Undecided:
			decision = executor.Undecided
		case executor.Denied:
		}
	}
	return decision
}

// Needs are those of all branches that may yet allow: which of them will is not
// known, and to try one after the other would take their times in sum.
func (a anyOf) Needs(e executor.Evidence) map[string]int { return needs(a, e) }

// needs is the most that any undecided one of several requirements wants of
// each verifier: one report may serve them all.
func needs(of []executor.Requirement, e executor.Evidence) map[string]int {
	most := make(map[string]int)
	for _, r := range of {
		if r.Decide(e) != executor.Undecided {
			continue
		}
		for name, n := range r.Needs(e) {
			most[name] = max(most[name], n)
		}
	}
	return most
}

func union(of []executor.Requirement) []string {
	var names []string
	for _, r := range of {
		for _, name := range r.Verifiers() {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}
