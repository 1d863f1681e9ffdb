package credential

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestClient(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	mux.HandleFunc("/fits", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, maxAnswer)) })
	mux.HandleFunc("/large", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, maxAnswer+1)) })
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/fits", http.StatusTemporaryRedirect)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	client := NewClient(nil)
	t.Cleanup(client.CloseIdleConnections)
	for path, want := range map[string]struct {
		status, size int
		err          error
		says         string
	}{
		"/fits":  {200, maxAnswer, nil, "is not valid"},
		"/large": {200, 0, errTooLarge, "is not valid"},
		"/away":  {307, 0, nil, "answers 307 CODE"},
		"/none":  {404, len("404 page not found\n"), nil, "answers 404 CODE"},
	} {
		ctx, exchange := Watch(t.Context())
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL+path, strings.NewReader("s3cret"))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != want.status || !errors.Is(err, want.err) || (err == nil && len(data) != want.size) {
			t.Errorf("%s: %d, %d bytes, %v", path, resp.StatusCode, len(data), err)
		}
		failure := exchange.Failure("CODE").Error()
		if !strings.Contains(failure, want.says) || !strings.Contains(failure, server.Listener.Addr().String()) {
			t.Errorf("%s: %s", path, failure)
		}
	}
}

func TestFailureOfConnection(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	ctx, exchange := Watch(t.Context())
	if text := exchange.Failure("").Error(); !strings.Contains(text, "no request was made") {
		t.Error(text)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/s3cret?s3cret", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := NewClient(nil).Do(req)
	if err == nil {
		_ = resp.Body.Close()
		t.Fatal("no error")
	}
	if text := exchange.Failure("").Error(); !strings.Contains(text, "connection refused") || strings.Contains(text, "s3cret") {
		t.Error(text)
	}
}

// What is asked over plain HTTP never goes to a proxy.
func TestProxies(t *testing.T) { //nolint:paralleltest // changes the environment
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:2")
	t.Setenv("NO_PROXY", "")
	proxy := directTransport().Proxy
	for at, want := range map[string]string{"http://169.254.169.254/x": "", "http://metadata.example/x": "", "https://sts.example/x": "127.0.0.1:2"} {
		got, err := proxy(httptest.NewRequest(http.MethodGet, at, nil))
		host := ""
		if got != nil {
			host = got.Host
		}
		if err != nil || host != want {
			t.Errorf("%s goes to %q, %v", at, host, err)
		}
	}
}
