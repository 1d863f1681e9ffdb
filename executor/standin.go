package executor

import (
	"context"
	"errors"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/verifier"
)

const (
	// standInFor bounds how long a decision from what is held is believed before
	// the registry is asked again.
	standInFor = time.Minute
	// standInBytes bounds the memory of such decisions.
	standInBytes = 4 << 20
)

// standIn decides from what is held, once for all who ask for it at a time. An
// error says that it allows nothing.
func (e *Executor) standIn(ctx context.Context, key flightKey, pl *plan) (Result, error) {
	ctx, span := e.tracer.join(ctx, "decide from what is held")
	defer span.End()
	deadline, bounded := ctx.Deadline()
	for {
		result, err := e.deciding.Do(ctx, key, func(own context.Context) (Result, error) {
			own = e.tracer.aboard(own, span)
			if bounded { // so that what it asks of others leaves time for the answer
				var cancel context.CancelFunc
				own, cancel = context.WithDeadline(own, deadline)
				defer cancel()
			}
			return e.decideHeld(own, pl)
		})
		over := ctx.Err() != nil || (bounded && !time.Now().Before(deadline))
		if err == nil || over || !errors.Is(err, context.DeadlineExceeded) {
			return result, err
		}
		// It was the deadline of whoever began it.
	}
}

// decideHeld judges what is held anew, by the policy and the trust of now. What
// comes of it is in no proof: it is no knowledge of what the registry has.
func (e *Executor) decideHeld(ctx context.Context, pl *plan) (Result, error) {
	ev, ok := e.heldFor(pl, time.Now().Round(0))
	if !ok {
		return Result{}, errNotHeld
	}
	return e.judgeHeld(ctx, pl, known{held: ev, lenient: pl.down.AcceptStaleRevocation}, e.places)
}

// judgeHeld is what held evidence comes to, judged in one of the places.
func (e *Executor) judgeHeld(ctx context.Context, pl *plan, with known, places *hosts) (Result, error) {
	leave, err := places.enter(ctx, pl.req.Reference.Registry)
	if err != nil {
		return Result{}, err
	}
	defer leave()
	ev := with.held
	g := newGathering(pl, ev.subject, with)
	e.gather(ctx, g)
	if ctx.Err() != nil { // a verifier may pass what it had no time to ask about
		return Result{}, context.Cause(ctx)
	}
	result, err := e.conclude(ctx, pl, g)
	if err != nil || result.Decision != Allowed {
		return Result{}, errNotHeld
	}
	result.Held = &Held{Since: ev.since, Age: time.Now().Round(0).Sub(ev.since)}
	return result, nil
}

// heldFor is what is held for a request, if it is young enough.
func (e *Executor) heldFor(pl *plan, now time.Time) (*heldEvidence, bool) {
	subject, at, ok := e.leads(pl, now)
	if !ok {
		return nil, false
	}
	ev, ok := recallEvidence(pl, subject, now)
	if !ok {
		return nil, false
	}
	ev.add(e.asking.listed(pl.key(subject)))
	if pl.req.Reference.Digest == "" {
		ev.date(at)
	}
	return ev, now.Sub(ev.since) <= pl.down.UseHeld
}

// leads is where a reference led to when the registry was asked last, however long
// ago, unless it has said otherwise since.
func (e *Executor) leads(pl *plan, now time.Time) (referrerstore.Subject, time.Time, bool) {
	subject, at, ok := recallSubject(pl, now)
	if !ok {
		return referrerstore.Subject{}, time.Time{}, false
	}
	led, known := e.memory.subject(pl.req.Reference, now)
	if known && (led.err != nil || led.subject.Descriptor.Digest != subject.Descriptor.Digest) {
		return referrerstore.Subject{}, time.Time{}, false
	}
	return subject, at, true
}

// standsUntil is how long a result from what is held is believed: briefly, and
// not beyond the end of anything that it rests on.
func (e *Executor) standsUntil(pl *plan, result Result, now time.Time) time.Time {
	until := earlier(now.Add(min(e.memory.terms.DeniedTTL, standInFor)), result.Held.Since.Add(pl.down.UseHeld))
	for _, r := range result.Reports {
		if r.Outcome == verifier.Passed && !r.ValidUntil.IsZero() {
			until = earlier(until, r.ValidUntil.Round(0))
		}
	}
	return until
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// standIns are the results that were given in place of a registry, and when
// registries answered after all. They are apart from proofs, so that none is ever
// taken for one.
type standIns struct {
	kept *otter.Cache[flightKey, standIn]
	// heard has when a registry answered what was asked of it for a proof: whoever
	// else, by whatever name, asked.
	heard *otter.Cache[proofKey, time.Time]
}

// standIn is such a result, or that the registry answered.
type standIn struct {
	result   Result
	of       proofKey
	begun    time.Time // by the monotonic clock as well
	until    time.Time
	answered time.Time
}

func newStandIns() *standIns {
	heard := otter.Must(&otter.Options[proofKey, time.Time]{
		MaximumWeight: standInBytes / 4,
		Weigher: func(key proofKey, _ time.Time) uint32 {
			const overhead = 384
			return uint32(overhead + len(key.registry) + len(key.repository) + len(key.rule) + len(key.identity)) //nolint:gosec // references are bounded
		},
		Executor: func(task func()) { task() },
	})
	return &standIns{heard: heard, kept: otter.Must(&otter.Options[flightKey, standIn]{
		MaximumWeight: standInBytes,
		Weigher: func(key flightKey, s standIn) uint32 {
			cost := int64(proofOverhead + len(key.ref.Repository) + len(key.rule))
			for _, r := range s.result.Reports {
				cost += reportCost(r)
			}
			return uint32(cost) //nolint:gosec // reports are bounded
		},
		Executor: func(task func()) { task() },
	})}
}

// find is the result that still stands.
func (s *standIns) find(key flightKey, now time.Time) (Result, bool) {
	kept, ok := s.kept.GetIfPresent(key)
	if !ok || kept.result.Held == nil || !now.Before(kept.until) || ahead(kept.begun, now) || s.heardSince(kept.of, kept.begun) {
		return Result{}, false
	}
	held := *kept.result.Held
	held.Age = now.Sub(held.Since)
	result := kept.result
	result.Held, result.Timings = &held, Timings{}
	return result, true
}

// keep keeps a result of work begun at a moment, unless the registry has answered
// since, which it says.
func (s *standIns) keep(key flightKey, of proofKey, begun time.Time, result Result, until time.Time) (stands bool) {
	s.kept.Compute(key, func(former standIn, _ bool) (standIn, otter.ComputeOp) {
		if stands = !former.answered.After(begun) && !s.heardSince(of, begun); !stands {
			return standIn{}, otter.CancelOp
		}
		return standIn{result: result, of: of, begun: begun, until: until}, otter.WriteOp
	})
	return stands
}

// hears notes that a registry has answered what was asked of it for a proof.
func (s *standIns) hears(of proofKey, now time.Time) {
	of.mediaType = ""
	s.heard.Set(of, now)
}

func (s *standIns) heardSince(of proofKey, begun time.Time) bool {
	at, ok := s.heard.GetIfPresent(of)
	return ok && at.After(begun)
}

// answered ends what stood in for a registry that has answered.
func (s *standIns) answered(key flightKey, now time.Time) {
	s.kept.Set(key, standIn{answered: now})
}
