package referrerstore

import (
	"errors"
	"fmt"
	"strings"
)

// HostPattern matches registry hosts: a literal host, "*" within one label
// ("*.azurecr.io"), or the bare "**" for every host. A port is part of the
// host and never matched by "*". Matching is anchored at both ends and on
// canonical hosts, see [CanonicalHost].
type HostPattern struct {
	any    bool
	labels []string
	port   string
}

// ParseHostPattern reads a pattern; the bare "*" is refused in favour of "**",
// because it would match only hosts of one label.
func ParseHostPattern(text string) (HostPattern, error) {
	if text == "**" {
		return HostPattern{any: true}, nil
	}
	if strings.Contains(text, "**") {
		return HostPattern{}, fmt.Errorf(`host pattern %q: "**" stands only alone; within a label use "*"`, text)
	}
	if text == "*" {
		return HostPattern{}, errors.New(`host pattern "*" matches one label only; for every host write "**"`)
	}
	name, port := splitPort(strings.ToLower(text))
	if strings.Contains(port, "*") {
		return HostPattern{}, fmt.Errorf(`host pattern %q: a port has no "*"`, text)
	}
	// "x" may stand wherever a host may have a letter, so whether the text with
	// it is a host tells whether the pattern can match one.
	canonical, err := CanonicalHost(strings.ReplaceAll(text, "*", "x"))
	if err != nil {
		return HostPattern{}, fmt.Errorf("host pattern %q: %w", text, err)
	}
	canonicalName, port := splitPort(canonical)
	if name = strings.TrimSuffix(name, "."); !strings.Contains(name, "*") {
		name = canonicalName
	}
	return HostPattern{labels: labelsOf(name), port: port}, nil
}

// Match reports whether the canonical host is one that the pattern means.
func (p HostPattern) Match(host string) bool {
	if p.any {
		return true
	}
	name, port := splitPort(host)
	labels := labelsOf(name)
	if port != p.port || len(labels) != len(p.labels) {
		return false
	}
	for i, glob := range p.labels {
		if !MatchGlob(glob, labels[i]) {
			return false
		}
	}
	return true
}

// Covers reports whether every host that q matches is matched by p as well.
func (p HostPattern) Covers(q HostPattern) bool {
	if q.any || p.any {
		return p.any
	}
	return p.Match(q.String())
}

// String is the pattern's canonical text.
func (p HostPattern) String() string {
	if p.any {
		return "**"
	}
	return strings.Join(p.labels, ".") + p.port
}

func splitPort(host string) (name, port string) {
	if colon := strings.LastIndexByte(host, ':'); colon > strings.LastIndexByte(host, ']') {
		return host[:colon], host[colon:]
	}
	return host, ""
}

func labelsOf(name string) []string {
	if strings.HasPrefix(name, "[") {
		return []string{name}
	}
	return strings.Split(name, ".")
}

// MatchGlob matches text against a glob whose only wildcard is "*", any run of
// characters, anchored at both ends, in time linear in len(glob)*len(text).
//
// A "*" in text is an ordinary character that only a "*" matches: with that,
// MatchGlob(p, q) for two globs tells whether p matches all that q matches.
func MatchGlob(glob, text string) bool {
	star, mark := -1, 0
	g, t := 0, 0
	for t < len(text) {
		switch {
		case g < len(glob) && glob[g] == '*':
			star, mark = g, t
			g++
		case g < len(glob) && glob[g] == text[t]:
			g++
			t++
		case star >= 0:
			mark++
			g, t = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(glob[g:], "*") == ""
}
