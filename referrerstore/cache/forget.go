package cache

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	// maxEvidenceAge is how long it is remembered what registries said of content
	// that is not held.
	maxEvidenceAge = 31 * 24 * time.Hour
	// maxEvidence bounds how much is remembered in all, and lessEvidence is what
	// is left once there was more.
	maxEvidence  = 200_000
	lessEvidence = 190_000
	// evidenceInterval is how often that is looked after.
	evidenceInterval = 10 * time.Minute
)

// forgetEvidence forgets tags, subjects and lists of referrers: those older than
// maxEvidenceAge whose subject is not held, and the oldest of too many. What was
// said of repositories with a pin, or that Options.Keep names, stays. Then it drops
// the lists that no scope knows any more, and what was put aside beyond its bound.
func (c *Cache) forgetEvidence(ctx context.Context) {
	f := forgetting{cache: c, keeper: newKeeper(c.index, &c.pins, c.opts.Keep), old: c.now().Add(-maxEvidenceAge)}
	f.count(maxEvidence, lessEvidence)
	for _, s := range c.index.all() {
		if ctx.Err() != nil {
			return
		}
		if !f.keeper.keepsEvidence(s) {
			f.forget(ctx, s)
		}
		c.index.forgetEmpty(s)
	}
	if f.forgotten > 0 {
		c.log.Debug("forgot evidence", slog.Int("records", f.forgotten))
	}
	if c.scribe == nil {
		return
	}
	c.dropLists(ctx)
	c.lessPutAside()
	if err := c.sweep(); err != nil {
		c.log.Warn("prune", slog.Any("error", err))
	}
}

type forgetting struct {
	cache     *Cache
	keeper    *keeper
	old       time.Time // what is older goes unless its subject is held
	surplus   time.Time // what is not younger goes
	forgotten int
}

// count finds the moment up to which all must go for there to be less than less,
// if there are more than most.
func (f *forgetting) count(most, less int) {
	var ages []int64
	for _, s := range f.cache.index.all() {
		if f.keeper.keepsEvidence(s) {
			continue
		}
		for _, is := range inChunks(&s.mu, s.tags) {
			ages = append(ages, is.At.UnixNano())
		}
		for _, is := range inChunks(&s.mu, s.subjects) {
			ages = append(ages, is.At.UnixNano())
		}
		for _, is := range inChunks(&s.mu, s.lists) {
			ages = append(ages, is.at.UnixNano())
		}
	}
	if len(ages) > most {
		slices.Sort(ages)
		f.surplus = time.Unix(0, ages[len(ages)-less-1])
	}
}

// goes says whether what was said at a moment about a digest is forgotten.
func (f *forgetting) goes(at time.Time, of digest.Digest) bool {
	if !f.surplus.IsZero() && !at.After(f.surplus) {
		return true
	}
	return at.Before(f.old) && f.cache.index.look(of) == nil
}

// forget looks through what is known in a scope. Subjects and lists that are
// forgotten are not told to the journal: after a restart they are as old.
func (f *forgetting) forget(ctx context.Context, s *scope) {
	for tag, is := range inChunks(&s.mu, s.tags) {
		if f.goes(is.At, is.Descriptor.Digest) && f.untag(s, tag, is) {
			f.tell(ctx, record{Kind: recordUntag, Scope: s.Scope, Tag: tag, At: is.At})
		}
	}
	for d, is := range inChunks(&s.mu, s.subjects) {
		if f.goes(is.At, d) {
			f.forgotten += remove(&s.mu, s.subjects, d, func(now Tag) bool { return now.At.Equal(is.At) })
		}
	}
	for d, is := range inChunks(&s.mu, s.lists) {
		if f.goes(is.at, d) {
			f.forgotten += remove(&s.mu, s.lists, d, func(now listed) bool { return now.at.Equal(is.at) })
		}
	}
}

func (f *forgetting) untag(s *scope, tag string, is Tag) bool {
	n := remove(&s.mu, s.tags, tag, func(now Tag) bool { return now.At.Equal(is.At) })
	f.forgotten += n
	return n > 0
}

// tell brings a record to the journal, and waits now and then, so that not too
// many wait for the disk.
func (f *forgetting) tell(ctx context.Context, r record) {
	if f.forgotten%chunk != 0 || f.cache.commit(ctx, r) != nil {
		f.cache.note(r)
	}
}

// remove deletes a key whose value is still the one that was looked at, and says
// how many that were.
func remove[K comparable, V any](mu *sync.RWMutex, m map[K]V, key K, same func(V) bool) int {
	mu.Lock()
	defer mu.Unlock()
	if now, known := m[key]; !known || !same(now) {
		return 0
	}
	delete(m, key)
	return 1
}

// dropLists drops the lists of referrers that no scope knows any more: they were
// superseded or forgotten.
func (c *Cache) dropLists(ctx context.Context) {
	if c.index.objects[List].Load() == 0 {
		return
	}
	known := make(map[digest.Digest]bool)
	for _, s := range c.index.all() {
		for _, is := range inChunks(&s.mu, s.lists) {
			known[is.list] = true
		}
	}
	r := c.newRun(PruneRequest{All: true}, nil)
	r.index.eachHeld(func(e *entry) bool {
		if e.kind == List && !known[e.digest] {
			r.take(ctx, e, func() bool { return r.pulledAt(e) <= r.now-r.lease })
		}
		return ctx.Err() == nil && len(r.errs) < maxErrors
	}, r.held)
}

const (
	// maxPutAside bounds the files that stay put aside, and maxPutAsideBytes their
	// bytes, unless a tenth of Options.MaxBytes is less.
	maxPutAside      = 1000
	maxPutAsideBytes = 1 << 30
)

// lessPutAside removes the oldest of what was put aside beyond its bounds, and all
// of it from a disk that is full.
func (c *Cache) lessPutAside() {
	type file struct {
		name string
		info fs.FileInfo
	}
	var all []file
	bytes, most := int64(0), int64(maxPutAsideBytes)
	err := c.folder.List(quarantineDir, func(name string, dir bool) error {
		info, err := c.folder.Stat(quarantineDir + "/" + name)
		if err == nil && !dir {
			all = append(all, file{name, info})
			bytes += info.Size()
		}
		return nil
	})
	slices.SortFunc(all, func(a, b file) int { return a.info.ModTime().Compare(b.info.ModTime()) })
	if c.opts.MaxBytes > 0 {
		most = min(most, c.opts.MaxBytes/10)
	}
	if state, _ := c.health.state(); state == stateFull {
		most = 0
	}
	for len(all) > 0 && (len(all) > maxPutAside || bytes > most) {
		err = errors.Join(err, c.folder.Remove(quarantineDir+"/"+all[0].name))
		bytes -= all[0].info.Size()
		all = all[1:]
	}
	if err != nil {
		c.log.Warn("cache could not remove what was put aside", slog.Any("error", err))
	}
}
