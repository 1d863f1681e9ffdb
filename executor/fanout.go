package executor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/verifier"
)

// errDecided cancels what is still under way once it cannot matter any more.
var errDecided = errors.New("the decision is made")

// requestsPerArtifact are those for its manifest and its blob.
const requestsPerArtifact = 2

// gathering is the evidence of one subject while it comes in.
//
// Groups carry lifetimes, never verdicts: the goroutines below return nil and
// write into slots that listing gave them.
type gathering struct {
	pl      plan
	serving []referrerstore.Store
	prior   *proof // what was proven before, nil if nothing was
	anew    bool   // the prior list does not count
	cancel  context.CancelCauseFunc
	work    *referrerstore.Work
	start   time.Time

	panicked atomic.Bool
	// resolved is closed when subject is whole, or lost says why not.
	resolved chan struct{}
	subject  referrerstore.Subject
	lost     error

	mu       sync.Mutex // guards the fields that follow it
	slots    map[digest.Digest]*slot
	pending  int // lists that have not ended and slots without a judgement
	lists    []listState
	listErrs []error
	decision Decision
	listed   time.Duration
	extra    int // of candidates tried at once beyond what is needed
	fronts   []*front
}

// listState is how far the artifacts of one store are.
type listState struct {
	over             bool // it has ended, and whole if nothing but a bound cut it
	whole            bool
	waiting, running int // of the slots that this store's goroutine starts
}

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

// gather runs the fan-out: an outer group over the stores, and in each an
// inner bounded group over its artifacts. It returns when all of it has ended.
func (e *Executor) gather(parent context.Context, pl plan, subject referrerstore.Subject, prior *proof, anew bool) *gathering {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	g := &gathering{
		pl: pl, serving: pl.serving, prior: prior, anew: anew,
		cancel: cancel, work: referrerstore.WorkOf(ctx), start: time.Now(),
		resolved: make(chan struct{}), subject: subject,
		slots: make(map[digest.Digest]*slot), pending: len(pl.serving), lists: make([]listState, len(pl.serving)),
	}
	if prior != nil {
		g.subject.Descriptor = prior.subject
	}
	verifiers := e.needed(pl.rule)
	var outer errgroup.Group
	outer.SetLimit(len(pl.serving) + 1)
	outer.Go(e.safely(ctx, g, func() {
		e.whole(parent, g) // a decision does not end it: nothing may refer to what does not exist
	}))
	for i := range pl.serving {
		outer.Go(e.safely(ctx, g, func() { e.gatherFrom(ctx, g, i, subject, verifiers) }))
	}
	_ = outer.Wait() // its functions return nil
	return g
}

// safely makes a function of a group out of fn. A panic in it, of a store or a
// policy, ends the gathering without a verdict.
func (e *Executor) safely(ctx context.Context, g *gathering, fn func()) func() error {
	return func() error {
		defer func() {
			if p := recover(); p != nil {
				e.logPanic(ctx, "panic while gathering", p, debug.Stack(), "subject", g.pl.req.Reference.String())
				g.panicked.Store(true)
				g.cancel(ErrInconclusive)
			}
		}()
		fn()
		return nil
	}
}

// whole finds what is not known yet of the subject, beside everything else.
// Without it nothing counts.
func (e *Executor) whole(ctx context.Context, g *gathering) {
	defer close(g.resolved)
	if g.subject.Descriptor.MediaType != "" {
		return
	}
	subject, err := e.lookUp(ctx, g.pl)
	if err != nil {
		g.lost = err
		g.cancel(err)
		return
	}
	g.subject.Descriptor = subject.Descriptor
}

// await waits for the whole subject.
func (g *gathering) await(ctx context.Context) (referrerstore.Subject, error) {
	select {
	case <-g.resolved:
		return g.subject, g.lost
	case <-ctx.Done():
		return referrerstore.Subject{}, context.Cause(ctx)
	}
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
// Artifacts are started here and nowhere else.
func (e *Executor) gatherFrom(ctx context.Context, g *gathering, index int, subject referrerstore.Subject, verifiers []verifier.Verifier) {
	f := e.newFront(g, index)
	defer f.stop()
	var inner errgroup.Group
	inner.SetLimit(e.opts.ArtifactsAtOnce + 1) // the list is one of them
	inner.Go(func() error {
		g.finishList(index, e.listFrom(ctx, g, index, subject, verifiers, f))
		g.poke()
		return nil
	})
	for !g.over(index) {
		for s := f.next(); s != nil; s = f.next() {
			inner.Go(e.safely(ctx, g, func() {
				e.fill(ctx, g, s)
				g.poke()
			}))
		}
		if !f.wait(ctx) {
			break
		}
	}
	_ = inner.Wait() // its functions return nil
}

// listFrom enters what one store lists, or what a prior list that still holds
// said that it does.
func (e *Executor) listFrom(ctx context.Context, g *gathering, index int, subject referrerstore.Subject, verifiers []verifier.Verifier, f *front) error {
	place := 0
	enter := func(artifact ocispec.Descriptor) error {
		from := source{store: g.serving[index], at: [2]int{index, place}, artifact: artifact, verifiers: e.matching(ctx, verifiers, artifact), sole: len(g.serving) == 1}
		place++
		if len(from.verifiers) == 0 {
			return nil
		}
		defer f.poke()
		return g.admit(from, e.opts.MaxArtifacts)
	}
	if !g.anew && g.prior.listHolds(g.start.Round(0), e.memory.terms) {
		return g.relist(index, enter)
	}
	traced, span := e.tracer.start(ctx, "list referrers")
	err := e.list(traced, g.serving[index], subject, enter)
	finishList(span, g.pl, g.serving[index], place, err)
	return err
}

// relist enters the prior list's artifacts of one store.
func (g *gathering) relist(index int, enter func(ocispec.Descriptor) error) error {
	for _, a := range g.prior.artifacts {
		for _, l := range a.Listed {
			if l.Store != g.serving[index].Name() {
				continue
			}
			if err := enter(l.Artifact); err != nil {
				return err
			}
		}
	}
	if g.prior.cut {
		return referrerstore.ErrTooManyReferrers
	}
	return nil
}

// fill judges a slot from one source after the other until one passes.
func (e *Executor) fill(ctx context.Context, g *gathering, s *slot) {
	for {
		from, ok := g.next(s)
		if !ok {
			return
		}
		g.record(s, e.judgeTraced(ctx, g, from))
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
			e.logPanic(ctx, "panic in a verifier", p, debug.Stack(), "verifier", v.Name(), "artifact", artifact.Digest.String())
			matches = true
		}
	}()
	return v.Matches(artifact)
}

// logPanic is for the operator: the stack is nobody else's business.
func (e *Executor) logPanic(ctx context.Context, what string, p any, stack []byte, attrs ...any) {
	e.opts.Logger.ErrorContext(ctx, what, append(attrs, "panic", p, "stack", string(stack))...) //nolint:sloglint // one of few constant texts
}

// list walks a store's referrers; a panic in the store is an error of its list.
func (e *Executor) list(ctx context.Context, store referrerstore.Store, subject referrerstore.Subject, each func(ocispec.Descriptor) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			e.logPanic(ctx, "panic in a store", p, debug.Stack(), "store", store.Name())
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
	evidence := g.evidence()
	evidence.Settled = g.pending == 0 && len(g.listErrs) == 0
	g.decision = g.pl.rule.Requirement.Decide(evidence)
	if g.decision != Undecided {
		g.cancel(errDecided)
	}
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
	evidence := g.evidence()
	evidence.Settled = g.pending == 0 && len(g.listErrs) == 0
	return g.decision != Allowed || g.pl.rule.Requirement.Decide(evidence) == Allowed
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
	if !whole && g.prior != nil {
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

// lists says whether some source lists the artifact as it was judged.
func (s *slot) lists(artifact ocispec.Descriptor) bool {
	return slices.ContainsFunc(s.sources, func(from source) bool { return sameListing(artifact, from.artifact) })
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

// judgeTraced is judge with a span around it.
func (e *Executor) judgeTraced(ctx context.Context, g *gathering, from source) []verifier.Report {
	ctx, span := e.tracer.start(ctx, "artifact")
	reports := e.judge(ctx, g, from)
	finishArtifact(span, from, reports)
	return reports
}

// judge lets every matching verifier judge one artifact, all at once, over one
// shared reading of it.
func (e *Executor) judge(ctx context.Context, g *gathering, from source) []verifier.Report {
	reports := make([]verifier.Report, len(from.verifiers))
	subject, err := g.await(ctx)
	if err != nil {
		for i, v := range from.verifiers {
			reports[i] = verifier.Report{Verifier: v.Name(), Type: v.Type(), Artifact: from.artifact, Reason: reasonOf(ctx, err)}
		}
		return reports
	}
	content := e.newContent(ctx, from.store, subject, from.artifact)
	defer content.release()
	in := verifier.Input{Subject: subject, Artifact: from.artifact, Content: content}
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
			e.logPanic(ctx, "panic in a verifier", p, debug.Stack(), "verifier", v.Name(), "artifact", in.Artifact.Digest.String())
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
