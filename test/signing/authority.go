package signing

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"
)

// AuthorityOptions refine [NewAuthority] and [Authority.Intermediate]. The
// zero value is an authority valid from 30 days ago for ten years.
type AuthorityOptions struct {
	// Subject replaces the default, whose common name is the given name.
	Subject *pkix.Name
	// NotBefore and NotAfter bound the validity.
	NotBefore, NotAfter time.Time
	// OCSPServers and CRLServers are URLs at which the status of an
	// intermediate can be asked; a root has none.
	OCSPServers, CRLServers []string
}

// Authority is a certificate authority in memory. It is safe for concurrent
// use and never changes.
type Authority struct {
	certificate *x509.Certificate
	key         crypto.Signer
	parents     []*x509.Certificate // from this one's issuer to the root
}

// NewAuthority makes a self-signed root that may issue code signing
// certificates by the Notary Project's rules.
func NewAuthority(name string, key KeyKind, opts AuthorityOptions) (*Authority, error) {
	return newAuthority(name, key, opts, nil)
}

// Intermediate makes an authority below this one.
func (a *Authority) Intermediate(name string, key KeyKind, opts AuthorityOptions) (*Authority, error) {
	return newAuthority(name, key, opts, a)
}

func newAuthority(name string, kind KeyKind, opts AuthorityOptions, parent *Authority) (*Authority, error) {
	key, err := kind.generate()
	if err != nil {
		return nil, fmt.Errorf("authority %s: %w", name, err)
	}
	template, err := newTemplate(name, opts.Subject, opts.NotBefore, opts.NotAfter, 10*365*24*time.Hour)
	if err != nil {
		return nil, fmt.Errorf("authority %s: %w", name, err)
	}
	template.IsCA = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	template.OCSPServer, template.CRLDistributionPoints = opts.OCSPServers, opts.CRLServers
	self := &Authority{certificate: template, key: key}
	if parent == nil {
		parent = self
	} else {
		self.parents = parent.chain()
	}
	if self.certificate, err = parent.sign(template, key.Public()); err != nil {
		return nil, fmt.Errorf("authority %s: %w", name, err)
	}
	return self, nil
}

// Certificate is the authority's own certificate, the one to trust.
func (a *Authority) Certificate() *x509.Certificate { return a.certificate }

// PEM is the authority's own certificate as a PEM block.
func (a *Authority) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw})
}

// IssueOptions refine [Authority.Issue]. The zero value is a certificate with
// the subject C=US, ST=WA, O=acme and the common name, valid from 30 days ago
// for 400 days, of which nobody can ask the status.
type IssueOptions struct {
	// Subject replaces the default subject, common name included.
	Subject *pkix.Name
	// NotBefore and NotAfter bound the validity. To sign with a certificate
	// that has expired, set [SignOptions].SigningTime between the two.
	NotBefore, NotAfter time.Time
	// OCSPServers and CRLServers are URLs at which the status can be asked.
	// Clients of the Notary Project ask plain http URLs alone.
	OCSPServers, CRLServers []string
	// Usages replace code signing as what the key is for; a responder that the
	// authority delegates OCSP to has [x509.ExtKeyUsageOCSPSigning].
	Usages []x509.ExtKeyUsage
}

// Issue makes a key and a certificate for it, for code signing unless the
// options say otherwise.
func (a *Authority) Issue(commonName string, kind KeyKind, opts IssueOptions) (*Signer, error) {
	key, err := kind.generate()
	if err != nil {
		return nil, fmt.Errorf("issue %s: %w", commonName, err)
	}
	template, err := newTemplate(commonName, opts.Subject, opts.NotBefore, opts.NotAfter, 400*24*time.Hour)
	if err != nil {
		return nil, fmt.Errorf("issue %s: %w", commonName, err)
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = opts.Usages
	if len(opts.Usages) == 0 {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
	}
	template.OCSPServer, template.CRLDistributionPoints = opts.OCSPServers, opts.CRLServers
	leaf, err := a.sign(template, key.Public())
	if err != nil {
		return nil, fmt.Errorf("issue %s: %w", commonName, err)
	}
	return &Signer{chain: append([]*x509.Certificate{leaf}, a.chain()...), key: key}, nil
}

func (a *Authority) chain() []*x509.Certificate {
	return append([]*x509.Certificate{a.certificate}, a.parents...)
}

func (a *Authority) sign(template *x509.Certificate, public crypto.PublicKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, public, a.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// newTemplate fills what all certificates have in common.
func newTemplate(name string, subject *pkix.Name, from, until time.Time, lifetime time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	if subject == nil {
		subject = &pkix.Name{Country: []string{"US"}, Province: []string{"WA"}, Organization: []string{"acme"}, CommonName: name}
	}
	if from.IsZero() {
		from = time.Now().Add(-30 * 24 * time.Hour)
	}
	if until.IsZero() {
		until = from.Add(lifetime)
	}
	return &x509.Certificate{
		SerialNumber:          serial,
		Subject:               *subject,
		NotBefore:             from,
		NotAfter:              until,
		BasicConstraintsValid: true,
	}, nil
}
