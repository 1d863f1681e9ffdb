package referrerstore

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Lane is the order in which a registry's capacity is given out: whoever holds
// up a person or a cluster goes first. The zero value is LaneAdmission.
type Lane int32

// The lanes, first come first served within each as [Work] says.
const (
	// LaneAdmission is for requests that somebody waits for.
	LaneAdmission Lane = iota
	// LaneBackground is for what will be wanted again: work that outlived its
	// request, refreshes, audits.
	LaneBackground
)

// String names the lane in lower case.
func (l Lane) String() string {
	if l == LaneBackground {
		return "background"
	}
	return "admission"
}

// unknownLeft stands for the requests of a Work of which nothing is known yet.
const unknownLeft = 1 << 20

// Work is what requests to registries are part of: the judgement of one
// subject. It travels in their context and tells whoever hands out a registry's
// capacity which of them to prefer, and is told in turn when a registry makes
// it wait. All methods are safe for concurrent use, and on nil: a request that
// is part of no Work is an admission that began when it was made.
type Work struct {
	begun    time.Time
	lane     atomic.Int32
	left     atomic.Int32
	followed atomic.Pointer[[]*Work] // never changed, only exchanged

	mu       sync.Mutex // guards the fields that follow it
	running  int
	hold     Hold
	watchers map[*func(Hold)]struct{}
}

// Hold says until when a registry keeps a Work waiting, and why. The zero value
// is none.
type Hold struct {
	Until time.Time
	// Err is what to answer whoever cannot wait for so long. It has one of this
	// package's sentinels in its chain.
	Err error
}

// NewWork begins a Work in a lane.
func NewWork(begun time.Time, lane Lane) *Work {
	w := &Work{begun: begun}
	w.lane.Store(int32(lane))
	w.left.Store(unknownLeft)
	return w
}

type workKey struct{}

// WithWork makes requests under the context part of w.
func WithWork(ctx context.Context, w *Work) context.Context {
	return context.WithValue(ctx, workKey{}, w)
}

// WorkOf is the Work that ctx's requests are part of, nil if there is none.
func WorkOf(ctx context.Context) *Work {
	w, _ := ctx.Value(workKey{}).(*Work)
	return w
}

// Begun is when somebody first asked for it; the zero time on nil.
func (w *Work) Begun() time.Time {
	if w == nil {
		return time.Time{}
	}
	return w.begun
}

// Lane is the lane that it is in at this moment: the most pressing one of its own
// and of those that it follows.
func (w *Work) Lane() Lane {
	if w == nil {
		return LaneAdmission
	}
	if followed := w.followed.Load(); followed != nil {
		for _, other := range *followed {
			if other.Lane() == LaneAdmission {
				return LaneAdmission
			}
		}
	}
	return Lane(w.lane.Load())
}

// SetLane moves it, requests that wait already included.
func (w *Work) SetLane(l Lane) {
	if w != nil {
		w.lane.Store(int32(l))
	}
}

// Follow makes w as pressing as other, which waits for it, and lets other know of
// w's holds, until the returned function is called. Works must not follow each
// other in a circle.
func (w *Work) Follow(other *Work) (stop func()) {
	if w == nil || other == nil || w == other {
		return func() {}
	}
	w.mu.Lock()
	w.exchange(append(w.follows(), other))
	w.mu.Unlock()
	unwatch := w.Watch(other.SetHold)
	return func() {
		unwatch()
		w.mu.Lock()
		defer w.mu.Unlock()
		all := w.follows()
		if at := slices.Index(all, other); at >= 0 {
			w.exchange(slices.Delete(all, at, at+1))
		}
	}
}

// follows is a copy of the works that are followed, and exchange puts another in
// its place. Both are called with mu held.
func (w *Work) follows() []*Work {
	if all := w.followed.Load(); all != nil {
		return slices.Clone(*all)
	}
	return nil
}

func (w *Work) exchange(all []*Work) { w.followed.Store(&all) }

// Left is how many requests it is still expected to need; a large number while
// that is not known.
func (w *Work) Left() int {
	if w == nil {
		return unknownLeft
	}
	return int(w.left.Load())
}

// SetLeft notes how many requests are still expected.
func (w *Work) SetLeft(n int) {
	if w != nil {
		w.left.Store(int32(min(max(n, 0), unknownLeft)))
	}
}

// AddLeft changes what is still expected by n.
func (w *Work) AddLeft(n int) {
	if w == nil {
		return
	}
	for {
		old := w.left.Load()
		next := min(max(int64(old)+int64(n), 0), unknownLeft)
		if w.left.CompareAndSwap(old, int32(next)) {
			return
		}
	}
}

// SetHold tells the Work, and who watches it, that a request of it cannot start
// before a time. The zero Hold says that one has started. While another of its
// requests is under way, which may be all that it takes, nobody is told.
func (w *Work) SetHold(h Hold) {
	if w == nil {
		return
	}
	w.mu.Lock()
	same := w.hold == h
	w.hold = h
	tell := w.audience(same || (w.running > 0 && h.Err != nil)) // that a hold is over is always news
	w.mu.Unlock()
	for _, fn := range tell {
		fn(h)
	}
}

// Started says that a request of it is under way, until the returned function is
// called.
func (w *Work) Started() (ended func()) {
	if w == nil {
		return func() {}
	}
	w.mu.Lock()
	w.running++
	w.mu.Unlock()
	return sync.OnceFunc(func() {
		w.mu.Lock()
		w.running--
		h := w.hold
		tell := w.audience(w.running > 0 || h.Err == nil)
		w.mu.Unlock()
		for _, fn := range tell {
			fn(h)
		}
	})
}

// audience is who is to be told, unless nobody is. It is called with mu held.
func (w *Work) audience(nobody bool) []func(Hold) {
	if nobody {
		return nil
	}
	tell := make([]func(Hold), 0, len(w.watchers))
	for fn := range w.watchers {
		tell = append(tell, *fn)
	}
	return tell
}

// Hold is what keeps it waiting at this moment.
func (w *Work) Hold() Hold {
	if w == nil {
		return Hold{}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.hold
}

// Watch calls fn for the present hold, if there is one, and for each change,
// until the returned function is called or shortly after. fn must not block; it
// may be called by several goroutines at once.
func (w *Work) Watch(fn func(Hold)) (stop func()) {
	if w == nil {
		return func() {}
	}
	w.mu.Lock()
	if w.watchers == nil {
		w.watchers = make(map[*func(Hold)]struct{})
	}
	w.watchers[&fn] = struct{}{}
	now := w.hold
	running := w.running > 0
	w.mu.Unlock()
	if now.Err != nil && !running {
		fn(now)
	}
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.watchers, &fn)
	}
}
