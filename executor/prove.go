package executor

import (
	"context"
	"errors"
	"fmt"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/verifier"
)

// prove finds out what is to be known of a subject, beyond what is remembered,
// keeps it, and reads the decision from it. Anew says that the list of artifacts
// is to be asked for even if one is remembered.
func (e *Executor) prove(ctx context.Context, key proofKey, pl *plan, subject referrerstore.Subject, anew bool) (Result, error) {
	begun := time.Now().Round(0)
	prior, result, ok := e.before(ctx, key, pl, subject, begun)
	if ok && !anew {
		return result, nil
	}
	with := known{prior: prior, anew: anew}
	if prior == nil && !anew {
		if result, with.prior, ok = e.revive(ctx, key, pl, subject, begun); ok {
			return result, nil
		}
		with.hearsay = with.prior != nil
	}
	g := e.ask(ctx, key, pl, subject, with)
	if !g.panicked.Load() {
		e.keep(ctx, key, g.proof(begun, e.memory.terms), pl)
	}
	result, err := e.conclude(ctx, pl, g)
	if err = g.mark(err); pl.down.UseHeld > 0 && !isAway(err) && ctx.Err() == nil {
		e.standIns.hears(key, time.Now())
	}
	return result, err
}

// ask gathers what the registry says now.
func (e *Executor) ask(ctx context.Context, key proofKey, pl *plan, subject referrerstore.Subject, with known) *gathering {
	g := newGathering(pl, subject, with)
	defer e.asking.enter(key, g)()
	e.gather(ctx, g)
	if with.hearsay && g.lost == nil && !sameContent(g.subject.Descriptor, with.prior.subject) && ctx.Err() == nil {
		// What was found out from what is held is of another subject.
		return e.ask(ctx, key, pl, g.subject, known{})
	}
	return g
}

func sameContent(a, b ocispec.Descriptor) bool {
	return a.Digest == b.Digest && a.MediaType == b.MediaType && a.Size == b.Size
}

// before finds what was proven before: in the replica, or else where others may
// have put a later proof. True says that it is enough.
func (e *Executor) before(ctx context.Context, key proofKey, pl *plan, subject referrerstore.Subject, now time.Time) (*proof, Result, bool) {
	held, known := e.memory.proof(key)
	if known {
		if result, ok := e.read(pl, subject, held.proof, now); ok {
			return held.proof, result, true
		}
	}
	later, err := e.memory.fetch(ctx, key, held, pl)
	if err != nil {
		e.opts.Logger.WarnContext(ctx, "a proof could not be read", "error", err, "subject", subject.String())
	}
	if later != nil {
		if result, ok := e.read(pl, subject, later.proof, now); ok {
			return later.proof, result, true
		}
		held = later
	}
	if held == nil || (subject.Descriptor.MediaType != "" && subject.Descriptor.MediaType != held.subject.MediaType) {
		return nil, Result{}, false
	}
	return held.proof, Result{}, false
}

// keepTimeout bounds how long it may take to put a proof away.
const keepTimeout = 2 * time.Second

// keep remembers a proof, unless the configuration that it rests on has been
// retired meanwhile.
func (e *Executor) keep(ctx context.Context, key proofKey, p *proof, pl *plan) {
	if p == nil || e.closed.Load() {
		return
	}
	if referrerstore.WorkOf(ctx).Lane() == referrerstore.LaneAdmission {
		p.asked.Store(time.Now().Unix())
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keepTimeout)
	defer cancel()
	if err := e.memory.keep(ctx, key, p, pl); err != nil {
		e.opts.Logger.WarnContext(ctx, "a proof could not be kept", "error", err)
	}
}

// conclude reads the result from what was gathered.
func (e *Executor) conclude(ctx context.Context, pl *plan, g *gathering) (Result, error) {
	result := pl.result()
	if errors.Is(g.lost, referrerstore.ErrNotFound) {
		return result.denied(g.lost), nil
	}
	if g.lost != nil {
		return result, g.lost
	}
	if g.panicked.Load() {
		return result, fmt.Errorf("%w: internal error", ErrInconclusive)
	}
	result.Subject = g.subject
	result.Reports, result.Timings.Referrers = g.reports(), g.listed
	result.Decision = g.decision
	switch {
	case !g.holds():
		result.Decision = Undecided
		return result, fmt.Errorf("verify %s: %w: what it rests on has ended meanwhile", result.Subject, ErrInconclusive)
	case g.decision == Allowed:
		return result, nil
	case g.decision == Denied && len(result.Reports) == 0:
		return result.denied(ErrNoArtifacts), nil
	case g.decision == Denied:
		return result.denied(ErrRequirement), nil
	}
	return result.open(ctx, g)
}

// open answers for a decision that stayed open: because time ran out, because
// something could not be had, or, when only a bound stands in the way, for
// good.
func (r Result) open(ctx context.Context, g *gathering) (Result, error) {
	if ctx.Err() != nil {
		return r, fmt.Errorf("verify %s: %w", r.Subject, context.Cause(ctx))
	}
	if err := g.broken(); err != nil {
		return r, fmt.Errorf("list referrers of %s: %w: %w", r.Subject, ErrInconclusive, err)
	}
	if report, ok := firstInconclusive(r.Reports); ok {
		return r, fmt.Errorf("verify %s: %w: %w", r.Subject, ErrInconclusive, &ReportError{report})
	}
	if g.cut() {
		return r.denied(referrerstore.ErrTooManyReferrers), nil
	}
	return r, fmt.Errorf("verify %s: %w", r.Subject, ErrInconclusive)
}

func firstInconclusive(reports []verifier.Report) (verifier.Report, bool) {
	for _, r := range reports {
		if r.Outcome == verifier.Inconclusive {
			return r, true
		}
	}
	return verifier.Report{}, false
}

// ReportError is an inconclusive report that kept a decision open.
type ReportError struct {
	Report verifier.Report
}

func (e *ReportError) Error() string {
	return fmt.Sprintf("artifact %s: %s: %s", e.Report.Artifact.Digest, e.Report.Reason.Code, e.Report.Reason.What)
}

// Unwrap gives the report's cause, if it kept one.
func (e *ReportError) Unwrap() error { return e.Report.Reason.Err }
