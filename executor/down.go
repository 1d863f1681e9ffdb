package executor

import (
	"context"
	"errors"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/flight"
	"github.com/gatehouse-project/gatehouse/verifier"
)

// DownTerms say what stands in for a registry host that does not answer: that is,
// cannot be reached, takes too long, or answers 429 or 5xx. What it does answer
// counts, be it that access is denied or that there is no such image. The zero
// value lets nothing stand in.
type DownTerms struct {
	// UseHeld is the greatest age of what the registry said before, for an image
	// to be allowed by it.
	UseHeld time.Duration
	// Tags lets a tag lead to where it led before, not longer ago than UseHeld.
	// Otherwise only what is pinned by digest is decided on.
	Tags bool
	// AcceptStaleRevocation lets a certificate pass of which it could not be
	// learnt whether it is revoked.
	AcceptStaleRevocation bool
}

// Held says that a decision rests on what a registry said before, because it did
// not answer now, or was not asked.
type Held struct {
	// Since is when the oldest of what it rests on was asked for: a list, or
	// where a tag leads.
	Since time.Time
	// Age is how long ago that was when the decision was given.
	Age time.Duration
	// Why is what kept the registry from answering, or [ErrNotAsked].
	Why error
}

// Code is that of Why: REGISTRY_UNAVAILABLE, RATE_LIMITED, DEADLINE_EXCEEDED or
// NOT_ASKED.
func (h *Held) Code() verifier.Code {
	switch {
	case errors.Is(h.Why, ErrNotAsked):
		return CodeNotAsked
	case errors.Is(h.Why, referrerstore.ErrRateLimited):
		return CodeRateLimited
	case errors.Is(h.Why, referrerstore.ErrUnavailable):
		return CodeUnavailable
	default:
		return CodeDeadline
	}
}

// errSilent is why what is held is decided from beside a registry that has not
// answered yet.
var errSilent = errors.New("the registry has not answered in time")

// isDown says that an error is that of a registry that does not answer. One that
// has an answer in its chain as well is not.
func isDown(err error) bool {
	for _, answer := range []error{
		referrerstore.ErrNotFound, referrerstore.ErrAuthDenied, referrerstore.ErrRefused, referrerstore.ErrProtocol,
		referrerstore.ErrDigestMismatch, referrerstore.ErrUnverified, referrerstore.ErrTooLarge,
		referrerstore.ErrTooManyReferrers, referrerstore.ErrBusy, referrerstore.ErrInvalidReference,
	} {
		if errors.Is(err, answer) {
			return false
		}
	}
	return errors.Is(err, referrerstore.ErrUnavailable) || errors.Is(err, referrerstore.ErrRateLimited) ||
		errors.Is(err, context.DeadlineExceeded)
}

// awayError is of a registry that did not answer, where no answer that it did
// give says otherwise. What is held may stand in for it.
type awayError struct{ err error }

func (e *awayError) Error() string { return e.err.Error() }

func (e *awayError) Unwrap() error { return e.err }

// isAway says whether a request failed because the registry is away, or left
// because it will be for as long as there is time.
func isAway(err error) bool {
	if _, ok := errors.AsType[*awayError](err); ok {
		return true
	}
	left, ok := errors.AsType[*flight.LateError](err)
	return ok && isDown(left.Err)
}

// away marks the error of a look-up.
func away(err error) error {
	if isDown(err) {
		return &awayError{err}
	}
	return err
}

// mark marks the error that the gathering, which has ended, came to.
func (g *gathering) mark(err error) error {
	failures, _ := g.failures()
	if err == nil || g.panicked.Load() || len(failures) == 0 || !allDown(failures) {
		return err
	}
	return &awayError{err}
}

// failures are the errors so far of what the registry was asked for beside
// content, without those that only follow from another; settled says that there
// will be no more.
func (g *gathering) failures() (all []error, settled bool) {
	var lost error
	select {
	case <-g.resolved:
		lost, settled = g.lost, true
	default:
	}
	if lost != nil {
		all = append(all, lost)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, err := range g.listErrs {
		if !errors.Is(err, referrerstore.ErrTooManyReferrers) && (lost == nil || !errors.Is(err, context.Canceled)) {
			all = append(all, err)
		}
	}
	return all, settled && g.listsOver()
}

func allDown(errs []error) bool {
	for _, err := range errs {
		if !isDown(err) {
			return false
		}
	}
	return true
}

// silent says whether the registry still owes an answer on which the decision
// hangs, and has given none that speaks against deciding without it. One that is
// not asked, because what is held may be enough, owes none.
func (g *gathering) silent() bool {
	if g.held != nil {
		return false
	}
	failures, settled := g.failures()
	return allDown(failures) && (len(failures) > 0 || !settled)
}

// entered are the artifacts that each store has listed so far.
func (g *gathering) entered() [][]ocispec.Descriptor {
	g.mu.Lock()
	defer g.mu.Unlock()
	listed := make([][]ocispec.Descriptor, len(g.serving))
	for _, s := range g.slots {
		for _, from := range s.sources {
			listed[from.at[0]] = append(listed[from.at[0]], from.artifact)
		}
	}
	return listed
}

// asking are the gatherings under way for proofs, by what they are to prove.
type asking struct {
	mu  sync.Mutex // guards the field that follows it
	all map[proofKey]*gathering
}

func newAsking() *asking { return &asking{all: make(map[proofKey]*gathering)} }

func (a *asking) enter(key proofKey, g *gathering) (leave func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all[key] = g
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.all[key] == g {
			delete(a.all, key)
		}
	}
}

// silent says whether a registry keeps the work on a proof waiting. Where none is
// under way it does: not even that has begun.
func (a *asking) silent(key proofKey) bool {
	g, ok := a.find(key)
	return !ok || g.silent()
}

// reviving says whether the work on a proof goes by what is held as yet.
func (a *asking) reviving(key proofKey) bool {
	g, ok := a.find(key)
	return ok && g.held != nil
}

// listed is what the registry has listed so far for the work on a proof, by store.
func (a *asking) listed(key proofKey) [][]ocispec.Descriptor {
	g, ok := a.find(key)
	if !ok {
		return nil
	}
	return g.entered()
}

func (a *asking) find(key proofKey) (*gathering, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	g, ok := a.all[key]
	return g, ok
}
