package executor

import (
	"cmp"
	"context"
	"slices"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

const (
	// pagePause is waited for the rest of a page of the list before the best
	// of what is there is chosen: a page comes in one burst.
	pagePause = time.Millisecond
	// A candidate is slow when its requests took hedgeFactor times what is
	// usual for the host, and hedgeLeast, which covers judging it on a busy
	// machine; without anything usual known, hedgeUnknown.
	hedgeFactor  = 3
	hedgeLeast   = 100 * time.Millisecond
	hedgeUnknown = 500 * time.Millisecond
	// hedgeThrottled is for hosts that limit the rate.
	hedgeThrottled = 5 * time.Second
)

// front decides which artifacts of one store are judged now: as many as the
// rule needs at the least, the most promising first, and more when one did not
// pass or takes long. Where all must pass that is all at once.
//
// next and wait are called by one goroutine, poke by any.
type front struct {
	g     *gathering
	index int
	limit int
	poked chan struct{}
	timer *time.Timer // of the page, and then of the hedge
	hedge time.Duration
	eager bool // what is there of the list is enough to choose from
}

func (e *Executor) newFront(g *gathering, index int) *front {
	f := &front{g: g, index: index, limit: e.opts.ArtifactsAtOnce, poked: make(chan struct{}, 1), timer: time.NewTimer(pagePause)}
	f.timer.Stop()
	about := referrerstore.About(g.serving[index], g.pl.req.Reference.Registry)
	switch {
	case g.held != nil: // the registry is asked for what is not held, if at all
		f.hedge = hedgeLeast
	case about.Throttled: // whoever is spared is not asked twice so soon
		f.hedge = hedgeThrottled
	case about.Usual > 0:
		f.hedge = requestsPerArtifact*hedgeFactor*about.Usual + hedgeLeast
	default:
		f.hedge = hedgeUnknown
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.fronts = append(g.fronts, f)
	return f
}

func (f *front) stop() { f.timer.Stop() }

// poke says that something has changed.
func (f *front) poke() {
	select {
	case f.poked <- struct{}{}:
	default: // it is known already
	}
}

// poke tells all fronts: what one store brought changes what others need.
func (g *gathering) poke() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, f := range g.fronts {
		f.poke()
	}
}

// wait waits for a change; false says that ctx has ended.
func (f *front) wait(ctx context.Context) bool {
	select {
	case <-f.poked:
		return true
	case <-f.timer.C:
		f.late()
		return true
	case <-ctx.Done():
		return false
	}
}

// late is the timer's: the page is there, or a candidate takes long.
func (f *front) late() {
	if !f.eager {
		f.eager = true
		return
	}
	f.g.mu.Lock()
	defer f.g.mu.Unlock()
	f.g.extra++
}

// next hands out the artifact to judge now, nil if none is wanted at present.
func (f *front) next() *slot {
	f.g.mu.Lock()
	defer f.g.mu.Unlock()
	l := &f.g.lists[f.index]
	if f.g.decision != Undecided || l.waiting == 0 || l.running >= f.limit {
		return nil
	}
	best := f.choose(l.over)
	if best == nil {
		return nil
	}
	best.state = slotRunning
	l.waiting--
	l.running++
	f.timer.Reset(f.hedge)
	return best
}

// choose finds the most promising of the artifacts that wait and are wanted.
func (f *front) choose(over bool) *slot {
	if f.g.pl.rule.EvaluateAll {
		return f.first(func(*slot) bool { return true })
	}
	needs := f.g.pl.rule.Requirement.Needs(f.g.evidence())
	running := f.g.underWay()
	all := f.first(func(s *slot) bool { return s.wants(needs, func(_ string, n int) bool { return n == AllReports }) })
	if all != nil {
		return all
	}
	if f.eager = f.eager || over; !f.eager {
		f.timer.Reset(pagePause)
		return nil
	}
	wanted := f.first(func(s *slot) bool {
		return s.wants(needs, func(name string, n int) bool { return running[name] < n+f.g.extra })
	})
	if wanted == nil && over && len(running) == 0 {
		return f.first(func(*slot) bool { return true }) // or nobody would ever go on
	}
	return wanted
}

// wants says whether any verifier of the slot is one of which enough is needed.
func (s *slot) wants(needs map[string]int, enough func(name string, n int) bool) bool {
	return slices.ContainsFunc(s.wanted(), func(name string) bool { return needs[name] > 0 && enough(name, needs[name]) })
}

// underWay counts the artifacts that are being judged, by verifier. It is called
// with mu held, like choose and first.
func (g *gathering) underWay() map[string]int {
	running := make(map[string]int)
	for _, s := range g.slots {
		if s.state != slotRunning {
			continue
		}
		for _, name := range s.wanted() {
			running[name]++
		}
	}
	return running
}

// first is the most promising waiting slot of the store among those that fit:
// the newest, because keys change and what was signed last is signed with the
// one in use; then the first listed.
func (f *front) first(fits func(*slot) bool) *slot {
	var best *slot
	for _, s := range f.g.slots {
		if s.state != slotWaiting || s.owner != f.index || !fits(s) {
			continue
		}
		if best == nil || s.before(best) {
			best = s
		}
	}
	return best
}

func (s *slot) before(other *slot) bool {
	a, b := s.sources[0], other.sources[0]
	if c := cmp.Compare(created(b.artifact), created(a.artifact)); c != 0 {
		return c < 0
	}
	return a.at[1] < b.at[1]
}

// created is what the list says of when an artifact was made. It is a hint: the
// texts compare as times do where they are written alike.
func created(d ocispec.Descriptor) string { return d.Annotations[ocispec.AnnotationCreated] }
