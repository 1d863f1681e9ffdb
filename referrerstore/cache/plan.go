package cache

import (
	"cmp"
	queue "container/heap"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// victim is a root that may be dropped, and when it was pulled last when it was
// chosen.
type victim struct {
	*entry
	pulled int64
}

func (v victim) compare(w victim) int {
	return cmp.Or(cmp.Compare(v.pulled, w.pulled), strings.Compare(string(v.digest), string(w.digest)))
}

// victims are the longest unused of all that were offered, at most chunk of them:
// a heap with the one that was used last on top.
type victims []victim

// Len implements heap.Interface.
func (v victims) Len() int { return len(v) }

// Less implements heap.Interface.
func (v victims) Less(i, j int) bool { return v[i].compare(v[j]) > 0 }

// Swap implements heap.Interface.
func (v victims) Swap(i, j int) { v[i], v[j] = v[j], v[i] }

// Push implements heap.Interface.
func (v *victims) Push(x any) { *v = append(*v, x.(victim)) } //nolint:forcetypeassert // only offer pushes

// Pop implements heap.Interface.
func (v *victims) Pop() any {
	last := len(*v) - 1
	defer func() { *v = (*v)[:last] }()
	return (*v)[last]
}

// takes says whether one that was pulled then would be among them.
func (v victims) takes(w victim) bool { return len(v) < chunk || w.compare(v[0]) < 0 }

func (v *victims) offer(w victim) {
	switch {
	case len(*v) < chunk:
		queue.Push(v, w)
	case v.takes(w):
		(*v)[0] = w
		queue.Fix(v, 0)
	}
}

// sorted are they with the longest unused first.
func (v victims) sorted() []victim {
	slices.SortFunc(v, victim.compare)
	return v
}

// plan looks through all objects for the next roots to drop.
func (r *run) plan() []victim {
	some := make(victims, 0, chunk)
	first := r.scans == 0
	r.scans++
	r.index.eachHeld(func(e *entry) bool {
		if !r.meets(e) {
			return true
		}
		v := victim{e, r.used(e)}
		if !older(v.pulled, r.req.PulledBefore) || !first && !some.takes(v) || !r.chooses(e) {
			return true
		}
		switch {
		case !r.protected(v):
			some.offer(v)
		case first:
			r.out.Kept++
		}
		return true
	}, r.held)
	return some.sorted()
}

// meets says whether a root is old enough. The same costs little for all.
func (r *run) meets(e *entry) bool {
	return e.kind != List && !r.gone[e] && !r.refused[e] &&
		older(e.created, r.req.CreatedBefore) && older(r.pulledAt(e), r.req.PulledBefore)
}

// used is when an object was pulled last. An artifact counts as used when its
// subject is, so that it is not dropped before it: an image could not be proven
// without its signatures.
func (r *run) used(e *entry) int64 {
	at := r.pulledAt(e)
	if e.subject == "" {
		return at
	}
	for _, subject := range append(r.index.someParentsOf(e.subject), r.index.look(e.subject)) {
		if subject != nil && !r.gone[subject] {
			at = max(at, r.pulledAt(subject))
		}
	}
	return at
}

// pulledAt is when an object was pulled; what is ahead of now was noted by a clock
// that was wrong and counts from now on.
func (r *run) pulledAt(e *entry) int64 {
	pulled := e.pulled.Load()
	if pulled > r.now && !r.req.DryRun && e.pulled.CompareAndSwap(pulled, r.now) {
		return r.now
	}
	return min(pulled, r.now)
}

// chooses says whether an object is a root with such a name.
func (r *run) chooses(e *entry) bool {
	return !r.isListed(e.digest) && (r.req.Match == nil || r.names.all(r.req.Match, r.index.scopesOf(e), e.digest))
}

// isListed says whether anything that stays lists a digest.
func (r *run) isListed(d digest.Digest) bool {
	return r.index.parents(d) > r.goneParents[d]
}

// protected says whether a root stays nevertheless, as far as can be told now.
func (r *run) protected(v victim) bool {
	return v.users.Load() != 0 || v.pulled > r.now-r.graceOf(v.entry) || v.unwritten.Load() != nil || r.kept(v.entry)
}

// kept says whether an object is pinned, or refers to what is.
func (r *run) kept(e *entry) bool {
	return r.keeper.keeps(e.digest, r.index.scopesOf(e)) || e.subject != "" && r.pinned(e.subject)
}

// pinned says whether a digest is, or one of what lists it: up to maxDepth indexes
// within indexes, of which not more than maxAbove are looked at.
func (r *run) pinned(d digest.Digest) bool {
	const maxAbove = 4 * few
	if len(r.keeper.digests) == 0 {
		return false
	}
	above, seen := []digest.Digest{d}, map[digest.Digest]bool{d: true}
	for depth, level := 0, 1; len(above) > 0; depth++ {
		for _, d := range above[:level] {
			if r.keeper.digests[d] {
				return true
			}
			if depth == maxDepth {
				continue
			}
			for _, e := range r.index.someParentsOf(d) {
				if !seen[e.digest] && len(seen) < maxAbove {
					seen[e.digest] = true
					above = append(above, e.digest)
				}
			}
		}
		above = above[level:]
		level = len(above)
	}
	return false
}

// graceOf is for how many seconds a root stays at least. A blob that no manifest
// lists may be waiting for one that is on its way.
func (r *run) graceOf(e *entry) int64 {
	if e.kind == Blob && !r.req.All {
		return max(r.lease, r.orphanGrace)
	}
	return r.lease
}

// older says whether a Unix time is before a moment; the zero moment sets no
// condition.
func older(at int64, than time.Time) bool { return than.IsZero() || at < than.Unix() }
