package credential

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"golang.org/x/net/http/httpproxy"
)

const (
	// maxAnswer bounds an answer of an identity service.
	maxAnswer = 1 << 20

	dialTimeout    = 5 * time.Second
	idleTimeout    = 30 * time.Second
	maxHeaderBytes = 64 << 10
)

var errTooLarge = errors.New("the answer is larger than 1 MiB")

// NewClient makes a client for identity services, or around a transport one
// for others: it ends a request after ten seconds and an answer after 1 MiB,
// hands redirects to the caller instead of following them, and tells an
// [Exchange] what happened. A nil transport is one that connects to any
// address. It takes proxies from the environment for https only: what is asked
// over plain http is on the machine or next to it.
func NewClient(transport http.RoundTripper) *http.Client {
	if transport == nil {
		transport = directTransport()
	}
	return &http.Client{
		Transport:     bounded{transport},
		Timeout:       findTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func directTransport() *http.Transport {
	proxy := httpproxy.FromEnvironment().ProxyFunc()
	return &http.Transport{
		Proxy: func(req *http.Request) (*url.URL, error) {
			if req.URL.Scheme != "https" {
				return nil, nil //nolint:nilnil // no proxy is no error
			}
			return proxy(req.URL)
		},
		DialContext:            (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSHandshakeTimeout:    dialTimeout,
		IdleConnTimeout:        idleTimeout,
		MaxIdleConnsPerHost:    1,
		MaxResponseHeaderBytes: maxHeaderBytes,
		ForceAttemptHTTP2:      true,
	}
}

// bounded bounds the answers of a transport.
type bounded struct{ http.RoundTripper }

func (b bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := b.RoundTripper.RoundTrip(req)
	if x, _ := req.Context().Value(exchangeKey{}).(*Exchange); x != nil {
		x.note(req.URL.Host, resp, err)
	}
	if err != nil {
		return nil, err
	}
	resp.Body = &boundedBody{ReadCloser: resp.Body, left: maxAnswer}
	return resp, nil
}

// CloseIdleConnections is what [http.Client.CloseIdleConnections] looks for.
func (b bounded) CloseIdleConnections() {
	if t, ok := b.RoundTripper.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

type boundedBody struct {
	io.ReadCloser
	left int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left+1)])
	if b.left -= int64(n); b.left < 0 {
		return 0, errTooLarge
	}
	return n, err
}

// Exchange is the last that a client of [NewClient] saw of requests under a
// context. Libraries put into their errors what they were answered, and that
// may be what was sent: this is told instead. It is safe for concurrent use.
type Exchange struct {
	mu     sync.Mutex // guards the fields that follow it
	host   string
	status int
	err    error
}

type exchangeKey struct{}

// Watch makes a context whose requests the Exchange sees.
func Watch(ctx context.Context) (context.Context, *Exchange) {
	x := &Exchange{}
	return context.WithValue(ctx, exchangeKey{}, x), x
}

func (x *Exchange) note(host string, resp *http.Response, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.host, x.status, x.err = host, 0, err
	if resp != nil {
		x.status = resp.StatusCode
	}
}

// Failure is an error that says whom the last request went to and what became
// of it, with a code that the caller took out of the answer; may be empty.
func (x *Exchange) Failure(code string) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case x.host == "":
		return errors.New("no request was made: the environment names no identity, or its files cannot be read")
	case x.err != nil:
		return fmt.Errorf("%s: %w", x.host, x.err)
	case x.status == http.StatusOK:
		return fmt.Errorf("the answer of %s is not valid", x.host)
	case code != "":
		return fmt.Errorf("%s answers %d %s", x.host, x.status, code)
	default:
		return fmt.Errorf("%s answers %d", x.host, x.status)
	}
}
