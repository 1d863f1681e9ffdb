package trust

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
)

var pemBegin = []byte("-----BEGIN ") //nolint:gochecknoglobals // a constant

// readFile reads a regular file of at most MaxFileBytes, PEM or DER. Symbolic
// links are followed: that is how Kubernetes mounts secrets.
func readFile(path string) ([]*x509.Certificate, error) {
	// What is not a regular file might block for ever once opened.
	info, err := os.Stat(path)
	if err != nil {
		return nil, unwrapPath(err)
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is not a regular file")
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, unwrapPath(err)
	}
	defer func() { _ = file.Close() }() // it was only read
	data, err := io.ReadAll(io.LimitReader(file, MaxFileBytes+1))
	if err != nil {
		return nil, unwrapPath(err)
	}
	if len(data) <= MaxFileBytes && len(data) > 0 && data[0] == derSequence {
		return x509.ParseCertificates(data)
	}
	return parsePEM(data)
}

// derSequence is the first byte of every certificate in DER, and of no text
// with PEM in it ('0' stands in front of nothing that is allowed there).
const derSequence = 0x30

// unwrapPath drops the path, which the caller names anyway.
func unwrapPath(err error) error {
	if at, ok := errors.AsType[*os.PathError](err); ok {
		return fmt.Errorf("%s: %w", at.Op, at.Err)
	}
	return err
}

// parsePEM reads certificates and nothing else: between the blocks only white
// space and comment lines that begin with '#' may stand, so that a block with
// a misspelt frame is an error and not one certificate less.
func parsePEM(data []byte) ([]*x509.Certificate, error) {
	if len(data) > MaxFileBytes {
		return nil, fmt.Errorf("it is larger than %d bytes", MaxFileBytes)
	}
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
		if found = append(found, certificate); len(found) > MaxCertificates {
			return nil, fmt.Errorf("more than %d certificates", MaxCertificates)
		}
		data = after
	}
	if len(found) == 0 {
		return nil, errors.New("it holds no certificate")
	}
	return found, nil
}

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
