package governor_test

import (
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/governor"
)

// queue lets works wait for a host with one place, and tells their order.
type queue struct {
	t     *testing.T
	h     *governor.Host
	wg    sync.WaitGroup
	mu    sync.Mutex
	order []string
}

func (q *queue) add(name string, w *referrerstore.Work) {
	ctx := referrerstore.WithWork(q.t.Context(), w)
	q.wg.Go(func() {
		p, err := q.h.Acquire(ctx)
		if err != nil {
			q.t.Errorf("%s: %v", name, err)
			return
		}
		q.mu.Lock()
		q.order = append(q.order, name)
		q.mu.Unlock()
		time.Sleep(time.Millisecond)
		finish(p, governor.Outcome{Status: 200})
	})
	synctest.Wait()
}

func newWork(begun time.Time, lane referrerstore.Lane, left int) *referrerstore.Work {
	w := referrerstore.NewWork(begun, lane)
	w.SetLeft(left)
	return w
}

func TestOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGovernor(t, governor.Options{StartInFlight: 1, MaxInFlight: 1})
		q := &queue{t: t, h: g.Host(key)}
		first := take(t, t.Context(), q.h)
		now := time.Now().Truncate(10 * time.Second).Add(11 * time.Second)
		time.Sleep(time.Until(now))

		raised := newWork(now, referrerstore.LaneBackground, 3)
		q.add("background", newWork(now, referrerstore.LaneBackground, 1))
		q.add("raised", raised)
		q.add("many left", newWork(now, referrerstore.LaneAdmission, 9))
		nearer := newWork(now, referrerstore.LaneAdmission, 8)
		q.add("nearer", nearer)
		q.add("few left", newWork(now, referrerstore.LaneAdmission, 2))
		q.add("as few, later", newWork(now.Add(time.Millisecond), referrerstore.LaneAdmission, 2))
		q.add("old", newWork(now.Add(-4*time.Second), referrerstore.LaneAdmission, 50))
		q.add("none", nil) // an admission that begins now, with nothing known
		raised.SetLane(referrerstore.LaneAdmission)
		nearer.SetLeft(1)
		if s := g.Status()[0]; s.Waiting != (governor.Waiting{Admission: 7, Background: 1}) {
			t.Errorf("waiting: %+v", s.Waiting)
		}
		first.Release()
		q.wg.Wait()
		want := []string{"old", "nearer", "few left", "as few, later", "raised", "many left", "none", "background"}
		if !slices.Equal(q.order, want) {
			t.Errorf("order %q,\nwant  %q", q.order, want)
		}
	})
}

// Only those that had to wait are in the histogram, by the lane that they were in
// when they got their turn.
func TestWaitsAreMeasured(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewRegistry()
		g := newGovernor(t, governor.Options{StartInFlight: 1, MaxInFlight: 1, Registerer: registry})
		q := &queue{t: t, h: g.Host(key)}
		first := take(t, t.Context(), q.h)
		raised := newWork(time.Now(), referrerstore.LaneBackground, 1)
		q.add("raised", raised)
		q.add("background", newWork(time.Now(), referrerstore.LaneBackground, 2))
		raised.SetLane(referrerstore.LaneAdmission)
		time.Sleep(time.Second)
		first.Release()
		q.wg.Wait()
		want := map[string]float64{"admission": 1, "background": 1.001} // the first one had the place for a millisecond
		if got := waits(t, registry); !maps.Equal(got, want) {
			t.Errorf("waited %v, want %v", got, want)
		}
	})
}

// waits are the sums of the histogram of waits, of one wait each.
func waits(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sums := make(map[string]float64)
	for _, family := range families {
		if family.GetName() != "gatehouse_governor_wait_seconds" {
			continue
		}
		for _, m := range family.GetMetric() {
			if n := m.GetHistogram().GetSampleCount(); n != 1 {
				t.Errorf("%v: %d waits", m.GetLabel(), n)
			}
			sums[m.GetLabel()[0].GetValue()] = m.GetHistogram().GetSampleSum()
		}
	}
	return sums
}

func TestBackgroundHasATurn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := &queue{t: t, h: newGovernor(t, governor.Options{StartInFlight: 1, MaxInFlight: 1}).Host(key)}
		first := take(t, t.Context(), q.h)
		for range 3 {
			q.add("background", referrerstore.NewWork(time.Now(), referrerstore.LaneBackground))
		}
		for range 60 {
			q.add("admission", referrerstore.NewWork(time.Now(), referrerstore.LaneAdmission))
		}
		first.Release()
		q.wg.Wait()
		for i, name := range q.order {
			if (name == "background") != ((i+1)%16 == 0 && i < 48) {
				t.Errorf("grant %d was %s", i+1, name)
			}
		}
	})
}

func TestBackgroundHasHalf(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGovernor(t, governor.Options{StartInFlight: 8, MaxInFlight: 8})
		h := g.Host(key)
		var wg sync.WaitGroup
		permits := make(chan *governor.Permit, 8)
		ctx := referrerstore.WithWork(t.Context(), referrerstore.NewWork(time.Now(), referrerstore.LaneBackground))
		for range 8 {
			wg.Go(func() { permits <- take(t, ctx, h) })
		}
		synctest.Wait()
		if len(permits) != 4 {
			t.Errorf("%d of 8 places went to background work", len(permits))
		}
		begun := time.Now()
		for range 4 {
			permits <- take(t, t.Context(), h)
		}
		if time.Since(begun) != 0 {
			t.Error("admissions had to wait")
		}
		for range 12 {
			(<-permits).Release()
		}
		wg.Wait()
	})
}

func TestFarBehindIsHeld(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newGovernor(t, governor.Options{Rate: 1}).Host(key)
		q := &queue{t: t, h: h}
		works := make([]*referrerstore.Work, 15)
		for i := range works {
			works[i] = newWork(time.Now(), referrerstore.LaneAdmission, i)
			q.add("", works[i])
		}
		if hold := works[5].Hold(); hold.Err != nil {
			t.Errorf("the sixth is held: %v", hold)
		}
		hold := works[14].Hold()
		if away := time.Until(hold.Until); hold.Err == nil || away < 13*time.Second || away > 15*time.Second {
			t.Errorf("the fifteenth is held for %v: %v", away, hold.Err)
		}
		if wait, err := h.Throttled(); err == nil || wait < 14*time.Second || wait > 16*time.Second {
			t.Errorf("Throttled: %v, %v", wait, err)
		}
		q.wg.Wait()
		if hold := works[14].Hold(); hold.Err != nil {
			t.Errorf("still held: %v", hold)
		}
	})
}
