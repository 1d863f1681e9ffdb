package signing

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
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
	return respond(a.certificate, a.certificate, a.key, statusOf(certificate, status, nextUpdate))
}

// OCSP signs a response about one certificate in the name of the authority
// that issued this signer's, and embeds the signer's own certificate, as a
// responder does to which the authority delegated that. Whether it did is in
// the usages that the signer was issued with.
func (s *Signer) OCSP(certificate *x509.Certificate, status Status, nextUpdate time.Time) ([]byte, error) {
	response := statusOf(certificate, status, nextUpdate)
	response.Certificate = s.chain[0]
	return respond(s.chain[1], s.chain[0], s.key, response)
}

// EmbeddedOCSP signs a response in the name of an authority, which may be this
// one or the one above it, and embeds this one's own certificate.
func (a *Authority) EmbeddedOCSP(of *Authority, certificate *x509.Certificate, status Status, nextUpdate time.Time) ([]byte, error) {
	response := statusOf(certificate, status, nextUpdate)
	response.Certificate = a.certificate
	return respond(of.certificate, a.certificate, a.key, response)
}

func statusOf(certificate *x509.Certificate, status Status, nextUpdate time.Time) ocsp.Response {
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
	return response
}

func respond(issuer, responder *x509.Certificate, key crypto.Signer, response ocsp.Response) ([]byte, error) {
	data, err := ocsp.CreateResponse(issuer, responder, response, key)
	if err != nil {
		return nil, fmt.Errorf("sign OCSP response: %w", err)
	}
	return data, nil
}

// RevocationList signs a list of the given certificates, valid from now until
// nextUpdate.
func (a *Authority) RevocationList(nextUpdate time.Time, revoked ...*x509.Certificate) ([]byte, error) {
	return a.ExtendedRevocationList(nextUpdate, nil, revoked...)
}

// ExtendedRevocationList is as [Authority.RevocationList] with extensions of
// the list, such as what it is limited to.
func (a *Authority) ExtendedRevocationList(nextUpdate time.Time, extensions []pkix.Extension, revoked ...*x509.Certificate) ([]byte, error) {
	return a.list(1, nextUpdate, extensions, revoked)
}

// RevocationListOfChanges signs the list that follows the others, with the
// mark of a list that has the changes alone.
func (a *Authority) RevocationListOfChanges(nextUpdate time.Time, extensions []pkix.Extension, revoked ...*x509.Certificate) ([]byte, error) {
	mark := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 27}, Critical: true, Value: []byte{asn1.TagInteger, 1, 1}}
	return a.list(2, nextUpdate, append([]pkix.Extension{mark}, extensions...), revoked)
}

func (a *Authority) list(number int64, nextUpdate time.Time, extensions []pkix.Extension, revoked []*x509.Certificate) ([]byte, error) {
	now := time.Now().Add(-time.Minute)
	template := &x509.RevocationList{Number: big.NewInt(number), ThisUpdate: now, NextUpdate: nextUpdate, ExtraExtensions: extensions}
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
