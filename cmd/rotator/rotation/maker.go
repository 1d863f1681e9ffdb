package rotation

import (
	"bytes"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"time"

	"github.com/open-policy-agent/cert-controller/pkg/rotator"
)

// backdate is how long before it is made a certificate begins to be good: clocks
// of a cluster's machines differ.
const backdate = time.Hour

// What is read of a bundle. Providers are written by others too.
const (
	maxBundleBytes = 256 << 10
	maxBundleCerts = 16
)

// maker makes authorities and certificates. RSA with 2048 bits, as cert-controller
// does: they have authority and certificate in the form that its users know.
type maker struct {
	certs             rotator.CertRotator
	authorityLifetime time.Duration
	lifetime          time.Duration
}

// newMaker makes certificates for names, of which there is one at least.
func newMaker(names []string, o Options) *maker {
	return &maker{
		certs: rotator.CertRotator{
			CAName: o.CAName, CAOrganization: o.CAOrganization,
			DNSName: names[0], ExtraDNSNames: names[1:],
			ExtKeyUsages: &[]x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		},
		authorityLifetime: o.AuthorityLifetime,
		lifetime:          o.Lifetime,
	}
}

// authority makes a self-signed authority.
func (m *maker) authority(now time.Time) (*rotator.KeyPairArtifacts, error) {
	made, err := m.certs.CreateCACert(now.Add(-backdate), now.Add(m.authorityLifetime))
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	return made, nil
}

// certificate makes a serving certificate and its key, in PEM. It ends with its
// authority at the latest.
func (m *maker) certificate(by *rotator.KeyPairArtifacts, now time.Time) (cert, key []byte, err error) {
	end := now.Add(m.lifetime)
	if by.Cert.NotAfter.Before(end) {
		end = by.Cert.NotAfter
	}
	cert, key, err = m.certs.CreateCertPEM(by, now.Add(-backdate), end)
	if err != nil {
		return nil, nil, fmt.Errorf("make certificate: %w", err)
	}
	return cert, key, nil
}

// names are what certificates are made for.
func (m *maker) names() []string {
	return slices.Concat([]string{m.certs.DNSName}, m.certs.ExtraDNSNames)
}

// issuedAt is when a certificate of ours was made.
func issuedAt(cert *x509.Certificate) time.Time { return cert.NotBefore.Add(backdate) }

// parseBundle reads the certificates of a PEM text, each once. What is not a
// certificate is passed over, and so is what goes beyond the bounds.
func parseBundle(text []byte) []*x509.Certificate {
	var certs []*x509.Certificate
	if len(text) > maxBundleBytes {
		text = text[:maxBundleBytes]
	}
	for len(certs) < maxBundleCerts {
		var block *pem.Block
		block, text = pem.Decode(text)
		if block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if block.Type == "CERTIFICATE" && err == nil && !contains(certs, cert) {
			certs = append(certs, cert)
		}
	}
	return certs
}

func contains(certs []*x509.Certificate, cert *x509.Certificate) bool {
	return slices.ContainsFunc(certs, cert.Equal)
}

// encodeBundle is the PEM text of certificates, in their order.
func encodeBundle(certs []*x509.Certificate) []byte {
	var text bytes.Buffer
	for _, c := range certs {
		text.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return text.Bytes()
}

// parseAuthority finds the authority of a bundle that a key belongs to; nil if
// there is none that may sign.
func parseAuthority(bundle []*x509.Certificate, key []byte) *rotator.KeyPairArtifacts {
	block, _ := pem.Decode(key)
	if block == nil {
		return nil
	}
	private, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	if err != nil {
		return nil
	}
	for _, cert := range bundle {
		public, ok := cert.PublicKey.(*rsa.PublicKey)
		if ok && cert.IsCA && private.PublicKey.Equal(public) {
			return &rotator.KeyPairArtifacts{Cert: cert, Key: private, CertPEM: encodeBundle([]*x509.Certificate{cert}), KeyPEM: key}
		}
	}
	return nil
}

// parsePair reads a certificate that its key fits; nil if it is none.
func parsePair(cert, key []byte) *x509.Certificate {
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil
	}
	return pair.Leaf
}
