package governor

import "sync"

const (
	// poolPlaces and poolPlacesPerHost are the requests at once to all hosts
	// that the configuration does not name, and to each. Their names come out
	// of images that anybody may write: four that hang fill the pool, and the
	// hosts that matter notice nothing.
	poolPlaces, poolPlacesPerHost = 32, 8
)

// pool is the places that unnamed hosts share. Its lock is taken inside that
// of a host, never around it.
type pool struct {
	mu     sync.Mutex // guards the fields that follow it
	taken  int
	queued []*Host // that found no place, in order, each at most once
}

// take takes a place, or queues the host for the next that is given back.
func (p *pool) take(h *Host) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken < poolPlaces {
		p.taken++
		return true
	}
	if !h.queued {
		h.queued = true
		p.queued = append(p.queued, h)
	}
	return false
}

func (p *pool) put() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken--
}

// next is a host to offer a free place to, nil if there is no place or nobody
// asks for one.
func (p *pool) next() *Host {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken >= poolPlaces || len(p.queued) == 0 {
		return nil
	}
	h := p.queued[0]
	p.queued = append(p.queued[:0], p.queued[1:]...)
	h.queued = false
	return h
}

// offer lets hosts that wait for a place try again, for as long as there are
// both. No lock may be held.
func (p *pool) offer() {
	for h := p.next(); h != nil; h = p.next() {
		h.wake()
	}
}
