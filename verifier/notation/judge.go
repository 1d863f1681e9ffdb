package notation

import (
	"errors"
	"fmt"
	"time"

	"github.com/notaryproject/notation-core-go/revocation/purpose"
	"github.com/notaryproject/notation-core-go/revocation/result"
	"github.com/notaryproject/notation-core-go/signature"
	"github.com/notaryproject/notation-go"
	"github.com/notaryproject/notation-go/verifier/trustpolicy"
	"github.com/notaryproject/notation-go/verifier/truststore"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/verifier"
)

// unknownFor is how long a pass stands in which an unknown revocation status
// was only logged: soon the status may be known.
const unknownFor = time.Minute

// judgement turns what notation-go and the validators found into a report.
// Where it can it goes by facts (which check failed, what the chain reached,
// what a responder said), not by the library's texts.
type judgement struct {
	statement *statement
	inquiry   *inquiry
	outcome   *notation.VerificationOutcome
	err       error
	subject   ocispec.Descriptor
}

func (j *judgement) report() verifier.Report {
	if j.outcome == nil {
		return aborted("notation-go gave no outcome", j.err)
	}
	content := j.outcome.EnvelopeContent
	if content == nil || len(content.SignerInfo.CertificateChain) == 0 {
		return failed(reasonIntegrity(j.firstError()))
	}
	if attribute, ok := demanded(&content.SignerInfo); ok {
		return failed(reasonPlugin(attribute, j.err))
	}
	for _, r := range j.outcome.VerificationResults {
		if r.Error != nil && r.Action == trustpolicy.ActionEnforce {
			return j.refusal(r)
		}
	}
	claim, err := claimOf(content.Payload)
	if err != nil {
		return failed(reasonPayload(err))
	}
	if !sameContent(claim, j.subject) {
		return failed(reasonSubject(claim))
	}
	if j.err != nil {
		return aborted("notation-go could not tell", j.err)
	}
	return j.pass()
}

// firstError is that of the first check, or the call's.
func (j *judgement) firstError() error {
	if results := j.outcome.VerificationResults; len(results) > 0 && results[0].Error != nil {
		return results[0].Error
	}
	return j.err
}

// demanded finds a signed attribute that a verifier must understand. None is
// understood here; notation-go itself minds only that of the plug-in.
func demanded(info *signature.SignerInfo) (string, bool) {
	name, found := "", false
	for _, a := range info.SignedAttributes.ExtendedAttributes {
		if a.Key == pluginAttribute {
			return fmt.Sprint(a.Value), true
		}
		if a.Critical {
			name, found = fmt.Sprint(a.Key), true
		}
	}
	return name, found
}

// pluginAttribute names the plug-in that a signature demands. Whether it is
// marked critical, as it must be, makes no difference.
const pluginAttribute = "io.cncf.notary.verificationPlugin"

// refusal explains the check that the level enforces and that failed.
func (j *judgement) refusal(r *notation.ValidationResult) verifier.Report {
	info := &j.outcome.EnvelopeContent.SignerInfo
	switch r.Type {
	case trustpolicy.TypeIntegrity:
		return failed(reasonIntegrity(r.Error))
	case trustpolicy.TypeAuthenticity:
		return j.unauthentic(r.Error)
	case trustpolicy.TypeExpiry:
		return failed(reasonExpired(info.SignedAttributes.Expiry, r.Error))
	case trustpolicy.TypeAuthenticTimestamp:
		if report, ok := j.revocation(purpose.Timestamping); ok {
			return report
		}
		if j.statement.demandsStamp(info) {
			return failed(reasonStamp(r.Error))
		}
		return failed(reasonCertificateExpired(info, r.Error))
	case trustpolicy.TypeRevocation:
		if report, ok := j.revocation(purpose.CodeSigning); ok {
			return report
		}
	}
	return aborted("a check that is not known failed", r.Error)
}

func (j *judgement) unauthentic(err error) verifier.Report {
	var store truststore.TrustStoreError
	var certificate truststore.CertificateError
	if errors.As(err, &store) || errors.As(err, &certificate) {
		return aborted("the trust stores could not be read", err)
	}
	info := &j.outcome.EnvelopeContent.SignerInfo
	if !j.authentic() {
		return failed(reasonSigner(info, j.statement, err))
	}
	return failed(reasonIdentity(info, j.statement, err))
}

// authentic tells whether the chain reached a trusted certificate.
func (j *judgement) authentic() bool {
	info := &j.outcome.EnvelopeContent.SignerInfo
	return j.statement.roots.reached(typeFor(info.SignedAttributes.SigningScheme), info.CertificateChain)
}

// revocation explains a chain that is revoked or of which nothing is known.
func (j *judgement) revocation(p purpose.Purpose) (verifier.Report, bool) {
	f := j.inquiry.findings[p]
	if f == nil {
		return verifier.Report{}, false
	}
	if c := f.revoked(); c != nil {
		return failed(reasonRevoked(c, p)), true
	}
	// Of these nothing will be known later either.
	_, invalid := errors.AsType[result.InvalidChainError](f.err)
	switch {
	case invalid && p == purpose.Timestamping:
		return failed(reasonStamp(f.err)), true
	case invalid:
		return failed(reasonEnvelope(f.err)), true
	case f.untrusted && p == purpose.CodeSigning:
		return failed(reasonSigner(&j.outcome.EnvelopeContent.SignerInfo, j.statement, f.cause())), true
	}
	if c := f.unknown(); c != nil {
		return verifier.Report{Reason: reasonUnknown(c, p, f.cause())}, true
	}
	return verifier.Report{}, false
}

// pass looks once more at what a pass needs before it gives one.
func (j *judgement) pass() verifier.Report {
	checks := make(map[trustpolicy.ValidationType]*notation.ValidationResult)
	for _, r := range j.outcome.VerificationResults {
		checks[r.Type] = r
	}
	integrity, authenticity := checks[trustpolicy.TypeIntegrity], checks[trustpolicy.TypeAuthenticity]
	if integrity == nil || integrity.Error != nil || authenticity == nil {
		return aborted("notation-go left out a check", nil)
	}
	proven := authenticity.Error == nil && j.authentic()
	if !proven && j.statement.enforces(trustpolicy.TypeAuthenticity) {
		return aborted("notation-go passed a signer that is not trusted", nil)
	}
	for kind, action := range j.statement.level.Enforcement {
		if action == trustpolicy.ActionEnforce && (checks[kind] == nil || checks[kind].Error != nil) {
			return aborted("notation-go left out a check", nil)
		}
	}
	return verifier.Report{
		Outcome:    verifier.Passed,
		Reason:     verifier.Reason{Code: verifier.CodeVerified, What: "the signature is valid"},
		Warnings:   j.warnings(),
		Statement:  statementOf(j.outcome.EnvelopeContent),
		Extensions: j.extensions(proven),
		ValidUntil: j.validUntil(),
	}
}

// warnings are the checks that failed and that the configuration only logs.
func (j *judgement) warnings() []string {
	var warnings []string
	for _, r := range j.outcome.VerificationResults {
		if r.Error != nil {
			warnings = append(warnings, fmt.Sprintf("%s: %v", r.Type, r.Error))
		}
	}
	for _, p := range []purpose.Purpose{purpose.CodeSigning, purpose.Timestamping} {
		switch f := j.inquiry.findings[p]; {
		case f == nil:
		case f.off:
			warnings = append(warnings, "revocation: nobody was asked about the "+chainName(p)+", revocation.mode is off")
		case f.unknown() != nil && j.inquiry.accepted != "":
			warnings = append(warnings, "revocation: the status of the "+chainName(p)+" is unknown, "+j.inquiry.accepted)
		}
	}
	return warnings
}

// extensions are facts about the signer under the names that templates know.
// Of a signer who is not proven they say nothing, but are there: a template
// that meets a missing field is undefined.
func (j *judgement) extensions(proven bool) map[string]string {
	info := &j.outcome.EnvelopeContent.SignerInfo
	facts := map[string]string{
		"Issuer":        "",
		"SN":            "",
		"SigningScheme": string(info.SignedAttributes.SigningScheme),
		"SigningTime":   canonicalTime(info.SignedAttributes.SigningTime),
		"TrustPolicy":   j.statement.name,
	}
	if proven {
		leaf := info.CertificateChain[0]
		facts["Issuer"], facts["SN"] = leaf.Issuer.String(), leaf.Subject.String()
	}
	return facts
}

// validUntil is the earliest end of what the pass rests on. What has ended
// already is not among that: a time stamp, or a level that only logs, made up
// for it.
func (j *judgement) validUntil() time.Time {
	now := time.Now()
	info := &j.outcome.EnvelopeContent.SignerInfo
	ends := []time.Time{info.SignedAttributes.Expiry}
	for _, c := range info.CertificateChain {
		ends = append(ends, c.NotAfter)
	}
	var until time.Time
	for _, end := range ends {
		if end.After(now) && (until.IsZero() || end.Before(until)) {
			until = end
		}
	}
	if end := j.inquiry.until; !end.IsZero() && (until.IsZero() || end.Before(until)) {
		until = end
	}
	if j.unknownLogged() && (until.IsZero() || until.After(now.Add(unknownFor))) {
		until = now.Add(unknownFor)
	}
	return until
}

func (j *judgement) unknownLogged() bool {
	for _, f := range j.inquiry.findings {
		if f.unknown() != nil {
			return true
		}
	}
	return false
}
