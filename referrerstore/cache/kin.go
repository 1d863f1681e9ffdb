package cache

import (
	"math"
	"slices"

	"github.com/opencontainers/go-digest"
)

// kin are the manifests that list a digest, or those that refer to it. A digest
// such as that of the empty config has as many as there are images: coming and
// going takes the same time however many there are. The zero value is empty.
type kin struct {
	all []*entry
	at  map[*entry]int // where in all; nil while there are few
}

const (
	// few is how many are found by looking at each.
	few = 32
	// maxDepth is how far up is looked in indexes within indexes.
	maxDepth = 4
)

func (k *kin) find(e *entry) int {
	if k.at == nil {
		return slices.Index(k.all, e)
	}
	if at, known := k.at[e]; known {
		return at
	}
	return -1
}

func (k *kin) add(e *entry) {
	if k.find(e) >= 0 {
		return
	}
	k.all = append(k.all, e)
	switch {
	case k.at != nil:
		k.at[e] = len(k.all) - 1
	case len(k.all) > few:
		k.at = make(map[*entry]int, len(k.all))
		for i, e := range k.all {
			k.at[e] = i
		}
	}
}

func (k *kin) remove(e *entry) {
	at := k.find(e)
	if at < 0 {
		return
	}
	last := len(k.all) - 1
	if k.at != nil {
		k.at[k.all[last]] = at
		delete(k.at, e)
	}
	k.all[at], k.all[last] = k.all[last], nil
	k.all = k.all[:last]
}

// relation is one of the two ways in which manifests name other objects.
type relation func(*shard) map[digest.Digest]*kin

func byList(s *shard) map[digest.Digest]*kin    { return s.parents }
func bySubject(s *shard) map[digest.Digest]*kin { return s.referrers }

// link notes all that a manifest names.
func (x *index) link(e *entry) {
	for _, child := range e.lists {
		x.join(byList, child, e)
	}
	if e.subject != "" {
		x.join(bySubject, e.subject, e)
	}
}

// unlink forgets it.
func (x *index) unlink(e *entry) {
	for _, child := range e.lists {
		x.part(byList, child, e)
	}
	if e.subject != "" {
		x.part(bySubject, e.subject, e)
	}
}

func (x *index) join(by relation, named digest.Digest, e *entry) {
	s := x.shard(named)
	s.mu.Lock()
	defer s.mu.Unlock()
	k := by(s)[named]
	if k == nil {
		k = new(kin)
		by(s)[named] = k
	}
	k.add(e)
}

func (x *index) part(by relation, named digest.Digest, e *entry) {
	s := x.shard(named)
	s.mu.Lock()
	defer s.mu.Unlock()
	k := by(s)[named]
	if k == nil {
		return
	}
	if k.remove(e); len(k.all) == 0 {
		delete(by(s), named)
	}
}

// someParentsOf are parents of a digest, but not more than few.
func (x *index) someParentsOf(d digest.Digest) []*entry {
	s := x.shard(d)
	s.mu.RLock()
	defer s.mu.RUnlock()
	if k := s.parents[d]; k != nil {
		return slices.Clone(k.all[:min(few, len(k.all))])
	}
	return nil
}

// referrersOf are the manifests that refer to a digest, likewise.
func (x *index) referrersOf(d digest.Digest) []*entry { return x.kinOf(bySubject, d) }

// kinOf are all kin of a digest.
func (x *index) kinOf(by relation, d digest.Digest) []*entry {
	var all []*entry
	x.eachKin(by, d, func(e *entry) bool {
		all = append(all, e)
		return true
	})
	return all
}

// eachKin visits in chunks, the latest first, until visit returns false; of a digest
// with more kin than one chunk has, those that come or go meanwhile may be missed,
// and others met twice.
func (x *index) eachKin(by relation, d digest.Digest, visit func(*entry) bool) {
	var some [chunk]*entry
	s := x.shard(d)
	for before := math.MaxInt; before > 0; {
		n := 0
		s.mu.RLock()
		if k := by(s)[d]; k != nil {
			before = min(before, len(k.all))
			next := max(0, before-chunk)
			n = copy(some[:], k.all[next:before])
			before = next
		} else {
			before = 0
		}
		s.mu.RUnlock()
		for i := n - 1; i >= 0; i-- {
			if !visit(some[i]) {
				return
			}
		}
	}
}

// listed says whether any manifest lists the digest, and names it if it is the
// only one.
func (x *index) listed(d digest.Digest) (sole *entry, yes bool) {
	s := x.shard(d)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.listed(d)
}

// parents is how many manifests list the digest.
func (x *index) parents(d digest.Digest) int {
	s := x.shard(d)
	s.mu.RLock()
	defer s.mu.RUnlock()
	if k := s.parents[d]; k != nil {
		return len(k.all)
	}
	return 0
}

// listed is that of the index, for whoever holds the lock.
func (s *shard) listed(d digest.Digest) (sole *entry, yes bool) {
	k := s.parents[d]
	if k == nil {
		return nil, false
	}
	if len(k.all) == 1 {
		sole = k.all[0]
	}
	return sole, true
}

// knows says whether a digest is held or on its way out.
func (x *index) knows(d digest.Digest) bool {
	s := x.shard(d)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.entries[d] != nil
}

// touch notes that an object is used now, and with it what names it and nothing
// else does: pulling a layer uses its image, and reading a signature its subject.
// A layer that several images share says of none that it is used, or all that
// have a base in common would stay as long as any of them. It writes nothing if
// use was noted within a minute.
func (x *index) touch(e *entry, now int64) { x.touchUp(e, now, maxDepth) }

func (x *index) touchUp(e *entry, now int64, depth int) {
	const resolution = 60
	// What is ahead of now was noted by a clock that was wrong.
	if ago := now - e.pulled.Load(); ago >= 0 && ago < resolution {
		return
	}
	e.pulled.Store(now)
	if depth == 0 {
		return
	}
	if parent, _ := x.listed(e.digest); parent != nil {
		x.touchUp(parent, now, depth-1)
	}
	if e.subject == "" {
		return
	}
	if subject := x.look(e.subject); subject != nil {
		x.touchUp(subject, now, depth-1)
	}
}
