package cache

import (
	"hash/maphash"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	// shardCount spreads the objects, so that different ones never meet.
	shardCount = 256
	// chunk is the most entries that one lock is held for by whoever looks
	// through all of them.
	chunk = 256
)

// index is what is known in memory of all objects, and of the scopes that they
// may be answered in. Readers take a shard's lock shared and for no more than a
// look; no lock is held across I/O.
type index struct {
	seed   maphash.Seed
	shards [shardCount]shard

	// What is held: bytes, and the number of each kind.
	bytes   atomic.Int64
	objects [kinds]atomic.Int64

	mu     sync.RWMutex // guards scopes, the map; scopes guard themselves
	scopes map[Scope]*scope
}

// shard is a part of the objects, by digest.
type shard struct {
	mu      sync.RWMutex // guards all fields, and what entry.go says
	entries map[digest.Digest]*entry
	order   []*entry // the same, to be looked through in chunks
	// parents are the manifests that list a digest of this shard, and referrers
	// those whose subject it is; itself it may not be held. See kin.go.
	parents, referrers map[digest.Digest]*kin
}

// entry is one object. What is neither atomic nor said to be guarded never changes.
type entry struct {
	digest  digest.Digest
	size    int64
	kind    Kind
	created int64 // Unix seconds
	document

	// pulled is when it was asked for last, by itself or by way of what it
	// lists; Unix seconds, a minute behind at most. stamped is the moment that
	// the journal has.
	pulled, stamped atomic.Int64
	// users are the contents that are open on it. It grows only under the
	// shard's lock (shared), so that whoever holds it exclusively and sees 0 is
	// sure of it.
	users atomic.Int32
	// proven says that its bytes were hashed in this process, or before a clean
	// end.
	proven atomic.Bool
	// unwritten are its bytes until the disk has them.
	unwritten atomic.Pointer[[]byte]
	// loose says that it has no file: it is held for as long as the replica does.
	loose atomic.Bool

	// Guarded by the shard's lock.
	slot  int           // in shard.order
	in    []*scope      // that it was handed out to
	dying chan struct{} // closed when it is gone; nil while it lives
}

// document is what a manifest says of itself and lists. The zero value is of
// what is no manifest.
type document struct {
	mediaType string          // its own field; what registries say is in scope.granted
	index     bool            // it lists manifests
	ambiguous bool            // it lists manifests, and a config or layers as well
	lists     []digest.Digest // manifests, or config and layers, each once
	subject   digest.Digest   // what it refers to; empty if nothing
}

// scope is what one repository told one identity.
type scope struct {
	Scope

	mu       sync.RWMutex             // guards the fields that follow it
	granted  map[digest.Digest]string // what was handed out, with the media type of manifests
	tags     map[string]Tag
	subjects map[digest.Digest]Tag
	lists    map[digest.Digest]listed
	gone     bool // it was empty, and another may have taken its place
}

// listed is a list of referrers that is an object of its own.
type listed struct {
	list digest.Digest
	at   time.Time
}

func newIndex() *index {
	x := &index{seed: maphash.MakeSeed(), scopes: make(map[Scope]*scope)}
	for i := range x.shards {
		x.shards[i].entries = make(map[digest.Digest]*entry)
		x.shards[i].parents = make(map[digest.Digest]*kin)
		x.shards[i].referrers = make(map[digest.Digest]*kin)
	}
	return x
}

func (x *index) shard(d digest.Digest) *shard {
	return &x.shards[maphash.String(x.seed, string(d))%shardCount]
}

// scope finds a scope, nil if nothing is known in it.
func (x *index) scope(of Scope) *scope {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.scopes[of]
}

// scopeFor finds or makes a scope.
func (x *index) scopeFor(of Scope) *scope {
	if s := x.scope(of); s != nil {
		return s
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.scopes[of]
	if s == nil {
		s = &scope{
			Scope: of, granted: make(map[digest.Digest]string), tags: make(map[string]Tag),
			subjects: make(map[digest.Digest]Tag), lists: make(map[digest.Digest]listed),
		}
		x.scopes[of] = s
	}
	return s
}

// change does something to a scope, under its lock.
func (x *index) change(of Scope, do func(*scope)) {
	for !x.scopeFor(of).change(do) {
	}
}

// change is false if the scope is forgotten.
func (s *scope) change(do func(*scope)) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.gone {
		do(s)
	}
	return !s.gone
}

// forgetEmpty forgets a scope in which nothing is known.
func (x *index) forgetEmpty(s *scope) {
	x.mu.Lock()
	defer x.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.gone && len(s.granted)+len(s.tags)+len(s.subjects)+len(s.lists) == 0 {
		s.gone = true
		delete(x.scopes, s.Scope)
	}
}

// all are the scopes at this moment.
func (x *index) all() []*scope {
	x.mu.RLock()
	defer x.mu.RUnlock()
	all := make([]*scope, 0, len(x.scopes))
	for _, s := range x.scopes {
		all = append(all, s)
	}
	return all
}

// grants says whether the digest was handed out in the scope, and as what.
func (s *scope) grants(d digest.Digest) (mediaType string, granted bool) {
	if s == nil {
		return "", false
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	mediaType, granted = s.granted[d]
	return mediaType, granted
}

// look finds an object, whoever it belongs to; nil if it is not held or on its
// way out.
func (x *index) look(d digest.Digest) *entry {
	s := x.shard(d)
	s.mu.RLock()
	defer s.mu.RUnlock()
	if e := s.entries[d]; e != nil && e.dying == nil {
		return e
	}
	return nil
}

// acquire finds an object and keeps it from being dropped until release.
func (x *index) acquire(d digest.Digest) *entry {
	s := x.shard(d)
	s.mu.RLock()
	defer s.mu.RUnlock()
	e := s.entries[d]
	if e == nil || e.dying != nil {
		return nil
	}
	e.users.Add(1)
	return e
}

func (e *entry) release() { e.users.Add(-1) }

// insert adds an object, acquired for the caller, or gives the one that is held
// under its digest, which it does not acquire; gone is not nil if that one is on
// its way out: the caller waits for it and tries again.
func (x *index) insert(e *entry) (held *entry, gone <-chan struct{}) {
	x.link(e) // before it is held, so that nothing that it lists is dropped as listed by none
	s := x.shard(e.digest)
	s.mu.Lock()
	if held := s.entries[e.digest]; held != nil {
		gone := held.dying
		s.mu.Unlock()
		x.unlink(e)
		return held, gone
	}
	e.slot = len(s.order)
	e.users.Add(1)
	s.entries[e.digest] = e
	s.order = append(s.order, e)
	s.mu.Unlock()
	x.count(e, 1)
	return e, nil
}

func (x *index) count(e *entry, n int64) {
	x.bytes.Add(n * e.size)
	x.objects[e.kind].Add(n)
}

// grant notes that the scope's registry hands out an object to its identity. It
// must be acquired by the caller. One that is being taken out nevertheless, because
// it is worthless, is not granted any more: nobody would take that back.
func (x *index) grant(of Scope, e *entry, mediaType string) bool {
	in := x.shard(e.digest)
	in.mu.Lock()
	defer in.mu.Unlock()
	if e.dying != nil {
		return false
	}
	x.change(of, func(s *scope) {
		if _, known := s.granted[e.digest]; !known {
			e.in = append(e.in, s)
		}
		s.granted[e.digest] = mediaType
	})
	return true
}

// condemn takes an object out of use if may, called under the shard's lock and
// so in no time, agrees: nobody finds it any more, and nobody can bring it in
// again before bury.
func (x *index) condemn(e *entry, may func() bool) bool {
	s := x.shard(e.digest)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.entries[e.digest] != e || e.dying != nil || e.users.Load() != 0 || !may() {
		return false
	}
	e.dying = make(chan struct{})
	return true
}

// expel is condemn for an object that is worthless: those who read it go on, but
// nobody finds it any more. It is false if somebody else takes it out.
func (x *index) expel(e *entry) bool {
	s := x.shard(e.digest)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.entries[e.digest] != e || e.dying != nil {
		return false
	}
	e.dying = make(chan struct{})
	return true
}

// scopesOf are those that an object was handed out in.
func (x *index) scopesOf(e *entry) []*scope {
	s := x.shard(e.digest)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Clone(e.in)
}

// orphan says that no scope's registry said what an object is.
func (x *index) orphan(e *entry) bool {
	s := x.shard(e.digest)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(e.in) == 0
}

// dying is closed when an object is gone that is on its way out; nil if none is.
func (x *index) dying(d digest.Digest) <-chan struct{} {
	s := x.shard(d)
	s.mu.RLock()
	defer s.mu.RUnlock()
	if e := s.entries[d]; e != nil {
		return e.dying
	}
	return nil
}

// revive takes a condemned object back into use: its file could not be removed.
func (x *index) revive(e *entry) {
	s := x.shard(e.digest)
	s.mu.Lock()
	defer s.mu.Unlock()
	close(e.dying)
	e.dying = nil
}

// bury forgets a condemned object, once its file is gone.
func (x *index) bury(e *entry) {
	x.unlink(e)
	x.revoke(e) // before it can come in again, or what it is granted then would be lost
	s := x.shard(e.digest)
	s.mu.Lock()
	delete(s.entries, e.digest)
	last := s.order[len(s.order)-1]
	s.order[e.slot], last.slot = last, e.slot
	s.order[len(s.order)-1] = nil
	s.order = s.order[:len(s.order)-1]
	close(e.dying)
	s.mu.Unlock()
	x.count(e, -1)
}

// revoke takes a condemned object, which gets no new scopes, out of those that it
// was handed out in.
func (x *index) revoke(e *entry) {
	s := x.shard(e.digest)
	s.mu.Lock()
	in := e.in
	e.in = nil
	s.mu.Unlock()
	for _, of := range in {
		of.mu.Lock()
		delete(of.granted, e.digest)
		of.mu.Unlock()
	}
}

// each walks over all objects, in chunks for which a shard's lock is held shared.
// What is there all the time is met, once or twice; what comes or goes meanwhile
// may be missed.
func (x *index) each(visit func(*entry) bool) { x.eachHeld(visit, func(time.Time) {}) }

// eachHeld is each, and says since when it held a lock when it lets go of it.
func (x *index) eachHeld(visit func(*entry) bool, held func(since time.Time)) {
	var some [chunk]*entry
	for i := range x.shards {
		for before := math.MaxInt; before > 0; {
			var n int
			n, before = x.shards[i].copyBefore(before, &some, held)
			for _, e := range some[:n] {
				if !visit(e) {
					return
				}
			}
		}
	}
}

// copyBefore copies the last objects before a slot, and says where the next ones
// end. Walked that way, what takes the slot of something that goes has been met, or
// will be.
func (s *shard) copyBefore(before int, some *[chunk]*entry, held func(since time.Time)) (n, next int) {
	s.mu.RLock()
	since := time.Now()
	before = min(before, len(s.order))
	next = max(0, before-chunk)
	n = copy(some[:], s.order[next:before])
	s.mu.RUnlock()
	held(since)
	return n, next
}
