package httpserver

import (
	"net"
	"net/http"
	"sync"
)

// maxCorked bounds what a corked connection holds back.
const maxCorked = 64 << 10

// corkListener makes connections that can be corked.
type corkListener struct {
	net.Listener
	buffers *buffers
}

func (l corkListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &corkConn{Conn: conn, buffers: l.buffers}, nil
}

// corkConn holds back what is written while it is corked, and writes it at once
// then. net/http writes an answer in pieces of 4 KiB and the rest; each wakes
// the client, and costs as much as all else that a remembered answer does.
type corkConn struct {
	net.Conn
	buffers *buffers

	// mu is held across writes: bytes must not overtake each other.
	mu     sync.Mutex
	corked bool
	held   *buffer // nil while nothing is held back
}

func (c *corkConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.corked && (c.held == nil || len(c.held.data)+len(p) <= maxCorked) && len(p) <= maxCorked {
		if c.held == nil {
			c.held = c.buffers.take(len(p))
			c.held.data = c.held.data[:0]
		}
		c.held.data = append(c.held.data, p...)
		return len(p), nil
	}
	if err := c.flush(); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// flush writes what is held back, and ends holding back. It is called with mu
// held.
func (c *corkConn) flush() error {
	held := c.held
	c.corked, c.held = false, nil
	if held == nil {
		return nil
	}
	defer c.buffers.give(held)
	_, err := c.Conn.Write(held.data)
	return err
}

// cork holds back what is written to the request's connection until release is
// called, which must be before the handler returns.
func cork(r *http.Request) (release func()) {
	state, ok := r.Context().Value(connKey{}).(*connState)
	if !ok || state.corks == nil {
		return func() {}
	}
	state.corks.mu.Lock()
	defer state.corks.mu.Unlock()
	state.corks.corked = true
	return state.corks.uncork
}

func (c *corkConn) uncork() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.flush(); err != nil {
		_ = c.Close() // net/http believes that it was sent
	}
}

// corkOf finds what can be corked beneath TLS.
func corkOf(conn net.Conn) *corkConn {
	for {
		switch c := conn.(type) {
		case *corkConn:
			return c
		case interface{ NetConn() net.Conn }:
			conn = c.NetConn()
		default:
			return nil
		}
	}
}
