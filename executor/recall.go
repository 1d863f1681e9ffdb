package executor

import (
	"sync/atomic"
	"time"
	"weak"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// Recall answers from what is remembered and believed now, without I/O and
// without waiting; false says that it takes [Executor.Verify].
func (e *Executor) Recall(req Request, now time.Time) (Result, bool) {
	pl, result, decided := e.plan(req, now)
	if !decided {
		result, decided = e.recall(pl, now)
	}
	switch {
	case !decided:
		return Result{}, false
	case result.Proof != 0:
		e.metrics.recalled(result, pl.allowed)
	default:
		e.metrics.observe(result, nil)
	}
	return result, true
}

// recent is where a plan's request was answered from last, so that the next one
// need not look for it again for a moment. Looking again tells the caches what
// is in use.
type recent struct{ atomic.Pointer[found] }

// found is the way from a request to its proof. It is immutable, and does not
// keep the proof in memory: that is for the replica to decide.
type found struct {
	subject referrerstore.Subject
	held    weak.Pointer[remembered]
	key     proofKey
	until   time.Time
}

// recentFor is how long the way to a proof is not looked for again.
const recentFor = time.Second

// recall reads the result from what is remembered. What is in use and has aged
// is refreshed behind it.
func (e *Executor) recall(pl *plan, now time.Time) (Result, bool) {
	now = now.Round(0)
	way, held := pl.recent.follow(now)
	if held == nil {
		var denial error
		if way, held, denial = e.lookFor(pl, now); denial != nil {
			return pl.result().denied(denial), true
		}
		if held == nil {
			return Result{}, false
		}
		pl.recent.Store(way)
	}
	result, ok := e.read(pl, way.subject, held.proof, now)
	if ok {
		e.used(way.key, held, pl, now)
	}
	return result, ok
}

// follow goes the way of the last request, if it still leads to the proof that
// counts; a nil proof says that it does not.
func (r *recent) follow(now time.Time) (*found, *remembered) {
	way := r.Load()
	if way == nil || !now.Before(way.until) || ahead(way.until, now) {
		return nil, nil
	}
	held := way.held.Value()
	if held == nil || held.superseded.Load() {
		return nil, nil
	}
	return way, held
}

// lookFor finds the way to a proof, nil if there is none, or that the reference
// leads nowhere.
func (e *Executor) lookFor(pl *plan, now time.Time) (*found, *remembered, error) {
	ref := pl.req.Reference
	way := &found{subject: unresolved(ref), until: now.Add(recentFor)}
	led, ok := e.memory.subject(ref, now)
	switch {
	case ok && led.err != nil:
		return nil, nil, led.err
	case ok:
		way.subject = led.subject
		if led.until.Before(way.until) {
			way.until = led.until
		}
	case ref.Digest == "":
		return nil, nil, nil
	}
	way.key = pl.key(way.subject)
	held, ok := e.memory.proof(way.key)
	if !ok {
		return nil, nil, nil
	}
	way.held = weak.Make(held)
	return way, held, nil
}

// read lets the policy decide on a proof.
func (e *Executor) read(pl *plan, subject referrerstore.Subject, p *proof, now time.Time) (Result, bool) {
	if subject.Descriptor.MediaType != "" && subject.Descriptor.MediaType != p.subject.MediaType {
		return Result{}, false // the same bytes under another type are another thing
	}
	decision, denial, ok := p.read(pl.rule, now, e.memory.terms)
	if !ok {
		return Result{}, false
	}
	result := pl.result()
	result.Decision, result.Denial = decision, denial
	if p.ends.IsZero() || now.Before(p.ends) {
		result.Proof = p.id // else it tells less than it did
	}
	result.Subject = referrerstore.Subject{Reference: pl.req.Reference, Descriptor: p.subject}
	result.Reports, _ = p.at(now)
	return result, true
}

// unresolved is a subject of which only a pinned reference's digest is known.
func unresolved(ref referrerstore.Reference) referrerstore.Subject {
	subject := referrerstore.Subject{Reference: ref}
	subject.Descriptor.Digest = ref.Digest
	return subject
}
