package oras

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/guard"
)

// maxFileBytes bounds each file that the options name.
const maxFileBytes = 1 << 20

// readFile reads a file of bounded size and notes its path.
func (set *settings) readFile(dir, path string) ([]byte, error) {
	if path == "" {
		return nil, errors.New("path is empty")
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	set.files = append(set.files, path)
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // nothing was written
	data, err := io.ReadAll(io.LimitReader(file, maxFileBytes+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFileBytes {
		return nil, fmt.Errorf("%s: larger than %d bytes", path, maxFileBytes)
	}
	return data, nil
}

// readRoots makes a pool of the certificates in PEM files, each of which has
// one at least and nothing that is none.
func (set *settings) readRoots(dir string, paths []string) (*x509.CertPool, error) {
	if len(paths) == 0 {
		return nil, errors.New("no files")
	}
	roots := x509.NewCertPool()
	for _, path := range paths {
		data, err := set.readFile(dir, path)
		if err != nil {
			return nil, err
		}
		if err := addCertificates(roots, data); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return roots, nil
}

func addCertificates(roots *x509.CertPool, data []byte) error {
	found := 0
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		data = rest
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("a PEM block of type %q among certificates", block.Type)
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return err
		}
		roots.AddCert(certificate)
		found++
	}
	if found == 0 || len(bytes.TrimSpace(data)) > 0 {
		return errors.New("it is not a list of certificates in PEM")
	}
	return nil
}

// transports picks the transport for the host of each URL, so that a host's own
// authorities count wherever that host is met: as a registry, a token service
// or behind a redirect.
type transports struct {
	others *guard.Transport
	byHost map[string]*guard.Transport
}

var _ http.RoundTripper = (*transports)(nil)

// RoundTrip sends the request on the transport of its host.
func (t *transports) RoundTrip(req *http.Request) (*http.Response, error) {
	return t.of(req.URL).RoundTrip(req)
}

func (t *transports) of(u *url.URL) *guard.Transport {
	host, err := referrerstore.CanonicalHost(u.Host)
	if err != nil {
		return t.others
	}
	if own, ok := t.byHost[host]; ok {
		return own
	}
	return t.others
}

// CloseIdleConnections closes the idle connections of all transports.
func (t *transports) CloseIdleConnections() {
	t.others.CloseIdleConnections()
	for _, own := range t.byHost {
		own.CloseIdleConnections()
	}
}
