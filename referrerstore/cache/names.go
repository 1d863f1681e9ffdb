package cache

import (
	"slices"

	"github.com/opencontainers/go-digest"
)

// names knows which tags lead to a digest, of each scope as of the moment that it
// was asked about first. It is for one goroutine.
type names struct {
	tags map[*scope]map[digest.Digest][]string
}

func newNames() *names { return &names{tags: make(map[*scope]map[digest.Digest][]string)} }

// of are the tags that lead to a digest in a scope, sorted.
func (n *names) of(s *scope, d digest.Digest) []string {
	known, looked := n.tags[s]
	if !looked {
		known = make(map[digest.Digest][]string)
		for tag, is := range inChunks(&s.mu, s.tags) {
			known[is.Descriptor.Digest] = append(known[is.Descriptor.Digest], tag)
		}
		for _, tags := range known {
			slices.Sort(tags)
		}
		n.tags[s] = known
	}
	return known[d]
}

// tagged says whether any tag of the scopes leads to a digest.
func (n *names) tagged(in []*scope, d digest.Digest) bool {
	return slices.ContainsFunc(in, func(s *scope) bool { return len(n.of(s, d)) > 0 })
}

// any says whether one of an object's names in a scope is chosen: what people
// look for.
func (n *names) any(match func(string) bool, s *scope, d digest.Digest) bool {
	if match == nil || match(nameByDigest(s, d)) {
		return true
	}
	return s != nil && slices.ContainsFunc(n.of(s, d), func(tag string) bool { return match(nameByTag(s, tag)) })
}

// all says whether every scope's name of an object is chosen, so that dropping it
// takes nothing from anybody who was not meant: in each its digest, or all tags
// that lead to it.
func (n *names) all(match func(string) bool, in []*scope, d digest.Digest) bool {
	if match == nil {
		return true
	}
	if len(in) == 0 {
		return match(nameByDigest(nil, d))
	}
	return !slices.ContainsFunc(in, func(s *scope) bool { return !n.every(match, s, d) })
}

func (n *names) every(match func(string) bool, s *scope, d digest.Digest) bool {
	if match(nameByDigest(s, d)) {
		return true
	}
	tags := n.of(s, d)
	return len(tags) > 0 && !slices.ContainsFunc(tags, func(tag string) bool { return !match(nameByTag(s, tag)) })
}

// nameByDigest is REGISTRY/REPOSITORY@DIGEST, or @DIGEST of what is in no scope.
func nameByDigest(s *scope, d digest.Digest) string {
	if s == nil {
		return "@" + string(d)
	}
	return s.Registry + "/" + s.Repository + "@" + string(d)
}

func nameByTag(s *scope, tag string) string { return s.Registry + "/" + s.Repository + ":" + tag }
