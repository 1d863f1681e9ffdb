// Package certfile reads files of certificates as strictly as trust demands:
// bounded regular files, and PEM in which nothing else may stand. Stores read
// the authorities of registries with it, trust stores those of signers.
package certfile

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
)

// Read reads a regular file of at most limit bytes, through symbolic links:
// that is how Kubernetes mounts secrets. Anything else is refused before it is
// opened, because a pipe would hold the reader for ever. Errors are
// [os.PathError] values.
func Read(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &os.PathError{Op: "read", Path: path, Err: errors.New("it is not a regular file")}
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // it was only read
	data, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, &os.PathError{Op: "read", Path: path, Err: fmt.Errorf("it is larger than %d bytes", limit)}
	}
	return data, nil
}

// Parse reads at least one and at most most certificates in PEM and nothing
// else: between the blocks only white space and comment lines that begin with
// '#' may stand, so that a block with a misspelt frame is an error and not one
// certificate less.
func Parse(data []byte, most int) ([]*x509.Certificate, error) {
	var found []*x509.Certificate
	for {
		rest, blank := skipBlank(data)
		if blank {
			break
		}
		block, after := pem.Decode(rest)
		if block == nil || bytes.Count(rest[:len(rest)-len(after)], pemBegin) != 1 || !bytes.HasPrefix(rest, pemBegin) {
			return nil, fmt.Errorf("what follows certificate %d is no PEM block; only white space and '#' comments may stand outside of blocks", len(found))
		}
		certificate, err := parseBlock(block)
		if err != nil {
			return nil, fmt.Errorf("block %d: %w", len(found)+1, err)
		}
		if found = append(found, certificate); len(found) > most {
			return nil, fmt.Errorf("more than %d certificates", most)
		}
		data = after
	}
	if len(found) == 0 {
		return nil, errors.New("it holds no certificate")
	}
	return found, nil
}

var pemBegin = []byte("-----BEGIN ") //nolint:gochecknoglobals // a constant

func parseBlock(block *pem.Block) (*x509.Certificate, error) {
	if block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("a PEM block of type %q; only CERTIFICATE belongs here", block.Type)
	}
	if len(block.Headers) > 0 {
		return nil, errors.New("a PEM block with headers")
	}
	return x509.ParseCertificate(block.Bytes)
}

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
