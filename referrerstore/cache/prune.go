package cache

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/opencontainers/go-digest"
)

// PruneRequest says what to drop. Conditions that are set are met by what is
// dropped, all of them; Bytes and Free bound how much. The zero value drops
// nothing.
//
// What is weighed are roots: objects that no held manifest lists, be it because
// they are images, or because what listed them is gone. A root takes along what
// it lists and nothing else does, and the artifacts that refer to it, unless
// those were pulled within the lease or a tag leads to them: they are roots then.
// An artifact such as a signature is not longer unused than its subject, and
// stays while that is pinned.
type PruneRequest struct {
	// PulledBefore and CreatedBefore are moments; zero sets no condition.
	PulledBefore  time.Time
	CreatedBefore time.Time
	// Match chooses by REGISTRY/REPOSITORY:TAG or @DIGEST; nil takes all. A root
	// is chosen if its digest is, or all tags that lead to it, in each
	// repository that it is held for.
	Match func(name string) bool
	// ToBytes drops the longest unused until the content has no more; 0 is no
	// bound.
	ToBytes int64
	// ToFree drops the longest unused until so much of the file system is free.
	ToFree int64
	// All drops everything that may be; needed if nothing else is set.
	All bool
	// DryRun only says what would be dropped.
	DryRun bool
}

func (r PruneRequest) empty() bool {
	return r.PulledBefore.IsZero() && r.CreatedBefore.IsZero() && r.Match == nil && r.ToBytes <= 0 && r.ToFree <= 0 && !r.All
}

// Pruned is what was dropped, or would be.
type Pruned struct {
	Roots   int   `json:"roots"`   // what nothing else listed
	Objects int   `json:"objects"` // with all that they took along
	Bytes   int64 `json:"bytes"`
	Kept    int   `json:"kept"` // roots that met the conditions, but are pinned, leased or being read
	DryRun  bool  `json:"dryRun"`
}

// Prune drops what the request says, the longest unused first, in sets of at most
// 256, and calls each, which may be nil, for every root in each of its scopes. It never takes what is
// pinned, being read, arriving, or was pulled within the lease; readers that are
// under way finish. Tags that led to what was dropped are forgotten. What the disk
// did not let go of stays, and is in the error; so is ErrReadOnly, and ErrClosed if
// the cache was closed before or meanwhile.
func (c *Cache) Prune(ctx context.Context, req PruneRequest, each func(Item)) (Pruned, error) {
	ctx, done, err := c.during(ctx)
	if err != nil {
		return Pruned{DryRun: req.DryRun}, err
	}
	defer done()
	r := c.newRun(req, each)
	r.untag = true
	return r.do(ctx)
}

// pruneLoop keeps to the bounds of the options, and forgets old evidence.
func (c *Cache) pruneLoop(ctx context.Context) {
	tick := time.NewTicker(c.opts.PruneInterval)
	defer tick.Stop()
	var evidence time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-c.pruneWanted:
		}
		c.pruneOnce(ctx)
		if now := c.now(); now.Sub(evidence) >= evidenceInterval {
			evidence = now
			c.forgetEvidence(ctx)
		}
	}
}

// pruneOnce drops what the options say. Cut-offs are worked out anew each time.
func (c *Cache) pruneOnce(ctx context.Context) {
	for _, req := range c.due() {
		done, err := c.newRun(req, nil).do(ctx)
		if err != nil && ctx.Err() == nil && !errors.Is(err, ErrReadOnly) {
			c.log.Warn("prune", slog.Any("error", err))
		}
		if done.Objects > 0 {
			c.log.Debug("pruned", slog.Int("roots", done.Roots), slog.Int("objects", done.Objects), slog.Int64("bytes", done.Bytes))
		}
	}
}

// due are the requests that keep to the bounds of the options.
func (c *Cache) due() []PruneRequest {
	var all []PruneRequest
	if c.opts.MaxAge > 0 {
		all = append(all, PruneRequest{PulledBefore: c.now().Add(-c.opts.MaxAge)})
	}
	if most := c.opts.MaxBytes; most > 0 && c.index.bytes.Load() > most/10*9 {
		all = append(all, PruneRequest{ToBytes: max(1, most/10*8)})
	}
	if free := c.freeWanted(); free > 0 {
		all = append(all, PruneRequest{ToFree: free})
	}
	return all
}

// freeWanted is how much of the file system is to be free, 0 if enough is. A disk
// that is full gets some more room, so that it is not full again at once.
func (c *Cache) freeWanted() int64 {
	const room, part = 64 << 20, 10
	state, _ := c.health.state()
	if c.opts.MinFreeBytes <= 0 && state != stateFull {
		return 0
	}
	free, size, err := c.folder.Free()
	if err != nil {
		return 0
	}
	least := c.opts.MinFreeBytes
	if free >= least && state != stateFull {
		return 0
	}
	if least += min(room, size/part); free >= least {
		return 0
	}
	return least
}

// orphanGrace is how long a blob stays that no manifest lists, unless there is no
// other way to make room.
const orphanGrace = time.Hour

// run is one prune at work. It is for one goroutine.
type run struct {
	cache *Cache
	index *index
	req   PruneRequest
	each  func(Item)
	untag bool // tags are forgotten with what they led to
	held  func(since time.Time)

	now, lease, orphanGrace int64 // Unix seconds, and seconds
	free                    int64 // of the file system at the start
	keeper                  *keeper
	names                   *names
	refused                 map[*entry]bool // not tried again
	gone                    map[*entry]bool // of a dry run: as if dropped
	goneParents             map[digest.Digest]int
	scans                   int
	trash                   bool // there are files still to be removed
	told                    int  // records since the last that was waited for
	out                     Pruned
	errs                    []error
}

func (c *Cache) newRun(req PruneRequest, each func(Item)) *run {
	return &run{
		cache: c, index: c.index, req: req, each: each, held: c.lockHeld,
		now: c.now().Unix(), lease: seconds(c.opts.Lease), orphanGrace: seconds(orphanGrace),
		keeper: newKeeper(c.index, &c.pins, c.opts.Keep), names: newNames(),
		refused: make(map[*entry]bool), gone: make(map[*entry]bool), goneParents: make(map[digest.Digest]int), out: Pruned{DryRun: req.DryRun},
	}
}

func seconds(d time.Duration) int64 { return int64(d / time.Second) }

// do drops set after set until there is no more to drop.
func (r *run) do(ctx context.Context) (Pruned, error) {
	if r.cache.scribe == nil && !r.req.DryRun {
		return r.out, ErrReadOnly
	}
	if r.req.empty() {
		return r.out, nil
	}
	if err := r.measure(); err != nil {
		return r.out, err
	}
	for !r.enough() && ctx.Err() == nil && len(r.errs) < maxErrors {
		if some := r.plan(); len(some) > 0 {
			r.dropAll(ctx, some)
		} else if !r.spareNoOrphans() {
			break
		}
	}
	if r.trash {
		r.errs = append(r.errs, r.cache.sweep())
	}
	return r.out, errors.Join(append(r.errs, context.Cause(ctx))...)
}

// maxErrors is how often the disk may refuse before a run ends.
const maxErrors = 16

func (r *run) measure() (err error) {
	if r.req.ToFree > 0 {
		r.free, _, err = r.cache.folder.Free()
	}
	return err
}

// enough says whether the bounds are met. What is freed is reckoned and not asked
// for again: some file systems, and open readers, are late with it.
func (r *run) enough() bool {
	if r.req.ToBytes <= 0 && r.req.ToFree <= 0 {
		return false
	}
	bytes := r.index.bytes.Load()
	if r.req.DryRun {
		bytes -= r.out.Bytes
	}
	return (r.req.ToBytes <= 0 || bytes <= r.req.ToBytes) && (r.req.ToFree <= 0 || r.free+r.out.Bytes >= r.req.ToFree)
}

// spareNoOrphans says whether blobs without a manifest may be dropped earlier now,
// because room must be made and nothing else makes it.
func (r *run) spareNoOrphans() bool {
	if r.orphanGrace == 0 || r.req.ToBytes <= 0 && r.req.ToFree <= 0 {
		return false
	}
	r.orphanGrace = 0
	return true
}
