package oras

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// maxFileBytes bounds each file that the options name.
const maxFileBytes = 1 << 20

// readFile reads a file of bounded size and notes its path.
func (set *settings) readFile(deps Deps, path string) ([]byte, error) {
	if path == "" {
		return nil, errors.New("path is empty")
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(deps.Dir, path)
	}
	set.files = append(set.files, path)
	if deps.ReadFile != nil {
		return deps.ReadFile(path, maxFileBytes)
	}
	return readRegular(path, maxFileBytes)
}

// readRegular reads a regular file of at most limit bytes, through symbolic
// links. Anything else is refused before it is opened: a pipe would hold the
// reader for ever.
func readRegular(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // nothing was written
	data, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s: larger than %d bytes", path, limit)
	}
	return data, nil
}

// readRoots makes a pool of the certificates in PEM files, each of which has
// one at least and nothing that is none.
func (set *settings) readRoots(deps Deps, paths []string) (*x509.CertPool, error) {
	if len(paths) == 0 {
		return nil, errors.New("no files")
	}
	roots := x509.NewCertPool()
	for _, path := range paths {
		data, err := set.readFile(deps, path)
		if err != nil {
			return nil, err
		}
		if err := addCertificates(roots, data); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return roots, nil
}

// addCertificates reads what verifier/trust reads: between the blocks only
// white space and comment lines that begin with '#' may stand, so that a block
// with a misspelt frame is an error and not one certificate less.
func addCertificates(roots *x509.CertPool, data []byte) error {
	found := 0
	for {
		rest, blank := skipBlank(data)
		if blank {
			break
		}
		block, after := pem.Decode(rest)
		if block == nil || !bytes.HasPrefix(rest, pemBegin) || bytes.Count(rest[:len(rest)-len(after)], pemBegin) != 1 {
			return fmt.Errorf("it is not a list of certificates in PEM: what follows certificate %d is no PEM block; only white space and '#' comments may stand outside of blocks", found)
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("a PEM block of type %q among certificates", block.Type)
		}
		if len(block.Headers) > 0 {
			return fmt.Errorf("block %d: a PEM block with headers", found+1)
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("block %d: %w", found+1, err)
		}
		roots.AddCert(certificate)
		found++
		data = after
	}
	if found == 0 {
		return errors.New("it is not a list of certificates in PEM: it holds none")
	}
	return nil
}

var pemBegin = []byte("-----BEGIN ") //nolint:gochecknoglobals // a constant

// skipBlank drops white space and comment lines in front, and tells whether
// nothing else is left.
func skipBlank(data []byte) (rest []byte, blank bool) {
	for {
		data = bytes.TrimLeft(data, " \t\r\n")
		if len(data) == 0 {
			return nil, true
		}
		if data[0] != '#' {
			return data, false
		}
		_, data, _ = bytes.Cut(data, []byte("\n"))
	}
}
