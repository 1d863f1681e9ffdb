package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	headerTime  = 10 * time.Second
	keepTime    = 120 * time.Second
	headerBytes = 16 << 10
	// streamsAtOnce bounds the requests of one connection of HTTP/2.
	streamsAtOnce = 64
)

// Serve answers on the listener until ctx ends, then gives what is under way the
// time of [Options].Drain. identity is the server's side of TLS, and whom it lets
// in; nil serves plain HTTP. Serve closes the listener, and returns when every
// goroutine that it started has ended.
func (s *Registry) Serve(ctx context.Context, listener net.Listener, identity *tls.Config) error {
	server := s.httpServer()
	listener = newBounded(listener, s.opts.Connections)
	if identity != nil {
		listener = tls.NewListener(listener, withProtocols(identity))
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve %s: %w", listener.Addr(), err)
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		return s.drain(ctx, server)
	})
	return group.Wait()
}

// drain waits for answers that are under way, and cuts off those that take longer.
func (s *Registry) drain(ctx context.Context, server *http.Server) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.opts.Drain) // the caller's has ended: that is why we drain
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		s.opts.Logger.Warn("registry connections closed while draining", "error", err.Error())
		if err := server.Close(); err != nil {
			return fmt.Errorf("drain: %w", err)
		}
	}
	return nil
}

// httpServer has no limit on the time of a whole answer: layers are large and
// upstreams slow. See writer for who is dropped.
func (s *Registry) httpServer() *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	return &http.Server{
		Handler:           s,
		ReadHeaderTimeout: headerTime,
		IdleTimeout:       keepTime,
		MaxHeaderBytes:    headerBytes,
		Protocols:         &protocols,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: streamsAtOnce, WriteByteTimeout: s.opts.Idle},
		ErrorLog:          slog.NewLogLogger(s.opts.Logger.Handler(), slog.LevelDebug),
	}
}

// withProtocols offers both protocols where the configuration does not say.
func withProtocols(identity *tls.Config) *tls.Config {
	if len(identity.NextProtos) > 0 || identity.GetConfigForClient != nil {
		return identity
	}
	identity = identity.Clone()
	identity.NextProtos = []string{"h2", "http/1.1"}
	return identity
}

// bounded is a listener with a bound on open connections, which, unlike those of
// package netutil, can still be sent files without reading them.
type bounded struct {
	net.Listener
	places chan struct{}
	done   chan struct{}
	once   sync.Once
}

func newBounded(l net.Listener, n int) *bounded {
	return &bounded{Listener: l, places: make(chan struct{}, n), done: make(chan struct{})}
}

func (b *bounded) Accept() (net.Conn, error) {
	select {
	case b.places <- struct{}{}:
	case <-b.done:
		return nil, net.ErrClosed
	}
	conn, err := b.Listener.Accept()
	if err != nil {
		<-b.places
		return nil, err
	}
	return &boundedConn{Conn: conn, release: sync.OnceFunc(func() { <-b.places })}, nil
}

func (b *bounded) Close() error {
	b.once.Do(func() { close(b.done) })
	return b.Listener.Close()
}

type boundedConn struct {
	net.Conn
	release func()
}

func (c *boundedConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}

// ReadFrom implements [io.ReaderFrom], by which files are sent.
func (c *boundedConn) ReadFrom(from io.Reader) (int64, error) {
	if to, ok := c.Conn.(io.ReaderFrom); ok {
		return to.ReadFrom(from)
	}
	return io.Copy(struct{ io.Writer }{c.Conn}, from)
}
