package executor

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// heldAfter is how long a registry may keep silent if nothing else is said: half
// of what requests have as a rule.
const heldAfter = 900 * time.Millisecond

// errNotHeld says that what is held allows nothing.
var errNotHeld = errors.New("what is held does not allow it")

// mayStandIn says whether the configuration lets what is held stand in for the
// registry.
func (p *plan) mayStandIn() bool {
	return p.down.UseHeld > 0 && (p.req.Reference.Digest != "" || p.down.Tags)
}

// outcome is what one of two ways to a result came to.
type outcome struct {
	result Result
	err    error
	silent bool // of what is held: the registry still kept silent then
}

func of(result Result, err error) outcome { return outcome{result: result, err: err} }

// race is between a registry and what is held of what it said before.
type race struct {
	e    *Executor
	key  flightKey
	pl   *plan
	both sync.WaitGroup
	// asked has what the registry came to, stood what is held.
	asked, stood chan outcome
}

// orHeld asks the registry. If it is away, or keeps silent for too long, what is
// held is decided from in its place: the registry's answer counts whatever it
// is, of what is held an allowance only. What the registry still owes is waited
// for behind an answer that did without.
func (e *Executor) orHeld(ctx context.Context, key flightKey, pl *plan, ask func(context.Context) (Result, error)) (Result, error) {
	if !pl.mayStandIn() {
		return ask(ctx)
	}
	if result, ok := e.standIns.find(key, time.Now().Round(0)); ok {
		return result, nil
	}
	r := &race{e: e, key: key, pl: pl, asked: make(chan outcome, 1), stood: make(chan outcome, 1)}
	defer r.both.Wait()
	ctx, leave := context.WithCancel(ctx)
	defer leave() // which ends both
	r.both.Go(func() { r.asked <- of(ask(ctx)) })
	got := r.run(ctx)
	return got.result, got.err
}

func (r *race) run(ctx context.Context) outcome {
	patience := time.NewTimer(r.e.patience(ctx, r.pl))
	defer patience.Stop()
	select {
	case answer := <-r.asked:
		if !isAway(answer.err) {
			return answer
		}
		begun := time.Now()
		return r.decide(answer, of(r.e.standIn(ctx, r.key, r.pl)), begun)
	case <-patience.C:
		return r.beside(ctx)
	}
}

// beside decides from what is held while the registry is still silent.
func (r *race) beside(ctx context.Context) outcome {
	begun := time.Now()
	r.both.Go(func() { r.stood <- r.instead(ctx) })
	select {
	case answer := <-r.asked:
		if !isAway(answer.err) {
			return answer
		}
		return r.decide(answer, <-r.stood, begun)
	case instead := <-r.stood:
		if instead.silent {
			if got := r.decide(outcome{err: &awayError{errSilent}}, instead, begun); got.err == nil {
				return got
			}
		}
		return r.decide(<-r.asked, instead, begun)
	}
}

// instead is what is held comes to, unless the registry is not silent.
func (r *race) instead(ctx context.Context) outcome {
	if !r.silent(ctx) {
		return outcome{err: errNotHeld}
	}
	got := of(r.e.standIn(ctx, r.key, r.pl))
	got.silent = got.err == nil && r.silent(ctx)
	return got
}

// silent says whether the registry is silent and something is held. One that is not
// even asked yet, because that may not be needed, gets a little time.
func (r *race) silent(ctx context.Context) bool {
	subject, _, ok := r.e.leads(r.pl, time.Now().Round(0))
	if !ok {
		return false
	}
	key := r.pl.key(subject)
	if !r.e.asking.reviving(key) {
		return r.e.asking.silent(key)
	}
	wait := r.e.opts.HeldAfter / 2 // which is longer than reviving takes
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(deadline)/2)
	}
	over := time.NewTimer(wait)
	defer over.Stop()
	select {
	case <-over.C:
		return r.e.asking.silent(key)
	case <-ctx.Done():
		return false
	}
}

// decide gives what is held the word if the registry is away, and has not said
// meanwhile that it is otherwise.
func (r *race) decide(answer, instead outcome, begun time.Time) outcome {
	if !isAway(answer.err) || instead.err != nil {
		return answer
	}
	result, now := instead.result, time.Now().Round(0)
	subject, _, ok := r.e.leads(r.pl, now)
	if !ok || subject.Descriptor.Digest != result.Subject.Descriptor.Digest {
		return answer
	}
	held := *result.Held
	held.Why = answer.err
	result.Held = &held
	if !r.e.standIns.keep(r.key, r.pl.key(result.Subject), begun, result, r.e.standsUntil(r.pl, result, now)) {
		return answer
	}
	return outcome{result: result}
}

// patience is for how long a registry may keep silent: for no time at all where it
// would not even be asked before it is over.
func (e *Executor) patience(ctx context.Context, pl *plan) time.Duration {
	patience := e.opts.HeldAfter
	if deadline, ok := ctx.Deadline(); ok {
		patience = min(patience, time.Until(deadline)/2)
	}
	for _, s := range pl.serving {
		if about := referrerstore.About(s, pl.req.Reference.Registry); about.Throttled && about.Wait >= patience {
			return 0
		}
	}
	return patience
}
