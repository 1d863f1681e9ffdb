package executor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/verifier"
)

// MaxLineBytes bounds a line made for a person: what Gatekeeper shows of a
// denial is cut at 256 bytes, and the template adds words of its own.
const MaxLineBytes = 200

// Explanation says why a request ended as it did: the one place where texts
// for users are made, shared by the server and the command line.
type Explanation struct {
	// Code is stable and machine-readable.
	Code verifier.Code
	// What happened and what to do about it, safe to show on one line.
	What, Do string
	// RetryAfter is how long the registry asked to wait, zero if it did not.
	RetryAfter time.Duration
}

// Line is the explanation on one line of at most [MaxLineBytes] bytes. Where
// it does not fit, what happened is cut before what to do.
func (x Explanation) Line() string {
	line := string(x.Code) + ": " + x.What
	if x.Do == "" {
		return Clip(line, MaxLineBytes)
	}
	tail := "; " + Clip(x.Do, MaxLineBytes*7/10)
	return Clip(line, MaxLineBytes-len(tail)) + tail
}

// The codes of decisions and of failures to decide. Those of single artifacts
// are in package verifier.
const (
	CodeAllowed          verifier.Code = "ALLOWED"
	CodeHeld             verifier.Code = "ALLOWED_BY_HELD"
	CodeNotAsked         verifier.Code = "NOT_ASKED"
	CodeExempted         verifier.Code = "EXEMPTED"
	CodeInvalidKey       verifier.Code = "INVALID_KEY"
	CodeNoRule           verifier.Code = "NO_RULE"
	CodeNamespaceMissing verifier.Code = "NAMESPACE_MISSING"
	CodeNoStore          verifier.Code = "NO_STORE"
	CodeExemptionEnded   verifier.Code = "EXEMPTION_ENDED"
	CodeSubjectNotFound  verifier.Code = "SUBJECT_NOT_FOUND"
	CodeNoSignature      verifier.Code = "SIGNATURE_NOT_FOUND"
	CodePolicyNotMet     verifier.Code = "POLICY_NOT_MET"
	CodeTooManyReferrers verifier.Code = "TOO_MANY_REFERRERS"
	CodeUnpinned         verifier.Code = "IMAGE_NOT_PINNED"

	CodeDeadline      verifier.Code = "DEADLINE_EXCEEDED"
	CodeCanceled      verifier.Code = "CANCELED"
	CodeAuthDenied    verifier.Code = "AUTH_DENIED"
	CodeRateLimited   verifier.Code = "RATE_LIMITED"
	CodeUnavailable   verifier.Code = "REGISTRY_UNAVAILABLE"
	CodeRefused       verifier.Code = "ADDRESS_REFUSED"
	CodeProtocol      verifier.Code = "REGISTRY_PROTOCOL"
	CodeDigest        verifier.Code = "DIGEST_MISMATCH"
	CodeBusy          verifier.Code = "BUSY"
	CodeInconclusive  verifier.Code = "INCONCLUSIVE"
	CodeArtifactGone  verifier.Code = "ARTIFACT_NOT_FOUND"
	CodeInternalError verifier.Code = "INTERNAL_ERROR"
)

// Explain says why Verify answered as it did.
func Explain(r Result, err error) Explanation {
	x := explainError(r, err)
	if err == nil {
		x = explainResult(r)
	}
	return x.oneLine()
}

func (x Explanation) oneLine() Explanation {
	x.What, x.Do = OneLine(x.What), OneLine(x.Do)
	return x
}

// ExplainInvalidKey is for a key that can never name an image.
func ExplainInvalidKey(err error) Explanation {
	what := strings.TrimPrefix(err.Error(), referrerstore.ErrInvalidReference.Error()+": ")
	return Explanation{Code: CodeInvalidKey, What: OneLine("the key is no image reference: " + what), Do: "correct the image field"}
}

// ExplainReport says why an artifact was judged as it was.
func ExplainReport(r verifier.Report) Explanation {
	return Explanation{Code: r.Reason.Code, What: OneLine(r.Reason.What), Do: OneLine(r.Reason.Do)}
}

func explainResult(r Result) Explanation {
	switch {
	case r.Decision == Allowed && r.Exemption != nil:
		return Explanation{Code: CodeExempted, What: fmt.Sprintf("rule %q allows without proof through %s: %s", r.Rule, r.Exemption.lastDay(), r.Exemption.Reason)}
	case r.Decision == Allowed && r.Held != nil:
		return Explanation{Code: CodeHeld, What: fmt.Sprintf("rule %q is met, decided from evidence held for %s: %s", r.Rule, age(r.Held.Age), whyHeld(r.Held))}
	case r.Decision == Allowed:
		return Explanation{Code: CodeAllowed, What: fmt.Sprintf("rule %q is met", r.Rule)}
	default:
		return explainDenial(r)
	}
}

// whyHeld says what kept the registry from answering.
func whyHeld(h *Held) string {
	switch h.Code() {
	case CodeRateLimited:
		return "the registry limits the rate of requests"
	case CodeUnavailable:
		return "the registry is unavailable"
	case CodeNotAsked:
		return "the registry was not asked"
	default:
		return "the registry did not answer in time"
	}
}

// age is a duration for people: to the minute from one hour on.
func age(d time.Duration) string {
	unit := time.Second
	if d >= time.Hour {
		unit = time.Minute
	}
	text := d.Round(unit).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	return text
}

func explainDenial(r Result) Explanation {
	switch why := r.Denial; {
	case errors.Is(why, ErrNoRule):
		return Explanation{Code: CodeNoRule, What: "no rule of the policy matches " + r.Request.Reference.Name(), Do: "add a rule for it to policy.rules"}
	case errors.Is(why, ErrNamespaceMissing):
		return Explanation{Code: CodeNamespaceMissing, What: "the policy has rules for namespaces but the request names none", Do: "set server.namespaceFrom and use a template or provider URL that sends the namespace"}
	case errors.Is(why, ErrNoStore):
		return Explanation{Code: CodeNoStore, What: "no store serves " + r.Request.Reference.Registry, Do: "add the host to stores[].hosts"}
	case errors.Is(why, ErrExemptionEnded):
		return Explanation{Code: CodeExemptionEnded, What: fmt.Sprintf("the exemption of rule %q ended with %s", r.Rule, r.Exemption.lastDay()), Do: "sign the image or renew the exemption"}
	case errors.Is(why, ErrUnpinned):
		return Explanation{Code: CodeUnpinned, What: "the image has only the tag " + r.Request.Reference.Tag, Do: "see why mutation, which pins images at admission, did not pin it, or write REPOSITORY@DIGEST"}
	case errors.Is(why, referrerstore.ErrNotFound):
		return explainAbsent(r.Request.Reference)
	case errors.Is(why, referrerstore.ErrTooManyReferrers):
		return Explanation{Code: CodeTooManyReferrers, What: "more artifacts refer to the image than are looked at, and those do not meet the policy", Do: "remove artifacts that are not needed"}
	case errors.Is(why, ErrNoArtifacts):
		return Explanation{Code: CodeNoSignature, What: "nothing that rule " + r.Rule + " accepts refers to the image", Do: "sign the image and push the signature beside it"}
	default:
		return explainRequirement(r)
	}
}

func explainAbsent(ref referrerstore.Reference) Explanation {
	return Explanation{Code: CodeSubjectNotFound, What: "the registry has no image " + ref.String(), Do: "check the name, tag or digest"}
}

// ExplainPin says why [Executor.Pin] found no digest.
func ExplainPin(req Request, err error) Explanation {
	if errors.Is(err, referrerstore.ErrNotFound) {
		return explainAbsent(req.Reference).oneLine()
	}
	x := explainError(Result{Request: req}, err)
	switch x.Code {
	case CodeDeadline:
		x.What = req.Reference.Registry + " did not say in time where the tag leads"
	case CodeInconclusive, CodeInternalError:
		x.What = "where the tag leads could not be found out"
	default: // says it
	}
	return x.oneLine()
}

// explainRequirement takes the reason of the artifacts that failed if it is one
// and the same: that is what the reader has to mend, however many passed.
func explainRequirement(r Result) Explanation {
	var failed *verifier.Report
	passed, same := 0, true
	for i, report := range r.Reports {
		switch {
		case report.Outcome == verifier.Passed:
			passed++
		case report.Outcome == verifier.Failed && failed == nil:
			failed = &r.Reports[i]
		case report.Outcome == verifier.Failed && report.Reason.Code != failed.Reason.Code:
			same = false
		}
	}
	if failed == nil || !same {
		return Explanation{
			Code: CodePolicyNotMet,
			What: fmt.Sprintf("%d of %d artifacts passed and rule %q demands more", passed, len(r.Reports), r.Rule),
			Do:   "see the reports of the single artifacts",
		}
	}
	x := Explanation{Code: failed.Reason.Code, What: failed.Reason.What, Do: failed.Reason.Do}
	if passed > 0 {
		x.What = fmt.Sprintf("%d of %d artifacts passed; of another, %s", passed, len(r.Reports), x.What)
	}
	return x
}

// explainError is for requests without a verdict. The order goes from what the
// request itself ran into to what an artifact of it did.
func explainError(r Result, err error) Explanation {
	host := r.Request.Reference.Registry
	switch {
	case err == nil:
		return Explanation{}
	case errors.Is(err, referrerstore.ErrRateLimited):
		return rateLimited(host, err)
	case errors.Is(err, referrerstore.ErrRefused):
		return refused(host, err)
	case errors.Is(err, referrerstore.ErrAuthDenied):
		return Explanation{Code: CodeAuthDenied, What: host + " denied access to " + r.Request.Reference.Repository, Do: "check stores[].credentials for this host"}
	case errors.Is(err, referrerstore.ErrTooManyReferrers):
		return Explanation{Code: CodeTooManyReferrers, What: "more artifacts refer to the image than are looked at", Do: "remove artifacts that are not needed"}
	case errors.Is(err, errUnnamed):
		return Explanation{Code: CodeBusy, What: "nothing is asked of " + host + " in the background, because the configuration does not name it", Do: "add the host to stores[].hosts"}
	case errors.Is(err, referrerstore.ErrBusy):
		return Explanation{Code: CodeBusy, What: "too much is under way for " + host, Do: "retry, or raise server.limits.inFlightBytes"}
	case errors.Is(err, referrerstore.ErrDigestMismatch):
		return Explanation{Code: CodeDigest, What: host + " sent bytes that do not match their digest", Do: "check the registry and proxies before it"}
	case errors.Is(err, referrerstore.ErrProtocol):
		return Explanation{Code: CodeProtocol, What: host + " answered against the distribution specification", Do: "see the log of gatehouse"}
	case errors.Is(err, context.DeadlineExceeded):
		return Explanation{Code: CodeDeadline, What: "no verdict in time from " + host, Do: "retry"}
	case errors.Is(err, referrerstore.ErrUnavailable):
		return Explanation{Code: CodeUnavailable, What: host + " is unavailable", Do: "retry; see the log of gatehouse"}
	case errors.Is(err, context.Canceled):
		return Explanation{Code: CodeCanceled, What: "the request was given up", Do: "retry"}
	default:
		return explainInconclusive(err)
	}
}

func rateLimited(host string, err error) Explanation {
	x := Explanation{Code: CodeRateLimited, What: host + " limits the rate of requests", Do: "retry", RetryAfter: referrerstore.RetryAfter(err)}
	if x.RetryAfter > 0 {
		x.Do = fmt.Sprintf("retry after %d s", int(x.RetryAfter.Round(time.Second).Seconds()))
	}
	return x
}

func explainInconclusive(err error) Explanation {
	if report, ok := errors.AsType[*ReportError](err); ok {
		reason := report.Report.Reason
		if errors.Is(err, referrerstore.ErrNotFound) {
			return Explanation{Code: CodeArtifactGone, What: "the registry lists artifact " + report.Report.Artifact.Digest.String() + " but does not have it", Do: "retry, or remove it from the list"}
		}
		return Explanation{Code: reason.Code, What: reason.What, Do: reason.Do}
	}
	if errors.Is(err, ErrInconclusive) {
		return Explanation{Code: CodeInconclusive, What: "no verdict could be reached", Do: "retry; see the log of gatehouse"}
	}
	return Explanation{Code: CodeInternalError, What: "no verdict could be reached", Do: "see the log of gatehouse"}
}

// refused names what was refused and the line that would lift it.
func refused(host string, err error) Explanation {
	x := Explanation{Code: CodeRefused, What: host + " leads to where the configuration does not allow", Do: "see the log of gatehouse"}
	if why, ok := errors.AsType[*referrerstore.RefusedError](err); ok {
		x.What = why.What
		if why.Add != "" {
			x.Do = "if that is meant, " + why.Add
		}
	}
	return x
}

// OneLine makes text safe to show on one line: line breaks and runs of space
// become one space; control, formatting (bidirectional among them) and
// unprintable characters, and bytes that are not UTF-8, are dropped.
func OneLine(text string) string {
	var b strings.Builder
	space := false
	for _, r := range text {
		switch {
		case unicode.IsSpace(r):
			space = b.Len() > 0
			continue
		case r == utf8.RuneError || !unicode.IsPrint(r):
			continue
		}
		if space {
			b.WriteByte(' ')
			space = false
		}
		b.WriteRune(r)
	}
	return b.String()
}

// Clip cuts text to at most n bytes between two characters and marks the cut.
func Clip(text string, n int) string {
	const mark = "..."
	if len(text) <= n {
		return text
	}
	cut := max(n-len(mark), 0)
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + mark
}
