package executor

import (
	"maps"
	"slices"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/verifier"
)

// slot holds the reports on one artifact. Stores that list the same digest
// share it: the first source is judged, and the next one only if that did not
// pass, because a store may list the artifact wrongly or not deliver it.
type slot struct {
	sources []source
	judged  int
	state   slotState
	owner   int // index of the store whose goroutine starts it
	reports []judged
	// Of what was proven before: what stands for judging it now, and what is
	// believed on if judging it comes to nothing.
	prior, fallback []kept
}

// judged is a report with the moment at which it ends; zero is never. Taken
// says that it was proven before.
type judged struct {
	verifier.Report
	until time.Time
	taken *kept
}

type slotState int

const (
	slotWaiting slotState = iota // nobody judges it yet
	slotRunning
	slotDone
)

// source is where an artifact was listed, and by whom it can be judged.
type source struct {
	store     referrerstore.Store
	at        [2]int // index of the store, place in its list
	artifact  ocispec.Descriptor
	verifiers []verifier.Verifier
	sole      bool // no other store serves the image
}

// admit adds a source to its artifact's slot, which then waits for somebody to
// judge it, unless somebody does, it has passed, or it was proven before.
func (g *gathering) admit(from source, limit int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	s, known := g.slots[from.artifact.Digest]
	if !known {
		if len(g.slots) >= limit {
			return referrerstore.ErrTooManyReferrers
		}
		s = &slot{state: slotDone}
		g.slots[from.artifact.Digest] = s
	}
	s.sources = append(s.sources, from)
	if !known {
		s.prior = g.prior.believed(from.artifact.Digest, g.start.Round(0), g.anew)
		s.fallback = g.prior.believed(from.artifact.Digest, g.start.Round(0), false)
	}
	taken := s.take(from)
	switch {
	case s.state == slotDone && s.open(from):
		s.state, s.owner = slotWaiting, from.at[0]
		g.lists[s.owner].waiting++
		g.pending++
	case taken:
		g.decide()
	}
	return nil
}

// take lets what was proven before of the artifact, by the same verifiers and as
// listed now, stand for their judgement.
func (s *slot) take(from source) (taken bool) {
	for _, v := range from.verifiers {
		if s.by(v.Name()) != nil {
			continue
		}
		for i, k := range s.prior {
			if k.Report.Verifier == v.Name() && sameListing(k.Report.Artifact, from.artifact) {
				s.reports = append(s.reports, judged{Report: k.Report, until: k.Until, taken: &s.prior[i]})
				taken = true
			}
		}
	}
	return taken
}

// sameListing compares what a list says of an artifact beside its digest, by
// which verifiers choose.
func sameListing(a, b ocispec.Descriptor) bool {
	return a.Digest == b.Digest && a.MediaType == b.MediaType && a.ArtifactType == b.ArtifactType && a.Size == b.Size
}

// by is the report of a verifier, nil if there is none.
func (s *slot) by(name string) *judged {
	for i := range s.reports {
		if s.reports[i].Verifier == name {
			return &s.reports[i]
		}
	}
	return nil
}

// open says whether a source could teach more: one of its verifiers has not
// judged the artifact, or not passed it where another source may do better.
func (s *slot) open(from source) bool {
	for _, v := range from.verifiers {
		if r := s.by(v.Name()); r == nil || (r.Outcome != verifier.Passed && r.taken == nil) {
			return true
		}
	}
	return false
}

// passed says whether nothing could be learnt from another source.
func (s *slot) passed() bool {
	for _, r := range s.reports {
		if r.Outcome != verifier.Passed {
			return false
		}
	}
	return len(s.reports) > 0
}

// wanted are the names of all who judge the artifact, whoever lists it, sorted.
func (s *slot) wanted() []string {
	var names []string
	for _, from := range s.sources {
		for _, v := range from.verifiers {
			names = append(names, v.Name())
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// next hands out the slot's next source, or ends its judging and asks the
// policy again.
func (g *gathering) next(s *slot) (source, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for s.judged < len(s.sources) && g.decision == Undecided {
		s.judged++
		if from := s.sources[s.judged-1]; s.open(from) {
			return from, true
		}
	}
	s.state = slotDone
	g.lists[s.owner].running--
	g.pending--
	if !s.passed() {
		g.extra = 2*g.extra + 1
	}
	g.work.AddLeft(-requestsPerArtifact)
	g.decide()
	return source{}, false
}

// record merges reports into the slot. The bytes behind a digest are the same
// wherever they come from, so the verdict that one source led to stands
// against the doubt or the failure that another left.
func (g *gathering) record(s *slot, reports []verifier.Report) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range reports {
		had := s.by(r.Verifier)
		switch {
		case had == nil:
			s.reports = append(s.reports, judged{Report: r, until: r.ValidUntil})
		case r.Outcome > had.Outcome || had.taken != nil:
			*had = judged{Report: r, until: r.ValidUntil}
		}
	}
}

func (g *gathering) ordered() []*slot {
	return slices.SortedFunc(maps.Values(g.slots), func(a, b *slot) int {
		x, y := a.place(), b.place()
		return slices.Compare(x[:], y[:])
	})
}

// place is the first place at which an artifact was listed.
func (s *slot) place() [2]int {
	first := s.sources[0].at
	for _, from := range s.sources[1:] {
		if slices.Compare(from.at[:], first[:]) < 0 {
			first = from.at
		}
	}
	return first
}

// lists says whether some source lists the artifact as it was judged.
func (s *slot) lists(artifact ocispec.Descriptor) bool {
	return slices.ContainsFunc(s.sources, func(from source) bool { return sameListing(artifact, from.artifact) })
}
