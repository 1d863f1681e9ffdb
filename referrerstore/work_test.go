package referrerstore_test

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

const (
	admission  = referrerstore.LaneAdmission
	background = referrerstore.LaneBackground
)

func holdOf(err error, in time.Duration) referrerstore.Hold {
	return referrerstore.Hold{Until: time.Unix(1000, 0).Add(in), Err: err}
}

var (
	limited = holdOf(referrerstore.ErrRateLimited, time.Minute)
	down    = holdOf(referrerstore.ErrUnavailable, time.Hour)
	none    = referrerstore.Hold{}
)

// told notes what a watcher is told.
type told struct {
	mu    sync.Mutex // guards the field that follows it
	holds []referrerstore.Hold
}

func (w *told) tell(h referrerstore.Hold) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.holds = append(w.holds, h)
}

// expect compares what was told since the last call.
func (w *told) expect(t *testing.T, want ...referrerstore.Hold) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if diff := cmp.Diff(want, w.holds, cmpopts.EquateEmpty(), cmpopts.EquateErrors()); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
	w.holds = nil
}

func expectLane(t *testing.T, w *referrerstore.Work, want referrerstore.Lane) {
	t.Helper()
	if got := w.Lane(); got != want {
		t.Errorf("lane %v, want %v", got, want)
	}
}

func TestLaneNames(t *testing.T) {
	t.Parallel()
	var zero referrerstore.Lane
	if zero != admission || admission.String() != "admission" || background.String() != "background" {
		t.Errorf("%v, %v, %v", zero, admission, background)
	}
}

// A request that is part of no Work is an admission of which nothing is known.
func TestNoWork(t *testing.T) {
	t.Parallel()
	w := referrerstore.WorkOf(t.Context())
	if w != nil {
		t.Fatalf("%v in an empty context", w)
	}
	expectLane(t, w, admission)
	w.SetLane(background)
	w.SetLeft(1)
	w.AddLeft(-1)
	w.SetHold(limited)
	w.Started()()
	var watcher told
	w.Watch(watcher.tell)()
	watcher.expect(t)
	w.Follow(referrerstore.NewWork(time.Now(), background))()
	expectLane(t, w, admission)
	if !w.Begun().IsZero() || w.Left() < 1<<16 || w.Hold() != none {
		t.Errorf("begun %v, left %d, hold %v", w.Begun(), w.Left(), w.Hold())
	}
	someone := referrerstore.NewWork(time.Now(), background)
	someone.Follow(w)()
	expectLane(t, someone, background)
}

func TestWorkTravelsInTheContext(t *testing.T) {
	t.Parallel()
	begun := time.Unix(42, 0)
	w := referrerstore.NewWork(begun, background)
	got := referrerstore.WorkOf(referrerstore.WithWork(t.Context(), w))
	if got != w || !got.Begun().Equal(begun) || got.Left() < 1<<16 || got.Hold() != none {
		t.Errorf("%v begun %v with %d left and hold %v", got, got.Begun(), got.Left(), got.Hold())
	}
	expectLane(t, got, background)
	got.SetLane(admission)
	expectLane(t, w, admission)
}

// What is left stays between nothing and unknown, whatever is said of it.
func TestWorkLeft(t *testing.T) {
	t.Parallel()
	unknown := referrerstore.NewWork(time.Now(), admission).Left()
	tests := map[string]struct {
		set, add, want int
	}{
		"some":                {10, -4, 6},
		"more":                {10, 4, 14},
		"less than nothing":   {1, -2, 0},
		"set below nothing":   {-5, 0, 0},
		"more than unknown":   {unknown, 1, unknown},
		"beyond any number":   {1 << 40, 1 << 40, unknown},
		"far below any":       {1, -1 << 40, 0},
		"set to what is none": {0, 0, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := referrerstore.NewWork(time.Now(), admission)
			w.SetLeft(test.set)
			if w.AddLeft(test.add); w.Left() != test.want {
				t.Errorf("%d left, want %d", w.Left(), test.want)
			}
		})
	}
	t.Run("by many", func(t *testing.T) {
		t.Parallel()
		w := referrerstore.NewWork(time.Now(), admission)
		w.SetLeft(1000)
		var group sync.WaitGroup
		for range 8 {
			group.Go(func() {
				for range 100 {
					w.AddLeft(-1)
				}
			})
		}
		if group.Wait(); w.Left() != 200 {
			t.Errorf("%d left, want 200", w.Left())
		}
	})
}

// A Work is as pressing as the most pressing of those that wait for it, for as
// long as they do.
func TestWorkFollows(t *testing.T) {
	t.Parallel()
	now := time.Now()
	w, a, b := referrerstore.NewWork(now, background), referrerstore.NewWork(now, background), referrerstore.NewWork(now, background)
	stopA := w.Follow(a)
	stopB := w.Follow(b)
	expectLane(t, w, background)
	a.SetLane(admission) // while it is followed
	expectLane(t, w, admission)
	b.SetLane(admission)
	a.SetLane(background)
	expectLane(t, w, admission)
	stopB()
	expectLane(t, w, background)
	a.SetLane(admission)
	expectLane(t, w, admission)
	stopA()
	expectLane(t, w, background)
	stopA() // once more takes nobody else out
	expectLane(t, w, background)
	w.SetLane(admission)
	expectLane(t, w, admission)
	expectLane(t, b, admission)
	w.Follow(w)() // waits for itself: nothing
	expectLane(t, w, admission)
}

// Two who wait with one Work each count: when one leaves the other still waits.
func TestWorkFollowsTwice(t *testing.T) {
	t.Parallel()
	now := time.Now()
	w, other := referrerstore.NewWork(now, background), referrerstore.NewWork(now, admission)
	first, second := w.Follow(other), w.Follow(other)
	first()
	expectLane(t, w, admission)
	second()
	expectLane(t, w, background)
}

// Whom a chain of Works leads to presses all of it.
func TestWorkFollowsThroughOthers(t *testing.T) {
	t.Parallel()
	now := time.Now()
	w, middle, far := referrerstore.NewWork(now, background), referrerstore.NewWork(now, background), referrerstore.NewWork(now, admission)
	defer w.Follow(middle)()
	stop := middle.Follow(far)
	expectLane(t, w, admission)
	var watcher told
	defer far.Watch(watcher.tell)()
	w.SetHold(limited)
	watcher.expect(t, limited)
	stop()
	expectLane(t, w, background)
	w.SetHold(down)
	watcher.expect(t)
}

// Watchers are told of the present hold and of each change, until they stop.
func TestWorkTellsOfHolds(t *testing.T) {
	t.Parallel()
	w := referrerstore.NewWork(time.Now(), admission)
	var first, second told
	stop := w.Watch(first.tell)
	first.expect(t) // there is none to tell of
	w.SetHold(limited)
	w.SetHold(limited) // no change
	first.expect(t, limited)
	defer w.Watch(second.tell)()
	second.expect(t, limited)
	w.SetHold(down)
	w.SetHold(none)
	first.expect(t, down, none)
	second.expect(t, down, none)
	stop()
	w.SetHold(limited)
	first.expect(t)
	second.expect(t, limited)
	if got := w.Hold(); got != limited {
		t.Errorf("hold %v, want %v", got, limited)
	}
}

// While a request is under way nobody is told that another one is held; when the
// last has ended they are, if that is so still.
func TestWorkUnderWayIsNotHeld(t *testing.T) {
	t.Parallel()
	w := referrerstore.NewWork(time.Now(), admission)
	var early, late told
	defer w.Watch(early.tell)()
	first, second := w.Started(), w.Started()
	w.SetHold(limited)
	early.expect(t)
	defer w.Watch(late.tell)() // comes while it is under way
	late.expect(t)
	first()
	first() // ends once
	early.expect(t)
	second()
	early.expect(t, limited)
	late.expect(t, limited)
	w.SetHold(none)
	early.expect(t, none)
	late.expect(t, none)
	w.Started()()
	early.expect(t) // nothing is held
	late.expect(t)
}

// Whoever waits for another Work is held by what holds that, and no longer than
// it: a hold that is over must not turn away who comes next.
func TestFollowedWorkLearnsThatAHoldIsOver(t *testing.T) {
	t.Parallel()
	tests := map[string]func(w *referrerstore.Work){
		"at once":             func(w *referrerstore.Work) { w.SetHold(none) },
		"beside a request":    func(w *referrerstore.Work) { defer w.Started()(); w.SetHold(none) },
		"with another's hold": func(w *referrerstore.Work) { w.SetHold(down); w.SetHold(none) },
	}
	for name, over := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			now := time.Now()
			w, waits := referrerstore.NewWork(now, background), referrerstore.NewWork(now, admission)
			defer w.Follow(waits)()
			w.SetHold(limited)
			if got := waits.Hold(); got != limited {
				t.Fatalf("hold %v, want %v", got, limited)
			}
			over(w)
			var newcomer told
			defer waits.Watch(newcomer.tell)()
			newcomer.expect(t)
			if got := waits.Hold(); got != none {
				t.Errorf("hold %v of what is not held any more", got)
			}
		})
	}
}

// A watcher may leave, and look at the Work, while it is being told: nothing
// waits for anything.
func TestWatcherMayCallBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := referrerstore.NewWork(time.Now(), admission)
		var stop func()
		stop = w.Watch(func(h referrerstore.Hold) {
			if got := w.Hold(); !errors.Is(got.Err, h.Err) {
				t.Errorf("told of %v while it is %v", h, got)
			}
			w.Lane()
			stop()
		})
		done := time.AfterFunc(time.Second, func() { w.SetHold(limited) })
		time.Sleep(2 * time.Second)
		if done.Stop() || w.Hold() != limited {
			t.Errorf("hold %v, want %v", w.Hold(), limited)
		}
	})
}

// Many who start, hold, follow, watch and leave at once end where they began.
func TestWorkIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	now := time.Now()
	w := referrerstore.NewWork(now, background)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			var watcher told
			for range 200 {
				other := referrerstore.NewWork(now, admission)
				stop := w.Follow(other)
				unwatch := w.Watch(watcher.tell)
				ended := w.Started()
				if w.Lane() != admission {
					t.Error("not as pressing as who waits")
				}
				w.SetHold(limited)
				ended()
				unwatch()
				stop()
			}
		})
	}
	group.Wait()
	expectLane(t, w, background)
	w.SetHold(none)
	var watcher told
	defer w.Watch(watcher.tell)()
	w.SetHold(down)
	watcher.expect(t, down)
}
