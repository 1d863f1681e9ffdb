package rotation

import (
	"crypto/x509"
	"encoding/base64"
	"slices"
	"time"

	"github.com/open-policy-agent/cert-controller/pkg/rotator"
)

// state is what the plan asks about: the Secret and the Providers as read.
type state struct {
	secret    Secret
	bundle    []*x509.Certificate       // of ca.crt
	authority *rotator.KeyPairArtifacts // of ca.crt and ca.key; nil if they are no pair
	leaf      *x509.Certificate         // of tls.crt and tls.key; nil if they are no pair
	providers []Provider                // those that are there and could be read
	unread    bool                      // a Provider could not be read
	confirmed time.Time                 // since when all Providers had the bundle; zero if they do not
}

// readState parses what the Secret holds.
func readState(secret Secret, providers []Provider, unread bool) state {
	s := state{secret: secret, providers: providers, unread: unread}
	s.bundle = parseBundle(secret.Data[KeyBundle])
	s.authority = parseAuthority(s.bundle, secret.Data[KeyAuthorityKey])
	s.leaf = parsePair(secret.Data[KeyCertificate], secret.Data[KeyCertificateKey])
	return s
}

// wanted is what spec.caBundle of each Provider has to be.
func (s state) wanted() string {
	return base64.StdEncoding.EncodeToString(encodeBundle(s.bundle))
}

// untold are the Providers that have another bundle.
func (s state) untold() []Provider {
	wanted := s.wanted()
	return slices.DeleteFunc(slices.Clone(s.providers), func(p Provider) bool { return p.Bundle == wanted })
}

// trusted are all authorities that the Secret or a Provider names and that have not
// ended, the youngest first, at most one less than a bundle may have.
func (s state) trusted(now time.Time) []*x509.Certificate {
	all := slices.Clone(s.bundle)
	for _, p := range s.providers {
		text, err := base64.StdEncoding.DecodeString(p.Bundle)
		if err != nil {
			continue
		}
		for _, cert := range parseBundle(text) {
			if !contains(all, cert) {
				all = append(all, cert)
			}
		}
	}
	all = slices.DeleteFunc(all, func(c *x509.Certificate) bool { return !now.Before(c.NotAfter) })
	slices.SortStableFunc(all, func(a, b *x509.Certificate) int { return b.NotBefore.Compare(a.NotBefore) })
	return all[:min(len(all), maxBundleCerts-1)]
}

// ours says that the certificate is signed by the authority that signs now.
func (s state) ours() bool {
	return s.leaf != nil && s.authority != nil && s.leaf.CheckSignatureFrom(s.authority.Cert) == nil
}

// chained says that the certificate is signed by one of the bundle.
func (s state) chained() bool {
	return s.leaf != nil && slices.ContainsFunc(s.bundle, func(c *x509.Certificate) bool {
		return s.leaf.CheckSignatureFrom(c) == nil
	})
}
