package executor

import (
	"errors"
	"slices"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/verifier"
)

func (g *gathering) finishList(index int, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.listed = max(g.listed, time.Since(g.start))
	if err != nil && !errors.Is(err, errDecided) {
		g.listErrs = append(g.listErrs, err)
	}
	g.lists[index].over = true
	g.lists[index].whole = err == nil || errors.Is(err, referrerstore.ErrTooManyReferrers)
	g.pending--
	g.work.SetLeft(g.left() * requestsPerArtifact)
	g.decide()
}

// left is how many artifacts will be judged, as far as is known. It is called
// with mu held.
func (g *gathering) left() int {
	running, waiting := 0, 0
	for _, l := range g.lists {
		running += l.running
		waiting += l.waiting
	}
	wanted := 0
	for _, n := range g.pl.rule.Requirement.Needs(g.evidence()) {
		wanted = max(wanted, n)
	}
	if g.pl.rule.EvaluateAll {
		wanted = AllReports
	}
	return running + min(waiting, wanted)
}

// over says whether there is nothing more to start for a store.
func (g *gathering) over(index int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.lists[index]
	return g.decision != Undecided || (l.over && l.waiting+l.running == 0)
}

// decide asks the policy and, if it will not change its mind, ends the rest.
// Slots that are being judged are left out: another source may yet pass.
func (g *gathering) decide() {
	if g.decision != Undecided || (g.pl.rule.EvaluateAll && g.pending > 0) || (g.anew && !g.listsOver()) {
		return // whoever asked for the list anew wants all of it
	}
	if g.decision = g.verdict(); g.decision != Undecided {
		g.cancel(errDecided)
	}
}

// verdict is what the policy makes of all that is known at this moment. It is
// called with mu held.
func (g *gathering) verdict() Decision {
	evidence := g.evidence()
	evidence.Settled = g.pending == 0 && len(g.listErrs) == 0
	return g.pl.rule.Requirement.Decide(evidence)
}

// listsOver says whether every list has come to its end, whatever that was. It
// is called with mu held.
func (g *gathering) listsOver() bool {
	for _, l := range g.lists {
		if !l.over {
			return false
		}
	}
	return true
}

// evidence is what has arrived so far. What has ended meanwhile is a doubt. It is
// called with mu held.
func (g *gathering) evidence() Evidence {
	now := time.Now().Round(0)
	var arrived []verifier.Report
	for _, s := range g.slots {
		if s.state != slotDone {
			continue
		}
		for _, r := range s.reports {
			if r.Outcome == verifier.Passed && !r.until.IsZero() && !now.Before(r.until) {
				r.Outcome = verifier.Inconclusive
			}
			arrived = append(arrived, r.Report)
		}
	}
	return Evidence{Reports: arrived}
}

// holds says whether an allowance still holds, once all has ended: what it rests
// on may have ended meanwhile.
func (g *gathering) holds() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.decision != Allowed || g.verdict() == Allowed
}

// reports are in the order of stores and their lists, without those that the
// decision cut short.
func (g *gathering) reports() []verifier.Report {
	var all []verifier.Report
	for _, s := range g.ordered() {
		for _, r := range s.reports {
			if g.decision == Undecided || !errors.Is(r.Reason.Err, errDecided) {
				all = append(all, r.Report)
			}
		}
	}
	return all
}

// broken is the first error of a list other than a bound's cut: of several, one
// that a registry gave an answer with.
func (g *gathering) broken() (first error) {
	for _, err := range g.listErrs {
		if errors.Is(err, referrerstore.ErrTooManyReferrers) {
			continue
		}
		if first == nil || (isDown(first) && !isDown(err)) {
			first = err
		}
	}
	return first
}

func (g *gathering) cut() bool { return len(g.listErrs) > 0 }

// proof is what was found out for good, now and before; nil if nothing was.
// What could not be found out again is believed as long as it was to be.
func (g *gathering) proof(begun time.Time, terms ProofTerms) *proof {
	if g.lost != nil || g.subject.Descriptor.MediaType == "" {
		return nil
	}
	p := &proof{subject: g.subject.Descriptor, begun: begun, cut: g.cut(), listed: begun}
	if !g.anew && g.prior.listHolds(g.start.Round(0), terms) {
		p.listed = g.prior.listed
	}
	for _, s := range g.ordered() {
		p.artifacts = append(p.artifacts, s.proven(begun, terms))
	}
	whole := !slices.ContainsFunc(g.lists, func(l listState) bool { return !l.whole })
	if !whole {
		p.listed, p.cut = time.Time{}, false
	}
	if !whole && g.prior != nil && !g.known.hearsay { // what is only held is listed no later for it
		p.listed, p.cut = g.prior.listed, g.prior.cut
		for _, a := range g.prior.artifacts {
			if g.slots[a.digest()] == nil {
				p.artifacts = append(p.artifacts, a)
			}
		}
	}
	if p.conclude(); p.listed.IsZero() && len(p.reports) == 0 {
		return nil
	}
	return p
}

// proven keeps of a slot what is knowledge: what was judged now, or before if
// that is all there is.
func (s *slot) proven(begun time.Time, terms ProofTerms) proven {
	a := proven{Wanted: s.wanted()}
	for _, from := range s.sources {
		a.Listed = append(a.Listed, listing{Store: from.store.Name(), Artifact: bare(from.artifact)})
	}
	for _, name := range a.Wanted {
		r := s.by(name)
		if r != nil && r.taken != nil {
			a.Reports = append(a.Reports, *r.taken)
			continue
		}
		if r != nil && s.state == slotDone {
			if until, ok := terms.until(r.Report, begun); ok {
				report := r.Report
				report.Artifact, report.Reason.Err = bare(report.Artifact), nil
				a.Reports = append(a.Reports, kept{Report: report, Begun: begun, Until: until})
				continue
			}
		}
		for _, k := range s.fallback {
			if k.Report.Verifier == name && s.lists(k.Report.Artifact) {
				a.Reports = append(a.Reports, k)
				break
			}
		}
	}
	return a
}

// bare leaves of a descriptor's annotations only the one that orders artifacts:
// what a registry annotates proves nothing.
func bare(d ocispec.Descriptor) ocispec.Descriptor {
	when := created(d)
	d.Annotations = nil
	if when != "" {
		d.Annotations = map[string]string{ocispec.AnnotationCreated: when}
	}
	return d
}
