package httpserver

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// TLSOptions name the server's identity and whom it lets in.
type TLSOptions struct {
	// Certificate and Key are PEM files.
	Certificate, Key string
	// ClientCA is a PEM file of the authorities that sign clients; it needs
	// ClientNames, the DNS names of which a client must carry one: an
	// authority alone may have signed many others.
	ClientCA    string
	ClientNames []string
	// InsecureAnyClient lets everyone in and excludes ClientCA.
	InsecureAnyClient bool
}

// TLS is the server side of TLS 1.3 with material that Reload exchanges while
// connections go on. It is safe for concurrent use.
type TLS struct {
	opts TLSOptions
	live atomic.Pointer[identity]
}

// identity is one loaded set of files.
type identity struct {
	config   *tls.Config
	raw      [3][]byte
	notAfter time.Time
}

// NewTLS loads the material once and refuses a set-up that would let in more
// than its options say.
func NewTLS(opts TLSOptions) (*TLS, error) {
	switch {
	case opts.ClientCA == "" && !opts.InsecureAnyClient:
		return nil, errors.New("tls: neither clientCA nor insecureAnyClient: true is set")
	case opts.ClientCA != "" && opts.InsecureAnyClient:
		return nil, errors.New("tls: clientCA and insecureAnyClient exclude each other")
	case opts.ClientCA != "" && len(opts.ClientNames) == 0:
		return nil, errors.New("tls: clientCA needs clientNames")
	}
	t := &TLS{opts: opts}
	_, err := t.Reload()
	return t, err
}

// Files are those that Reload reads.
func (t *TLS) Files() []string {
	files := []string{t.opts.Certificate, t.opts.Key}
	if t.opts.ClientCA != "" {
		files = append(files, t.opts.ClientCA)
	}
	return files
}

// NotAfter is the end of the certificate that is live.
func (t *TLS) NotAfter() time.Time { return t.live.Load().notAfter }

// Config is for a listener; what it serves follows Reload.
func (t *TLS) Config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return t.live.Load().config, nil
		},
	}
}

// Reload reads the files again and says whether what they hold is new. On an
// error the former material stays live; so it does while only one of
// certificate and key has been exchanged.
func (t *TLS) Reload() (bool, error) {
	var raw [3][]byte
	for i, file := range t.Files() {
		data, err := os.ReadFile(file)
		if err != nil {
			return false, fmt.Errorf("tls: %w", err)
		}
		raw[i] = data
	}
	if old := t.live.Load(); old != nil && slices.EqualFunc(raw[:], old.raw[:], bytes.Equal) {
		return false, nil
	}
	next, err := t.load(raw)
	if err != nil {
		return false, err
	}
	t.live.Store(next)
	return true, nil
}

func (t *TLS) load(raw [3][]byte) (*identity, error) {
	cert, err := tls.X509KeyPair(raw[0], raw[1])
	if err != nil {
		return nil, fmt.Errorf("tls: certificate %s and key %s: %w", t.opts.Certificate, t.opts.Key, err)
	}
	config := &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{cert},
		NextProtos:   []string{"http/1.1"},
		// A resumed session would skip the check of the client against an
		// authority that has been exchanged since.
		SessionTicketsDisabled: true,
	}
	if t.opts.ClientCA != "" {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(raw[2]) {
			return nil, fmt.Errorf("tls: clientCA %s has no certificate in PEM", t.opts.ClientCA)
		}
		config.ClientCAs, config.ClientAuth = pool, tls.RequireAndVerifyClientCert
		config.VerifyConnection = t.checkClient
	}
	return &identity{config: config, raw: raw, notAfter: cert.Leaf.NotAfter}, nil
}

// recheck looks at a client again if the material has been exchanged since seen,
// which is then brought up to date: a connection may outlive the authority that
// it was let in by.
func (t *TLS) recheck(seen **identity, state tls.ConnectionState) error {
	live := t.live.Load()
	if *seen == live || live.config.ClientCAs == nil {
		return nil
	}
	if len(state.PeerCertificates) == 0 {
		return errors.New("tls: the client has no certificate")
	}
	intermediates := x509.NewCertPool()
	for _, cert := range state.PeerCertificates[1:] {
		intermediates.AddCert(cert)
	}
	_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{
		Roots: live.config.ClientCAs, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return fmt.Errorf("tls: the client's authority is not trusted any more: %w", err)
	}
	*seen = live
	return nil
}

// checkClient pins the client's DNS names after its chain was verified.
func (t *TLS) checkClient(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 {
		return errors.New("tls: the client has no certificate")
	}
	for _, name := range state.PeerCertificates[0].DNSNames {
		if slices.ContainsFunc(t.opts.ClientNames, func(want string) bool { return strings.EqualFold(want, name) }) {
			return nil
		}
	}
	return fmt.Errorf("tls: the client's certificate carries none of the names %v (server.tls.clientNames)", t.opts.ClientNames)
}
