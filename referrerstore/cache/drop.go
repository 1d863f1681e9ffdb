package cache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// trash begins the names of files that were dropped and are still to be removed.
const trash = "trash-"

// dropAll drops roots until there is enough.
func (r *run) dropAll(ctx context.Context, some []victim) {
	for _, v := range some {
		if r.enough() || ctx.Err() != nil || len(r.errs) >= maxErrors {
			return
		}
		r.dropRoot(ctx, v)
	}
}

// dropRoot drops a root with what it takes along.
func (r *run) dropRoot(ctx context.Context, v victim) {
	if r.gone[v.entry] {
		return
	}
	in := r.index.scopesOf(v.entry)
	items := r.itemsBefore(v.entry, in)
	unused := func() bool { return v.entry.pulled.Load() <= v.pulled && v.pulled <= r.now-r.graceOf(v.entry) }
	if !r.take(ctx, v.entry, unused) {
		if !r.gone[v.entry] && r.index.look(v.digest) == v.entry {
			r.out.Kept++
		}
		return
	}
	r.out.Roots++
	r.forgetTags(ctx, v.digest, in)
	for _, item := range items {
		r.each(item)
	}
	below := r.below(v.entry)
	for len(below) > 0 {
		e := below[len(below)-1]
		below = below[:len(below)-1]
		if r.goesAlong(e) && r.take(ctx, e, func() bool { return e.pulled.Load() <= r.now-r.lease }) {
			below = append(below, r.below(e)...)
		}
	}
}

// itemsBefore describes a root before it is gone, if anybody wants to know.
func (r *run) itemsBefore(e *entry, in []*scope) []Item {
	if r.each == nil {
		return nil
	}
	l := lister{index: r.index, keeper: r.keeper, names: r.names}
	return l.items(e, in, nil)
}

// below is what an object that was dropped may take along.
func (r *run) below(e *entry) []*entry {
	all := r.index.referrersOf(e.digest)
	for _, d := range e.lists {
		if child := r.index.look(d); child != nil {
			all = append(all, child)
		}
	}
	return all
}

// goesAlong says whether nothing holds what a dropped object named.
func (r *run) goesAlong(e *entry) bool {
	if r.gone[e] || r.refused[e] || e.kind == List || r.isListed(e.digest) || r.kept(e) {
		return false
	}
	return e.kind != Manifest || !r.names.tagged(r.index.scopesOf(e), e.digest)
}

// take drops one object if it still may be, seen under its lock.
func (r *run) take(ctx context.Context, e *entry, may func() bool) bool {
	if r.req.DryRun {
		return r.pretend(e, may)
	}
	if r.keeper.version != r.cache.pins.at() {
		r.keeper = newKeeper(r.index, &r.cache.pins, r.cache.opts.Keep)
	}
	if r.kept(e) || !r.condemn(e, may) {
		r.refused[e] = true
		return false
	}
	if err := r.remove(e); err != nil {
		r.index.revive(e)
		r.refused[e] = true
		r.errs = append(r.errs, err)
		return false
	}
	r.tell(ctx, record{Kind: recordDrop, Digest: e.digest})
	r.index.bury(e)
	r.out.Objects++
	r.out.Bytes += e.size
	return true
}

// condemn takes an object out of use unless it is used again, listed again, or
// pinned since it was looked at.
func (r *run) condemn(e *entry, may func() bool) bool {
	s := r.index.shard(e.digest)
	return r.index.condemn(e, func() bool {
		defer r.held(time.Now())
		_, listed := s.listed(e.digest)
		return !listed && e.unwritten.Load() == nil && may() &&
			r.keeper.version == r.cache.pins.at() && !r.keeper.keeps(e.digest, e.in)
	})
}

// pretend is take of a dry run.
func (r *run) pretend(e *entry, may func() bool) bool {
	if e.users.Load() != 0 || e.unwritten.Load() != nil || r.isListed(e.digest) || r.kept(e) || !may() {
		r.refused[e] = true
		return false
	}
	r.gone[e] = true
	for _, d := range e.lists {
		r.goneParents[d]++
	}
	r.out.Objects++
	r.out.Bytes += e.size
	return true
}

// remove takes the file of a condemned object away in one step, so that the name
// is free at once, and then deletes it. What is in memory only has no file.
func (r *run) remove(e *entry) error {
	c := r.cache
	name := ingestDir + "/" + trash + random()
	switch err := c.folder.Rename(c.path(e.digest), name); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		c.failed("prune", err)
		return fmt.Errorf("prune %s: %w", e.digest, err)
	default:
		if err := c.folder.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			c.failed("prune", err)
			r.trash = true
		}
	}
	c.replica.drop(e.digest)
	return nil
}

// tell brings a change to the journal; that of an object before it can come in
// again. Now and then it waits until the disk has all of them, so that not too many
// wait. What the journal does not take of drops is noticed at the next start: the
// files are not there.
func (r *run) tell(ctx context.Context, change record) {
	if r.told++; r.told%chunk != 0 || r.cache.commit(ctx, change) != nil {
		r.cache.note(change)
	}
}

// forgetTags forgets that tags led to what was dropped.
func (r *run) forgetTags(ctx context.Context, d digest.Digest, in []*scope) {
	if !r.untag || r.req.DryRun {
		return
	}
	for _, s := range in {
		for _, tag := range r.names.of(s, d) {
			if at, led := s.untag(tag, d); led {
				r.tell(ctx, record{Kind: recordUntag, Scope: s.Scope, Tag: tag, At: at})
			}
		}
	}
}

// untag forgets a tag that leads to a digest, and says when the registry said so.
func (s *scope) untag(tag string, d digest.Digest) (at time.Time, led bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	is := s.tags[tag]
	if is.Descriptor.Digest != d {
		return time.Time{}, false
	}
	delete(s.tags, tag)
	return is.At, true
}

// sweep removes what could not be removed when it was dropped.
func (c *Cache) sweep() error {
	err := c.folder.List(ingestDir, func(name string, dir bool) error {
		if dir || !strings.HasPrefix(name, trash) {
			return nil
		}
		err := c.folder.Remove(ingestDir + "/" + name)
		if errors.Is(err, fs.ErrNotExist) { // another run has just done so
			return nil
		}
		return err
	})
	if err == nil {
		return nil
	}
	c.failed("prune", err)
	return fmt.Errorf("remove what was dropped: %w", err)
}
