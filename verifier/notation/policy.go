package notation

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/notaryproject/notation-go/verifier/trustpolicy"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/verifier/trust"
)

// ErrOptions is in the chain of every error of [New] that the configuration
// caused. The rest of the text says what to change.
var ErrOptions = errors.New("notation options are not valid")

const (
	anyScope          = "*"
	anyIdentity       = "*"
	subjectIdentity   = "x509.subject"
	zeroDigest        = "@sha256:0000000000000000000000000000000000000000000000000000000000000000"
	scopeAdvice       = "write HOST/REPOSITORY without tag or digest, such as registry.example.com/team/app or docker.io/library/busybox"
	unauthenticated   = "under it a signature by anyone passes: use level strict or permissive, or set unsafeAllowUnauthenticated: true"
	advisedIdentities = `use "x509.subject: C=..., ST=..., O=..." or "*"`
)

// policy is a compiled trust policy document.
type policy struct {
	byScope  map[string]*statement
	wildcard *statement
}

// applicable is the statement for an image, nil if there is none: that of the
// exact repository, else that of the wildcard. It is chosen here and not by
// notation-go, whose grammar of references knows no IPv6 hosts.
func (p policy) applicable(ref referrerstore.Reference) *statement {
	if s, ok := p.byScope[ref.Name()]; ok {
		return s
	}
	return p.wildcard
}

// compile checks the document by notation-go's rules and by our own, which
// are stricter, and makes a statement of each part.
func compile(opts Options, snapshot *trust.Snapshot, checks *checker) (policy, error) {
	document, faults := convert(opts.TrustPolicy)
	for _, s := range document.TrustPolicies {
		for _, fault := range checkStatement(s, snapshot, opts.UnsafeAllowUnauthenticated) {
			faults = append(faults, fmt.Errorf("trust policy %q: %w", s.Name, fault))
		}
	}
	if len(faults) == 0 {
		if err := document.Validate(); err != nil {
			faults = append(faults, err)
		}
	}
	if len(faults) > 0 {
		return policy{}, fmt.Errorf("%w: %w", ErrOptions, errors.Join(faults...))
	}
	p := policy{byScope: make(map[string]*statement)}
	for _, s := range document.TrustPolicies {
		compiled, err := newStatement(s, snapshot, checks)
		if err != nil {
			return policy{}, fmt.Errorf("%w: trust policy %q: %w", ErrOptions, s.Name, err)
		}
		p.add(s.RegistryScopes, compiled)
	}
	return p, nil
}

func (p *policy) add(scopes []string, s *statement) {
	for _, scope := range scopes {
		if scope == anyScope {
			p.wildcard = s
		} else {
			p.byScope[scope] = s
		}
	}
}

// convert makes notation-go's document, with canonical scopes.
func convert(in TrustPolicy) (*trustpolicy.Document, []error) {
	var faults []error
	document := &trustpolicy.Document{Version: in.Version}
	for _, s := range in.TrustPolicies {
		scopes := make([]string, len(s.RegistryScopes))
		for i, scope := range s.RegistryScopes {
			var err error
			if scopes[i], err = canonicalScope(scope); err != nil {
				faults = append(faults, fmt.Errorf("trust policy %q: registry scope %q: %w; %s", s.Name, scope, err, scopeAdvice))
			}
		}
		document.TrustPolicies = append(document.TrustPolicies, trustpolicy.TrustPolicy{
			Name:                  s.Name,
			RegistryScopes:        scopes,
			SignatureVerification: convertVerification(s.SignatureVerification),
			TrustStores:           slices.Clone(s.TrustStores),
			TrustedIdentities:     slices.Clone(s.TrustedIdentities),
		})
	}
	return document, faults
}

func convertVerification(in SignatureVerification) trustpolicy.SignatureVerification {
	out := trustpolicy.SignatureVerification{
		VerificationLevel: in.Level,
		VerifyTimestamp:   trustpolicy.TimestampOption(in.VerifyTimestamp),
	}
	if len(in.Override) > 0 {
		out.Override = make(map[trustpolicy.ValidationType]trustpolicy.ValidationAction, len(in.Override))
	}
	for kind, action := range in.Override {
		out.Override[trustpolicy.ValidationType(kind)] = trustpolicy.ValidationAction(action)
	}
	return out
}

// canonicalScope spells a scope as subjects are spelt. notation reads the
// first segment as a host whatever it looks like, Docker only if it looks like
// one; where the two differ the scope would silently mean another repository.
func canonicalScope(scope string) (string, error) {
	if scope == anyScope {
		return scope, nil
	}
	host, _, found := strings.Cut(scope, "/")
	switch {
	case strings.Contains(scope, "*"):
		return scope, errors.New(`"*" stands only alone`)
	case strings.Contains(scope, "@"):
		return scope, errors.New("it has a digest")
	case !found || !referrerstore.LooksLikeHost(host):
		return scope, errors.New("its first segment is no registry host")
	}
	ref, err := referrerstore.ParseReference(scope + zeroDigest)
	if err != nil {
		return scope, err
	}
	if ref.Tag != "" {
		return scope, errors.New("it has a tag")
	}
	return ref.Name(), nil
}

// checkStatement finds what notation-go would let through.
func checkStatement(s trustpolicy.TrustPolicy, snapshot *trust.Snapshot, unsafe bool) []error {
	var faults []error
	if s.SignatureVerification.VerificationLevel == trustpolicy.LevelSkip.Name {
		faults = append(faults, errors.New("level skip verifies nothing and is refused: leave the statement out, and let images through with a policy rule that has allow"))
	} else if err := checkLevel(s.SignatureVerification, unsafe); err != nil {
		faults = append(faults, err)
	}
	faults = append(faults, checkStores(s.TrustStores, snapshot)...)
	for _, identity := range s.TrustedIdentities {
		// notation-go leaves identities of other kinds to plug-ins, and
		// without one passes over them in silence.
		if kind, _, _ := strings.Cut(identity, ":"); identity != anyIdentity && kind != subjectIdentity {
			faults = append(faults, fmt.Errorf("trusted identity %q is of a kind that only a plug-in understands; %s", identity, advisedIdentities))
		}
	}
	return faults
}

func checkLevel(s trustpolicy.SignatureVerification, unsafe bool) error {
	if _, ok := s.Override[trustpolicy.TypeIntegrity]; ok {
		return errors.New("an override of integrity is refused: a signature that does not match what it signs proves nothing; remove it")
	}
	level, err := s.GetVerificationLevel()
	if err != nil {
		return fmt.Errorf("%w; use level strict, permissive or audit, and overrides of %s to enforce or log", err,
			"authenticity, authenticTimestamp, expiry or revocation")
	}
	if level.Enforcement[trustpolicy.TypeAuthenticity] != trustpolicy.ActionEnforce && !unsafe {
		return fmt.Errorf("level %s only logs authenticity; %s", s.VerificationLevel, unauthenticated)
	}
	return nil
}

func checkStores(names []string, snapshot *trust.Snapshot) []error {
	var faults []error
	signers := false
	for _, store := range names {
		kind, name, found := strings.Cut(store, ":")
		if !found {
			faults = append(faults, fmt.Errorf("trust store %q is not of the form TYPE:NAME, such as ca:acme", store))
			continue
		}
		signers = signers || kind != trust.TypeTSA
		if _, ok := snapshot.Certificates(kind, name); !ok {
			faults = append(faults, fmt.Errorf("trust store %q is not in trust.certificates, which has %s; add {name: %s, type: %s, files: [...]}",
				store, listed(snapshot.Names()), name, kind))
		}
	}
	if len(names) > 0 && !signers {
		faults = append(faults, errors.New("no trust store of type ca or signingAuthority is named, so no signature could ever pass; add one"))
	}
	return faults
}

func listed(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
