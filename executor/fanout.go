package executor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/verifier"
)

// errDecided cancels what is still under way once it cannot matter any more.
var errDecided = errors.New("the decision is made")

// gathering is the evidence of one request while it comes in.
//
// Groups carry lifetimes, never verdicts: the goroutines below return nil and
// write into slots that listing gave them.
type gathering struct {
	rule    Rule
	serving []referrerstore.Store
	cancel  context.CancelCauseFunc
	start   time.Time

	mu       sync.Mutex // guards the fields that follow it
	slots    map[digest.Digest]*slot
	pending  int // lists that have not ended and slots that are being judged
	listErrs []error
	decision Decision
	listed   time.Duration
}

// slot holds the reports on one artifact. Stores that list the same digest
// share it: the first source is judged, and the next one only if that did not
// pass, because a store may list the artifact wrongly or not deliver it.
type slot struct {
	sources []source
	judged  int
	running bool
	reports []verifier.Report
}

// source is where an artifact was listed, and by whom it can be judged.
type source struct {
	store     referrerstore.Store
	at        [2]int // index of the store, place in its list
	artifact  ocispec.Descriptor
	verifiers []verifier.Verifier
	sole      bool // no other store serves the image
}

// gather runs the fan-out: an outer group over the stores, and in each an
// inner bounded group over its artifacts. It returns when all of it has ended.
func (e *Executor) gather(ctx context.Context, subject referrerstore.Subject, rule Rule, serving []referrerstore.Store) *gathering {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	g := &gathering{
		rule:    rule,
		serving: serving,
		cancel:  cancel,
		start:   time.Now(),
		slots:   make(map[digest.Digest]*slot),
		pending: len(serving),
	}
	verifiers := e.needed(rule)
	var outer errgroup.Group
	outer.SetLimit(len(serving))
	for i := range serving {
		outer.Go(func() error {
			e.gatherFrom(ctx, g, i, subject, verifiers)
			return nil
		})
	}
	_ = outer.Wait() // its functions return nil
	return g
}

func (e *Executor) needed(rule Rule) []verifier.Verifier {
	var needed []verifier.Verifier
	for _, name := range rule.Requirement.Verifiers() {
		if v, ok := e.verifiers[name]; ok {
			needed = append(needed, v)
		}
	}
	return needed
}

// gatherFrom lists what one store knows and judges it while the list comes in.
func (e *Executor) gatherFrom(ctx context.Context, g *gathering, index int, subject referrerstore.Subject, verifiers []verifier.Verifier) {
	store := g.serving[index]
	var inner errgroup.Group
	inner.SetLimit(e.opts.ArtifactsAtOnce)
	place := 0
	err := e.list(ctx, store, subject, func(artifact ocispec.Descriptor) error {
		from := source{store: store, at: [2]int{index, place}, artifact: artifact, verifiers: e.matching(ctx, verifiers, artifact), sole: len(g.serving) == 1}
		place++
		if len(from.verifiers) == 0 {
			return nil
		}
		s, err := g.admit(from, e.opts.MaxArtifacts)
		if s == nil || err != nil {
			return err
		}
		inner.Go(func() error {
			e.fill(ctx, g, s, subject)
			return nil
		})
		return nil
	})
	g.finishList(err)
	_ = inner.Wait() // its functions return nil
}

// fill judges a slot from one source after the other until one passes.
func (e *Executor) fill(ctx context.Context, g *gathering, s *slot, subject referrerstore.Subject) {
	for {
		from, ok := g.next(s)
		if !ok {
			return
		}
		g.record(s, e.judge(ctx, from, subject))
	}
}

// matching are the verifiers for an artifact. One that panics over it is among
// them: what it makes of the artifact is in doubt, and Verify will say so.
func (e *Executor) matching(ctx context.Context, verifiers []verifier.Verifier, artifact ocispec.Descriptor) []verifier.Verifier {
	var matching []verifier.Verifier
	for _, v := range verifiers {
		if e.matches(ctx, v, artifact) {
			matching = append(matching, v)
		}
	}
	return matching
}

func (e *Executor) matches(ctx context.Context, v verifier.Verifier, artifact ocispec.Descriptor) (matches bool) {
	defer func() {
		if p := recover(); p != nil {
			e.logPanic(ctx, "panic in a verifier", p, "verifier", v.Name(), "artifact", artifact.Digest.String())
			matches = true
		}
	}()
	return v.Matches(artifact)
}

// logPanic is for the operator: the stack is nobody else's business.
func (e *Executor) logPanic(ctx context.Context, what string, p any, attrs ...any) {
	e.opts.Logger.ErrorContext(ctx, what, append(attrs, "panic", p, "stack", string(debug.Stack()))...) //nolint:sloglint // one of few constant texts
}

// list walks a store's referrers; a panic in the store is an error of its list.
func (e *Executor) list(ctx context.Context, store referrerstore.Store, subject referrerstore.Subject, each func(ocispec.Descriptor) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			e.logPanic(ctx, "panic in a store", p, "store", store.Name())
			err = fmt.Errorf("store %s: internal error", store.Name())
		}
	}()
	for artifact, err := range store.Referrers(ctx, subject) {
		if err != nil {
			return err
		}
		if err := each(artifact); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

// admit adds a source to its artifact's slot. It returns the slot if it needs
// somebody to judge it, nil if it has a judge or has passed.
func (g *gathering) admit(from source, limit int) (*slot, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s, known := g.slots[from.artifact.Digest]
	if !known {
		if len(g.slots) >= limit {
			return nil, referrerstore.ErrTooManyReferrers
		}
		s = &slot{}
		g.slots[from.artifact.Digest] = s
	}
	s.sources = append(s.sources, from)
	if s.running || s.passed() {
		return nil, nil
	}
	s.running = true
	g.pending++
	return s, nil
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

// next hands out the slot's next source, or ends its judging and asks the
// policy again.
func (g *gathering) next(s *slot) (source, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if s.judged < len(s.sources) && !s.passed() && g.decision == Undecided {
		s.judged++
		return s.sources[s.judged-1], true
	}
	s.running = false
	g.pending--
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
		at := slices.IndexFunc(s.reports, func(had verifier.Report) bool { return had.Verifier == r.Verifier })
		switch {
		case at < 0:
			s.reports = append(s.reports, r)
		case r.Outcome > s.reports[at].Outcome:
			s.reports[at] = r
		}
	}
}

func (g *gathering) finishList(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.listed = max(g.listed, time.Since(g.start))
	if err != nil && !errors.Is(err, errDecided) {
		g.listErrs = append(g.listErrs, err)
	}
	g.pending--
	g.decide()
}

// decide asks the policy and, if it will not change its mind, ends the rest.
// Slots that are being judged are left out: another source may yet pass.
func (g *gathering) decide() {
	if g.decision != Undecided || (g.rule.EvaluateAll && g.pending > 0) {
		return
	}
	var arrived []verifier.Report
	for _, s := range g.slots {
		if !s.running {
			arrived = append(arrived, s.reports...)
		}
	}
	settled := g.pending == 0 && len(g.listErrs) == 0
	g.decision = g.rule.Requirement.Decide(Evidence{Reports: arrived, Settled: settled})
	if g.decision != Undecided {
		g.cancel(errDecided)
	}
}

// reports are in the order of stores and their lists, without those that the
// decision cut short.
func (g *gathering) reports() []verifier.Report {
	slots := slices.SortedFunc(maps.Values(g.slots), func(a, b *slot) int {
		x, y := a.place(), b.place()
		return slices.Compare(x[:], y[:])
	})
	var all []verifier.Report
	for _, s := range slots {
		for _, r := range s.reports {
			if g.decision == Undecided || !errors.Is(r.Reason.Err, errDecided) {
				all = append(all, r)
			}
		}
	}
	return all
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

// broken is the first error of a list other than a bound's cut.
func (g *gathering) broken() error {
	for _, err := range g.listErrs {
		if !errors.Is(err, referrerstore.ErrTooManyReferrers) {
			return err
		}
	}
	return nil
}

func (g *gathering) cut() bool { return len(g.listErrs) > 0 }

// judge lets every matching verifier judge one artifact, all at once, over one
// shared reading of it.
func (e *Executor) judge(ctx context.Context, from source, subject referrerstore.Subject) []verifier.Report {
	content := newContent(ctx, from.store, subject, from.artifact, e.opts.Budget, e.opts.ManifestBytes)
	defer content.release()
	in := verifier.Input{Subject: subject, Artifact: from.artifact, Content: content}
	reports := make([]verifier.Report, len(from.verifiers))
	var group errgroup.Group
	group.SetLimit(len(from.verifiers))
	for i, v := range from.verifiers {
		group.Go(func() error {
			reports[i] = e.verifyOne(ctx, v, in, from.sole)
			return nil
		})
	}
	_ = group.Wait() // its functions return nil
	return reports
}

// verifyOne calls one verifier. Whatever goes wrong in it is an inconclusive
// report, or a failed one where the artifact itself can never be judged.
func (e *Executor) verifyOne(ctx context.Context, v verifier.Verifier, in verifier.Input, sole bool) (report verifier.Report) {
	start := time.Now()
	defer func() {
		if p := recover(); p != nil {
			e.logPanic(ctx, "panic in a verifier", p, "verifier", v.Name(), "artifact", in.Artifact.Digest.String())
			report = verifier.Report{Reason: verifier.Reason{
				Code: verifier.CodeVerificationAborted,
				What: "the verifier stopped on an internal error",
				Do:   "see the log of gatehouse",
			}}
		}
		report.Verifier, report.Type, report.Artifact = v.Name(), v.Type(), in.Artifact
		report.Elapsed = time.Since(start)
		e.metrics.judged(v, report)
	}()
	report, err := v.Verify(ctx, in)
	if err == nil && report.Outcome == verifier.Inconclusive && errors.Is(context.Cause(ctx), errDecided) {
		err = errDecided
	}
	if err != nil {
		return verifier.Report{Outcome: outcomeOf(err, sole), Reason: reasonOf(ctx, err)}
	}
	if report.Outcome == verifier.Passed && report.Statement == "" {
		// A Passed that says nothing cannot be counted: it is no proof.
		return verifier.Report{Reason: verifier.Reason{Code: verifier.CodeVerificationAborted, What: "the verifier proved nothing"}}
	}
	return report
}

// outcomeOf tells what can never pass from what could not be told. A size is
// what a list says: where another store may list the artifact too, it may say
// otherwise.
func outcomeOf(err error, sole bool) verifier.Outcome {
	if errors.Is(err, verifier.ErrNotReferrer) || (sole && errors.Is(err, referrerstore.ErrTooLarge)) {
		return verifier.Failed
	}
	return verifier.Inconclusive
}

func reasonOf(ctx context.Context, err error) verifier.Reason {
	switch {
	case errors.Is(err, verifier.ErrNotReferrer):
		return verifier.Reason{Code: verifier.CodeArtifactMalformed, What: "its manifest does not refer to the image", Err: err}
	case errors.Is(err, referrerstore.ErrTooLarge):
		return verifier.Reason{Code: verifier.CodeArtifactTooLarge, What: "it is larger than the bound for its kind", Err: err}
	case ctx.Err() != nil:
		return verifier.Reason{Code: verifier.CodeArtifactUnavailable, What: "it was not judged in time", Err: context.Cause(ctx)}
	default:
		return verifier.Reason{Code: verifier.CodeArtifactUnavailable, What: "it could not be judged", Err: err}
	}
}
