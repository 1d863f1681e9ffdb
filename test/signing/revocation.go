package signing

import (
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"math/big"
	"time"

	"golang.org/x/crypto/ocsp"
)

// Status is what an authority says about a certificate.
type Status int

// The statuses of OCSP.
const (
	Good    Status = ocsp.Good
	Revoked Status = ocsp.Revoked
	Unknown Status = ocsp.Unknown
)

// OCSP signs a response about one certificate that this authority issued,
// valid from now until nextUpdate.
func (a *Authority) OCSP(certificate *x509.Certificate, status Status, nextUpdate time.Time) ([]byte, error) {
	now := time.Now().Add(-time.Minute)
	response := ocsp.Response{
		Status:       int(status),
		SerialNumber: certificate.SerialNumber,
		ThisUpdate:   now,
		NextUpdate:   nextUpdate,
	}
	if status == Revoked {
		response.RevokedAt = now
		response.RevocationReason = ocsp.KeyCompromise
	}
	data, err := ocsp.CreateResponse(a.certificate, a.certificate, response, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign OCSP response: %w", err)
	}
	return data, nil
}

// RevocationList signs a list of the given certificates, valid from now until
// nextUpdate.
func (a *Authority) RevocationList(nextUpdate time.Time, revoked ...*x509.Certificate) ([]byte, error) {
	now := time.Now().Add(-time.Minute)
	template := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now, NextUpdate: nextUpdate}
	for _, certificate := range revoked {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: certificate.SerialNumber, RevocationTime: now})
	}
	data, err := x509.CreateRevocationList(rand.Reader, template, a.certificate, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign revocation list: %w", err)
	}
	return data, nil
}
