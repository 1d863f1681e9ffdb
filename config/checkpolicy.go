package config

import (
	"fmt"
)

// maxRequireDepth bounds how deep requirements are nested.
const maxRequireDepth = 8

func (c *checker) policy() {
	rules := c.cfg.Policy.Rules
	unique(c, "policy.rules", rules, func(r Rule) string { return r.Name })
	for i := range rules {
		c.rule(&rules[i], fmt.Sprintf("policy.rules[%d]", i))
	}
}

func (c *checker) rule(r *Rule, path string) {
	switch {
	case r.Require != nil && r.Allow != nil:
		c.fail(path+".allow", "require and allow exclude each other", "split the rule in two")
	case r.Require == nil && r.Allow == nil:
		c.fail(path, "has neither require nor allow", "to deny, leave the rule out: what no rule lets through is denied")
	case r.Allow != nil && r.Evaluate != "":
		c.fail(path+".evaluate", "has no meaning with allow", "leave it out")
	case r.Require != nil:
		c.require(r.Require, path+".require", 1)
	}
}

// require checks one node, and counts a verifier without a number as one.
func (c *checker) require(r *Require, path string, depth int) {
	if depth > maxRequireDepth {
		c.fail(path, fmt.Sprintf("nested deeper than %d requirements", maxRequireDepth), "")
		return
	}
	if !c.oneKind(r, path) {
		return
	}
	if r.Verifier != "" {
		c.verifier(r, path)
	}
	for i := range r.AllOf {
		c.require(&r.AllOf[i], fmt.Sprintf("%s.allOf[%d]", path, i), depth+1)
	}
	for i := range r.AnyOf {
		c.require(&r.AnyOf[i], fmt.Sprintf("%s.anyOf[%d]", path, i), depth+1)
	}
}

func (c *checker) oneKind(r *Require, path string) bool {
	kinds := 0
	for _, set := range []bool{r.Verifier != "", r.AllOf != nil, r.AnyOf != nil} {
		if set {
			kinds++
		}
	}
	const one = "a requirement is exactly one of verifier, allOf and anyOf"
	switch {
	case kinds == 0:
		c.fail(path, one+"; this is none", "")
	case kinds > 1:
		c.fail(path, one+"; this is several", "nest them")
	case r.Verifier == "" && r.AtLeast != 0:
		c.fail(path+".atLeast", "counts only beside verifier", "")
	case r.Verifier == "" && r.Every:
		c.fail(path+".every", "counts only beside verifier", "")
	default:
		return true
	}
	return false
}

func (c *checker) verifier(r *Require, path string) {
	switch {
	case r.AtLeast != 0 && r.Every:
		c.fail(path+".atLeast", "atLeast and every exclude each other", "every asks for at least one, and for all")
	case r.AtLeast == 0 && !r.Every:
		r.AtLeast = 1
	}
	if !c.clean("verifiers") {
		return
	}
	names := make([]string, len(c.cfg.Verifiers))
	for i, v := range c.cfg.Verifiers {
		if v.Name == r.Verifier {
			return
		}
		names[i] = v.Name
	}
	hint := "the configuration has no verifiers"
	if len(names) > 0 {
		hint = suggest(r.Verifier, names)
	}
	c.fail(path+".verifier", "no verifier has the name "+quote(r.Verifier), hint)
}
