package notation

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/notaryproject/notation-core-go/revocation/purpose"
	"github.com/notaryproject/notation-core-go/signature"
	"github.com/notaryproject/notation-core-go/signature/cose"
	"github.com/notaryproject/notation-core-go/signature/jws"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/verifier"
)

func isEnvelope(mediaType string) bool {
	return mediaType == jws.MediaTypeEnvelope || mediaType == cose.MediaTypeEnvelope
}

func failed(reason verifier.Reason) verifier.Report {
	return verifier.Report{Outcome: verifier.Failed, Reason: reason}
}

// aborted is for what should not happen; it proves nothing either way.
func aborted(what string, err error) verifier.Report {
	return verifier.Report{Reason: verifier.Reason{
		Code: verifier.CodeVerificationAborted, What: what, Do: "see the log of gatehouse, and report it", Err: err,
	}}
}

func reasonNoStatement(ref referrerstore.Reference) verifier.Reason {
	return verifier.Reason{
		Code: verifier.CodeScopeMismatch,
		What: "no statement of the trust policy has " + ref.Name() + " in scope",
		Do:   "add the repository to registryScopes of a statement",
	}
}

func reasonMalformed(what string) verifier.Reason {
	return verifier.Reason{Code: verifier.CodeArtifactMalformed, What: what, Do: "sign again with notation"}
}

func reasonTooLarge(size int64) verifier.Reason {
	return verifier.Reason{
		Code: verifier.CodeArtifactTooLarge,
		What: fmt.Sprintf("its envelope has %d bytes, at most %d", size, maxEnvelopeBytes),
		Do:   "sign again with notation",
	}
}

// reasonEnvelope is for bytes that are no envelope, or beyond the bounds.
func reasonEnvelope(err error) verifier.Reason {
	return verifier.Reason{
		Code: verifier.CodeSignatureInvalid,
		What: "the signature envelope is malformed",
		Do:   "sign again, and find out who changed the envelope",
		Err:  err,
	}
}

// reasonIntegrity tells an envelope that breaks the rules from one whose
// signature does not fit what it signs.
func reasonIntegrity(err error) verifier.Reason {
	if _, ok := errors.AsType[*signature.SignatureIntegrityError](err); !ok {
		return reasonEnvelope(err)
	}
	return verifier.Reason{
		Code: verifier.CodeSignatureInvalid,
		What: "the signature does not match what it signs: payload, signed attributes or certificate were altered",
		Do:   "sign again, and find out who changed the signature",
		Err:  err,
	}
}

func reasonPayload(err error) verifier.Reason {
	return verifier.Reason{
		Code: verifier.CodeSignatureInvalid, What: "what is signed names no image", Do: "sign the image with notation", Err: err,
	}
}

func reasonPlugin(attribute string, err error) verifier.Reason {
	return verifier.Reason{
		Code: verifier.CodePluginRequired,
		What: fmt.Sprintf("the signature demands the verification plug-in or attribute %q, which is not supported", attribute),
		Do:   "sign without a plug-in that verifiers must have",
		Err:  err,
	}
}

func reasonSubject(claim ocispec.Descriptor) verifier.Reason {
	return verifier.Reason{
		Code: verifier.CodeSubjectMismatch,
		What: fmt.Sprintf("the signature is over another image, %s of %d bytes", claim.Digest, claim.Size),
		Do:   "sign this image",
	}
}

func reasonSigner(info *signature.SignerInfo, s *statement, err error) verifier.Reason {
	root := info.CertificateChain[len(info.CertificateChain)-1]
	return verifier.Reason{
		Code: verifier.CodeSignerUntrusted,
		What: fmt.Sprintf("the signer's root %s is in no trust store of type %s of the trust policy %q",
			describe(root), typeFor(info.SignedAttributes.SigningScheme), s.name),
		Do:  "sign with a certificate of a trusted authority, or add the authority to trust.certificates",
		Err: err,
	}
}

func reasonIdentity(info *signature.SignerInfo, s *statement, err error) verifier.Reason {
	return verifier.Reason{
		Code: verifier.CodeIdentityUntrusted,
		What: fmt.Sprintf("the signer %s is none of the trusted identities of the trust policy %q", describe(info.CertificateChain[0]), s.name),
		Do:   "sign as a trusted identity, or add this one to trustedIdentities",
		Err:  err,
	}
}

func reasonExpired(at time.Time, err error) verifier.Reason {
	return verifier.Reason{
		Code: verifier.CodeSignatureExpired,
		What: "the signature expired on " + canonicalTime(at),
		Do:   "sign the image again",
		Err:  err,
	}
}

func reasonStamp(err error) verifier.Reason {
	return verifier.Reason{
		Code: verifier.CodeTimestampInvalid,
		What: "the time stamp that the trust policy demands is missing or not valid",
		Do:   "sign with a time stamp of a trusted authority (notation sign --timestamp-url)",
		Err:  err,
	}
}

func reasonCertificateExpired(info *signature.SignerInfo, err error) verifier.Reason {
	at := time.Now()
	if info.SignedAttributes.SigningScheme == signature.SigningSchemeX509SigningAuthority {
		at = info.SignedAttributes.SigningTime
	}
	what := "a certificate of the signer was not valid at the time that counts"
	for _, c := range info.CertificateChain {
		switch {
		case at.After(c.NotAfter):
			what = fmt.Sprintf("the certificate %s expired on %s", describe(c), canonicalTime(c.NotAfter))
		case at.Before(c.NotBefore):
			what = fmt.Sprintf("the certificate %s is not valid before %s", describe(c), canonicalTime(c.NotBefore))
		default:
			continue
		}
		break
	}
	return verifier.Reason{
		Code: verifier.CodeCertificateExpired, What: what, Err: err,
		Do: "sign again with a valid certificate, or sign with time stamps and trust their authority",
	}
}

func reasonRevoked(c *x509.Certificate, p purpose.Purpose) verifier.Reason {
	return verifier.Reason{
		Code: verifier.CodeCertificateRevoked,
		What: fmt.Sprintf("the certificate %s of the %s is revoked", describe(c), chainName(p)),
		Do:   "sign again with another certificate",
	}
}

func reasonUnknown(c *x509.Certificate, p purpose.Purpose, err error) verifier.Reason {
	return verifier.Reason{
		Code: verifier.CodeRevocationUnknown,
		What: fmt.Sprintf("whether the certificate %s of the %s is revoked could not be learnt", describe(c), chainName(p)),
		Do:   "let gatehouse reach the authority's OCSP responder or revocation list, or set revocation.mode: log",
		Err:  err,
	}
}

// chainName names the chain of a purpose.
func chainName(p purpose.Purpose) string {
	if p == purpose.Timestamping {
		return "time stamp authority"
	}
	return "signer"
}
