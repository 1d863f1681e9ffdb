package guard_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/guard"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func noProxy(*url.URL) (*url.URL, error) { return nil, nil }

func newGuard(t *testing.T, opts guard.Options) *guard.Guard {
	t.Helper()
	if opts.Proxy == nil {
		opts.Proxy = noProxy
	}
	g, err := guard.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// resolver answers every A question from a table, which may change between
// questions, and every other question with nothing.
func resolver(t *testing.T, answer func(name string) [4]byte) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	go serveDNS(conn, answer)
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

func serveDNS(conn net.PacketConn, answer func(name string) [4]byte) {
	buf := make([]byte, 1500)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
			continue
		}
		m.Response, m.Authoritative, m.Additionals = true, true, nil
		if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
			m.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 0},
				Body:   &dnsmessage.AResource{A: answer(strings.TrimSuffix(q.Name.String(), "."))},
			}}
		}
		out, err := m.Pack()
		if err != nil {
			continue
		}
		_, _ = conn.WriteTo(out, from)
	}
}

func TestRefusesWhatIsNotPublic(t *testing.T) {
	t.Parallel()
	g := newGuard(t, guard.Options{Where: `allowPrivate of store "registry"`})
	for _, tt := range []struct{ host, kind string }{
		{"127.0.0.1", "a loopback address"},
		{"127.255.255.254", "a loopback address"},
		{"::1", "a loopback address"},
		{"::ffff:127.0.0.1", "a loopback address"},
		{"10.1.2.3", "a private address"},
		{"172.31.255.255", "a private address"},
		{"192.168.0.1", "a private address"},
		{"fd12::1", "a private address"},
		{"169.254.1.1", "a link-local address"},
		{"fe80::1", "a link-local address"},
		{"169.254.169.254", "a cloud's metadata address"},
		{"169.254.170.2", "a cloud's metadata address"},
		{"fd00:ec2::254", "a cloud's metadata address"},
		{"168.63.129.16", "a cloud's metadata address"},
		{"100.100.100.200", "a cloud's metadata address"},
		{"100.64.0.1", "a shared (carrier-grade NAT) address"},
		{"0.0.0.0", "an unspecified address"},
		{"0.1.2.3", "an unspecified address"},
		{"::", "an unspecified address"},
		{"224.0.0.1", "a multicast address"},
		{"ff02::1", "a multicast address"},
		{"255.255.255.255", "a reserved address"},
		{"fec0::1", "a site-local address"},
		{"64:ff9b::7f00:1", "a loopback address inside an IPv6 address"},
		{"64:ff9b::a9fe:a9fe", "a cloud's metadata address inside an IPv6 address"},
		{"64:ff9b:1::1", "a local translation address"},
		{"2002:7f00:1::", "a loopback address inside an IPv6 address"},
		{"2002:a00:1::1", "a private address inside an IPv6 address"},
		{"::ffff:0:10.0.0.1", "a private address inside an IPv6 address"},
		{"::7f00:1", "a loopback address inside an IPv6 address"},
		{"2606:4700::5efe:a00:1", "a private address inside an IPv6 address"},
		{"2001:0:1::1", "a tunnel address"},
	} {
		conn, err := g.DialContext(t.Context(), "tcp", net.JoinHostPort(tt.host, "443"))
		if conn != nil {
			_ = conn.Close()
		}
		if !errors.Is(err, referrerstore.ErrRefused) {
			// A machine without IPv6 may not get as far as the check.
			if strings.Contains(tt.host, ":") && err != nil && strings.Contains(err.Error(), "socket") {
				continue
			}
			t.Errorf("%s: %v, want ErrRefused", tt.host, err)
			continue
		}
		if want := ", " + tt.kind + ";"; !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %q does not say %q", tt.host, err, want)
		}
		if want := fmt.Sprintf("add %q to allowPrivate of store \"registry\"", tt.host); !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %q does not say %q", tt.host, err, want)
		}
	}
}

func TestLetsPublicAddressesThrough(t *testing.T) {
	t.Parallel()
	g := newGuard(t, guard.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // far enough to be checked, not far enough to send anything
	for _, host := range []string{"192.0.2.1", "2001:db8::1", "64:ff9b::c000:201", "2002:c000:201::1"} {
		conn, err := g.DialContext(ctx, "tcp", net.JoinHostPort(host, "443"))
		if conn != nil {
			_ = conn.Close()
		}
		if errors.Is(err, referrerstore.ErrRefused) {
			t.Errorf("%s: %v", host, err)
		}
	}
}

func TestOnlyTheNamedHost(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	r := resolver(t, func(string) [4]byte { return [4]byte{127, 0, 0, 1} })
	for _, tt := range []struct {
		allow   string
		reaches []string
		refused []string
	}{
		{"a.example", []string{"a.example", "A.EXAMPLE", "a.example."}, []string{"b.example", "x.a.example", "127.0.0.1"}},
		{"*.corp.example", []string{"a.corp.example", "a.b.corp.example"}, []string{"corp.example", "evilcorp.example", "a.corp.example.evil"}},
		{"a.example:" + port, []string{"a.example"}, []string{"b.example", "127.0.0.1"}},
		{"a.example:1", nil, []string{"a.example"}},
		{"127.0.0.1:" + port, []string{"127.0.0.1"}, []string{"a.example"}},
		{"127.0.0.0/8", []string{"a.example", "127.0.0.1", "::ffff:127.0.0.1"}, nil},
		{"127.0.0.1", []string{"a.example", "127.0.0.1"}, nil},
		{"127.0.0.2/32", nil, []string{"a.example", "127.0.0.1"}},
	} {
		g := newGuard(t, guard.Options{AllowPrivate: []string{tt.allow}, Resolver: r})
		for _, host := range append(tt.reaches, tt.refused...) {
			conn, err := g.DialContext(t.Context(), "tcp", net.JoinHostPort(host, port))
			if conn != nil {
				_ = conn.Close()
			}
			want := false
			for _, refused := range tt.refused {
				want = want || refused == host
			}
			if got := errors.Is(err, referrerstore.ErrRefused); got != want || (!want && err != nil) {
				t.Errorf("allow %s, dial %s: %v, want refused %t", tt.allow, host, err, want)
			}
		}
	}
}

// A name that is public when somebody looks and private when it is dialled.
func TestRebinding(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	r := resolver(t, func(string) [4]byte {
		if asked.Add(1) == 1 {
			return [4]byte{192, 0, 2, 1}
		}
		return [4]byte{127, 0, 0, 1}
	})
	if addrs, err := r.LookupHost(t.Context(), "rebind.example"); err != nil || len(addrs) != 1 || addrs[0] != "192.0.2.1" {
		t.Fatalf("first look: %v, %v", addrs, err)
	}
	g := newGuard(t, guard.Options{Resolver: r})
	if _, err := g.DialContext(t.Context(), "tcp", "rebind.example:443"); !errors.Is(err, referrerstore.ErrRefused) {
		t.Errorf("%v, want ErrRefused", err)
	}
}

func TestBadEntries(t *testing.T) {
	t.Parallel()
	for _, entry := range []string{"", "*", "**", "*.", "a b", "http://a.example", "a/b", "10.0.0.0/33", "*.a.example:80", "a..b", "a.*.b", strings.Repeat("a", 64)} {
		if _, err := guard.New(guard.Options{AllowPrivate: []string{entry}}); err == nil {
			t.Errorf("%q is accepted", entry)
		}
	}
}

func TestHTTP2(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprint(w, r.Proto)
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	transport := newGuard(t, guard.Options{AllowPrivate: []string{"127.0.0.1"}}).Transport(roots)
	t.Cleanup(transport.CloseIdleConnections)
	resp := get(t, transport, server.URL)
	defer func() { _ = resp.Body.Close() }()
	if resp.ProtoMajor != 2 {
		t.Errorf("protocol is %s, want HTTP/2", resp.Proto)
	}
}

func get(t *testing.T, transport http.RoundTripper, to string) *http.Response {
	t.Helper()
	resp, err := tryGet(t, transport, to)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func tryGet(t *testing.T, transport http.RoundTripper, to string) (*http.Response, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, to, nil)
	if err != nil {
		t.Fatal(err)
	}
	return transport.RoundTrip(req)
}

func TestProxy(t *testing.T) {
	t.Parallel()
	var seen atomic.Pointer[string]
	proxy := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		target := r.URL.String()
		seen.Store(&target)
	}))
	t.Cleanup(proxy.Close)
	proxyURL, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	through := newGuard(t, guard.Options{
		AllowPrivate: []string{"10.9.0.0/16", "named.localhost"},
		Proxy:        func(*url.URL) (*url.URL, error) { return proxyURL, nil },
	}).Transport(nil)
	t.Cleanup(through.CloseIdleConnections)

	for _, target := range []string{"http://registry.example/v2/", "http://192.0.2.1/", "http://10.9.1.1/", "http://named.localhost/"} {
		_ = get(t, through, target).Body.Close()
		if got := seen.Load(); got == nil || *got != target {
			t.Errorf("the proxy was asked for %v, want %s", got, target)
		}
	}
	for _, target := range []string{
		"http://127.0.0.1/", "http://10.0.0.1/", "http://169.254.169.254/", "http://[::1]/", "http://[::ffff:10.0.0.1]/",
		"http://localhost/", "http://a.localhost./", "http://127.1/", "http://2130706433/", "http://0x7f.1/", "http://metadata.google.internal/",
	} {
		seen.Store(nil)
		if _, err := tryGet(t, through, target); !errors.Is(err, referrerstore.ErrRefused) {
			t.Errorf("%s: %v, want ErrRefused", target, err)
		}
		if seen.Load() != nil {
			t.Errorf("%s reached the proxy", target)
		}
	}

	// The proxy's address is let through as a proxy only.
	direct := newGuard(t, guard.Options{}).Transport(nil)
	if _, err := tryGet(t, direct, proxy.URL); !errors.Is(err, referrerstore.ErrRefused) {
		t.Errorf("%v, want ErrRefused", err)
	}
}

func TestHeaderBound(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Large", string(bytes.Repeat([]byte("a"), 128<<10)))
	}))
	t.Cleanup(server.Close)
	transport := newGuard(t, guard.Options{AllowPrivate: []string{"127.0.0.1"}}).Transport(nil)
	t.Cleanup(transport.CloseIdleConnections)
	if resp, err := tryGet(t, transport, server.URL); err == nil {
		_ = resp.Body.Close()
		t.Error("128 KiB of header are accepted")
	}
}

func FuzzAllowPrivate(f *testing.F) {
	for _, seed := range []string{"a.example", "*.corp.example", "10.0.0.0/8", "[::1]:5000", "::1", "127.0.0.1:5000"} {
		f.Add(seed)
	}
	f.Fuzz(func(_ *testing.T, entry string) {
		_, _ = guard.New(guard.Options{AllowPrivate: []string{entry}})
	})
}

func ExampleGuard_DialContext() {
	g, err := guard.New(guard.Options{Where: `allowPrivate of store "registry"`})
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = g.DialContext(context.Background(), "tcp", "10.20.0.7:443")
	fmt.Println(errors.Is(err, referrerstore.ErrRefused))
	fmt.Println(errors.Unwrap(err))
	// Output:
	// true
	// refused by the configuration: host "10.20.0.7": it is at 10.20.0.7, a private address; if that is meant, add "10.20.0.7" to allowPrivate of store "registry"
}

// The proxy is chosen once: a second choice could be none, and what the proxied
// transport dials is not checked.
func TestProxyIsChosenOnce(t *testing.T) {
	t.Parallel()
	var reached atomic.Bool
	target := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Store(true) }))
	t.Cleanup(target.Close)
	proxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(proxy.Close)
	_, port, _ := net.SplitHostPort(target.Listener.Addr().String())
	proxyURL, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int32
	transport := newGuard(t, guard.Options{
		Resolver: resolver(t, func(string) [4]byte { return [4]byte{127, 0, 0, 1} }),
		Proxy: func(*url.URL) (*url.URL, error) {
			if asked.Add(1) == 1 {
				return proxyURL, nil
			}
			return nil, nil
		},
	}).Transport(nil)
	t.Cleanup(transport.CloseIdleConnections)
	_ = get(t, transport, "http://registry.example:"+port+"/").Body.Close()
	if reached.Load() || asked.Load() != 1 {
		t.Errorf("the proxy was chosen %d times; reached without it: %t", asked.Load(), reached.Load())
	}
}

func TestSendTellsPrivateHosts(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	proxyURL, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	loopback := resolver(t, func(string) [4]byte { return [4]byte{127, 0, 0, 1} })
	for _, tt := range []struct {
		allow, host string
		proxy       *url.URL
		want        bool
	}{
		{"a.example", "a.example", nil, true},
		{"127.0.0.0/8", "a.example", nil, true},
		{"127.0.0.0/8", "127.0.0.1", nil, true},
		{"a.example", "a.example", proxyURL, true},
		{"10.0.0.0/8", "10.1.2.3", proxyURL, true},
		{"127.0.0.0/8", "a.example", proxyURL, false}, // the private address is the proxy's
		{"192.0.2.0/24", "192.0.2.1", proxyURL, false},
	} {
		transport := newGuard(t, guard.Options{
			AllowPrivate: []string{tt.allow}, Resolver: loopback,
			Proxy: func(*url.URL) (*url.URL, error) { return tt.proxy, nil },
		}).Transport(nil)
		t.Cleanup(transport.CloseIdleConnections)
		for range 2 { // the second time on the same connection
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+net.JoinHostPort(tt.host, port)+"/", nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, private, err := transport.Send(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if private != tt.want {
				t.Errorf("allow %s, %s, proxy %v: private is %t", tt.allow, tt.host, tt.proxy, private)
			}
		}
	}
}
