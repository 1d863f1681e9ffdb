package executor

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
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
// write into slots that listing order gave them.
type gathering struct {
	rule   Rule
	cancel context.CancelCauseFunc
	start  time.Time

	mu       sync.Mutex // guards the fields that follow it
	seen     map[digest.Digest]bool
	slots    [][]*slot // by store, then in the order of its list
	pending  int       // lists and slots that are not finished
	listErrs []error
	arrived  []verifier.Report
	decision Decision
	listed   time.Duration
}

// slot holds the reports on one artifact, by the index of the verifier.
type slot struct {
	reports []verifier.Report
}

// gather runs the fan-out: an outer group over the stores, and in each an
// inner bounded group over its artifacts. It returns when all of it has ended.
func (e *Executor) gather(ctx context.Context, subject referrerstore.Subject, rule Rule, serving []referrerstore.Store) *gathering {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	g := &gathering{
		rule:    rule,
		cancel:  cancel,
		start:   time.Now(),
		seen:    make(map[digest.Digest]bool),
		slots:   make([][]*slot, len(serving)),
		pending: len(serving),
	}
	verifiers := e.needed(rule)
	var outer errgroup.Group
	outer.SetLimit(len(serving))
	for i, store := range serving {
		outer.Go(func() error {
			e.gatherFrom(ctx, g, i, store, subject, verifiers)
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
func (e *Executor) gatherFrom(ctx context.Context, g *gathering, index int, store referrerstore.Store, subject referrerstore.Subject, verifiers []verifier.Verifier) {
	var inner errgroup.Group
	inner.SetLimit(e.opts.ArtifactsAtOnce)
	err := e.list(ctx, store, subject, func(artifact ocispec.Descriptor) error {
		matching := matching(verifiers, artifact)
		if len(matching) == 0 {
			return nil
		}
		s, err := g.admit(index, artifact, e.opts.MaxArtifacts)
		if s == nil || err != nil {
			return err
		}
		inner.Go(func() error {
			g.finish(s, e.judge(ctx, store, subject, artifact, matching))
			return nil
		})
		return nil
	})
	g.finishList(err)
	_ = inner.Wait() // its functions return nil
}

func matching(verifiers []verifier.Verifier, artifact ocispec.Descriptor) []verifier.Verifier {
	var matching []verifier.Verifier
	for _, v := range verifiers {
		if v.Matches(artifact) {
			matching = append(matching, v)
		}
	}
	return matching
}

// list walks a store's referrers; a panic in the store is an error of its list.
func (e *Executor) list(ctx context.Context, store referrerstore.Store, subject referrerstore.Subject, each func(ocispec.Descriptor) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			e.opts.Logger.ErrorContext(ctx, "panic in a store", "store", store.Name(), "panic", p, "stack", string(debug.Stack()))
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

// admit gives an artifact its slot, nil if another store listed it already.
func (g *gathering) admit(store int, artifact ocispec.Descriptor, limit int) (*slot, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.seen[artifact.Digest] {
		return nil, nil
	}
	if len(g.seen) >= limit {
		return nil, referrerstore.ErrTooManyReferrers
	}
	g.seen[artifact.Digest] = true
	s := &slot{}
	g.slots[store] = append(g.slots[store], s)
	g.pending++
	return s, nil
}

// finish puts an artifact's reports in its slot and asks the policy again.
func (g *gathering) finish(s *slot, reports []verifier.Report) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s.reports = reports
	g.arrived = append(g.arrived, reports...)
	g.pending--
	g.decide()
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
func (g *gathering) decide() {
	if g.decision != Undecided {
		return
	}
	settled := g.pending == 0 && len(g.listErrs) == 0
	if g.rule.EvaluateAll && g.pending > 0 {
		return
	}
	g.decision = g.rule.Requirement.Decide(Evidence{Reports: g.arrived, Settled: settled})
	if g.decision != Undecided {
		g.cancel(errDecided)
	}
}

// reports are in a stable order, without those that the decision cut short.
func (g *gathering) reports() []verifier.Report {
	var all []verifier.Report
	for _, slots := range g.slots {
		for _, s := range slots {
			for _, r := range s.reports {
				if g.decision == Undecided || !errors.Is(r.Reason.Err, errDecided) {
					all = append(all, r)
				}
			}
		}
	}
	return all
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
func (e *Executor) judge(ctx context.Context, store referrerstore.Store, subject referrerstore.Subject, artifact ocispec.Descriptor, verifiers []verifier.Verifier) []verifier.Report {
	content := newContent(ctx, store, subject, artifact, e.opts.Budget, e.opts.ManifestBytes)
	defer content.release()
	in := verifier.Input{Subject: subject, Artifact: artifact, Content: content}
	reports := make([]verifier.Report, len(verifiers))
	var group errgroup.Group
	group.SetLimit(len(verifiers))
	for i, v := range verifiers {
		group.Go(func() error {
			reports[i] = e.verifyOne(ctx, v, in)
			return nil
		})
	}
	_ = group.Wait() // its functions return nil
	return reports
}

// verifyOne calls one verifier. Whatever goes wrong in it is an inconclusive
// report, or a failed one where the artifact itself can never be judged.
func (e *Executor) verifyOne(ctx context.Context, v verifier.Verifier, in verifier.Input) (report verifier.Report) {
	start := time.Now()
	defer func() {
		if p := recover(); p != nil {
			e.opts.Logger.ErrorContext(ctx, "panic in a verifier", "verifier", v.Name(), "artifact", in.Artifact.Digest.String(), "panic", p, "stack", string(debug.Stack()))
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
		return verifier.Report{Outcome: outcomeOf(err), Reason: reasonOf(ctx, err)}
	}
	if report.Outcome == verifier.Passed && report.Statement == "" {
		// A Passed that says nothing cannot be counted: it is no proof.
		return verifier.Report{Reason: verifier.Reason{Code: verifier.CodeVerificationAborted, What: "the verifier proved nothing"}}
	}
	return report
}

// outcomeOf tells what can never pass from what could not be told.
func outcomeOf(err error) verifier.Outcome {
	if errors.Is(err, verifier.ErrNotReferrer) || errors.Is(err, referrerstore.ErrTooLarge) {
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
