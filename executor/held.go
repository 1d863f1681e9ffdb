package executor

import (
	"context"
	"slices"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// heldEvidence is what all stores that serve an image remember of it. It says what
// the registry said when it was asked last: that something is not on its lists
// is no absence.
type heldEvidence struct {
	subject referrerstore.Subject
	lists   [][]ocispec.Descriptor // by store
	// since is when the oldest of what it rests on was asked for.
	since time.Time
}

// recallEvidence is what is held of a subject. Where one store does not remember
// its list there is none: nobody knows what would be on it.
func recallEvidence(pl *plan, subject referrerstore.Subject, now time.Time) (*heldEvidence, bool) {
	ev := &heldEvidence{subject: subject, lists: make([][]ocispec.Descriptor, len(pl.serving)), since: now}
	for i, s := range pl.serving {
		store, ok := s.(referrerstore.Recalling)
		if !ok {
			return nil, false
		}
		listed, at, known := store.RecallReferrers(subject)
		if !known || ahead(at, now) {
			return nil, false
		}
		ev.lists[i] = listed
		ev.date(at)
	}
	return ev, true
}

// add enters what the registry has listed meanwhile of a list that has not ended.
// It makes nothing younger: what else there is, nobody knows.
func (ev *heldEvidence) add(listed [][]ocispec.Descriptor) {
	for i := range min(len(listed), len(ev.lists)) {
		for _, artifact := range listed[i] {
			if !slices.ContainsFunc(ev.lists[i], func(d ocispec.Descriptor) bool { return d.Digest == artifact.Digest }) {
				ev.lists[i] = append(slices.Clip(ev.lists[i]), artifact)
			}
		}
	}
}

// date notes when a part of it was asked for.
func (ev *heldEvidence) date(at time.Time) {
	if at.Before(ev.since) {
		ev.since = at.Round(0)
	}
}

// recallSubject is what a reference led to when the registry was asked last.
func recallSubject(pl *plan, now time.Time) (referrerstore.Subject, time.Time, bool) {
	store, ok := pl.serving[0].(referrerstore.Recalling)
	if !ok {
		return referrerstore.Subject{}, time.Time{}, false
	}
	ref := pl.req.Reference
	subject, at, known := store.RecallSubject(ref)
	desc := subject.Descriptor
	if !known || ahead(at, now) || desc.Digest == "" || desc.MediaType == "" || (ref.Digest != "" && desc.Digest != ref.Digest) {
		return referrerstore.Subject{}, time.Time{}, false
	}
	subject.Reference = ref
	return subject, at, true
}

// ahead says that a moment is still to come, by more than clocks differ: what is
// dated by a clock that was put back would last for too long.
func ahead(at, now time.Time) bool { return at.After(now.Add(time.Minute)) }

// revive proves a subject of which nothing is remembered from what the stores
// hold, without asking the registry what it says now: as after a restart. The
// lists must be young enough for a proof of the same age to be believed, and
// only an allowance comes of it: the proof is then kept as if it were as old as
// they are, and renewed as such a one is. Otherwise hearsay has what was found
// out, for whoever asks the registry.
func (e *Executor) revive(ctx context.Context, key proofKey, pl *plan, subject referrerstore.Subject, begun time.Time) (result Result, hearsay *proof, ok bool) {
	if !e.memory.remembersProofs() {
		return Result{}, nil, false
	}
	if subject.Descriptor.MediaType == "" {
		if subject, _, ok = recallSubject(pl, begun); !ok {
			return Result{}, nil, false
		}
	}
	ev, ok := recallEvidence(pl, subject, begun)
	if !ok || begun.Sub(ev.since) >= e.memory.terms.TTL {
		return Result{}, nil, false
	}
	ctx, cancel := e.reviving(ctx, pl)
	defer cancel()
	g := newGathering(pl, ev.subject, known{held: ev})
	defer e.asking.enter(key, g)()
	e.gather(ctx, g)
	if ctx.Err() != nil { // a verifier may pass what it had no time to ask about
		return Result{}, nil, false
	}
	result, err := e.conclude(ctx, pl, g)
	if err == nil && result.Decision == Allowed {
		e.keep(ctx, key, g.proof(ev.since, e.memory.terms), pl)
		return result, nil, true
	}
	return Result{}, g.hearsay(begun, e.memory.terms), false
}

// reviving bounds how long that may take where something may stand in for the
// registry: before its silence is told from that of others, it must have been asked.
// It sets no deadline, which would have verifiers ask others for less long.
func (e *Executor) reviving(ctx context.Context, pl *plan) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	if pl.down.UseHeld <= 0 {
		return ctx, cancel
	}
	timer := time.AfterFunc(e.opts.HeldAfter/reviveShare, cancel)
	return ctx, func() {
		timer.Stop()
		cancel()
	}
}

// reviveShare is the part of a registry's time that proving without it may take.
const reviveShare = 3

// hearsay is the proof of what was judged, without the list that led to it; nil
// if nothing was.
func (g *gathering) hearsay(begun time.Time, terms ProofTerms) *proof {
	if g.panicked.Load() {
		return nil
	}
	p := g.proof(begun, terms)
	if p == nil || len(p.reports) == 0 {
		return nil
	}
	p.listed, p.cut = time.Time{}, false
	return p
}
