package executor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// Pin is where the tag of an image leads. The zero value says that the image
// stays as it is: it has a digest, or no rule demands proof of it, or no store
// serves its registry.
type Pin struct {
	// Digest is what the tag leads to, sha256 or sha512; empty if the image stays
	// as it is.
	Digest digest.Digest
	// Unproven says that a rule demands proof of the image, and that none which
	// decides is remembered. Whoever will ask soon has it sooner if somebody asks
	// now. It is not said of hosts that the configuration does not name, for which
	// nothing is done that nobody waits for.
	Unproven bool
	// Held is set if the tag led there before: its registry did not answer now.
	Held *Held
}

// Pin finds the digest that the image's tag leads to, within ctx. Where Verify
// looks for the same, both wait for one answer and remember it alike.
//
// The policy is asked as for a verdict: what needs no proof stays as it is. If the
// policy has rules for namespaces and the request names none, nobody knows
// whether one demands proof; an image of which some rule may, see [Foreseeing], is
// pinned, but not as Unproven. The
// request's Unpinned and Audit do not matter.
//
// An error is for [ExplainPin]; among others it wraps a sentinel of package
// referrerstore, ErrNotFound too. Whoever runs out of time leaves behind work
// that goes on within the bounds of [Background]. While a registry is away, a tag
// may lead where it led before, as far as [DownTerms] let it.
func (e *Executor) Pin(ctx context.Context, req Request) (pin Pin, err error) {
	start := time.Now()
	defer func() {
		if p := recover(); p != nil {
			pin, err = Pin{}, e.panicked(ctx, p, nil, req)
		}
	}()
	pl := e.planPin(req, start)
	pin, known, err := e.recallPin(pl, start)
	if known {
		return pin, err
	}
	pin, err = e.awaitPin(ctx, pl, start)
	e.metrics.pinned(pin, err, time.Since(start))
	return pin, err
}

// RecallPin is Pin by what is known already, without I/O and without waiting;
// false says that it takes Pin.
func (e *Executor) RecallPin(req Request, now time.Time) (pin Pin, known bool, err error) {
	return e.recallPin(e.planPin(req, now), now)
}

// planPin is the plan for finding a digest; nil says that the image stays as it
// is.
func (e *Executor) planPin(req Request, now time.Time) *plan {
	if req.Reference.Digest != "" {
		return nil
	}
	req.Unpinned, req.Audit = UnpinnedAllow, false
	pl, result, decided := e.plan(req, now)
	if !decided {
		return pl
	}
	serving := e.serving(req.Reference.Registry)
	if !errors.Is(result.Denial, ErrNamespaceMissing) || len(serving) == 0 || !mayDemand(e.policy, req.Reference) {
		return nil
	}
	return e.planFor(req, Rule{}, serving)
}

func (e *Executor) recallPin(pl *plan, now time.Time) (Pin, bool, error) {
	if pl == nil {
		return Pin{}, true, nil
	}
	led, ok := e.memory.subject(pl.req.Reference, now.Round(0))
	if !ok {
		return Pin{}, false, nil
	}
	e.metrics.pins.WithLabelValues("known").Inc()
	if led.err != nil {
		return Pin{}, true, led.err
	}
	pin, err := e.pinTo(pl, led.subject, now)
	return pin, true, err
}

// pinTo makes a Pin of what a tag led to.
func (e *Executor) pinTo(pl *plan, subject referrerstore.Subject, now time.Time) (Pin, error) {
	d, err := referrerstore.ParseDigest(subject.Descriptor.Digest.String())
	if err != nil {
		return Pin{}, fmt.Errorf("resolve %s: %w: %w", pl.req.Reference, referrerstore.ErrProtocol, err)
	}
	demanded := pl.rule.Requirement != nil && !pl.unnamed
	return Pin{Digest: d, Unproven: demanded && !e.proven(pl, subject, now)}, nil
}

// proven says whether a verdict on a subject can be read from memory.
func (e *Executor) proven(pl *plan, subject referrerstore.Subject, now time.Time) bool {
	held, ok := e.memory.proof(pl.key(subject))
	if !ok {
		return false
	}
	_, ok = e.read(pl, subject, held.proof, now.Round(0))
	return ok
}

// awaitPin joins the look-up of a tag, or begins it, and waits as await does for
// a verdict.
func (e *Executor) awaitPin(ctx context.Context, pl *plan, now time.Time) (Pin, error) {
	key := pl.flight()
	work := e.works.join(key, pl.req.Lane, now)
	defer e.works.part(key, pl.req.Lane)
	ctx, span := e.tracer.join(ctx, "pin")
	subject, held, err := e.orLed(ctx, pl, func(ctx context.Context) (referrerstore.Subject, error) {
		ctx, stop := leaveEarly(ctx, work)
		defer stop()
		return e.pinning.Do(ctx, key, func(own context.Context) (referrerstore.Subject, error) {
			e.works.join(key, referrerstore.LaneBackground, now)
			defer e.works.part(key, referrerstore.LaneBackground)
			return e.resolveOnly(referrerstore.WithWork(e.tracer.aboard(own, span), work), pl)
		})
	})
	err = e.ended(ctx, pl, err)
	finishResolve(span, pl, err)
	if err != nil {
		return Pin{}, err
	}
	pin, err := e.pinTo(pl, subject, time.Now())
	pin.Held = held
	return pin, err
}

// resolveOnly resolves a tag. Places are not those of proofs: one request waits for
// nobody's signatures.
func (e *Executor) resolveOnly(ctx context.Context, pl *plan) (referrerstore.Subject, error) {
	leave, err := e.pins.enter(ctx, pl.req.Reference.Registry)
	if err != nil {
		return referrerstore.Subject{}, err
	}
	defer leave()
	return e.resolve(ctx, pl)
}

// orLed asks the registry where a tag leads. If it is away, or silent for too
// long, the tag leads where it led before, if that may stand in.
func (e *Executor) orLed(ctx context.Context, pl *plan, ask func(context.Context) (referrerstore.Subject, error)) (referrerstore.Subject, *Held, error) {
	if !pl.mayStandIn() || !e.ledLately(pl) {
		subject, err := ask(ctx)
		return subject, nil, err
	}
	patient, stop := context.WithTimeout(ctx, e.patience(ctx, pl))
	defer stop()
	subject, err := ask(patient)
	if err == nil || ctx.Err() != nil || !isDown(err) {
		return subject, nil, err
	}
	now := time.Now().Round(0)
	led, at, ok := e.leads(pl, now) // the registry may have answered meanwhile
	switch {
	case ok && now.Sub(at) <= pl.down.UseHeld:
		return led, &Held{Since: at, Age: now.Sub(at), Why: e.late(pl, err)}, nil
	case patient.Err() != nil: // it is not for want of an answer that nothing stands in
		subject, err = ask(ctx)
	}
	return subject, nil, err
}

// ledLately says whether it is known where a tag led not too long ago.
func (e *Executor) ledLately(pl *plan) bool {
	now := time.Now().Round(0)
	_, at, ok := e.leads(pl, now)
	return ok && now.Sub(at) <= pl.down.UseHeld
}

// pinned counts a Pin that took work.
func (m *metrics) pinned(pin Pin, err error, took time.Duration) {
	outcome := "resolved"
	switch {
	case err != nil:
		outcome = "failed"
	case pin.Held != nil:
		outcome = "held"
	}
	m.pins.WithLabelValues(outcome).Inc()
	m.pinning.Observe(took.Seconds())
}
