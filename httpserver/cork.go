package httpserver

import (
	"net"
	"net/http"
	"sync"
)

// maxCorked bounds what a corked connection holds back.
const maxCorked = 64 << 10

// corkListener makes connections that can be corked.
type corkListener struct{ net.Listener }

func (l corkListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &corkConn{Conn: conn}, nil
}

// corkConn holds back what is written while it is corked, and writes it at once
// then. net/http writes an answer in pieces of 4 KiB and the rest; each wakes
// the client, and costs as much as all else that a remembered answer does.
type corkConn struct {
	net.Conn

	mu     sync.Mutex // guards the fields that follow it
	corked bool
	held   []byte
}

func (c *corkConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	if c.corked && len(c.held)+len(p) <= maxCorked {
		c.held = append(c.held, p...)
		c.mu.Unlock()
		return len(p), nil
	}
	held := c.held
	c.held, c.corked = nil, false
	c.mu.Unlock()
	if len(held) > 0 {
		if _, err := c.Conn.Write(held); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(p)
}

// cork holds back what is written to the request's connection until release is
// called, which must be before the handler returns.
func cork(r *http.Request) (release func()) {
	state, ok := r.Context().Value(connKey{}).(*connState)
	if !ok || state.corks == nil {
		return func() {}
	}
	state.corks.mu.Lock()
	state.corks.corked = true
	state.corks.mu.Unlock()
	return state.corks.uncork
}

func (c *corkConn) uncork() {
	c.mu.Lock()
	held := c.held
	c.corked, c.held = false, nil
	c.mu.Unlock()
	if len(held) == 0 {
		return
	}
	if _, err := c.Conn.Write(held); err != nil {
		_ = c.Close() // net/http believes that it was sent
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == nil {
		c.held = held[:0]
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
