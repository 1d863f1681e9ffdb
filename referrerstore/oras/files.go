package oras

import (
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/gatehouse-project/gatehouse/referrerstore/certfile"
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
	return certfile.Read(path, maxFileBytes)
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
		found, err := certfile.Parse(data, maxFileBytes) // the bytes bound their number
		if err != nil {
			return nil, fmt.Errorf("%s: it is not a list of certificates in PEM: %w", path, err)
		}
		for _, certificate := range found {
			roots.AddCert(certificate)
		}
	}
	return roots, nil
}
