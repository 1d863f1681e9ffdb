// Package policy is the requirement tree and what decides it.
//
// A [Policy] is a list of rules; the first whose images and namespaces match
// applies, and an image that none matches is denied. Matching is by canonical
// name alone. A rule either requires a tree of reports or allows, with a reason
// and an end, without proof.
//
// The logic is three-valued: doubt (an inconclusive report, a list that broke
// off) is neither Passed nor "none found". It is monotone: more doubt never
// turns a decision into Allowed.
package policy

import (
	"errors"
	"fmt"
	"strings"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// Rule is a rule as written: exactly one of Require and Allow is set.
type Rule struct {
	Name string
	// Images are patterns, see [ParsePattern]; at least one.
	Images []string
	// Namespaces are globs over Kubernetes namespaces; none means all.
	Namespaces []string
	// EvaluateAll judges every artifact even when the decision is made.
	EvaluateAll bool
	Require     *Node
	Allow       *executor.Exemption
}

// RuleError says which rule of the list New refused.
type RuleError struct {
	Index int
	Name  string
	Err   error
}

func (e *RuleError) Error() string { return fmt.Sprintf("rule %q: %v", e.Name, e.Err) }

// Unwrap gives the cause.
func (e *RuleError) Unwrap() error { return e.Err }

// Policy implements [executor.Policy]. It is immutable.
type Policy struct {
	rules      []compiled
	namespaced bool
}

var (
	_ executor.Policy     = (*Policy)(nil)
	_ executor.Foreseeing = (*Policy)(nil)
)

type compiled struct {
	executor.Rule
	images     []Pattern
	namespaces []string
}

// New compiles rules whose requirements may name the known verifiers. The
// error joins a [RuleError] for each rule that is wrong: besides what its own
// text gets wrong, a rule that a former one shadows entirely.
func New(rules []Rule, known []string) (*Policy, error) {
	if len(rules) == 0 {
		return nil, errors.New("the policy has no rule, which would deny every image")
	}
	p := &Policy{}
	var errs []error
	for i, r := range rules {
		c, err := compileRule(r, known)
		if err == nil {
			err = p.shadow(c)
		}
		if err != nil {
			errs = append(errs, &RuleError{Index: i, Name: r.Name, Err: err})
			continue
		}
		p.rules = append(p.rules, c)
		p.namespaced = p.namespaced || len(c.namespaces) > 0
	}
	return p, errors.Join(errs...)
}

func compileRule(r Rule, known []string) (compiled, error) {
	c := compiled{Rule: executor.Rule{Name: r.Name, Exemption: r.Allow, EvaluateAll: r.EvaluateAll}, namespaces: r.Namespaces}
	if (r.Require == nil) == (r.Allow == nil) {
		return c, errors.New("a rule has either require or allow")
	}
	if len(r.Images) == 0 {
		return c, errors.New(`images is empty; for every image write ["**"]`)
	}
	for _, text := range r.Images {
		pattern, err := ParsePattern(text)
		if err != nil {
			return c, err
		}
		c.images = append(c.images, pattern)
	}
	for _, glob := range r.Namespaces {
		if err := checkNamespaceGlob(glob); err != nil {
			return c, err
		}
	}
	if r.Allow != nil {
		return c, checkExemption(r)
	}
	requirement, err := Compile(*r.Require, known)
	c.Requirement = requirement
	return c, err
}

func checkExemption(r Rule) error {
	switch {
	case r.EvaluateAll:
		return errors.New("evaluate: all has no meaning beside allow")
	case strings.TrimSpace(r.Allow.Reason) == "":
		return errors.New("allow needs a reason")
	case r.Allow.Until.IsZero():
		return errors.New("allow needs a date until which it holds")
	}
	return nil
}

func checkNamespaceGlob(glob string) error {
	if glob == "" || len(glob) > 63 || strings.Contains(glob, "**") || strings.Trim(glob, "abcdefghijklmnopqrstuvwxyz0123456789-*") != "" {
		return fmt.Errorf(`namespace pattern %q can match no namespace: those are in lower case, digits and -, with "*" for any run`, glob)
	}
	return nil
}

// shadow refuses a rule whose every image, in every namespace, a single former
// rule takes.
func (p *Policy) shadow(c compiled) error {
	for _, former := range p.rules {
		if former.covers(c) {
			return fmt.Errorf("rule %q before it matches all that it matches: move it up or remove it", former.Name)
		}
	}
	return nil
}

func (c compiled) covers(other compiled) bool {
	if !coversNamespaces(c.namespaces, other.namespaces) {
		return false
	}
	for _, q := range other.images {
		covered := false
		for _, pattern := range c.images {
			covered = covered || pattern.Covers(q)
		}
		if !covered {
			return false
		}
	}
	return true
}

// coversNamespaces compares two lists of globs, of which an empty one is all.
func coversNamespaces(globs, others []string) bool {
	if len(others) == 0 {
		others = []string{"*"}
	}
	for _, other := range others {
		if len(globs) > 0 && !matchAny(globs, other) {
			return false
		}
	}
	return true
}

func matchAny(globs []string, text string) bool {
	for _, glob := range globs {
		if referrerstore.MatchGlob(glob, text) {
			return true
		}
	}
	return false
}

// Match implements [executor.Policy].
func (p *Policy) Match(ref referrerstore.Reference, namespace string) (executor.Rule, bool, error) {
	if p.namespaced && namespace == "" {
		return executor.Rule{}, false, executor.ErrNamespaceMissing
	}
	for _, c := range p.rules {
		if c.matches(ref, namespace) {
			return c.Rule, true, nil
		}
	}
	return executor.Rule{}, false, nil
}

// MayDemand implements [executor.Foreseeing].
func (p *Policy) MayDemand(ref referrerstore.Reference) bool {
	for _, c := range p.rules {
		switch {
		case !c.matchesImage(ref):
		case c.Requirement != nil:
			return true
		case coversNamespaces(c.namespaces, nil):
			return false // no later rule is come to
		}
	}
	return false
}

func (c compiled) matches(ref referrerstore.Reference, namespace string) bool {
	if len(c.namespaces) > 0 && !matchAny(c.namespaces, namespace) {
		return false
	}
	return c.matchesImage(ref)
}

func (c compiled) matchesImage(ref referrerstore.Reference) bool {
	for _, pattern := range c.images {
		if pattern.Match(ref) {
			return true
		}
	}
	return false
}
