package cache

import (
	"cmp"
	"iter"
	"time"

	"github.com/opencontainers/go-digest"
)

// Item is one object in one scope, as people see it.
type Item struct {
	Scope     Scope         `json:"scope"` // empty of what no scope is known for
	Digest    digest.Digest `json:"digest"`
	Tags      []string      `json:"tags,omitempty"` // that lead to it
	Kind      string        `json:"kind"`           // manifest, index, blob, list
	MediaType string        `json:"mediaType,omitempty"`
	Size      int64         `json:"size"`
	// Total is Size with all that it lists, directly or by way of manifests, and
	// that is held, each once, in bytes.
	Total   int64     `json:"total"`
	Created time.Time `json:"created"` // when it came into the cache
	Pulled  time.Time `json:"pulled"`  // when it was asked for last
	Pinned  bool      `json:"pinned,omitempty"`
	// Unverified says that its bytes have not been hashed since an unclean end.
	Unverified bool `json:"unverified,omitempty"`
}

// Filter chooses items; the zero value takes all roots: manifests that no other
// held manifest lists.
type Filter struct {
	// Match chooses by REGISTRY/REPOSITORY:TAG or @DIGEST; nil takes all. One of
	// an object's names is enough.
	Match func(name string) bool
	// All takes children, blobs and lists too.
	All bool
}

// Items lists what is held, in no order, without holding a lock for more than
// 256 entries. What comes or goes meanwhile may be missed or met twice.
func (c *Cache) Items(f Filter) iter.Seq[Item] {
	return func(yield func(Item) bool) {
		l := lister{index: c.index, keeper: newKeeper(c.index, &c.pins, c.opts.Keep), names: newNames()}
		c.index.each(func(e *entry) bool {
			if !f.All && !l.root(e) {
				return true
			}
			for _, item := range l.items(e, c.index.scopesOf(e), f.Match) {
				if !yield(item) {
					return false
				}
			}
			return true
		})
	}
}

// lister describes objects. It is for one goroutine.
type lister struct {
	index  *index
	keeper *keeper
	names  *names
}

func (l lister) root(e *entry) bool {
	_, listed := l.index.listed(e.digest)
	return e.kind == Manifest && !listed
}

// items are an object in each of the scopes in which one of its names is chosen.
func (l lister) items(e *entry, in []*scope, match func(string) bool) []Item {
	if len(in) == 0 {
		in = []*scope{nil}
	}
	var all []Item
	for _, s := range in {
		if l.names.any(match, s, e.digest) {
			all = append(all, l.item(e, s))
		}
	}
	if len(all) > 0 {
		total, pinned := l.total(e), l.keeper.keeps(e.digest, in)
		for i := range all {
			all[i].Total, all[i].Pinned = total, pinned
		}
	}
	return all
}

func (l lister) item(e *entry, s *scope) Item {
	item := Item{
		Digest: e.digest, Kind: e.kindName(), MediaType: e.mediaType, Size: e.size,
		Created: moment(e.created), Pulled: moment(e.pulled.Load()), Unverified: !e.proven.Load(),
	}
	if s != nil {
		mediaType, _ := s.grants(e.digest)
		item.Scope, item.Tags, item.MediaType = s.Scope, l.names.of(s, e.digest), cmp.Or(mediaType, e.mediaType)
	}
	return item
}

func (e *entry) kindName() string {
	if e.kind == Manifest && e.index {
		return "index"
	}
	return e.kind.name()
}

// total is the bytes of an object and of all that it lists, each once.
func (l lister) total(of *entry) int64 {
	if len(of.lists) == 0 {
		return of.size
	}
	total := int64(0)
	seen := map[digest.Digest]bool{of.digest: true}
	for next := []*entry{of}; len(next) > 0; {
		e := next[len(next)-1]
		next = next[:len(next)-1]
		total += e.size
		for _, d := range e.lists {
			if seen[d] {
				continue
			}
			seen[d] = true
			if child := l.index.look(d); child != nil {
				next = append(next, child)
			}
		}
	}
	return total
}

// Stats is what a cache holds and does.
type Stats struct {
	Manifests   int64 `json:"manifests"`
	Blobs       int64 `json:"blobs"`
	Lists       int64 `json:"lists"`
	Bytes       int64 `json:"bytes"`
	MaxBytes    int64 `json:"maxBytes,omitempty"`
	FreeBytes   int64 `json:"freeBytes"` // -1 if the file system does not say
	Replica     int64 `json:"replicaBytes"`
	Unwritten   int64 `json:"unwrittenBytes"` // in memory, on their way to the disk
	Unverified  int64 `json:"unverified"`
	Quarantined int64 `json:"quarantined"`
	Pins        int   `json:"pins"`
	Pulls       int   `json:"pulls"` // under way
	// State is ok, read-only, full or failing.
	State string `json:"state"`
	// Problem says what is wrong if State is not ok.
	Problem string `json:"problem,omitempty"`
	// Started is when, Clean whether the end before it was.
	Started time.Time `json:"started"`
	Clean   bool      `json:"clean"`
}

// Stats is what the cache holds at this moment.
func (c *Cache) Stats() Stats {
	s := Stats{
		Manifests: c.index.objects[Manifest].Load(), Blobs: c.index.objects[Blob].Load(), Lists: c.index.objects[List].Load(),
		Bytes: c.index.bytes.Load(), MaxBytes: c.opts.MaxBytes, FreeBytes: -1, Replica: c.replica.bytes(),
		Unwritten: c.unwritten(), Quarantined: c.quarantined.Load(), Pins: c.pins.size(), Pulls: c.pulls(),
		Started: c.started, Clean: c.clean,
	}
	s.State, s.Problem = c.health.state()
	if free, _, err := c.folder.Free(); err == nil {
		s.FreeBytes = free
	}
	c.index.each(func(e *entry) bool {
		if !e.proven.Load() {
			s.Unverified++
		}
		return true
	})
	return s
}
