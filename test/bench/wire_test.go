package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/frameworks/constraint/pkg/externaldata"

	"github.com/gatehouse-project/gatehouse/httpserver"
)

// wire is a client of HTTP/1.1 on one connection that is kept, which sends
// bytes made before and reads little more than the length: on two cores the
// client must not be what is measured. It is for one goroutine.
type wire struct {
	address string
	conn    net.Conn
	in      *bufio.Reader
	body    bytes.Buffer
	// last says that the server closes the connection behind this answer.
	last bool
}

// wireTimeout ends an exchange that nobody answers.
const wireTimeout = 20 * time.Second

func dial(ctx context.Context, address string) (*wire, error) {
	w := &wire{address: address}
	return w, w.redial(ctx)
}

func (w *wire) redial(ctx context.Context) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", w.address)
	if err != nil {
		return err
	}
	w.close()
	w.conn, w.in, w.last = conn, bufio.NewReaderSize(conn, 64<<10), false
	return nil
}

func (w *wire) close() {
	if w.conn != nil {
		_ = w.conn.Close()
	}
}

// request makes the bytes of a request for keys, as Gatekeeper's client sends
// it.
func request(tb testing.TB, address string, keys ...string) []byte {
	tb.Helper()
	body := must(json.Marshal(externaldata.NewProviderRequest(keys)))(tb)
	head := "POST " + httpserver.VerifyPath + " HTTP/1.1\r\nHost: " + address +
		"\r\nUser-Agent: Go-http-client/1.1\r\nContent-Type: application/json\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n"
	return append([]byte(head), body...)
}

// exchange sends a request and reads the answer with status 200 to its last
// byte. The body is valid until the next exchange. Where the server said that it
// closes the connection, the exchange begins with another one.
func (w *wire) exchange(ctx context.Context, request []byte) ([]byte, error) {
	if w.last {
		if err := w.redial(ctx); err != nil {
			return nil, err
		}
	}
	if err := w.conn.SetDeadline(time.Now().Add(wireTimeout)); err != nil {
		return nil, err
	}
	if _, err := w.conn.Write(request); err != nil {
		return nil, err
	}
	length, err := w.head()
	if err != nil {
		return nil, err
	}
	w.body.Reset()
	if length < 0 {
		return w.chunks()
	}
	_, err = io.CopyN(&w.body, w.in, int64(length))
	return w.body.Bytes(), err
}

// head reads the status and the header: how long the body is, or -1 for one in
// chunks.
func (w *wire) head() (length int, err error) {
	status, err := w.line()
	if err != nil {
		return 0, err
	}
	if !bytes.HasPrefix(status, []byte("HTTP/1.1 200 ")) {
		return 0, fmt.Errorf("status line %q", status)
	}
	found := false
	for {
		line, err := w.line()
		if err != nil {
			return 0, err
		}
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(": "))
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.Atoi(string(value)); err != nil {
				return 0, err
			}
			found = true
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			length, found = -1, true
		case bytes.EqualFold(name, []byte("Connection")):
			w.last = bytes.EqualFold(value, []byte("close"))
		}
	}
	if !found {
		return 0, errors.New("an answer without a length")
	}
	return length, nil
}

// chunks reads a body in chunks; it has no trailers.
func (w *wire) chunks() ([]byte, error) {
	for {
		line, err := w.line()
		if err != nil {
			return nil, err
		}
		size, err := strconv.ParseInt(string(line), 16, 32)
		if err != nil {
			return nil, err
		}
		if _, err := io.CopyN(&w.body, w.in, size); err != nil {
			return nil, err
		}
		if _, err := w.line(); err != nil || size == 0 {
			return w.body.Bytes(), err
		}
	}
}

// line reads a line without its end.
func (w *wire) line() ([]byte, error) {
	line, err := w.in.ReadSlice('\n')
	return bytes.TrimRight(line, "\r\n"), err
}

// TestWire reads what net/http writes, with a length and in chunks, one after
// the other on one connection.
func TestWire(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := must(io.ReadAll(r.Body))(t)
		if r.URL.Path != httpserver.VerifyPath || !json.Valid(body) {
			t.Errorf("%s %s", r.URL, body)
		}
		answer := strings.Repeat("x", strings.Count(string(body), "k"))
		if len(answer)%2 == 1 {
			w.Header().Set("Connection", "close")
		}
		if strings.Contains(string(body), "refused") {
			w.WriteHeader(http.StatusBadRequest)
		}
		_, _ = w.Write([]byte(answer))
	}))
	defer server.Close()
	address := server.Listener.Addr().String()
	w := must(dial(t.Context(), address))(t)
	defer w.close()
	none := must(w.exchange(t.Context(), request(t, address, "")))(t)
	for _, extra := range []int{0, 1, 2000, 5000, 100_000, 3} {
		body, err := w.exchange(t.Context(), request(t, address, strings.Repeat("k", extra)))
		if err != nil || len(body)-strings.Count(string(none), "x") != extra {
			t.Errorf("%d bytes, want %d; %v", len(body), extra, err)
		}
	}
	if _, err := w.exchange(t.Context(), request(t, address, "refused")); err == nil {
		t.Error("a refusal passes for an answer")
	}
}
