package httpserver

import (
	"context"
	"sync"
)

// subjectsPerHost bounds the subjects of one registry host that are worked on
// at once, over all requests: a host that hangs takes no place from others.
const subjectsPerHost = 256

// hosts hands out places for subjects by registry host. A host is forgotten
// when nobody uses it.
type hosts struct {
	mu     sync.Mutex // guards the field that follows it
	places map[string]*places
}

type places struct {
	free  chan struct{}
	users int // guarded by hosts.mu
}

func newHosts() *hosts { return &hosts{places: make(map[string]*places)} }

// enter waits for a place until ctx ends; leave must be called if it is not nil.
func (h *hosts) enter(ctx context.Context, host string) (leave func()) {
	p := h.join(host)
	select {
	case p.free <- struct{}{}:
		return func() {
			<-p.free
			h.part(host, p)
		}
	case <-ctx.Done():
		h.part(host, p)
		return nil
	}
}

func (h *hosts) join(host string) *places {
	h.mu.Lock()
	defer h.mu.Unlock()
	p, ok := h.places[host]
	if !ok {
		p = &places{free: make(chan struct{}, subjectsPerHost)}
		h.places[host] = p
	}
	p.users++
	return p
}

func (h *hosts) part(host string, p *places) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p.users--; p.users == 0 {
		delete(h.places, host)
	}
}
