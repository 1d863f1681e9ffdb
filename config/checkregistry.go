package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// sections asks for those that the others need. A registry runs without what the
// webhook needs, and without a policy if it asks none.
func (c *checker) sections() {
	alone := c.cfg.has("registry")
	if !alone && !c.cfg.Serves() {
		c.fail("server", "is required", "")
	}
	hint := ""
	switch {
	case alone && c.cfg.Serves():
		hint = "the server decides by it"
	case c.cfg.Registry.Enforces():
		hint = "the registry enforces it"
	}
	if !c.cfg.Decides() && (!alone || c.cfg.Serves() || c.cfg.Registry.Enforces()) {
		c.fail("policy", "is required", hint)
	}
	if c.cfg.has("registry") && !c.cfg.has("cache") {
		c.fail("registry", "registry needs cache", "what is pulled is kept there: cache: {directory: cache}")
	}
}

func (c *checker) registry() {
	r := c.cfg.Registry
	c.listener("registry", r.TLS, r.InsecureHTTP)
	c.upstreams(r)
	if r.Default != "" {
		c.among("registry.default", r.Default)
	}
	for i, upstream := range r.PrivateForAnyClient {
		c.among(fmt.Sprintf("registry.privateForAnyClient[%d]", i), upstream)
	}
	for i, p := range r.TagPolicies {
		c.tagPolicy(p, fmt.Sprintf("registry.tagPolicies[%d]", i))
	}
	if r.EnforceAs != "" && !r.Enforces() {
		c.fail("registry.enforceAs", "enforceAs needs enforce: true or warn", "")
	}
}

func (c *checker) upstreams(r *PullThrough) {
	if len(r.Upstreams) == 0 {
		c.fail("registry.upstreams", "the registry has no upstreams", "list the hosts that may be pulled through, with airGapped: true those whose images are held")
	}
	for i, upstream := range r.Upstreams {
		if hint, ok := upstreamHost(upstream); !ok {
			c.fail(fmt.Sprintf("registry.upstreams[%d]", i), quote(upstream)+" is not a registry host", hint)
		}
	}
}

// upstreamHost says what is wrong with a host and its port. Whoever uses it
// makes it canonical.
func upstreamHost(text string) (hint string, ok bool) {
	const form = `HOST or HOST:PORT, such as "registry.example.com" or "127.0.0.1:5000"`
	switch {
	case strings.Contains(text, "://"):
		return "leave the scheme out: plainHTTP of the store names hosts without TLS", false
	case strings.Contains(text, "*"):
		return "name each host: who may be pulled through is no pattern", false
	case strings.Contains(text, "/"):
		return "leave the path out: an upstream is a whole host", false
	}
	return form, isHost(text)
}

// maxHostBytes bounds the name of a host, without its port.
const maxHostBytes = 253

// isHost takes a name or address with an optional port; IPv6 is in brackets.
func isHost(text string) bool {
	host, port := text, ""
	if colon := strings.LastIndexByte(text, ':'); colon > strings.LastIndexByte(text, ']') {
		host, port = text[:colon], text[colon+1:]
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return false
		}
	}
	if inner, bracketed := strings.CutPrefix(host, "["); bracketed {
		inner, closed := strings.CutSuffix(inner, "]")
		at, err := netip.ParseAddr(inner)
		return closed && err == nil && at.Is6() && at.Zone() == ""
	}
	return len(host) <= maxHostBytes && hostName.MatchString(strings.TrimSuffix(host, "."))
}

// among refuses an upstream that is not listed, letter by letter: what may be
// pulled through is read in one place.
func (c *checker) among(path, upstream string) {
	listed := c.cfg.Registry.Upstreams
	if slices.Contains(listed, upstream) {
		return
	}
	hint := "upstreams lists none"
	if len(listed) > 0 {
		hint = suggest(upstream, listed)
	}
	c.fail(path, quote(upstream)+" is not one of registry.upstreams", hint)
}

func (c *checker) tagPolicy(p TagPolicy, path string) {
	for i, upstream := range p.Upstreams {
		c.among(fmt.Sprintf("%s.upstreams[%d]", path, i), upstream)
	}
	if p.Policy != TagInterval && c.cfg.has(path+".interval") {
		c.fail(path+".interval", "interval needs policy: interval", "")
	}
}

// enforceAs asks for a namespace where the policy does: a pull has none.
func (c *checker) enforceAs() {
	if r := c.cfg.Registry; !r.Enforces() || r.EnforceAs != "" {
		return
	}
	for i, rule := range c.cfg.Policy.Rules {
		if len(rule.Namespaces) > 0 {
			line := c.cfg.Place(fmt.Sprintf("policy.rules[%d].namespaces", i)).Line
			c.fail("registry.enforceAs", "rules that name namespaces need enforceAs", fmt.Sprintf("see line %d; name the namespace that pulls are judged in", line))
			return
		}
	}
}
