package executor

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/verifier"
)

// ProofTerms say for how long what was found out about a subject is believed.
// The zero value believes nothing beyond the request that found it out.
type ProofTerms struct {
	// TTL bounds what passed, and the list that says that there is no more.
	// What ends earlier by itself (a certificate, a revocation response) is
	// believed until then only.
	TTL time.Duration
	// DeniedTTL bounds what failed.
	DeniedTTL time.Duration
	// AbsentTTL bounds that there is nothing: no such image, no artifact.
	AbsentTTL time.Duration
	// ListTTL is the age from which a list is asked for again in the
	// background while it is in use; 0 means never.
	ListTTL time.Duration
}

// proofKey is all that a proof is bound to, beside the generations of
// configuration and trust, which are those of its executor. Policies for trust
// are chosen by repository, so a proof never counts for another one.
type proofKey struct {
	registry, repository string
	digest               digest.Digest
	// mediaType is empty for the first one that the digest was met with, and
	// set for any other: the same bytes under another type are another thing.
	mediaType string
	// rule is what the namespace leads to. It says which verifiers judge, and
	// those do not see the namespace itself: what was proven for a rule holds in
	// all namespaces of the rule.
	rule string
	// identity is whose credentials the stores show.
	identity string
}

// proof is what is known of one subject: which artifacts refer to it and what
// came of those that were judged. It holds knowledge only, never a doubt, and
// no decision: the policy decides anew each time it is read. It is immutable
// but for what is atomic.
type proof struct {
	id      uint64 // of this process's
	subject ocispec.Descriptor
	// begun is when the work on it began, by the wall clock.
	begun time.Time
	// listed is when the list of artifacts was asked for that ended whole, or
	// at a bound if cut; zero if there is none.
	listed time.Time
	cut    bool
	// artifacts are those that some verifier matches, in the list's order.
	artifacts []proven

	// Drawn from artifacts.
	reports []verifier.Report
	judged  bool      // each artifact has all its reports
	ends    time.Time // the first end of a report; zero if none ends
	bytes   int64

	asked      atomic.Int64 // unix seconds: when admission asked for it last
	refreshing atomic.Int64 // unix seconds: not to be refreshed before
}

// proven is an artifact with what came of it.
type proven struct {
	// Listed says who listed it, and as what.
	Listed []listing `json:"listed"`
	// Wanted are the names of the verifiers that judge it, sorted.
	Wanted  []string `json:"wanted"`
	Reports []kept   `json:"reports,omitempty"`
}

// listing is what one store says of an artifact.
type listing struct {
	Store    string             `json:"store"`
	Artifact ocispec.Descriptor `json:"artifact"`
}

// kept is a report, when the work on it began, and the moment from which it is
// not believed any more.
type kept struct {
	Report verifier.Report `json:"report"`
	Begun  time.Time       `json:"begun"`
	Until  time.Time       `json:"until"`
}

func (a proven) digest() digest.Digest { return a.Listed[0].Artifact.Digest }

// judged says whether all who judge the artifact have.
func (a proven) judged() bool {
	return !slices.ContainsFunc(a.Wanted, func(name string) bool {
		return !slices.ContainsFunc(a.Reports, func(k kept) bool { return k.Report.Verifier == name })
	})
}

// conclude draws from the artifacts what reading a proof needs.
func (p *proof) conclude() *proof {
	p.judged = true
	p.bytes = proofOverhead
	for _, a := range p.artifacts {
		p.judged = p.judged && a.judged()
		p.bytes += int64(descriptorCost * len(a.Listed))
		for _, k := range a.Reports {
			p.reports = append(p.reports, k.Report)
			p.bytes += reportCost(k.Report)
			if p.ends.IsZero() || k.Until.Before(p.ends) {
				p.ends = k.Until
			}
		}
	}
	return p
}

// What the parts of a proof cost in memory, measured once and rounded up.
const (
	proofOverhead  = 768
	descriptorCost = 384
	reportOverhead = 640
)

func reportCost(r verifier.Report) int64 {
	n := reportOverhead + len(r.Reason.What) + len(r.Reason.Do) + len(r.Statement)
	for _, w := range r.Warnings {
		n += len(w) + 16
	}
	for name, text := range r.Extensions {
		n += len(name) + len(text) + 48
	}
	return int64(n)
}

// at is the proof as it is believed at a moment: without what has ended.
func (p *proof) at(now time.Time) (reports []verifier.Report, judged bool) {
	if p.ends.IsZero() || now.Before(p.ends) {
		return p.reports, p.judged
	}
	for _, a := range p.artifacts {
		for _, k := range a.Reports {
			if now.Before(k.Until) {
				reports = append(reports, k.Report)
			}
		}
	}
	return reports, false
}

// believed are the reports on one artifact that hold at a moment. Renew leaves
// out what is near its end.
func (p *proof) believed(artifact digest.Digest, now time.Time, renew bool) []kept {
	if p == nil {
		return nil
	}
	var held []kept
	for _, a := range p.artifacts {
		if a.digest() != artifact {
			continue
		}
		for _, k := range a.Reports {
			if left := k.Until.Sub(now); left > 0 && (!renew || float64(left) > float64(k.Until.Sub(k.Begun))*earliestRefresh) {
				held = append(held, k)
			}
		}
	}
	return held
}

// ahead says that the proof is of a time that is still to come: a clock that was
// put back would make it last.
func (p *proof) ahead(now time.Time) bool { return ahead(p.begun, now) }

// listHolds says whether the list is young enough to be gone by without asking
// for it again: for less where what is on it was not enough.
func (p *proof) listHolds(now time.Time, terms ProofTerms) bool {
	if p == nil || p.listed.IsZero() || p.ahead(now) {
		return false
	}
	ttl := terms.DeniedTTL
	if terms.ListTTL > 0 {
		ttl = min(ttl, terms.ListTTL)
	}
	if p.judged && !failedAny(p.reports) {
		ttl = terms.AbsentTTL
	}
	return now.Before(p.listed.Add(ttl))
}

func failedAny(reports []verifier.Report) bool {
	return slices.ContainsFunc(reports, func(r verifier.Report) bool { return r.Outcome == verifier.Failed })
}

// denialTTL is how long a denial is believed: briefly if it only says that
// something is missing, which may be on its way.
func (t ProofTerms) denialTTL(reports []verifier.Report, cut bool) time.Duration {
	if cut || failedAny(reports) {
		return t.DeniedTTL
	}
	return t.AbsentTTL
}

// read lets the rule decide on the proof as it is believed at a moment. False
// says that it is not enough: something has ended or was never found out.
func (p *proof) read(rule Rule, now time.Time, terms ProofTerms) (decision Decision, denial error, ok bool) {
	if p.ahead(now) {
		return Undecided, nil, false
	}
	reports, judged := p.at(now)
	whole := !p.listed.IsZero() && now.Before(p.listed.Add(terms.TTL))
	if rule.EvaluateAll && (!judged || !whole) {
		return Undecided, nil, false
	}
	decision = rule.Requirement.Decide(Evidence{Reports: reports, Settled: judged && whole && !p.cut})
	switch {
	case decision == Allowed:
		return Allowed, nil, true
	case decision == Undecided && (!p.cut || !judged || !whole):
		return Undecided, nil, false
	case decision == Undecided:
		denial = referrerstore.ErrTooManyReferrers
	case len(reports) == 0:
		denial = ErrNoArtifacts
	default:
		denial = ErrRequirement
	}
	return Denied, denial, now.Before(p.since().Add(terms.denialTTL(reports, p.cut)))
}

// since is the moment that what the proof says goes back to.
func (p *proof) since() time.Time {
	if !p.listed.IsZero() && p.listed.Before(p.begun) {
		return p.listed
	}
	return p.begun
}

// end is the first moment at which nothing in the proof is believed any more.
func (p *proof) end(terms ProofTerms) time.Time {
	last := p.begun.Add(max(terms.DeniedTTL, terms.AbsentTTL))
	if len(p.artifacts) == 0 {
		return p.begun.Add(terms.AbsentTTL)
	}
	for _, a := range p.artifacts {
		for _, k := range a.Reports {
			if k.Until.After(last) {
				last = k.Until
			}
		}
	}
	return last
}

// until is how long a report is believed that came of work begun at a moment;
// false says that it is a doubt, which is never kept.
func (t ProofTerms) until(r verifier.Report, begun time.Time) (time.Time, bool) {
	switch r.Outcome {
	case verifier.Passed:
		until := begun.Add(t.TTL)
		if !r.ValidUntil.IsZero() && r.ValidUntil.Before(until) {
			until = r.ValidUntil.Round(0)
		}
		return until, true
	case verifier.Failed:
		return begun.Add(t.DeniedTTL), true
	default:
		return time.Time{}, false
	}
}
