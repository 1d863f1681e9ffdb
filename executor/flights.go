package executor

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/flight"
)

// flightKey is what makes two requests the same one.
type flightKey struct {
	ref  referrerstore.Reference
	rule string // that the namespace leads to
	// unnamed is of hosts that the configuration does not name.
	unnamed bool
}

// errUnnamed is why there is no background work.
var errUnnamed = errors.New("the configuration does not name the host")

// background refuses work in the background for a host that the configuration does
// not name, before it is begun: who joined it for an admission would share the
// refusal.
func (p *plan) background() error {
	if !p.unnamed || p.req.Lane != referrerstore.LaneBackground {
		return nil
	}
	return fmt.Errorf("verify %s: %w: %w", p.req.Reference, errUnnamed, referrerstore.ErrBusy)
}

// flight is what the plan's request has in common with others that are the same.
func (p *plan) flight() flightKey {
	return flightKey{ref: p.req.Reference, rule: p.about.rule, unnamed: p.unnamed}
}

// mayLinger says whether work for a request goes on when nobody waits: not for
// hosts that anybody may have named.
func mayLinger(key flightKey) bool { return !key.unnamed }

// await joins the work on the request, or begins it, and waits until it is done
// or ctx ends, or until it is sure that ctx will end first.
func (e *Executor) await(ctx context.Context, pl *plan, now time.Time) (Result, error) {
	if err := pl.background(); err != nil {
		return pl.result(), err
	}
	key := pl.flight()
	work := e.works.join(key, pl.req.Lane, now)
	defer e.works.part(key, pl.req.Lane)
	ctx, span := e.tracer.join(ctx, "subject")
	begin := e.beginning(key, pl, work, span, now)
	var result Result
	var err error
	if pl.mayStandIn() {
		result, err = e.orHeld(ctx, key, pl, func(ctx context.Context) (Result, error) {
			ctx, stop := leaveEarly(ctx, work)
			defer stop()
			return e.subjects.Do(ctx, key, e.heard(key, begin))
		})
	} else { // thousands may wait here: a frame more would double their stacks
		early, stop := leaveEarly(ctx, work)
		result, err = e.subjects.Do(early, key, begin)
		stop()
	}
	result.Request, result.Rule = pl.req, pl.rule.Name
	if result.Proof != 0 {
		e.touch(pl, result, now.Round(0))
	}
	err = e.ended(ctx, pl, err)
	finishSubject(span, result, err)
	return result, err
}

// ended is the error of a wait, for whoever waited.
func (e *Executor) ended(ctx context.Context, pl *plan, err error) error {
	switch panicked, ok := errors.AsType[*flight.PanicError](err); {
	case ok:
		return e.panicked(ctx, panicked.Value, panicked.Stack, pl.req)
	case errors.Is(err, flight.ErrClosed), errors.Is(err, flight.ErrExited):
		return fmt.Errorf("%w: %w", ErrInconclusive, err)
	case err != nil && ctx.Err() != nil:
		return e.late(pl, err)
	}
	return err
}

// beginning is the work on a request, for whoever is the first to want it.
func (e *Executor) beginning(key flightKey, pl *plan, work *referrerstore.Work, span trace.Span, now time.Time) func(context.Context) (Result, error) {
	return func(own context.Context) (Result, error) {
		e.works.join(key, referrerstore.LaneBackground, now)
		defer e.works.part(key, referrerstore.LaneBackground)
		return e.find(referrerstore.WithWork(e.tracer.aboard(own, span), work), pl)
	}
}

// heard is find with a note of what the registry answered, if it did.
func (e *Executor) heard(key flightKey, find func(context.Context) (Result, error)) func(context.Context) (Result, error) {
	return func(own context.Context) (Result, error) {
		result, err := find(own)
		if !isAway(err) && own.Err() == nil {
			e.standIns.answered(key, time.Now())
		}
		return result, err
	}
}

// leaveEarly ends the wait for a work as soon as it is sure not to be done by
// ctx's deadline.
func leaveEarly(ctx context.Context, work *referrerstore.Work) (context.Context, func()) {
	deadline, ok := ctx.Deadline()
	ctx, cancel := context.WithCancelCause(ctx)
	if !ok {
		return ctx, func() { cancel(nil) }
	}
	stop := work.Watch(func(h referrerstore.Hold) {
		if h.Until.After(deadline) {
			cancel(&flight.LateError{Err: h.Err})
		}
	})
	return ctx, func() { stop(); cancel(nil) }
}

// touch notes that a result was read from a proof after all.
func (e *Executor) touch(pl *plan, result Result, now time.Time) {
	key := pl.key(result.Subject)
	if held, ok := e.memory.proof(key); ok && held.id == result.Proof {
		e.used(key, held, pl, now)
	}
}

// late says why time ran out, if that is the registry's bound on the rate.
func (e *Executor) late(pl *plan, err error) error {
	host := pl.req.Reference.Registry
	about := referrerstore.About(pl.serving[0], host)
	if !about.Throttled || !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, referrerstore.ErrRateLimited) {
		return err
	}
	return &referrerstore.RetryAfterError{After: about.Wait, Err: fmt.Errorf("verify %s: %w: %w", pl.req.Reference, referrerstore.ErrRateLimited, err)}
}

// panicked is the error of a request over which something panicked.
func (e *Executor) panicked(ctx context.Context, value any, stack []byte, req Request) error {
	if stack == nil {
		stack = debug.Stack()
	}
	e.logPanic(ctx, "panic while verifying", value, stack, "reference", req.Reference.String())
	return fmt.Errorf("%w: internal error", ErrInconclusive)
}

// find resolves the reference and joins the work on its subject, or begins it:
// other references may lead to the same.
func (e *Executor) find(ctx context.Context, pl *plan) (Result, error) {
	leave, err := e.enter(ctx, pl)
	if err != nil {
		return pl.result(), err
	}
	defer leave()
	start := time.Now()
	subject, err := e.resolve(ctx, pl)
	took := time.Since(start)
	if errors.Is(err, referrerstore.ErrNotFound) {
		return pl.result().denied(err), nil
	}
	if err != nil {
		return pl.result(), away(err)
	}
	result, err := e.settle(ctx, pl, subject)
	result.Timings.Resolve = took
	if result.Subject.Descriptor.Digest != "" {
		// Of two references to one subject this is the one that was asked for.
		result.Subject.Reference = pl.req.Reference
	}
	return result, err
}

// settle joins the work on a subject, or begins it. The same digest met under
// another media type is another subject.
func (e *Executor) settle(ctx context.Context, pl *plan, subject referrerstore.Subject) (Result, error) {
	key, mediaType := pl.key(subject), subject.Descriptor.MediaType
	result, err := e.share(ctx, key, pl, subject)
	if found := result.Subject.Descriptor.MediaType; mediaType == "" || found == "" || found == mediaType {
		return result, err
	}
	key.mediaType = mediaType
	return e.share(ctx, key, pl, subject)
}

func (e *Executor) share(ctx context.Context, key proofKey, pl *plan, subject referrerstore.Subject) (Result, error) {
	now := time.Now()
	work := e.proving.join(key, referrerstore.LaneBackground, now)
	defer e.proving.part(key, referrerstore.LaneBackground)
	defer work.Follow(referrerstore.WorkOf(ctx))()
	ctx, span := e.tracer.join(ctx, "prove")
	result, err := e.verdicts.Do(ctx, key, func(own context.Context) (Result, error) {
		e.proving.join(key, referrerstore.LaneBackground, now)
		defer e.proving.part(key, referrerstore.LaneBackground)
		return e.prove(referrerstore.WithWork(e.tracer.aboard(own, span), work), key, pl, subject, false)
	})
	finish(span, pl, err)
	return result, err
}

// enter waits for a place among the subjects of the host.
func (e *Executor) enter(ctx context.Context, pl *plan) (leave func(), err error) {
	ctx, span := e.tracer.start(ctx, "wait for a place")
	leave, err = e.hosts.enter(ctx, pl.req.Reference.Registry)
	finish(span, pl, err)
	return leave, err
}

// resolve finds what a tag means, at most once at a time. What a pinned
// reference means is known but for its type and size, which are asked for
// beside the list of its artifacts.
func (e *Executor) resolve(ctx context.Context, pl *plan) (referrerstore.Subject, error) {
	ref := pl.req.Reference
	if ref.Digest != "" {
		return unresolved(ref), nil
	}
	if led, ok := e.memory.subject(ref, time.Now().Round(0)); ok {
		return led.subject, led.err
	}
	return e.lookUp(ctx, pl)
}

// lookUp asks the store, once for all who want to know, in the lane of the most
// pressing of them, and remembers what it answers. The first store's error is the
// answer, or a second one could vouch for what the first one does not have.
func (e *Executor) lookUp(ctx context.Context, pl *plan) (referrerstore.Subject, error) {
	ref, waiting := pl.req.Reference, referrerstore.WorkOf(ctx)
	since := waiting.Begun()
	if since.IsZero() {
		since = time.Now()
	}
	work := e.resolving.join(ref, referrerstore.LaneBackground, since)
	defer e.resolving.part(ref, referrerstore.LaneBackground)
	defer work.Follow(waiting)()
	ctx, span := e.tracer.join(ctx, "resolve")
	subject, err := e.resolves.Do(ctx, ref, func(own context.Context) (referrerstore.Subject, error) {
		e.resolving.join(ref, referrerstore.LaneBackground, since)
		defer e.resolving.part(ref, referrerstore.LaneBackground)
		begun := time.Now()
		subject, err := askFor(referrerstore.WithWork(e.tracer.aboard(own, span), work), pl)
		if !e.closed.Load() && (err == nil || errors.Is(err, referrerstore.ErrNotFound)) {
			e.memory.led(ref, subject, err, begun)
		}
		return subject, err
	})
	finishResolve(span, pl, err)
	return subject, err
}
