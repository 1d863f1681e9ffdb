package registry_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/gatehouse-project/gatehouse/httpserver/registry"
	"github.com/gatehouse-project/gatehouse/referrerstore/storetest"
)

func serveHandler(t *testing.T, h http.Handler) string {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server.URL
}

// serve runs Serve until the test ends or stop is called.
func serve(t *testing.T, reg *registry.Registry, identity *tls.Config) (addr string, stop func() error) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- reg.Serve(ctx, l, identity) }()
	stop = func() error {
		cancel()
		err, open := <-ended
		if open {
			close(ended)
		}
		return err
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return l.Addr().String(), stop
}

func with(t *testing.T, w *world, opts registry.Options) *registry.Registry {
	t.Helper()
	reg := registry.New(context.Background(), w.cache, opts)
	t.Cleanup(reg.Close)
	reg.Swap(&w.snap)
	return reg
}

// A client that takes nothing is dropped; one that is slow is not.
func TestIdleClient(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	desc := w.blob(t, "x", noise(8, 64<<20))
	w.get(t, blobs(desc.Digest))
	addr, _ := serve(t, with(t, w, registry.Options{Idle: 300 * time.Millisecond}), nil)
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", blobs(desc.Digest))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	time.Sleep(time.Second) // longer than the idle time, whatever else the machine does
	n, err := io.Copy(io.Discard, resp.Body)
	if err == nil || n >= desc.Size {
		t.Errorf("%d of %d bytes, %v", n, desc.Size, err)
	}
}

// A client that takes something now and then has all the time that it needs, also
// for a file that the kernel sends.
func TestSteadyClient(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	desc := w.blob(t, "x", noise(8, 64<<20))
	w.get(t, blobs(desc.Digest))
	const idle = time.Second
	addr, _ := serve(t, with(t, w, registry.Options{Idle: idle}), nil)
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", blobs(desc.Digest))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var n int64
	for begun := time.Now(); time.Since(begun) < idle+idle/2 && err == nil; time.Sleep(idle / 10) { // what is on its way is far less than the rest
		var some int64
		some, err = io.CopyN(io.Discard, resp.Body, 3<<20)
		n += some
	}
	rest, err := io.Copy(io.Discard, resp.Body)
	if err != nil || n+rest != desc.Size || rest == 0 {
		t.Errorf("%d and %d of %d bytes, %v", n, rest, desc.Size, err)
	}
}

// An upstream that takes its time is not the client's fault.
func TestSlowUpstream(t *testing.T) {
	t.Parallel()
	for name, identity := range map[string]*tls.Config{"HTTP/1": nil, "HTTP/2": newIdentity(t, nil)} {
		w := newWorld(t, nil)
		data := noise(9, 400_000)
		desc := w.blob(t, "x", data)
		w.store.PullReadFault = func(_ context.Context, _ storetest.Pull, delivered int64) error {
			if delivered == 0 || delivered >= 200_000 && delivered < 240_000 {
				time.Sleep(200 * time.Millisecond)
			}
			return nil
		}
		addr, _ := serve(t, with(t, w, registry.Options{Idle: 80 * time.Millisecond}), identity)
		client, scheme := http.DefaultClient, "http://"
		if identity != nil {
			client, scheme = clientOf(t), "https://"
		}
		a := ask(t, client, http.MethodGet, scheme+addr+blobs(desc.Digest))
		if a.status != 200 || a.cut != nil || len(a.body) != len(data) {
			t.Errorf("%s: %d, %d bytes, %v", name, a.status, len(a.body), a.cut)
		}
	}
}

// clientOf is a client of HTTP/2 that trusts any server, with certificates if any.
func clientOf(t *testing.T, certificates ...tls.Certificate) *http.Client {
	t.Helper()
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: certificates}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func newCertificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key, Leaf: leaf}
}

// newIdentity is a server that verifies certificates of the client if it has any.
func newIdentity(t *testing.T, client *tls.Certificate) *tls.Config {
	t.Helper()
	config := &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{newCertificate(t)}}
	if client != nil {
		config.ClientCAs, config.ClientAuth = x509.NewCertPool(), tls.VerifyClientCertIfGiven
		config.ClientCAs.AddCert(client.Leaf)
	}
	return config
}

// A certificate that was verified lets a client read what is private.
func TestClientCertificate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(s *registry.Snapshot) {
		u := s.Upstreams[upstream]
		u.Identity = func() string { return "who" }
		s.Upstreams = map[string]registry.Upstream{upstream: u}
	})
	w.image(t, "v1")
	certificate := newCertificate(t)
	addr, _ := serve(t, with(t, w, registry.Options{}), newIdentity(t, &certificate))
	if a := ask(t, clientOf(t, certificate), http.MethodGet, "https://"+addr+manifests("v1")); a.status != 200 {
		t.Errorf("with a certificate: %d", a.status)
	}
	if a := ask(t, clientOf(t), http.MethodGet, "https://"+addr+manifests("v1")); a.status != 401 {
		t.Errorf("without: %d", a.status)
	}
	w.snap.Tokens = func() []registry.TokenHash { return []registry.TokenHash{registry.HashToken("right")} }
	addr, _ = serve(t, with(t, w, registry.Options{}), newIdentity(t, &certificate))
	for token, status := range map[string]int{"right": 200, "wrong": 401} {
		if a := ask(t, clientOf(t, certificate), http.MethodGet, "https://"+addr+manifests("v1"), "Authorization", "Bearer "+token); a.status != status {
			t.Errorf("with a certificate and the %s token: %d", token, a.status)
		}
	}
}

// Neither protocol lets a client take a part for the whole.
func TestCutOffOverTLS(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	desc := w.blob(t, "x", noise(10, 300_000))
	seen := make(chan struct{})
	w.store.PullReadFault = func(_ context.Context, _ storetest.Pull, delivered int64) error {
		if delivered > 200_000 {
			<-seen
			return errors.New("the upstream is gone")
		}
		return nil
	}
	addr, _ := serve(t, with(t, w, registry.Options{}), newIdentity(t, nil))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+addr+blobs(desc.Digest), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := clientOf(t).Do(req)
	close(seen)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); err == nil || resp.ProtoMajor != 2 {
		t.Errorf("%s: %d, %d bytes", resp.Proto, resp.StatusCode, n)
	}
}

// What is under way is finished, within the time for it.
func TestDrain(t *testing.T) {
	t.Parallel()
	for _, drain := range []time.Duration{10 * time.Second, 50 * time.Millisecond} {
		w := newWorld(t, nil)
		desc := w.blob(t, "x", noise(11, 300_000))
		begun, on := make(chan struct{}), make(chan struct{})
		w.store.PullReadFault = func(ctx context.Context, _ storetest.Pull, delivered int64) error {
			if delivered == 0 {
				close(begun)
				select {
				case <-on:
				case <-ctx.Done():
				}
			}
			return nil
		}
		addr, stop := serve(t, with(t, w, registry.Options{Drain: drain}), nil)
		got := make(chan error, 1)
		go func() {
			resp, err := http.Get("http://" + addr + blobs(desc.Digest))
			if err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			}
			got <- err
		}()
		<-begun
		if drain > time.Second {
			time.AfterFunc(50*time.Millisecond, func() { close(on) })
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		if err := <-got; (err == nil) != (drain > time.Second) {
			t.Errorf("within %s: %v", drain, err)
		}
		http.DefaultClient.CloseIdleConnections()
		if drain < time.Second {
			close(on)
		}
	}
}

// More connections than the bound wait for their turn.
func TestConnections(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	addr, _ := serve(t, with(t, w, registry.Options{Connections: 1}), nil)
	first, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(first, "GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, err := http.ReadResponse(bufio.NewReader(first), nil); err != nil {
		t.Fatal(err)
	}
	second := make(chan int, 1)
	go func() {
		second <- ask(t, &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, http.MethodGet, "http://"+addr+"/v2/").status
	}()
	select {
	case status := <-second:
		t.Errorf("a second connection is answered: %d", status)
	case <-time.After(30 * time.Millisecond):
	}
	_ = first.Close()
	if status := <-second; status != 200 {
		t.Errorf("%d", status)
	}
}

func TestNotReady(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	reg := registry.New(context.Background(), w.cache, registry.Options{})
	t.Cleanup(reg.Close)
	a := ask(t, http.DefaultClient, http.MethodGet, serveHandler(t, reg)+"/v2/")
	if a.status != 503 || a.header.Get("Retry-After") == "" {
		t.Errorf("%d", a.status)
	}
}
