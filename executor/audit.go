package executor

import (
	"context"
	"errors"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// ErrNotAsked is why an audit was answered from what is held: so that its registry
// need not be asked.
var ErrNotAsked = errors.New("an audit asks a registry only for what is not held")

// auditsShare is the part of the subjects of one host at once that audits may judge
// by what is held. Places of their own keep them out of the way of whoever must
// decide that way, because the registry is away.
const auditsShare = 4

// audit answers from what is held where no proof answers, see [Request].Audit;
// false says that the registry is to be asked.
func (e *Executor) audit(ctx context.Context, pl *plan, start time.Time) (Result, bool) {
	now := start.Round(0)
	subject, at, ok := e.ledLast(pl, now)
	if !ok || !e.mayBeTold(pl, at, now) {
		return Result{}, false
	}
	if result, ok := e.provenLast(pl, subject, at, now); ok {
		return result, true
	}
	ev, ok := recallEvidence(pl, subject, now)
	if !ok || subject.Descriptor.MediaType == "" {
		return Result{}, false
	}
	ev.date(at)
	pinned := pl.req.Reference.Digest != ""
	if !e.mayBeTold(pl, ev.since, now) || (pinned && now.Sub(ev.since) < e.memory.terms.TTL) {
		return Result{}, false // what a pinned image's young list comes to is kept as a proof, see revive
	}
	return e.auditHeld(ctx, pl, ev, now)
}

// auditHeld judges held evidence, once for all who ask at a time.
func (e *Executor) auditHeld(ctx context.Context, pl *plan, ev *heldEvidence, now time.Time) (Result, bool) {
	ctx, span := e.tracer.join(ctx, "audit what is held")
	defer span.End()
	key := pl.flight()
	ctx, leave := halfOf(ctx)
	defer leave()
	result, err := e.auditing.Do(ctx, key, func(own context.Context) (Result, error) {
		own = referrerstore.WithWork(e.tracer.aboard(own, span), referrerstore.NewWork(now, referrerstore.LaneBackground))
		return e.judgeHeld(own, pl, known{held: ev}, e.audits)
	})
	if err != nil {
		return Result{}, false
	}
	held := *result.Held
	held.Why = ErrNotAsked
	result.Request, result.Held = pl.req, &held
	return result, true
}

// halfOf ends when half of ctx's time is over: the registry may have to be asked
// after all.
func halfOf(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, bounded := ctx.Deadline()
	if !bounded {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(deadline)/2)
}

// ledLast is where a reference led to when its registry was asked last, however
// long ago, and when that was.
func (e *Executor) ledLast(pl *plan, now time.Time) (referrerstore.Subject, time.Time, bool) {
	subject, at, ok := recallSubject(pl, now)
	if pl.req.Reference.Digest != "" {
		return subject, now, ok // a digest leads where it always did
	}
	led, known := e.memory.subjects.GetIfPresent(pl.req.Reference)
	if known && !ahead(led.at, now) && !led.at.Before(at) {
		return led.subject, led.at, led.err == nil
	}
	return subject, at, ok
}

// mayBeTold says whether what a registry said at a moment may be an audit's
// answer.
func (e *Executor) mayBeTold(pl *plan, at, now time.Time) bool {
	age := now.Sub(at)
	return age < e.memory.terms.TTL || (pl.mayStandIn() && age <= pl.down.UseHeld)
}

// provenLast reads the proof of where a tag led.
func (e *Executor) provenLast(pl *plan, subject referrerstore.Subject, at, now time.Time) (Result, bool) {
	held, ok := e.memory.proof(pl.key(subject))
	if !ok || pl.req.Reference.Digest != "" {
		return Result{}, false
	}
	result, ok := e.read(pl, subject, held.proof, now)
	if !ok || result.Decision != Allowed {
		return Result{}, false
	}
	since := earlier(at, held.since()).Round(0)
	result.Proof = 0 // it is not what others are told
	result.Held = &Held{Since: since, Age: now.Sub(since), Why: ErrNotAsked}
	return result, true
}
