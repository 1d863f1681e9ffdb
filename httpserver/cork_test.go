package httpserver

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// wire is a connection that notes each write.
type wire struct {
	net.Conn
	writes []string
	err    error
	closed bool
}

func (w *wire) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	w.writes = append(w.writes, string(p))
	return len(p), nil
}

func (w *wire) Close() error {
	w.closed = true
	return nil
}

func corked(c *corkConn) func() {
	state := &connState{corks: c}
	r, _ := http.NewRequestWithContext(context.WithValue(context.Background(), connKey{}, state), http.MethodPost, "/", nil)
	return cork(r)
}

func TestCork(t *testing.T) {
	t.Parallel()
	below := &wire{}
	c := &corkConn{Conn: below, buffers: &buffers{}}
	_, _ = c.Write([]byte("a"))
	release := corked(c)
	_, _ = c.Write([]byte("b"))
	_, _ = c.Write([]byte("c"))
	if len(below.writes) != 1 {
		t.Errorf("written while corked: %q", below.writes)
	}
	release()
	_, _ = c.Write([]byte("d"))
	if got := strings.Join(below.writes, "|"); got != "a|bc|d" {
		t.Errorf("writes %q, want a|bc|d", got)
	}
	release = corked(c)
	long := strings.Repeat("x", maxCorked)
	_, _ = c.Write([]byte("e"))
	_, _ = c.Write([]byte(long))
	release()
	if got := strings.Join(below.writes[3:], "|"); got != "e|"+long {
		t.Error("what is more than is held back does not go out in its order")
	}
	below.err = errors.New("reset")
	release = corked(c)
	_, _ = c.Write([]byte("f"))
	release()
	if !below.closed {
		t.Error("a connection on which an answer was lost stays open")
	}
}

// Whatever is written, corked or not, arrives whole and in its order.
func TestCorkKeepsBytes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		below := &wire{}
		c := &corkConn{Conn: below, buffers: &buffers{}}
		var want bytes.Buffer
		release := func() {}
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0:
				release = corked(c)
			case 1:
				release()
			default:
				p := rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "bytes")
				p = bytes.Repeat(p, rapid.SampledFrom([]int{1, 1, 500}).Draw(t, "times"))
				want.Write(p)
				if n, err := c.Write(p); n != len(p) || err != nil {
					t.Fatalf("wrote %d of %d, %v", n, len(p), err)
				}
			}
		}
		c.uncork()
		if got := strings.Join(below.writes, ""); got != want.String() {
			t.Fatalf("%d bytes arrived, want %d", len(got), want.Len())
		}
	})
}
