package guard

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

const (
	tlsTimeout         = 5 * time.Second
	headerTimeout      = 30 * time.Second
	idleTimeout        = 5 * time.Minute
	pingAfter          = 15 * time.Second
	pingTimeout        = 10 * time.Second
	maxHeaderBytes     = 64 << 10
	maxIdleConns       = 256
	maxIdleConnsByHost = 64
	maxConnsByHost     = 128
)

// Transport is an HTTP transport of a guard. It bounds connections (128 to a
// host, 256 idle ones over all), headers (64 KiB) and the times of connecting,
// of the TLS handshake (5 s each) and of waiting for an answer's header (30 s).
// It never decompresses: bytes arrive as they were sent. Safe for concurrent
// use.
type Transport struct {
	guard   *Guard
	direct  *http.Transport // dials what it is asked for, guarded
	proxied *http.Transport // dials proxies only, which may be private
}

var _ http.RoundTripper = (*Transport)(nil)

// Transport makes a transport that trusts the roots, or the system's if nil.
func (g *Guard) Transport(roots *x509.CertPool) *Transport {
	t := &Transport{guard: g, direct: newTransport(roots), proxied: newTransport(roots)}
	t.direct.DialContext = g.DialContext
	// The one dialer without a check: it only ever sees proxies, because every
	// request given to this transport has one.
	t.proxied.DialContext = (&net.Dialer{Timeout: dialTimeout, KeepAlive: keepAliveBetween, Resolver: g.resolver}).DialContext
	t.proxied.Proxy = chosenProxy
	return t
}

func newTransport(roots *x509.CertPool) *http.Transport {
	return &http.Transport{
		TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    tlsTimeout,
		ResponseHeaderTimeout:  headerTimeout,
		IdleConnTimeout:        idleTimeout,
		MaxIdleConns:           maxIdleConns,
		MaxIdleConnsPerHost:    maxIdleConnsByHost,
		MaxConnsPerHost:        maxConnsByHost,
		MaxResponseHeaderBytes: maxHeaderBytes,
		DisableCompression:     true,
		// A transport with a dialer or a TLS configuration of its own speaks
		// HTTP/2 only if told to.
		ForceAttemptHTTP2: true,
		HTTP2:             &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
	}
}

// RoundTrip sends the request, through a proxy where the environment has one
// for its URL. What is behind a proxy is resolved by the proxy and so can only
// be checked by name: addresses as above, and names that mean the proxy's own
// machine or a metadata service.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, _, err := t.Send(req)
	return resp, err
}

// Send is RoundTrip that also says whether the host is one that only
// AllowPrivate makes reachable, or that is named there: it is trusted more than
// a host that anybody may set up. Behind a proxy the name alone decides.
func (t *Transport) Send(req *http.Request) (resp *http.Response, private bool, err error) {
	proxy, err := t.guard.proxy(req.URL)
	if err != nil {
		return nil, false, fmt.Errorf("choose a proxy: %w", err)
	}
	if proxy == nil {
		return t.sendDirect(req)
	}
	if err := t.guard.checkName(req.URL); err != nil {
		return nil, false, err
	}
	// The choice goes along, because another one might be none.
	resp, err = t.proxied.RoundTrip(req.WithContext(context.WithValue(req.Context(), proxyKey{}, proxy)))
	addr, _ := netip.ParseAddr(canonical(req.URL.Hostname()))
	return resp, t.guard.named(hostPort(req.URL)) || isPrivate(addr), err
}

func (t *Transport) sendDirect(req *http.Request) (resp *http.Response, private bool, err error) {
	var at netip.AddrPort
	traced := httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { at, _ = netip.ParseAddrPort(info.Conn.RemoteAddr().String()) },
	})
	resp, err = t.direct.RoundTrip(req.WithContext(traced))
	return resp, t.guard.named(hostPort(req.URL)) || isPrivate(at.Addr()), err
}

// isPrivate says that a guard without entries would refuse the address.
func isPrivate(addr netip.Addr) bool { return addr.IsValid() && (&Guard{}).refuses(addr) != "" }

type proxyKey struct{}

// chosenProxy is what Send chose. Without one there is no request: the proxied
// transport's dialer has no check.
func chosenProxy(req *http.Request) (*url.URL, error) {
	proxy, _ := req.Context().Value(proxyKey{}).(*url.URL)
	if proxy == nil {
		return nil, errors.New("no proxy was chosen")
	}
	return proxy, nil
}

func hostPort(u *url.URL) (name, port string) {
	name, port = canonical(u.Hostname()), u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return name, port
}

// CloseIdleConnections closes the connections that no request uses.
func (t *Transport) CloseIdleConnections() {
	t.direct.CloseIdleConnections()
	t.proxied.CloseIdleConnections()
}

func (g *Guard) checkName(u *url.URL) error {
	name, port := hostPort(u)
	if g.named(name, port) {
		return nil
	}
	if addr, err := netip.ParseAddr(name); err == nil {
		if kind := g.refuses(addr); kind != "" {
			return g.refusal(name, "it is "+kind)
		}
		return nil
	}
	switch {
	case name == "localhost" || strings.HasSuffix(name, ".localhost"):
		return g.refusal(name, "it is a loopback name")
	case name == "metadata" || name == "metadata.google.internal":
		return g.refusal(name, "it is a cloud's metadata service")
	case looksNumeric(name):
		return g.refusal(name, "it can be read as an address")
	}
	return nil
}
