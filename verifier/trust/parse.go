package trust

import (
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	"github.com/gatehouse-project/gatehouse/referrerstore/certfile"
)

// readCertificates reads a file of at most MaxFileBytes, PEM or DER.
func readCertificates(read ReadFile, path string) ([]*x509.Certificate, error) {
	data, err := read(path, MaxFileBytes)
	if err != nil {
		return nil, unwrapPath(err)
	}
	if len(data) > 0 && data[0] == derSequence {
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

func parsePEM(data []byte) ([]*x509.Certificate, error) {
	if len(data) > MaxFileBytes {
		return nil, fmt.Errorf("it is larger than %d bytes", MaxFileBytes)
	}
	return certfile.Parse(data, MaxCertificates)
}
