package executor

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/verifier"
)

const (
	// sweepInterval is how often proofs are looked through for those that
	// will end soon. It is short against what they live for.
	sweepInterval = 5 * time.Second
	// refreshesPerHost bounds the refreshes of one registry host under way.
	refreshesPerHost = 4
	// refreshPause is how long after an attempt a proof is left alone.
	refreshPause = 30 * time.Second
	// A proof is refreshed in the last part of its life, at a moment that
	// differs between proofs, so that what was proven together does not end
	// together: between a fifth and a tenth of its life before its end.
	earliestRefresh, latestRefresh = 0.2, 0.1
)

// refreshes counts what is being refreshed, by registry host.
type refreshes struct {
	mu    sync.Mutex // guards the field that follows it
	hosts map[string]int
}

func newRefreshes() *refreshes { return &refreshes{hosts: make(map[string]int)} }

func (r *refreshes) enter(host string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hosts[host] >= refreshesPerHost {
		return false
	}
	r.hosts[host]++
	return true
}

func (r *refreshes) leave(host string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hosts[host]--; r.hosts[host] == 0 {
		delete(r.hosts, host)
	}
}

// used notes that a proof was read, and refreshes it if its list has aged.
func (e *Executor) used(key proofKey, held *remembered, pl *plan, now time.Time) {
	if pl.req.Lane != referrerstore.LaneAdmission {
		return
	}
	held.asked.Store(now.Unix())
	// A list that was left early, because what was on it was enough, ages too.
	ttl, since := e.memory.terms.ListTTL, held.since()
	if ttl <= 0 || now.Before(since.Add(ttl)) || now.Before(since.Add(ttl+jitter(held.id, ttl/4))) {
		return
	}
	e.refresh(key, held, now)
}

// jitter is a part of span that is always the same for one proof.
func jitter(id uint64, span time.Duration) time.Duration {
	return time.Duration(rand.New(rand.NewPCG(id, 1)).Float64() * float64(span)) //nolint:gosec // to spread, not to hide
}

// refresh proves a subject again behind its proof, unless that is under way, was
// tried not long ago, or too much of it is done for the host.
func (e *Executor) refresh(key proofKey, held *remembered, now time.Time) {
	next := held.refreshing.Load()
	if now.Unix() < next || held.plan.unnamed || !e.refreshes.enter(key.registry) {
		return
	}
	if !held.refreshing.CompareAndSwap(next, now.Add(refreshPause).Unix()) {
		e.refreshes.leave(key.registry)
		return
	}
	subject := referrerstore.Subject{Reference: held.plan.req.Reference, Descriptor: held.subject}
	work := e.proving.join(key, referrerstore.LaneBackground, now)
	started := e.verdicts.Start(key, func(own context.Context) (Result, error) {
		defer e.refreshes.leave(key.registry)
		defer e.proving.part(key, referrerstore.LaneBackground)
		own, span := e.tracer.start(own, "refresh")
		defer span.End()
		// It takes no place among the subjects of the host: those who have one
		// may be waiting for this.
		result, err := e.prove(referrerstore.WithWork(own, work), key, held.plan, subject, true)
		e.metrics.refreshed(err)
		failed(span, Result{Request: held.plan.req}, err)
		return result, err
	})
	if !started {
		e.proving.part(key, referrerstore.LaneBackground)
		e.refreshes.leave(key.registry)
	}
}

// Run refreshes, until ctx ends, the proofs that end soon and that admission
// has asked for not long ago.
func (e *Executor) Run(ctx context.Context) {
	ticker := time.NewTicker(sweepInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			e.sweep(time.Now().Round(0))
		case <-ctx.Done():
			return
		}
	}
}

func (e *Executor) sweep(now time.Time) {
	terms := e.memory.terms
	for key, held := range e.memory.proofs.All() {
		switch {
		case !now.Before(held.end(terms)):
			e.memory.proofs.Invalidate(key)
		case held.dueAt(terms).After(now):
		case now.Sub(time.Unix(held.asked.Load(), 0)) < terms.TTL && held.allows(now, terms):
			e.refresh(key, held, now)
		}
	}
}

// allows says whether the proof is worth keeping young: a denial may end.
func (r *remembered) allows(now time.Time, terms ProofTerms) bool {
	decision, _, ok := r.read(r.plan.rule, now, terms)
	return ok && decision == Allowed
}

// dueAt is when a proof that passed is to be refreshed: when the first of its
// reports, or else the list that they are on, comes near its end.
func (p *proof) dueAt(terms ProofTerms) time.Time {
	due := p.dueOf(p.since(), p.since().Add(terms.TTL))
	for _, a := range p.artifacts {
		for _, k := range a.Reports {
			if at := p.dueOf(k.Begun, k.Until); k.Report.Outcome == verifier.Passed && at.Before(due) {
				due = at
			}
		}
	}
	return due
}

// dueOf is the moment in the last part of a life at which it is renewed.
func (p *proof) dueOf(begun, end time.Time) time.Time {
	life := float64(end.Sub(begun))
	return end.Add(-time.Duration(life * earliestRefresh)).Add(jitter(p.id, time.Duration(life*(earliestRefresh-latestRefresh))))
}
