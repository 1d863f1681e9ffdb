package httpserver_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/frameworks/constraint/pkg/externaldata"

	"github.com/gatehouse-project/gatehouse/httpserver"
)

// running is a server on loopback.
type running struct {
	hook, admin string
	stop        func() error
}

func start(t *testing.T, s *httpserver.Server) *running {
	t.Helper()
	listen := func() net.Listener {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	hook, admin := listen(), listen()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, hook, admin) }()
	r := &running{hook: hook.Addr().String(), admin: admin.Addr().String()}
	r.stop = func() error {
		cancel()
		err, open := <-ended
		if open {
			close(ended)
		}
		return err
	}
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return r
}

func requestBody(t testing.TB, keys ...string) []byte {
	t.Helper()
	body, err := json.Marshal(externaldata.NewProviderRequest(keys))
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func call(t testing.TB, client *http.Client, url string, body []byte) (*http.Response, externaldata.ProviderResponse, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return nil, externaldata.ProviderResponse{}, err
	}
	defer resp.Body.Close()
	var answer externaldata.ProviderResponse
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	return resp, answer, nil
}

// What hangs costs its own key its verdict, and no other; the answer has left
// by the deadline, even if a worker does not hear that it is over.
func TestUnfinishedKeysAreNamed(t *testing.T) {
	t.Parallel()
	d := &decider{block: make(chan struct{})}
	s := newServer(t, d, func(s *httpserver.Snapshot) { s.VerifyTimeout = 500 * time.Millisecond })
	r := start(t, s)
	t.Cleanup(func() { close(d.block) }) // runs before the server's stop
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	_, answer, err := call(t, client, "http://"+r.hook+httpserver.VerifyPath, requestBody(t, "r.example/good", "r.example/hang", "r.example/deaf", "r.example/bad"))
	if err != nil {
		t.Fatal(err)
	}
	if len(answer.Response.Items) != 2 || answer.Response.Items[0].Key != "r.example/good" || answer.Response.Items[1].Key != "r.example/bad" {
		t.Errorf("items %+v", answer.Response.Items)
	}
	for _, want := range []string{"DEADLINE_EXCEEDED", "r.example/hang", "r.example/deaf"} {
		if !strings.Contains(answer.Response.SystemError, want) {
			t.Errorf("systemError %q lacks %q", answer.Response.SystemError, want)
		}
	}
}

// A body that dribbles in does not hold its request beyond the deadline.
func TestSlowBody(t *testing.T) {
	t.Parallel()
	s := newServer(t, &decider{}, func(s *httpserver.Snapshot) { s.VerifyTimeout = 200 * time.Millisecond })
	r := start(t, s)
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", r.hook)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{", httpserver.VerifyPath)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("status %d", resp.StatusCode)
	}
}

// A request that is refused before its body was read does not wait for a body
// that may never come, nor does one to the read-only side.
func TestRefusalDoesNotWaitForBody(t *testing.T) {
	t.Parallel()
	r := start(t, newServer(t, &decider{}, nil))
	for address, head := range map[string]string{
		r.hook:  "POST " + httpserver.VerifyPath + " HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\n",
		r.admin: "GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n",
	} {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, head)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Errorf("%.20s: %v", head, err)
			continue
		}
		resp.Body.Close()
		conn.Close()
	}
}

// A connection on which nothing was asked does not make the end an error.
func TestDrainWithSilentConnection(t *testing.T) {
	t.Parallel()
	s := newServer(t, &decider{}, func(s *httpserver.Snapshot) { s.VerifyTimeout = 50 * time.Millisecond })
	r := start(t, s)
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", r.hook)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := r.stop(); err != nil {
		t.Errorf("serve: %v", err)
	}
}

// Peers that leave every connection behind are asked to close, and those that
// come back to theirs are not.
func TestConnectionsLeftBehind(t *testing.T) {
	t.Parallel()
	r := start(t, newServer(t, &decider{}, nil))
	url := "http://" + r.hook + httpserver.VerifyPath
	closed := 0
	for range 30 {
		client := &http.Client{Transport: &http.Transport{}}
		resp, _, err := call(t, client, url, requestBody(t, "r.example/good"))
		if err != nil {
			t.Fatal(err)
		}
		if resp.Close {
			closed++
		}
		client.CloseIdleConnections()
	}
	if closed < 15 {
		t.Errorf("%d of 30 connections that nobody came back to were closed", closed)
	}
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	kept := 0
	for range 60 {
		resp, _, err := call(t, client, url, requestBody(t, "r.example/good"))
		if err != nil {
			t.Fatal(err)
		}
		if !resp.Close {
			kept++
		}
	}
	if kept < 25 {
		t.Errorf("%d of 60 connections of a peer that comes back were kept", kept)
	}
}

// Requests under way are answered when the server is told to stop.
func TestDrain(t *testing.T) {
	t.Parallel()
	d := &decider{block: make(chan struct{})}
	s := newServer(t, d, func(s *httpserver.Snapshot) { s.VerifyTimeout = 20 * time.Second })
	r := start(t, s)
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	type outcome struct {
		answer externaldata.ProviderResponse
		err    error
	}
	answered := make(chan outcome, 1)
	go func() {
		_, answer, err := call(t, client, "http://"+r.hook+httpserver.VerifyPath, requestBody(t, "r.example/deaf", "r.example/good"))
		answered <- outcome{answer, err}
	}()
	for d.calls.Load() < 2 {
		time.Sleep(time.Millisecond)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- r.stop() }()
	for {
		// Draining closes the listeners: a new connection is refused.
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", r.hook)
		if err != nil {
			break
		}
		_ = conn.Close()
		time.Sleep(time.Millisecond)
	}
	close(d.block)
	got := <-answered
	if got.err != nil || len(got.answer.Response.Items) != 1 {
		t.Errorf("a request under way got %+v, %v", got.answer, got.err)
	}
	if err := <-stopped; err != nil {
		t.Errorf("drain: %v", err)
	}
}

// authority signs certificates for tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{}
	a.cert, a.key = issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil)
	return a
}

func issue(t *testing.T, template *x509.Certificate, by *authority) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	parent, signer := template, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func (a *authority) leaf(t *testing.T, names ...string) (certPEM, keyPEM []byte) {
	t.Helper()
	cert, key := issue(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "leaf"}, DNSNames: names, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a)
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

const clientName = "gatekeeper-webhook-service.gatekeeper-system.svc"

func TestMutualTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	server, clients, strangers := newAuthority(t), newAuthority(t), newAuthority(t)
	cert, key := server.leaf(t, "gatehouse.gatekeeper-system")
	files := httpserver.TLSOptions{
		Certificate: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key"),
		ClientCA: filepath.Join(dir, "ca.crt"), ClientNames: []string{clientName},
	}
	write(t, files.Certificate, cert)
	write(t, files.Key, key)
	write(t, files.ClientCA, clients.pem())
	material, err := httpserver.NewTLS(files)
	if err != nil {
		t.Fatal(err)
	}
	s := httpserver.New(httpserver.Options{Logger: slog.New(slog.DiscardHandler), TLS: material})
	s.Swap(&httpserver.Snapshot{Decider: &decider{}, VerifyTimeout: time.Minute, Limits: httpserver.Limits{BodyBytes: 1 << 20, Keys: 10, KeyBytes: 100}})
	r := start(t, s)

	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(server.pem())
	client := func(by *authority) *http.Client {
		cert, key := by.leaf(t, clientName)
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}}}
	}
	try := func(by *authority, version uint16, names ...string) error {
		conf := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12, MaxVersion: version}
		if by != nil {
			cert, key := by.leaf(t, names...)
			pair, err := tls.X509KeyPair(cert, key)
			if err != nil {
				t.Fatal(err)
			}
			conf.Certificates = []tls.Certificate{pair}
		}
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: conf}}
		defer client.CloseIdleConnections()
		_, answer, err := call(t, client, "https://"+r.hook+httpserver.VerifyPath, requestBody(t, "r.example/good"))
		if err == nil && len(answer.Response.Items) != 1 {
			err = errors.New("no item")
		}
		return err
	}
	check := func(what string, want bool, err error) {
		t.Helper()
		if (err == nil) != want {
			t.Errorf("%s: %v", what, err)
		}
	}
	check("gatekeeper", true, try(clients, tls.VersionTLS13, clientName))
	check("gatekeeper over TLS 1.2", false, try(clients, tls.VersionTLS12, clientName))
	check("another of its authority", false, try(clients, tls.VersionTLS13, "other.svc"))
	check("a stranger of its name", false, try(strangers, tls.VersionTLS13, clientName))
	check("nobody", false, try(nil, tls.VersionTLS13))

	url := "https://" + r.hook + httpserver.VerifyPath
	kept := client(clients)
	defer kept.CloseIdleConnections()
	if _, _, err := call(t, kept, url, requestBody(t, "r.example/good")); err != nil {
		t.Fatal(err)
	}

	// Half of an exchange keeps the former material; the whole of it is live
	// for the next connection.
	cert, key = server.leaf(t, "gatehouse.gatekeeper-system")
	write(t, files.Certificate, cert)
	if _, err := material.Reload(); err == nil {
		t.Error("a certificate without its key is taken")
	}
	check("with the former material", true, try(clients, tls.VersionTLS13, clientName))
	write(t, files.Key, key)
	write(t, files.ClientCA, strangers.pem())
	if changed, err := material.Reload(); err != nil || !changed {
		t.Fatalf("reload: %v, %v", changed, err)
	}
	if changed, err := material.Reload(); err != nil || changed {
		t.Errorf("reload of the same: %v, %v", changed, err)
	}
	check("the former authority", false, try(clients, tls.VersionTLS13, clientName))
	_, answer, err := call(t, kept, url, requestBody(t, "r.example/good"))
	if err == nil && len(answer.Response.Items) != 0 {
		t.Error("a connection let in by the former authority is still answered")
	}
	check("the present authority", true, try(strangers, tls.VersionTLS13, clientName))
}

func TestTLSRefusesOpenDoors(t *testing.T) {
	t.Parallel()
	tests := []httpserver.TLSOptions{
		{},
		{ClientCA: "ca.crt"},
		{ClientCA: "ca.crt", ClientNames: []string{"x"}, InsecureAnyClient: true},
		{InsecureAnyClient: true, Certificate: "missing", Key: "missing"},
	}
	for _, opts := range tests {
		if _, err := httpserver.NewTLS(opts); err == nil {
			t.Errorf("%+v is accepted", opts)
		}
	}
}

func TestMetricsAfterRequests(t *testing.T) {
	t.Parallel()
	s := newServer(t, &decider{}, nil)
	r := start(t, s)
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	if _, _, err := call(t, client, "http://"+r.hook+httpserver.VerifyPath, requestBody(t, "r.example/good", "r.example/down")); err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+r.admin+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`gatehouse_keys_total{decision="allowed"} 1`, `gatehouse_keys_total{decision="undecided"} 1`, `gatehouse_http_requests_total{path="verify",status="200"} 1`, `gatehouse_http_duration_seconds_count{path="verify"} 1`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("metrics lack %s", want)
		}
	}
}
