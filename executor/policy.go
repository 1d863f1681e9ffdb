package executor

import (
	"math"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/verifier"
)

// Policy finds the rule for an image by its name alone, without I/O, so that
// an image that no rule lets through costs no packet. Implementations are
// immutable and safe for concurrent use.
type Policy interface {
	// Match returns the first rule for the image in the namespace; false says
	// that no rule matches, which denies. An empty namespace is none: where
	// rules name namespaces, ErrNamespaceMissing denies such a request.
	Match(ref referrerstore.Reference, namespace string) (Rule, bool, error)
}

// Foreseeing is a [Policy] that says without a namespace what those may lead to.
type Foreseeing interface {
	// MayDemand says whether there can be a namespace for which Match gives a rule
	// that demands proof of the image.
	MayDemand(ref referrerstore.Reference) bool
}

// mayDemand is MayDemand of any policy: one that cannot say may.
func mayDemand(p Policy, ref referrerstore.Reference) bool {
	f, ok := p.(Foreseeing)
	return !ok || f.MayDemand(ref)
}

// Rule is what a policy demands of the images that it matches: exactly one of
// Exemption and Requirement is set.
type Rule struct {
	Name string
	// Exemption lets the image through unproven until a date.
	Exemption *Exemption
	// Requirement decides on what the verifiers report.
	Requirement Requirement
	// EvaluateAll judges every artifact even when the decision is made.
	EvaluateAll bool
}

// Exemption allows without proof.
type Exemption struct {
	Reason string
	// Until is the first moment at which the exemption no longer holds.
	Until time.Time
}

// lastDay is the last day, in UTC, on which the exemption holds at all.
func (e *Exemption) lastDay() string {
	return e.Until.Add(-time.Nanosecond).UTC().Format(time.DateOnly)
}

// Requirement decides on reports as they arrive. It is pure: the same evidence
// gives the same decision. It must be monotone in doubt: replacing a Passed
// report by an Inconclusive one never turns a decision into Allowed.
type Requirement interface {
	// Verifiers names the verifiers whose reports it reads.
	Verifiers() []string
	// Decide answers for the evidence so far; Undecided says that reports
	// still to come, or that were inconclusive, could tip it either way.
	Decide(Evidence) Decision
	// Needs says for each verifier how many reports more the evidence lacks at
	// the least before Decide could allow, AllReports where it wants every one
	// that there is. It is asked where Decide is Undecided, and only guides
	// what is fetched first: an answer too small costs time, never a verdict.
	Needs(Evidence) map[string]int
}

// AllReports says that a requirement wants the reports on all artifacts.
const AllReports = math.MaxInt

// Evidence is what is known at one moment.
type Evidence struct {
	// Reports so far, in no particular order.
	Reports []verifier.Report
	// Settled says that no further report will come because there is nothing
	// further: every listing ended whole and every artifact is reported on.
	Settled bool
}

// Decision is a policy's answer. The zero value is Undecided.
type Decision int

// The three decisions.
const (
	Undecided Decision = iota
	Denied
	Allowed
)

// String names the decision in lower case.
func (d Decision) String() string {
	switch d {
	case Allowed:
		return "allowed"
	case Denied:
		return "denied"
	default:
		return "undecided"
	}
}
