package oras

import (
	"maps"
	"slices"
)

// HeldBytes bounds what a store with these options keeps and reads beside the
// budget that it shares: bearer tokens, and the answers of token services.
func (Options) HeldBytes() int64 {
	return maxTokenCacheBytes + maxTokenReading
}

// PlainHosts are the canonical hosts that are talked to over plain HTTP, in
// order. Two stores that serve one of them must agree on that.
func (s *Store) PlainHosts() []string {
	return slices.Sorted(maps.Keys(s.set.plain))
}
