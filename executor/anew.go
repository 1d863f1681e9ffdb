package executor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// Prove decides on one request within ctx as if nothing were known: the tag is
// resolved, the artifacts are listed, fetched and judged anew, whatever lane the
// request names in the background one. It is for a caller who wants to know
// whether all of that works at this moment.
//
// No memory of tags, lists or proofs is read, and none is fed: nobody's answer
// comes sooner, later or otherwise for it, and what is held never stands in for a
// registry that does not answer. It joins nobody's work. What lies below stays as
// it is: the governor's turns, connections and tokens, content that a store holds
// by digest, which cannot change, and what verifiers keep of revocation. A store
// that keeps what its registry says keeps this as well.
//
// The result and the error are those of [Executor.Verify], Proof being 0. What the
// policy decides without asking a registry, it decides here as well. Nothing goes
// on once Prove has returned, and it is not counted among the subjects. It is safe
// for concurrent use; its caller bounds how much of it is done at once.
func (e *Executor) Prove(ctx context.Context, req Request) (result Result, err error) {
	start := time.Now()
	req.Lane = referrerstore.LaneBackground
	result.Request = req
	ctx, span := e.tracer.start(ctx, "prove anew")
	defer func() {
		if p := recover(); p != nil {
			err = e.panicked(ctx, p, nil, req)
		}
		if err != nil {
			result.Decision = Undecided
		}
		result.Timings.Total = time.Since(start)
		finishSubject(span, result, err)
	}()
	pl, result, decided := e.plan(req, start)
	if decided {
		return result, nil
	}
	if e.closed.Load() {
		return result, fmt.Errorf("verify %s: %w: the configuration is no longer live", req.Reference, ErrInconclusive)
	}
	if err := pl.background(); err != nil {
		return result, err
	}
	return e.proveAnew(referrerstore.WithWork(ctx, referrerstore.NewWork(start, req.Lane)), pl)
}

// proveAnew is Prove for what takes work. It takes a place among the subjects of
// the host, as whoever waits for admission does.
func (e *Executor) proveAnew(ctx context.Context, pl *plan) (Result, error) {
	leave, err := e.enter(ctx, pl)
	if err != nil {
		return pl.result(), err
	}
	defer leave()
	start := time.Now()
	subject, err := askFor(ctx, pl)
	took := time.Since(start)
	if errors.Is(err, referrerstore.ErrNotFound) {
		return pl.result().denied(err), nil
	}
	if err != nil {
		return pl.result(), err
	}
	g := newGathering(pl, subject, known{})
	e.gather(ctx, g)
	result, err := e.conclude(ctx, pl, g)
	result.Timings.Resolve = took
	return result, err
}

// askFor asks the store what the reference leads to. The first store listed answers
// for the host.
func askFor(ctx context.Context, pl *plan) (referrerstore.Subject, error) {
	ref := pl.req.Reference
	subject, err := pl.serving[0].Resolve(ctx, ref)
	if err == nil && ref.Digest != "" && subject.Descriptor.Digest != ref.Digest {
		err = referrerstore.ErrDigestMismatch
	}
	if err != nil {
		return subject, fmt.Errorf("resolve %s: %w", ref, err)
	}
	return subject, nil
}
