package notation

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/notaryproject/notation-core-go/revocation/purpose"
	"github.com/notaryproject/notation-core-go/signature"
	"github.com/notaryproject/notation-go"
	notationverifier "github.com/notaryproject/notation-go/verifier"
	"github.com/notaryproject/notation-go/verifier/trustpolicy"
	"github.com/notaryproject/notation-go/verifier/truststore"

	"github.com/gatehouse-project/gatehouse/verifier/trust"
)

// statement is one compiled statement of the trust policy, with a verifier of
// notation-go's that knows this statement alone.
type statement struct {
	name     string
	level    *trustpolicy.VerificationLevel
	stamps   trustpolicy.TimestampOption
	roots    roots
	verifier notation.Verifier
}

func newStatement(s trustpolicy.TrustPolicy, snapshot *trust.Snapshot, checks *checker) (*statement, error) {
	level, err := s.SignatureVerification.GetVerificationLevel()
	if err != nil {
		return nil, err
	}
	compiled := &statement{
		name:   s.Name,
		level:  level,
		stamps: s.SignatureVerification.VerifyTimestamp,
		roots:  newRoots(s.TrustStores, snapshot),
	}
	s.RegistryScopes = []string{anyScope}
	compiled.verifier, err = notationverifier.NewWithOptions(
		&trustpolicy.Document{Version: "1.0", TrustPolicies: []trustpolicy.TrustPolicy{s}},
		store{snapshot},
		nil, // no plug-ins: a signature that demands one fails
		notationverifier.VerifierOptions{
			RevocationCodeSigningValidator:  validator{checks, purpose.CodeSigning},
			RevocationTimestampingValidator: validator{checks, purpose.Timestamping},
		})
	return compiled, err
}

// enforces tells whether the level enforces a check.
func (s *statement) enforces(kind trustpolicy.ValidationType) bool {
	return s.level.Enforcement[kind] == trustpolicy.ActionEnforce
}

// demandsStamp tells whether a time stamp, rather than this moment, decides
// on the validity of the chain, as notation-go does.
func (s *statement) demandsStamp(info *signature.SignerInfo) bool {
	if info.SignedAttributes.SigningScheme != signature.SigningSchemeX509 || len(s.roots[trust.TypeTSA]) == 0 {
		return false
	}
	now := time.Now()
	return s.stamps != trustpolicy.OptionAfterCertExpiry ||
		slices.ContainsFunc(info.CertificateChain, func(c *x509.Certificate) bool { return now.After(c.NotAfter) })
}

// roots are the certificates that a statement trusts, by the type of store.
type roots map[trust.Type][]*x509.Certificate

func newRoots(stores []string, snapshot *trust.Snapshot) roots {
	all := make(roots)
	for _, name := range stores {
		kind, name, _ := strings.Cut(name, ":")
		set, _ := snapshot.Certificates(kind, name)
		all[kind] = append(all[kind], set...)
	}
	return all
}

// typeFor is the type of store that vouches for signatures of a scheme.
func typeFor(scheme signature.SigningScheme) trust.Type {
	if scheme == signature.SigningSchemeX509SigningAuthority {
		return trust.TypeSigningAuthority
	}
	return trust.TypeCA
}

// reached tells whether a chain, each certificate of which signed the one
// before it, holds a trusted certificate.
func (r roots) reached(kind trust.Type, chain []*x509.Certificate) bool {
	return slices.ContainsFunc(chain, func(c *x509.Certificate) bool {
		return slices.ContainsFunc(r[kind], c.Equal)
	})
}

// store shows a snapshot to notation-go.
type store struct{ snapshot *trust.Snapshot }

var _ truststore.X509TrustStore = store{}

// GetCertificates implements [truststore.X509TrustStore].
func (s store) GetCertificates(_ context.Context, kind truststore.Type, name string) ([]*x509.Certificate, error) {
	set, ok := s.snapshot.Certificates(string(kind), name)
	if !ok {
		return nil, truststore.TrustStoreError{Msg: fmt.Sprintf("the trust store %s:%s does not exist", kind, name)}
	}
	return set, nil
}
