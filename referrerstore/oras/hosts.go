package oras

import (
	"maps"
	"slices"
)

// TokenCacheBytes bounds the bearer tokens that one store keeps.
const TokenCacheBytes = maxTokenCacheBytes

// PlainHosts are the canonical hosts that are talked to over plain HTTP, in
// order. Two stores that serve one of them must agree on that.
func (s *Store) PlainHosts() []string {
	return slices.Sorted(maps.Keys(s.set.plain))
}
