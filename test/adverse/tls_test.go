package adverse

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatehouse-project/gatehouse/test/process"
	"github.com/gatehouse-project/gatehouse/test/registry"
)

// gatekeeperName is the DNS name that Gatekeeper's certificate carries.
const gatekeeperName = "gatekeeper-webhook-service.gatekeeper-system.svc"

// secured is a process with mutual TLS and the folder of its files.
type secured struct {
	*process.Process
	dir         string
	serverCA    authority
	gatekeeper  authority
	good        string
	certificate pair
}

func newSecured(t *testing.T) secured {
	t.Helper()
	s := newSite(t, registry.Options{})
	out := secured{
		dir: t.TempDir(), serverCA: newAuthority(t, "gatehouse CA"), gatekeeper: newAuthority(t, "gatekeeper-ca"),
		good: s.signed(t, "good"),
	}
	out.certificate = out.serverCA.issue(t)
	out.write(t, "tls.crt", out.certificate.certificate)
	out.write(t, "tls.key", out.certificate.key)
	out.write(t, "client-ca.crt", out.gatekeeper.pem)
	c := config(t, s)
	c.Server = process.Map{"tls": process.Map{
		"certificate": "tls.crt", "key": "tls.key", "clientCA": "client-ca.crt", "clientNames": []string{gatekeeperName},
	}}
	path := must(c.Write(out.dir))(t)
	out.Process = must(process.Build(t.Context()))(t).Start(t, path)
	return out
}

func (s secured) write(t *testing.T, name string, content []byte) {
	t.Helper()
	if err := process.Replace(filepath.Join(s.dir, name), content); err != nil {
		t.Fatal(err)
	}
}

// ask asks over a connection of its own, with certificates or none, trusting
// the server's authority alone.
func (s secured) ask(ctx context.Context, version uint16, certificates ...tls.Certificate) (process.Answer, error) {
	roots := x509.NewCertPool()
	roots.AddCert(s.serverCA.certificate)
	transport := &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: roots, Certificates: certificates, MinVersion: tls.VersionTLS12, MaxVersion: version,
	}}
	defer transport.CloseIdleConnections()
	client := process.Client{HTTP: &http.Client{Transport: transport}, URL: s.VerifyURL()}
	return client.Ask(ctx, s.good)
}

func TestMutualTLS(t *testing.T) {
	t.Parallel()
	s := newSecured(t)
	stranger := newAuthority(t, "gatekeeper-ca") // of the same name
	for _, test := range []struct {
		name         string
		certificates []tls.Certificate
		version      uint16
		ok           bool
	}{
		{name: "Gatekeeper", certificates: []tls.Certificate{s.gatekeeper.issue(t, gatekeeperName).load(t)}, ok: true},
		{name: "several names", certificates: []tls.Certificate{s.gatekeeper.issue(t, "other", gatekeeperName).load(t)}, ok: true},
		{name: "no certificate"},
		{name: "another name", certificates: []tls.Certificate{s.gatekeeper.issue(t, "other.gatekeeper-system.svc").load(t)}},
		{name: "a name below", certificates: []tls.Certificate{s.gatekeeper.issue(t, "x."+gatekeeperName).load(t)}},
		{name: "a wildcard", certificates: []tls.Certificate{s.gatekeeper.issue(t, "*.gatekeeper-system.svc").load(t)}},
		{name: "no name", certificates: []tls.Certificate{s.gatekeeper.issue(t).load(t)}},
		{name: "another authority", certificates: []tls.Certificate{stranger.issue(t, gatekeeperName).load(t)}},
		{name: "the server's authority", certificates: []tls.Certificate{s.serverCA.issue(t, gatekeeperName).load(t)}},
		{name: "TLS 1.2", certificates: []tls.Certificate{s.gatekeeper.issue(t, gatekeeperName).load(t)}, version: tls.VersionTLS12},
	} {
		answer, err := s.ask(t.Context(), test.version, test.certificates...)
		if (err == nil) != test.ok {
			t.Errorf("%s: error %v, answer %s", test.name, err, answer.Body)
		}
		if err == nil && !endOf(t, answer, s.good).allowed {
			t.Errorf("%s: %s", test.name, answer.Body)
		}
	}
	if _, err := (process.Client{URL: "http" + s.VerifyURL()[len("https"):]}).Ask(t.Context(), s.good); err == nil {
		t.Error("plain HTTP is answered")
	}
}

// TestCertificatesExchanged exchanges the files while the process runs, first
// the server's, then the clients' authority, and then a broken one.
func TestCertificatesExchanged(t *testing.T) {
	t.Parallel()
	s := newSecured(t)
	client := s.gatekeeper.issue(t, gatekeeperName).load(t)
	if _, err := s.ask(t.Context(), 0, client); err != nil {
		t.Fatal(err)
	}
	next := s.serverCA.issue(t)
	s.write(t, "tls.key", next.key)
	s.write(t, "tls.crt", next.certificate)
	wanted := next.load(t).Leaf
	eventually(t, func() bool { return bytes.Equal(s.served(t, client).Raw, wanted.Raw) },
		func() string { return "the former certificate is served" })

	renewed := newAuthority(t, "gatekeeper-ca")
	s.write(t, "client-ca.crt", renewed.pem)
	eventually(t, func() bool {
		_, err := s.ask(t.Context(), 0, renewed.issue(t, gatekeeperName).load(t))
		return err == nil
	}, func() string { return "a client of the new authority is refused" })
	if _, err := s.ask(t.Context(), 0, client); err == nil {
		t.Error("a client of the former authority is let in")
	}

	s.write(t, "tls.key", s.certificate.key) // which is of another certificate
	eventually(t, func() bool { return strings.Contains(refusal(t, s.Process), "tls.key") },
		func() string { return "/readyz does not say that the certificate was refused" })
	if answer, err := s.ask(t.Context(), 0, renewed.issue(t, gatekeeperName).load(t)); err != nil || !endOf(t, answer, s.good).allowed {
		t.Errorf("with half a pair exchanged: %v", err)
	}
}

// served is the certificate that the process shows.
func (s secured) served(t *testing.T, client tls.Certificate) *x509.Certificate {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(s.serverCA.certificate)
	dialer := tls.Dialer{Config: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{client}, MinVersion: tls.VersionTLS13}}
	conn := must(dialer.DialContext(t.Context(), "tcp", s.Address()))(t)
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0]
}
