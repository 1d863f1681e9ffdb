package disktest

import (
	"maps"
	"math/rand/v2"
	"slices"
)

// Mode is how a crash happens.
type Mode struct {
	power bool
	seed  uint64
}

// Kill ends the process, not the system: all operations that were done are there.
func Kill() Mode { return Mode{} }

// PowerCut ends the system. What was synced is there. Of what was not, seed 0
// leaves nothing and seed 1 all; other seeds leave a part: of names any, also a
// later one without an earlier; of a file's bytes those at the last sync, all, a
// first part, or all with zeros in places.
func PowerCut(seed uint64) Mode { return Mode{power: true, seed: seed} }

const (
	seedNothing = 0
	seedAll     = 1
)

// Crash returns the folder as it is found after a crash, with all locks released
// and nothing failing. The folder itself goes on, so that one run may be crashed in
// many ways: what is done to the one is not seen in the other.
func (f *Folder) Crash(mode Mode) *Folder {
	f.mu.Lock()
	defer f.mu.Unlock()
	after := &Folder{capacity: f.capacity, readOnly: f.readOnly}
	c := copier{made: map[*node]*node{}, into: after}
	if !mode.power {
		after.root = c.alive(f.root)
		after.pending = c.steps(f.pending)
		return after
	}
	c.seed = mode.seed
	c.rand = rand.New(rand.NewPCG(mode.seed, 0)) //nolint:gosec // has to be the same each time
	c.names = c.survivors(f.pending)
	after.root = c.dead(f.root)
	return after
}

// copier copies what a crash leaves, each node once.
type copier struct {
	into  *Folder
	made  map[*node]*node
	names map[*node]map[string]*node // of folders of which not all was synced
	seed  uint64
	rand  *rand.Rand
}

// alive copies a node with what is and what is not on the disk.
func (c *copier) alive(n *node) *node {
	if n == nil || c.made[n] != nil {
		return c.made[n]
	}
	made := &node{
		data: slices.Clip(n.data), synced: slices.Clip(n.synced), doubtful: slices.Clone(n.doubtful),
		modified: n.modified, links: n.links,
	}
	c.made[n] = made
	if n.links > 0 {
		c.into.used += int64(len(n.data))
	}
	if n.dir() {
		made.now, made.durable = c.all(n.now), c.all(n.durable)
	}
	return made
}

func (c *copier) all(names map[string]*node) map[string]*node {
	made := make(map[string]*node, len(names))
	for name, n := range names {
		made[name] = c.alive(n)
	}
	return made
}

func (c *copier) steps(pending []step) []step {
	made := make([]step, 0, len(pending))
	for _, s := range pending {
		var links step
		for _, l := range s {
			links = append(links, link{dir: c.alive(l.dir), name: l.name, to: c.alive(l.to)})
		}
		made = append(made, links)
	}
	return made
}

// survivors chooses the steps that reached the disk: a first part of them, as of a
// file system with a journal, or any.
func (c *copier) survivors(pending []step) map[*node]map[string]*node {
	names := map[*node]map[string]*node{}
	first, ordered := c.rand.IntN(len(pending)+1), c.rand.IntN(2) == 0
	for i, s := range pending {
		if !c.keep(ordered && i < first || !ordered && c.rand.IntN(2) == 0) {
			continue
		}
		for _, l := range s {
			if names[l.dir] == nil {
				names[l.dir] = maps.Clone(l.dir.durable)
			}
			l.set(names[l.dir])
		}
	}
	return names
}

// keep is what chance says, unless the seed says nothing or all.
func (c *copier) keep(chance bool) bool {
	return c.seed == seedAll || c.seed != seedNothing && chance
}

// dead copies what of a node is on the disk. Names are taken in order, so that the
// same seed chooses the same.
func (c *copier) dead(n *node) *node {
	if c.made[n] != nil {
		c.made[n].links++
		return c.made[n]
	}
	made := &node{modified: n.modified, links: 1}
	c.made[n] = made
	if !n.dir() {
		made.data = slices.Clip(c.content(n))
		made.synced = made.data
		c.into.used += int64(len(made.data))
		return made
	}
	names, changed := c.names[n]
	if !changed {
		names = n.durable
	}
	made.now, made.durable = map[string]*node{}, map[string]*node{}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		made.now[name] = c.dead(names[name])
		made.durable[name] = made.now[name]
	}
	return made
}

// content chooses what is left of a file's bytes.
func (c *copier) content(n *node) []byte {
	left := n.synced
	if c.keep(c.rand.IntN(4) > 0) {
		left = c.unsynced(n)
	}
	for _, s := range n.doubtful {
		if !c.keep(c.rand.IntN(2) == 0) {
			left = zero(left, s)
		}
	}
	return left
}

// unsynced is all, a first part, or all with zeros at the end or in between. What
// is the same on the disk is never touched.
func (c *copier) unsynced(n *node) []byte {
	same, size := common(n.synced, n.data), len(n.data)
	from := same + c.rand.IntN(size-same+1)
	to := from + c.rand.IntN(size-from+1)
	way := c.rand.IntN(4)
	switch {
	case c.seed == seedAll || way == 0:
		return n.data
	case way == 1:
		return n.data[:from]
	case way == 2:
		return zero(n.data, span{from, size})
	}
	return zero(n.data, span{from, to})
}

// span is a part of a file: from up to, but not including, to.
type span struct{ from, to int }

// zero returns a copy with zeros in the span.
func zero(data []byte, s span) []byte {
	if s.from >= len(data) || s.from >= s.to {
		return data
	}
	data = slices.Clone(data)
	clear(data[s.from:min(s.to, len(data))])
	return data
}

// cut takes a part out of spans.
func cut(spans []span, out span) []span {
	var left []span
	for _, s := range spans {
		if before := (span{s.from, min(s.to, out.from)}); before.from < before.to {
			left = append(left, before)
		}
		if behind := (span{max(s.from, out.to), s.to}); behind.from < behind.to {
			left = append(left, behind)
		}
	}
	return left
}

// common is how many first bytes are the same.
func common(a, b []byte) int {
	n := min(len(a), len(b))
	if n > 0 && &a[0] == &b[0] { // one is a part of the other
		return n
	}
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}
