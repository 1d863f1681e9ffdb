package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"runtime/debug"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// bundleModule is the Go module that the certificates come from.
const bundleModule = "golang.org/x/crypto/x509roots/fallback"

// certificates are Mozilla's trusted roots as a PEM file. A root that is trusted only
// for what was issued before some day is left out: a PEM file cannot say so.
func certificates() ([]byte, error) {
	var out bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint != nil {
			continue
		}
		certificate, err := x509.ParseCertificate(root.Certificate)
		if err != nil {
			return nil, fmt.Errorf("a certificate of %s: %w", bundleModule, err)
		}
		fmt.Fprintf(&out, "# %q\n", certificate.Subject)
		if err := pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), nil
}

// bundleVersion is the module as this very program was built with it.
func bundleVersion() (*debug.Module, error) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return nil, errors.New("this program does not know its own modules")
	}
	for _, m := range info.Deps {
		if m.Path == bundleModule {
			return m, nil
		}
	}
	return nil, fmt.Errorf("this program was built without %s", bundleModule)
}
