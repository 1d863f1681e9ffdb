package executor

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
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
	pl      *plan
	serving []referrerstore.Store
	known
	cancel context.CancelCauseFunc
	work   *referrerstore.Work
	start  time.Time

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

// known is what a gathering begins with. The zero value is nothing.
type known struct {
	prior *proof // what was proven before, nil if nothing was
	anew  bool   // the prior list does not count
	// hearsay says that the prior proof rests on what was held, the subject's
	// descriptor among it: the registry is to be asked for that as well.
	hearsay bool
	// held stands for the lists of the stores, which are not asked for them.
	held *heldEvidence
	// lenient lets verifiers bear with a revocation status that is not known.
	lenient bool
}

// listState is how far the artifacts of one store are.
type listState struct {
	over             bool // it has ended, and whole if nothing but a bound cut it
	whole            bool
	waiting, running int // of the slots that this store's goroutine starts
}

func newGathering(pl *plan, subject referrerstore.Subject, with known) *gathering {
	g := &gathering{
		pl: pl, serving: pl.serving, known: with,
		start: time.Now(), resolved: make(chan struct{}), subject: subject,
		slots: make(map[digest.Digest]*slot), pending: len(pl.serving), lists: make([]listState, len(pl.serving)),
	}
	if with.prior != nil && !with.hearsay {
		g.subject.Descriptor = with.prior.subject
	}
	return g
}

// gather runs the fan-out: an outer group over the stores, and in each an
// inner bounded group over its artifacts. It returns when all of it has ended.
func (e *Executor) gather(parent context.Context, g *gathering) {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	g.cancel, g.work = cancel, referrerstore.WorkOf(ctx)
	pl, subject := g.pl, g.subject
	// Nearer to its end than one that is not resolved: where little can be asked
	// for, some subjects are to be finished rather than all begun.
	g.work.SetLeft(1 + requestsPerArtifact*e.opts.MaxArtifacts)
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
	inner.Go(e.safely(ctx, g, func() {
		g.finishList(index, e.listFrom(ctx, g, index, subject, verifiers, f))
		g.poke()
	}))
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
	switch {
	case g.held != nil:
		return enterAll(g.held.lists[index], enter)
	case !g.anew && g.prior.listHolds(g.start.Round(0), e.memory.terms):
		return g.relist(index, enter)
	}
	traced, span := e.tracer.start(ctx, "list referrers")
	err := e.list(traced, g.serving[index], subject, enter)
	finishList(span, g.pl, g.serving[index], place, err)
	return err
}

func enterAll(listed []ocispec.Descriptor, enter func(ocispec.Descriptor) error) error {
	for _, artifact := range listed {
		if err := enter(artifact); err != nil {
			return err
		}
	}
	return nil
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
