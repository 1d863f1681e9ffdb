package templates

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
)

// Exchange is one call of a provider as it went over the wire.
type Exchange struct {
	Method, ContentType string
	Request             []byte
	Status              int
	Response            []byte
}

// Server is a provider on loopback that writes down what it was asked and what
// it answered.
type Server struct {
	Provider

	server *httptest.Server

	mu sync.Mutex
	// mu guards the field that follows it.
	exchanges []Exchange
}

// Serve runs a provider's handler behind TLS 1.3 until the test ends. The path
// is that of the provider's URL.
func Serve(tb testing.TB, provider http.Handler, path string) *Server {
	tb.Helper()
	s := &Server{}
	s.server = httptest.NewUnstartedServer(s.record(provider))
	s.server.Config.ErrorLog = log.New(logger{tb}, "", 0)
	s.server.TLS = &tls.Config{MinVersion: tls.VersionTLS13}
	s.server.StartTLS()
	tb.Cleanup(s.server.Close)
	s.URL = s.server.URL + path
	s.CA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.server.Certificate().Raw})
	return s
}

// Stop ends the server and returns the calls that it answered. A client may
// have its answer before the handler returns, so only the end of the server
// makes the list whole.
func (s *Server) Stop() []Exchange {
	s.server.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Exchange(nil), s.exchanges...)
}

func (s *Server) record(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		tee := &tee{ResponseWriter: w, status: http.StatusOK}
		defer s.add(r, body, tee)
		next.ServeHTTP(tee, r)
	})
}

func (s *Server) add(r *http.Request, body []byte, t *tee) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.exchanges = append(s.exchanges, Exchange{
		Method:      r.Method,
		ContentType: r.Header.Get("Content-Type"),
		Request:     body,
		Status:      t.status,
		Response:    t.body.Bytes(),
	})
}

// logger gives what the server has to say, of handshakes and panics, to the
// test; the server has ended before the test does.
type logger struct{ tb testing.TB }

// Write logs one message.
func (l logger) Write(message []byte) (int, error) {
	l.tb.Logf("provider: %s", bytes.TrimSpace(message))
	return len(message), nil
}

// tee keeps a copy of what a handler answers.
type tee struct {
	http.ResponseWriter

	status int
	body   bytes.Buffer
}

// WriteHeader notes the status.
func (t *tee) WriteHeader(status int) {
	t.status = status
	t.ResponseWriter.WriteHeader(status)
}

// Write keeps a copy.
func (t *tee) Write(b []byte) (int, error) {
	t.body.Write(b)
	return t.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach deadlines and Flush.
func (t *tee) Unwrap() http.ResponseWriter { return t.ResponseWriter }
