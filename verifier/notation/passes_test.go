package notation_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gatehouse-project/gatehouse/test/signing"
	"github.com/gatehouse-project/gatehouse/verifier"
	"github.com/gatehouse-project/gatehouse/verifier/notation"
)

func TestPasses(t *testing.T) {
	t.Parallel()
	for _, kind := range []signing.KeyKind{signing.RSA2048, signing.ECDSA256, signing.ECDSA384, signing.ECDSA521} {
		root := authority(t, kind)
		middle := must[*signing.Authority](t)(root.Intermediate("middle", kind, signing.AuthorityOptions{}))
		signer := issue(t, middle, kind, signing.IssueOptions{})
		for _, format := range []signing.Format{signing.JWS, signing.COSE} {
			for _, scheme := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/authority=%t", kind, format, scheme), func(t *testing.T) {
					t.Parallel()
					v := newVerifier(t, options(), stores(t, root), nil)
					report := verify(t, v, sign(t, signer, image(), signing.SignOptions{
						Format: format, SigningAuthority: scheme, Expiry: time.Hour, Metadata: map[string]string{"build": "7"},
					}))
					expect(t, report, verifier.Passed, verifier.CodeVerified, "valid")
					if err := report.Statement.Validate(); err != nil || len(report.Warnings) > 0 {
						t.Errorf("statement %q, warnings %q", report.Statement, report.Warnings)
					}
					if left := time.Until(report.ValidUntil); left <= 0 || left > time.Hour {
						t.Errorf("valid for %v, the signature for an hour", left)
					}
				})
			}
		}
	}
}

func TestExtensions(t *testing.T) {
	t.Parallel()
	root := authority(t, signing.ECDSA256)
	signer := issue(t, root, signing.ECDSA256, signing.IssueOptions{})
	signed := time.Now().Add(-time.Hour).Truncate(time.Second)
	report := verify(t, newVerifier(t, options(), stores(t, root), nil), sign(t, signer, image(), signing.SignOptions{SigningTime: signed}))
	want := map[string]string{
		"Issuer":        "CN=acme root,O=acme,ST=WA,C=US",
		"SN":            "CN=release,O=acme,ST=WA,C=US",
		"SigningScheme": "notary.x509",
		"SigningTime":   signed.UTC().Format(time.RFC3339),
		"TrustPolicy":   "default",
	}
	if diff := cmp.Diff(want, report.Extensions); diff != "" {
		t.Error(diff)
	}
	if !report.ValidUntil.Equal(signer.Certificate().NotAfter) {
		t.Errorf("valid until %v, the certificate until %v", report.ValidUntil, signer.Certificate().NotAfter)
	}
}

// What a level enforces fails, what it logs is a warning.
func TestLevels(t *testing.T) {
	t.Parallel()
	root := authority(t, signing.ECDSA256)
	now := time.Now()
	lapsed := signing.IssueOptions{NotBefore: now.Add(-48 * time.Hour), NotAfter: now.Add(-time.Hour)}
	revoker := &responder{Authority: root, status: signing.Revoked}
	url, client := revoker.serve(t)
	signers := map[string]*signing.Signer{
		"good":     issue(t, root, signing.ECDSA256, signing.IssueOptions{}),
		"stranger": issue(t, authority(t, signing.ECDSA256), signing.ECDSA256, signing.IssueOptions{}),
		"lapsed":   issue(t, root, signing.ECDSA256, lapsed),
		"revoked":  issue(t, root, signing.ECDSA256, signing.IssueOptions{OCSPServers: []string{url + "/ocsp"}}),
	}
	revoker.issued = append(revoker.issued, signers["revoked"].Certificate())
	expired := signing.SignOptions{SigningTime: now.Add(-2 * time.Hour), Expiry: time.Minute}
	before := signing.SignOptions{SigningTime: now.Add(-2 * time.Hour)}
	others := func(s *notation.Statement) { s.TrustedIdentities = []string{"x509.subject: C=US, ST=WA, O=others"} }

	tests := []struct {
		name    string
		signer  string
		opts    signing.SignOptions
		change  []func(*notation.Statement)
		code    verifier.Code
		warning string
	}{
		{"permissive, good", "good", before, []func(*notation.Statement){level("permissive")}, verifier.CodeVerified, ""},
		{"permissive, expired", "good", expired, []func(*notation.Statement){level("permissive")}, verifier.CodeVerified, "expiry: "},
		{"permissive, lapsed", "lapsed", before, []func(*notation.Statement){level("permissive")}, verifier.CodeVerified, "authenticTimestamp: "},
		{"permissive, revoked", "revoked", before, []func(*notation.Statement){level("permissive")}, verifier.CodeVerified, "revocation: "},
		{"permissive, stranger", "stranger", before, []func(*notation.Statement){level("permissive")}, verifier.CodeSignerUntrusted, ""},
		{"permissive, expiry enforced", "good", expired, []func(*notation.Statement){level("permissive", "expiry", "enforce")}, verifier.CodeSignatureExpired, ""},
		{"permissive, revocation enforced", "revoked", before, []func(*notation.Statement){level("permissive", "revocation", "enforce")}, verifier.CodeCertificateRevoked, ""},
		{"permissive, time enforced", "lapsed", before, []func(*notation.Statement){level("permissive", "authenticTimestamp", "enforce")}, verifier.CodeCertificateExpired, ""},
		{"strict, expiry logged", "good", expired, []func(*notation.Statement){level("strict", "expiry", "log")}, verifier.CodeVerified, "expiry: "},
		{"strict, revocation skipped", "revoked", before, []func(*notation.Statement){level("strict", "revocation", "skip")}, verifier.CodeVerified, ""},
		{"audit, stranger", "stranger", before, []func(*notation.Statement){level("audit")}, verifier.CodeVerified, "authenticity: "},
		{"audit, other identity", "good", before, []func(*notation.Statement){level("audit"), others}, verifier.CodeVerified, "authenticity: "},
		{"audit, authenticity enforced", "stranger", before, []func(*notation.Statement){level("audit", "authenticity", "enforce")}, verifier.CodeSignerUntrusted, ""},
		{"audit, plug-in", "good", signing.SignOptions{Attributes: map[string]string{signing.PluginAttribute: "p"}}, []func(*notation.Statement){level("audit")}, verifier.CodePluginRequired, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			opts := options(test.change...)
			opts.UnsafeAllowUnauthenticated = strings.HasPrefix(test.name, "audit")
			report := verify(t, newVerifier(t, opts, stores(t, root), client), sign(t, signers[test.signer], image(), test.opts))
			outcome := verifier.Failed
			if test.code == verifier.CodeVerified {
				outcome = verifier.Passed
			}
			expect(t, report, outcome, test.code, "")
			warned := slices.ContainsFunc(report.Warnings, func(w string) bool { return strings.HasPrefix(w, test.warning) })
			if warned != (test.warning != "" || len(report.Warnings) > 0) || (test.warning != "") != (len(report.Warnings) > 0) {
				t.Errorf("warnings %q, want %q", report.Warnings, test.warning)
			}
			if test.warning == "authenticity: " && (report.Extensions["Issuer"] != "" || report.Extensions["SN"] != "") {
				t.Errorf("an unproven signer is told as a fact: %v", report.Extensions)
			}
		})
	}
}

// Under no level does a signature over something else pass.
func TestAuditStillBindsTheSubject(t *testing.T) {
	t.Parallel()
	root := authority(t, signing.ECDSA256)
	opts := options(level("audit"))
	opts.UnsafeAllowUnauthenticated = true
	v := newVerifier(t, opts, stores(t, root), nil)
	envelope := sign(t, issue(t, root, signing.ECDSA256, signing.IssueOptions{}), image(), signing.SignOptions{})
	other := image()
	other.Size++
	in, _ := inputFor(t, envelope, subject(t, repository, other))
	report := must[verifier.Report](t)(v.Verify(t.Context(), in))
	expect(t, report, verifier.Failed, verifier.CodeSubjectMismatch, "another image")
}

// Scopes and images meet in one spelling.
func TestScopes(t *testing.T) {
	t.Parallel()
	root := authority(t, signing.ECDSA256)
	envelope := sign(t, issue(t, root, signing.ECDSA256, signing.IssueOptions{}), image(), signing.SignOptions{})
	tests := []struct {
		scope, image string
		code         verifier.Code
	}{
		{"docker.io/library/busybox", "busybox", verifier.CodeVerified},
		{"docker.io/busybox", "busybox", verifier.CodeVerified},
		{"index.docker.io/library/busybox", "docker.io/library/busybox", verifier.CodeVerified},
		{"REGISTRY.example.com:443/team/app", repository, verifier.CodeVerified},
		{"registry.example.com:5000/team/app", repository, verifier.CodeScopeMismatch},
		{"registry.example.com/team", repository, verifier.CodeScopeMismatch},
		{"registry.example.com/team/app", "registry.example.com/team/app/sub", verifier.CodeScopeMismatch},
		{"localhost/app", "localhost/app", verifier.CodeVerified},
		{"*", "[::1]:5000/app", verifier.CodeVerified},
	}
	for _, test := range tests {
		t.Run(test.scope+" "+test.image, func(t *testing.T) {
			t.Parallel()
			v := newVerifier(t, options(func(s *notation.Statement) { s.RegistryScopes = []string{test.scope} }), stores(t, root), nil)
			in, _ := inputFor(t, envelope, subject(t, test.image, image()))
			report := must[verifier.Report](t)(v.Verify(t.Context(), in))
			if report.Reason.Code != test.code {
				t.Errorf("reason %+v, want %s", report.Reason, test.code)
			}
		})
	}
}

// The statement with the exact repository wins over the wildcard.
func TestExactScopeWins(t *testing.T) {
	t.Parallel()
	root := authority(t, signing.ECDSA256)
	envelope := sign(t, issue(t, root, signing.ECDSA256, signing.IssueOptions{}), image(), signing.SignOptions{})
	opts := options(func(s *notation.Statement) { s.TrustedIdentities = []string{"x509.subject: C=US, ST=WA, O=others"} })
	exact := options(func(s *notation.Statement) { s.Name, s.RegistryScopes = "exact", []string{repository} }).TrustPolicy.TrustPolicies
	opts.TrustPolicy.TrustPolicies = append(opts.TrustPolicy.TrustPolicies, exact...)
	v := newVerifier(t, opts, stores(t, root), nil)
	if report := verify(t, v, envelope); report.Extensions["TrustPolicy"] != "exact" {
		t.Errorf("report %+v", report)
	}
	in, _ := inputFor(t, envelope, subject(t, "registry.example.com/elsewhere", image()))
	report := must[verifier.Report](t)(v.Verify(t.Context(), in))
	expect(t, report, verifier.Failed, verifier.CodeIdentityUntrusted, `"default"`)
}
