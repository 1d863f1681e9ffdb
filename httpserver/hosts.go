package httpserver

import "sync"

// The bounds on subjects that requests wait for. A host that hangs fills no
// queue but its own.
const (
	// queuedPerHost are waited for, for one registry host.
	queuedPerHost = 4096
	// queued are waited for, for all hosts: about 8 KiB each.
	queued = 16 << 10
)

// hosts counts the subjects that requests wait for by registry host. A host is
// forgotten when nobody waits for it.
type hosts struct {
	perHost, all int

	mu      sync.Mutex // guards the fields that follow it
	total   int
	waiting map[string]int
}

func newHosts(perHost, all int) *hosts {
	return &hosts{perHost: perHost, all: all, waiting: make(map[string]int)}
}

// join enters a host's queue, or says that it is full. Who joined must part.
func (h *hosts) join(host string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.total == h.all || h.waiting[host] == h.perHost {
		return false
	}
	h.total++
	h.waiting[host]++
	return true
}

func (h *hosts) part(host string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.total--
	if h.waiting[host]--; h.waiting[host] == 0 {
		delete(h.waiting, host)
	}
}
