package executor

import (
	"context"
	"sync"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// works are the pieces of work under way, shared by all who wait for them: a
// work is in the lane of the most pressing of them, and in the background when
// nobody waits.
type works[K comparable] struct {
	mu  sync.Mutex // guards the field that follows it
	all map[K]*attended
}

type attended struct {
	work    *referrerstore.Work
	waiting int // of the admission lane
	holders int // whoever waits, and the flight itself
}

func newWorks[K comparable]() *works[K] { return &works[K]{all: make(map[K]*attended)} }

// join enters whoever waits, in a lane, and gives him the work. Who joined must
// part, in the same lane.
func (w *works[K]) join(key K, lane referrerstore.Lane, now time.Time) *referrerstore.Work {
	w.mu.Lock()
	defer w.mu.Unlock()
	a, ok := w.all[key]
	if !ok {
		a = &attended{work: referrerstore.NewWork(now, lane)}
		w.all[key] = a
	}
	a.holders++
	if lane == referrerstore.LaneAdmission {
		a.waiting++
	}
	a.sort()
	return a.work
}

func (w *works[K]) part(key K, lane referrerstore.Lane) {
	w.mu.Lock()
	defer w.mu.Unlock()
	a := w.all[key]
	if lane == referrerstore.LaneAdmission {
		a.waiting--
	}
	if a.holders--; a.holders == 0 {
		delete(w.all, key)
	}
	a.sort()
}

func (a *attended) sort() {
	lane := referrerstore.LaneBackground
	if a.waiting > 0 {
		lane = referrerstore.LaneAdmission
	}
	a.work.SetLane(lane)
}

// hosts hands out places for subjects by registry host, so that one that hangs
// takes none of others'. A host is forgotten when nobody uses it.
type hosts struct {
	limit int

	mu     sync.Mutex // guards the field that follows it
	places map[string]*places
}

type places struct {
	free  chan struct{}
	users int // guarded by hosts.mu
}

func newHosts(limit int) *hosts { return &hosts{limit: limit, places: make(map[string]*places)} }

// enter waits for a place until ctx ends; leave gives it back.
func (h *hosts) enter(ctx context.Context, host string) (leave func(), err error) {
	h.mu.Lock()
	p, ok := h.places[host]
	if !ok {
		p = &places{free: make(chan struct{}, h.limit)}
		h.places[host] = p
	}
	p.users++
	h.mu.Unlock()
	select {
	case p.free <- struct{}{}:
		return func() { <-p.free; h.part(host, p) }, nil
	case <-ctx.Done():
		h.part(host, p)
		return nil, context.Cause(ctx)
	}
}

func (h *hosts) part(host string, p *places) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p.users--; p.users == 0 {
		delete(h.places, host)
	}
}
