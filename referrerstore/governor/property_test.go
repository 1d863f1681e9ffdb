package governor_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/governor"
)

// call is one request of a drawn load.
type call struct {
	after, patience, takes, reads time.Duration
	lane                          referrerstore.Lane
	outcome                       governor.Outcome
	unanswered                    bool
}

func drawCall(t *rapid.T) call {
	ms := func(name string, most int) time.Duration {
		return time.Duration(rapid.IntRange(0, most).Draw(t, name)) * time.Millisecond
	}
	c := call{
		after: ms("after", 3000), patience: ms("patience", 5000) + time.Millisecond,
		takes: ms("takes", 300), reads: ms("reads", 50),
		lane:       referrerstore.Lane(rapid.IntRange(0, 1).Draw(t, "lane")),
		unanswered: rapid.IntRange(0, 9).Draw(t, "unanswered") == 0,
	}
	c.outcome.Status = rapid.SampledFrom([]int{200, 200, 200, 401, 404, 429, 500, 503, 0}).Draw(t, "status")
	if c.outcome.Status == 0 {
		c.outcome.Err = errors.New("connection reset")
	}
	if rapid.Bool().Draw(t, "retry after") {
		c.outcome.RetryAfter = ms("for", 2000)
	}
	return c
}

// watcher checks what may never happen, whatever the load.
type watcher struct {
	mu       sync.Mutex
	inFlight int
	most     int
	paused   time.Time // nothing is granted before
	problems []string
}

func (w *watcher) granted() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.inFlight++; w.inFlight > w.most {
		w.problems = append(w.problems, fmt.Sprintf("%d at once, the limit is at most %d", w.inFlight, w.most))
	}
	if now := time.Now(); now.Before(w.paused) {
		w.problems = append(w.problems, fmt.Sprintf("a grant %v before the end of the pause", w.paused.Sub(now)))
	}
}

func (w *watcher) answered(p *governor.Permit, g *governor.Governor, o governor.Outcome) {
	p.Answered(o)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.paused = g.Status()[0].PausedUntil
}

func (w *watcher) released(p *governor.Permit) {
	w.mu.Lock()
	w.inFlight--
	w.mu.Unlock()
	p.Release()
}

func (w *watcher) run(ctx context.Context, g *governor.Governor, c call) {
	time.Sleep(c.after)
	ctx = referrerstore.WithWork(ctx, referrerstore.NewWork(time.Now(), c.lane))
	ctx, cancel := context.WithTimeout(ctx, c.patience)
	defer cancel()
	begun := time.Now()
	p, err := g.Host(key).Acquire(ctx)
	if waited := time.Since(begun); waited > c.patience {
		w.problems = append(w.problems, fmt.Sprintf("waited %v of %v", waited, c.patience))
	}
	if err != nil {
		return
	}
	w.granted()
	time.Sleep(c.takes)
	if !c.unanswered {
		w.answered(p, g, c.outcome)
		time.Sleep(c.reads)
	}
	w.released(p)
}

func TestNeverTooMuch(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		most := rapid.IntRange(1, 6).Draw(rt, "most")
		calls := rapid.SliceOfN(rapid.Custom(drawCall), 1, 80).Draw(rt, "calls")
		w := &watcher{most: most}
		synctest.Test(t, func(t *testing.T) {
			g, err := governor.New(governor.Options{StartInFlight: most, MaxInFlight: most})
			if err != nil {
				t.Fatal(err)
			}
			defer g.Close()
			var wg sync.WaitGroup
			for _, c := range calls {
				wg.Go(func() { w.run(t.Context(), g, c) })
			}
			wg.Wait()
			if s := g.Status(); len(s) > 0 && (s[0].InFlight != 0 || s[0].Waiting != governor.Waiting{}) {
				w.problems = append(w.problems, fmt.Sprintf("left over: %+v", s[0]))
			}
		})
		if len(w.problems) > 0 {
			rt.Fatalf("%q", w.problems)
		}
	})
}
