package cache

import (
	"iter"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
)

// repository is what pins and Options.Keep name, for all identities.
type repository struct{ registry, name string }

// keeper knows what is kept whatever its age, as of the moment that it was made.
// It is for one goroutine.
type keeper struct {
	version uint64 // of the pins
	// digests are pinned, or a pinned tag leads to them; so are artifacts of
	// theirs that a tag names (sha256-HEX, with or without a suffix).
	digests map[digest.Digest]bool
	pinned  map[repository]bool // that have a pin
	keep    func(registry, repository string) bool
	kept    map[*scope]bool // what keep said
}

func newKeeper(x *index, pins *pinned, keep func(registry, repository string) bool) *keeper {
	all, version := pins.now()
	k := &keeper{
		version: version, digests: make(map[digest.Digest]bool), pinned: make(map[repository]bool),
		keep: keep, kept: make(map[*scope]bool),
	}
	tags := make(map[repository]map[string]bool)
	for _, pin := range all {
		of := repository{pin.Registry, pin.Repository}
		k.pinned[of] = true
		if pin.Digest != "" {
			k.digests[pin.Digest] = true
			continue
		}
		if tags[of] == nil {
			tags[of] = make(map[string]bool)
		}
		tags[of][pin.Tag] = true
	}
	if len(all) > 0 {
		k.follow(x, tags)
	}
	return k
}

// follow finds what tags lead to, and then the artifacts that tags name.
func (k *keeper) follow(x *index, pinned map[repository]map[string]bool) {
	type artifact struct{ subject, is digest.Digest }
	var artifacts []artifact
	for _, s := range x.all() {
		of := repository{s.Registry, s.Repository}
		if !k.pinned[of] {
			continue
		}
		for tag, is := range inChunks(&s.mu, s.tags) {
			if pinned[of][tag] {
				k.digests[is.Descriptor.Digest] = true
			} else if subject := subjectOf(tag); subject != "" {
				artifacts = append(artifacts, artifact{subject, is.Descriptor.Digest})
			}
		}
	}
	for _, a := range artifacts {
		if k.digests[a.subject] {
			k.digests[a.is] = true
		}
	}
}

// subjectOf is the digest in a tag such as sha256-HEX or sha256-HEX.sig, by which
// registries without the referrers API say what an artifact refers to; empty if
// it is another tag.
func subjectOf(tag string) digest.Digest {
	algorithm, rest, found := strings.Cut(tag, "-")
	if !found {
		return ""
	}
	encoded, _, _ := strings.Cut(rest, ".")
	d := digest.NewDigestFromEncoded(digest.Algorithm(algorithm), encoded)
	if d.Validate() != nil {
		return ""
	}
	return d
}

// keeps says whether an object that was handed out in the scopes stays.
func (k *keeper) keeps(d digest.Digest, in []*scope) bool {
	return k.digests[d] || slices.ContainsFunc(in, k.keepsAll)
}

// keepsAll says whether all of a scope's repository stays.
func (k *keeper) keepsAll(s *scope) bool {
	if k.keep == nil || s == nil {
		return false
	}
	kept, known := k.kept[s]
	if !known {
		kept = k.keep(s.Registry, s.Repository)
		k.kept[s] = kept
	}
	return kept
}

// keepsEvidence says whether what the scope's registry said stays, however old.
func (k *keeper) keepsEvidence(s *scope) bool {
	return k.pinned[repository{s.Registry, s.Repository}] || k.keepsAll(s)
}

// inChunks walks over a map that a lock guards, in chunks for which it is held
// shared, and not while the body of the loop runs. The map may change meanwhile.
func inChunks[K comparable, V any](mu *sync.RWMutex, m map[K]V) iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		keys, values := make([]K, 0, chunk), make([]V, 0, chunk)
		hand := func() bool {
			for i := range keys {
				if !yield(keys[i], values[i]) {
					return false
				}
			}
			keys, values = keys[:0], values[:0]
			return true
		}
		more := true
		mu.RLock()
		for key, value := range m {
			keys, values = append(keys, key), append(values, value)
			if len(keys) < chunk {
				continue
			}
			mu.RUnlock()
			more = hand()
			mu.RLock()
			if !more {
				break
			}
		}
		mu.RUnlock()
		if more {
			hand()
		}
	}
}
