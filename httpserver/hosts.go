package httpserver

import (
	"context"
	"sync"
)

// The bounds on subjects over all requests. A host that hangs takes neither the
// places nor the queue of others.
const (
	// subjectsPerHost are worked on at once, for one registry host.
	subjectsPerHost = 256
	// queuedPerHost are under way or wait, for one registry host.
	queuedPerHost = 4096
	// subjectsAtOnce are under way or wait, for all hosts: about 8 KiB each.
	subjectsAtOnce = 16 << 10
)

// hosts hands out places for subjects by registry host. A host is forgotten
// when nobody uses it.
type hosts struct {
	mu    sync.Mutex // guards the fields that follow it
	total int
	queue map[string]*places
}

type places struct {
	free  chan struct{}
	users int // guarded by hosts.mu
}

func newHosts() *hosts { return &hosts{queue: make(map[string]*places)} }

// join enters a host's queue, or says that it is full. Who joined must part.
func (h *hosts) join(host string) (*places, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p, ok := h.queue[host]
	if !ok {
		p = &places{free: make(chan struct{}, subjectsPerHost)}
	}
	if h.total == subjectsAtOnce || p.users == queuedPerHost {
		return nil, false
	}
	h.queue[host] = p
	h.total++
	p.users++
	return p, true
}

func (h *hosts) part(host string, p *places) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.total--
	if p.users--; p.users == 0 {
		delete(h.queue, host)
	}
}

// enter waits for a place until ctx ends, and says whether there was one; then
// leave gives it back.
func (p *places) enter(ctx context.Context) bool {
	select {
	case p.free <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (p *places) leave() { <-p.free }
