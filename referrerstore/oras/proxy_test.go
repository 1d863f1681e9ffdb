package oras

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
)

// tunnel is a proxy that connects the hosts that it knows to other addresses.
func tunnel(t *testing.T, hosts map[string]string) *url.URL {
	t.Helper()
	var open sync.WaitGroup
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		open.Add(1) // before the connection is the handler's and not the server's
		defer open.Done()
		to, known := hosts[req.Host]
		if req.Method != http.MethodConnect || !known {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		far, err := (&net.Dialer{}).DialContext(req.Context(), "tcp", to)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		near, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			_ = far.Close()
			return
		}
		_, _ = io.WriteString(near, "HTTP/1.1 200 OK\r\n\r\n")
		open.Go(func() {
			_, _ = io.Copy(near, far)
			_ = near.Close()
		})
		_, _ = io.Copy(far, near)
		_ = far.Close()
	}))
	t.Cleanup(func() { proxy.Close(); open.Wait() })
	at, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	return at
}
