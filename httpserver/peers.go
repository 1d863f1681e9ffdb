package httpserver

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
)

// Old Gatekeepers open a connection for every call and leave it behind open:
// at a hundred calls a second an idle time of two minutes would hold twelve
// thousand of them. Peers that have never used a connection twice are
// therefore asked to close, after a few chances; one that does is left alone.
const (
	chances   = 8    // connections before a peer is judged
	probation = 32   // every so many connections a judged peer gets another chance
	maxPeers  = 1024 // addresses remembered, in two generations
)

type peers struct {
	mu       sync.Mutex // guards the fields that follow it
	now, old map[string]*peer
}

// peer counts for one address.
type peer struct {
	opened atomic.Int64
	reuses atomic.Bool
}

// connState is what a connection knows of itself.
type connState struct {
	peer     *peer
	ordinal  int64
	requests atomic.Int64
	corks    *corkConn // nil if it cannot be corked
	// identity is the material under which the client was last let in. The
	// server handles one request of a connection at a time.
	identity *identity
}

type connKey struct{}

func newPeers() *peers { return &peers{now: make(map[string]*peer)} }

// connContext implements [http.Server].ConnContext.
func (p *peers) connContext(ctx context.Context, conn net.Conn) context.Context {
	of := p.of(conn.RemoteAddr())
	return context.WithValue(ctx, connKey{}, &connState{peer: of, ordinal: of.opened.Add(1), corks: corkOf(conn)})
}

func (p *peers) of(addr net.Addr) *peer {
	host, _, err := net.SplitHostPort(addr.String())
	if err != nil {
		host = addr.String()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	known, ok := p.now[host]
	if !ok {
		known, ok = p.old[host]
	}
	if !ok {
		known = &peer{}
	}
	if len(p.now) >= maxPeers {
		p.now, p.old = make(map[string]*peer), p.now
	}
	p.now[host] = known
	return known
}

// wrap asks a peer that leaves its connections behind to close this one.
func (p *peers) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if conn, ok := r.Context().Value(connKey{}).(*connState); ok && conn.leaves() {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

// leaves says, once a request, whether the connection's peer is one of those
// that never come back to a connection.
func (c *connState) leaves() bool {
	if c.requests.Add(1) > 1 {
		c.peer.reuses.Store(true)
	}
	return !c.peer.reuses.Load() && c.ordinal > chances && c.ordinal%probation != 0
}
