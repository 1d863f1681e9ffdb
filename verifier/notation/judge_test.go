package notation

import (
	"crypto/x509"
	"errors"
	"maps"
	"testing"
	"time"

	"github.com/notaryproject/notation-core-go/revocation/purpose"
	"github.com/notaryproject/notation-core-go/revocation/result"
	"github.com/notaryproject/notation-core-go/signature"
	"github.com/notaryproject/notation-go"
	"github.com/notaryproject/notation-go/verifier/trustpolicy"
	"github.com/notaryproject/notation-go/verifier/truststore"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/verifier"
	"github.com/gatehouse-project/gatehouse/verifier/trust"
)

// passing is a judgement that passes, for tests to take something from.
func passingJudgement(t *testing.T) *judgement {
	t.Helper()
	leaf, err := x509.ParseCertificate(certificate(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	s := &statement{name: "test", level: trustpolicy.LevelStrict, roots: roots{trust.TypeCA: {leaf}}}
	outcome := &notation.VerificationOutcome{EnvelopeContent: &signature.EnvelopeContent{
		SignerInfo: signature.SignerInfo{
			CertificateChain: []*x509.Certificate{leaf},
			SignedAttributes: signature.SignedAttributes{SigningScheme: signature.SigningSchemeX509, SigningTime: time.Now()},
		},
		Payload: signature.Payload{Content: []byte(`{"targetArtifact":{"mediaType":"a/b","size":1,"digest":"` + digest.FromString("x") + `"}}`)},
	}}
	for _, kind := range trustpolicy.ValidationTypes {
		outcome.VerificationResults = append(outcome.VerificationResults, &notation.ValidationResult{Type: kind, Action: trustpolicy.ActionEnforce})
	}
	return &judgement{
		statement: s, inquiry: newInquiry(s), outcome: outcome,
		subject: ocispec.Descriptor{MediaType: "a/b", Size: 1, Digest: digest.FromString("x")},
	}
}

// That the library reports no error is not yet a pass.
func TestJudgementTrustsNoSilence(t *testing.T) {
	t.Parallel()
	if report := passingJudgement(t).report(); report.Outcome != verifier.Passed {
		t.Fatalf("the base case: %+v", report)
	}
	drop := func(kind trustpolicy.ValidationType) func(*judgement) {
		return func(j *judgement) {
			var kept []*notation.ValidationResult
			for _, r := range j.outcome.VerificationResults {
				if r.Type != kind {
					kept = append(kept, r)
				}
			}
			j.outcome.VerificationResults = kept
		}
	}
	fail := func(kind trustpolicy.ValidationType, err error) func(*judgement) {
		return func(j *judgement) {
			for _, r := range j.outcome.VerificationResults {
				if r.Type == kind {
					r.Error = err
				}
			}
		}
	}
	const unclear, refused = verifier.Inconclusive, verifier.Failed
	tests := map[string]struct {
		spoil func(*judgement)
		want  verifier.Outcome
		code  verifier.Code
	}{
		"no outcome":            {func(j *judgement) { j.outcome = nil }, unclear, verifier.CodeVerificationAborted},
		"no content":            {func(j *judgement) { j.outcome.EnvelopeContent = nil }, refused, verifier.CodeSignatureInvalid},
		"no chain":              {func(j *judgement) { j.outcome.EnvelopeContent.SignerInfo.CertificateChain = nil }, refused, verifier.CodeSignatureInvalid},
		"an error alone":        {func(j *judgement) { j.err = errors.New("inconclusive") }, unclear, verifier.CodeVerificationAborted},
		"no integrity":          {drop(trustpolicy.TypeIntegrity), unclear, verifier.CodeVerificationAborted},
		"no authenticity":       {drop(trustpolicy.TypeAuthenticity), unclear, verifier.CodeVerificationAborted},
		"no expiry":             {drop(trustpolicy.TypeExpiry), unclear, verifier.CodeVerificationAborted},
		"no time":               {drop(trustpolicy.TypeAuthenticTimestamp), unclear, verifier.CodeVerificationAborted},
		"no revocation":         {drop(trustpolicy.TypeRevocation), unclear, verifier.CodeVerificationAborted},
		"untrusted chain":       {func(j *judgement) { j.statement.roots = nil }, unclear, verifier.CodeVerificationAborted},
		"revocation, no answer": {fail(trustpolicy.TypeRevocation, errors.New("?")), unclear, verifier.CodeVerificationAborted},
		"trust store gone":      {fail(trustpolicy.TypeAuthenticity, truststore.TrustStoreError{Msg: "I/O"}), unclear, verifier.CodeVerificationAborted},
		"certificate gone":      {fail(trustpolicy.TypeAuthenticity, truststore.CertificateError{Msg: "I/O"}), unclear, verifier.CodeVerificationAborted},
		"another subject":       {func(j *judgement) { j.subject.MediaType = "a/c" }, refused, verifier.CodeSubjectMismatch},
		"payload is no JSON":    {func(j *judgement) { j.outcome.EnvelopeContent.Payload.Content = []byte("x") }, refused, verifier.CodeSignatureInvalid},
		"attribute, not critical": {func(j *judgement) {
			j.outcome.EnvelopeContent.SignerInfo.SignedAttributes.ExtendedAttributes = []signature.Attribute{{Key: pluginAttribute, Value: "p"}}
		}, refused, verifier.CodePluginRequired},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := passingJudgement(t)
			test.spoil(j)
			if report := j.report(); report.Outcome != test.want || report.Reason.Code != test.code {
				t.Errorf("outcome %s, reason %+v; want %s, %s", report.Outcome, report.Reason, test.want, test.code)
			}
		})
	}
}

// What was learnt about the time stamp authority explains a failed time check.
func TestJudgementOfStampAuthorities(t *testing.T) {
	t.Parallel()
	for status, want := range map[result.Result]verifier.Code{
		result.ResultRevoked: verifier.CodeCertificateRevoked,
		result.ResultUnknown: verifier.CodeRevocationUnknown,
	} {
		t.Run(status.String(), func(t *testing.T) {
			t.Parallel()
			j := passingJudgement(t)
			chain := j.outcome.EnvelopeContent.SignerInfo.CertificateChain
			j.inquiry.findings[purpose.Timestamping] = &finding{chain: chain, results: uniform(chain, status, nil)}
			j.outcome.VerificationResults[2].Error = errors.New("time")
			if kind := j.outcome.VerificationResults[2].Type; kind != trustpolicy.TypeAuthenticTimestamp {
				t.Fatal(kind)
			}
			if report := j.report(); report.Reason.Code != want {
				t.Errorf("reason %+v, want %s", report.Reason, want)
			}
		})
	}
}

// An authority whose chain breaks the rules will not be known better later.
func TestJudgementOfInvalidStampAuthorities(t *testing.T) {
	t.Parallel()
	j := passingJudgement(t)
	j.inquiry.findings[purpose.Timestamping] = &finding{
		chain: j.outcome.EnvelopeContent.SignerInfo.CertificateChain, err: result.InvalidChainError{Err: errors.New("no chain")},
	}
	j.outcome.VerificationResults[2].Error = errors.New("time")
	if report := j.report(); report.Outcome != verifier.Failed || report.Reason.Code != verifier.CodeTimestampInvalid {
		t.Errorf("outcome %s, reason %+v", report.Outcome, report.Reason)
	}
}

// The order in which a library hands out attributes is nobody's statement.
func TestStatementOfAttributes(t *testing.T) {
	t.Parallel()
	content := passingJudgement(t).outcome.EnvelopeContent
	with := func(attributes ...signature.Attribute) digest.Digest {
		c := *content
		c.SignerInfo.SignedAttributes.ExtendedAttributes = attributes
		return statementOf(&c)
	}
	one := signature.Attribute{Key: "a", Value: map[string]any{"x": 1, "y": []any{"z"}}}
	two := signature.Attribute{Key: int64(7), Value: "b"}
	if with(one, two) != with(two, one) {
		t.Error("the order counts")
	}
	distinct := map[digest.Digest]bool{
		with(): true, with(one): true, with(two): true, with(one, two): true,
		with(signature.Attribute{Key: "7", Value: "b"}):                      true,
		with(signature.Attribute{Key: int64(7), Value: "b", Critical: true}): true,
	}
	if len(distinct) != 6 {
		t.Errorf("%d statements of 6: %v", len(distinct), maps.Keys(distinct))
	}
}
