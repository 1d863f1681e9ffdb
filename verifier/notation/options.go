package notation

import "time"

// Options are what users configure. [New] fills in the defaults of fields
// left at zero and refuses what is not safe.
type Options struct {
	// Revocation says how the revocation of certificates is checked.
	Revocation RevocationOptions `yaml:"revocation" doc:"How the revocation of certificates is checked."`
	// TrustPolicy is the Notary Project's trust policy document.
	TrustPolicy TrustPolicy `yaml:"trustPolicy" required:"true" doc:"Trust policy document of the Notary Project, as notation reads it."`
	// UnsafeAllowUnauthenticated accepts policies under which a signature by
	// anyone at all passes: the level audit, and overrides that only log
	// authenticity.
	UnsafeAllowUnauthenticated bool `yaml:"unsafeAllowUnauthenticated" default:"false" doc:"Accept policies under which a signature by anyone passes (level audit, or authenticity: log)."`
}

// The modes of [RevocationOptions].
const (
	// RevocationEnforce lets an unknown status keep a signature from passing.
	RevocationEnforce = "enforce"
	// RevocationLog makes an unknown status a warning. A certificate that is
	// known to be revoked fails all the same.
	RevocationLog = "log"
	// RevocationOff asks nobody, and warns of that in every report.
	RevocationOff = "off"
)

// RevocationOptions bound the checks of revocation. What is to be done about
// a certificate that is revoked is the trust policy's to say; see Mode for one
// of which nothing can be learnt.
type RevocationOptions struct {
	// Mode is RevocationEnforce unless set.
	Mode string `yaml:"mode" default:"enforce" enum:"enforce,log,off" doc:"What an unknown status means: enforce, no verdict; log, a warning; off asks nobody."`
	// Timeout bounds all questions about one chain, 500ms unless set. It is
	// cut to three quarters of what is left of the request's time, so that a
	// responder that hangs leaves time for the answer.
	Timeout time.Duration `yaml:"timeout" default:"500ms" min:"1ms" max:"30s" doc:"Time for all questions about one certificate chain."`
	// AllowPrivate names responders that may be at private addresses: a host,
	// a suffix such as "*.corp.example", or a CIDR. Whoever makes the HTTP
	// client of [Deps] heeds it.
	AllowPrivate []string `yaml:"allowPrivate" doc:"Responders that may have private addresses: host, *.suffix or CIDR."`
	// CacheBytes bounds the responses kept until they end, 8 MiB unless set.
	CacheBytes int64 `yaml:"cacheBytes" unit:"bytes" default:"8MiB" min:"64KiB" max:"1GiB" doc:"Memory for OCSP responses and revocation lists, which are kept until they end, a day at most."`
}

// The defaults and bounds of [RevocationOptions].
const (
	defaultTimeout    = 500 * time.Millisecond
	defaultCacheBytes = 8 << 20
	minCacheBytes     = 64 << 10
)

func (o RevocationOptions) withDefaults() RevocationOptions {
	if o.Mode == "" {
		o.Mode = RevocationEnforce
	}
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = defaultCacheBytes
	}
	return o
}

// HeldBytes bounds what a verifier with these options keeps and reads beside
// the budget of its surroundings: responses about revocation.
func (o Options) HeldBytes() int64 {
	if o.Revocation.Mode == RevocationOff {
		return 0
	}
	return o.Revocation.withDefaults().CacheBytes + maxExchangeBytes
}

// TrustPolicy is the Notary Project's trust policy document, version 1.0,
// field by field as notation's users write it.
//
// Spec: https://github.com/notaryproject/specifications, trust-store-trust-policy.md
type TrustPolicy struct {
	// Version is "1.0".
	Version string `yaml:"version" required:"true" enum:"1.0" doc:"Version of the document, 1.0 in quotation marks."`
	// TrustPolicies are the statements; at most one applies to an image.
	TrustPolicies []Statement `yaml:"trustPolicies" required:"true" min:"1" max:"1000" doc:"Statements; the one with the image's repository in scope applies, else the one with scope *."`
}

// Statement says what signatures of some repositories must show.
type Statement struct {
	// Name is unique in the document.
	Name string `yaml:"name" required:"true" doc:"Name of the statement; unique."`
	// RegistryScopes are repositories (HOST/REPOSITORY), or "*" alone. They
	// are made canonical as image references are.
	RegistryScopes []string `yaml:"registryScopes" required:"true" min:"1" max:"1000" doc:"Repositories as HOST/REPOSITORY, or * alone."`
	// SignatureVerification says which checks count.
	SignatureVerification SignatureVerification `yaml:"signatureVerification" required:"true" doc:"Which checks must succeed."`
	// TrustStores name sets of certificates as TYPE:NAME. Neither these nor the
	// identities are required while decoding: New explains better what lacks.
	TrustStores []string `yaml:"trustStores" max:"100" doc:"Sets of trust.certificates, as TYPE:NAME."`
	// TrustedIdentities are "*", or subjects as "x509.subject: C=US, ST=WA,
	// O=acme".
	TrustedIdentities []string `yaml:"trustedIdentities" max:"100" doc:"Who may have signed: x509.subject: DISTINGUISHED NAME, or * for everyone whom the trust stores vouch for."`
}

// SignatureVerification is a level and what departs from it.
type SignatureVerification struct {
	// Level is strict, permissive or audit; skip is refused.
	Level string `yaml:"level" required:"true" doc:"strict, permissive or audit; skip is refused."`
	// VerifyTimestamp is always (the default) or afterCertExpiry. It has no
	// effect without a trust store of type tsa.
	VerifyTimestamp string `yaml:"verifyTimestamp" enum:"always,afterCertExpiry" doc:"When time stamps are needed, if a trust store of type tsa is named: always, or afterCertExpiry."`
	// Override maps authenticity, authenticTimestamp, expiry or revocation to
	// enforce or log, and revocation also to skip.
	Override map[string]string `yaml:"override" doc:"Departures from the level: authenticity, authenticTimestamp, expiry, revocation to enforce or log; revocation also to skip."`
}
