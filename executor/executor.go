// Package executor decides on one subject: it finds the policy's rule, resolves
// the image once, fans out over the stores and artifacts that may prove it, and
// lets the policy decide on the reports as they arrive.
//
// It knows roles only: [referrerstore.Store], [verifier.Verifier], [Policy] and
// [ProofStore]. A decision is either reached (a [Result] that is Allowed or
// Denied) or not (an error): nothing in between, and never a guess. The texts
// that people read about both are made in explain.go.
//
//   - executor.go is what an executor is made of; plan.go what is known of a
//     request without I/O, recall.go the answer from memory, prove.go the work.
//   - flights.go lets all who ask for the same thing wait for one work on it,
//     which goes on behind them when their time is up.
//   - proof.go is what was found out about a subject and for how long it is
//     believed, memory.go where that is kept, refresh.go what keeps it young.
//   - held.go proves from what stores remember of their registries, as after a
//     restart. down.go is what counts as a registry that is away, orheld.go the
//     race between it and what is held, standin.go the decision from that.
//   - pin.go finds the digest that a tag leads to, for whoever writes it into the
//     pod, unpinned.go is what becomes of images that have none. audit.go answers
//     those who rather hear what is held than have a registry asked.
//   - fanout.go, slot.go and front.go gather the evidence: all of it at once
//     where all must pass, no more than needed where few are enough. judge.go is
//     the judgement of one artifact, content.go its bounded reading, evidence.go
//     what comes of it all.
package executor

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/flight"
	"github.com/gatehouse-project/gatehouse/verifier"
)

// Options of an Executor. The zero value works, and remembers nothing.
type Options struct {
	// ArtifactsAtOnce bounds the artifacts of one subject and store that are
	// fetched and judged at the same time; 0 means 16.
	ArtifactsAtOnce int
	// SubjectsAtOnce bounds the subjects of one registry host that are worked
	// on at the same time; 0 means 256.
	SubjectsAtOnce int
	// MaxArtifacts bounds the artifacts of one subject that are judged; what
	// is listed beyond it counts as a cut. 0 means 100.
	MaxArtifacts int
	// ManifestBytes bounds an artifact's manifest; 0 means 256 KiB.
	ManifestBytes int64
	// Budget bounds the bytes of artifacts held by all requests together; nil
	// means one of 32 MiB for this executor, 8 MiB of it for one host.
	Budget *referrerstore.Budget

	// Generation names configuration and trust: what was proven under one
	// generation is never believed under another.
	Generation string
	// Proofs say for how long what was found out is believed.
	Proofs ProofTerms
	// ProofStore keeps proofs; nil keeps those of the replica alone.
	ProofStore ProofStore
	// ReplicaBytes bounds the memory of the proofs that can be read at once.
	ReplicaBytes int64
	// TagTTL is how long a tag is believed to mean the same digest.
	TagTTL time.Duration
	// Background bounds the work that outlives its requests.
	Background Background
	// Named says which canonical hosts the configuration names elsewhere than in
	// its stores, so that background work is done for them; nil adds none.
	Named func(host string) bool
	// Down says what stands in for a canonical host that does not answer. It is
	// asked without I/O, once in a while; nil lets nothing stand in.
	Down func(host string) DownTerms
	// HeldAfter is how long a registry may keep silent before what is held is
	// decided from beside it, at the most half of a request's time; 0 means 900 ms.
	HeldAfter time.Duration

	// Logger receives what operators need beside the result; nil discards.
	Logger *slog.Logger
	// Registerer receives the metrics; nil keeps them unregistered.
	Registerer prometheus.Registerer
	// Tracer receives spans of the steps of requests that take work; nil makes
	// none. What is answered from a proof has none.
	Tracer trace.TracerProvider
}

// Background bounds work that nobody waits for. The zero value allows none.
type Background struct {
	// MaxDuration is how long work goes on without anybody waiting for it.
	MaxDuration time.Duration
	// MaxFlights is how many subjects are worked on that way at once.
	MaxFlights int
}

// Executor decides on subjects. It is safe for concurrent use.
type Executor struct {
	stores    []referrerstore.Store
	verifiers map[string]verifier.Verifier
	policy    Policy
	opts      Options
	metrics   *metrics
	tracer    tracer
	memory    *memory
	works     *works[flightKey] // what requests wait for
	proving   *works[proofKey]  // what those are waiting for in turn
	resolving *works[referrerstore.Reference]
	hosts     *hosts
	refreshes *refreshes
	asking    *asking
	standIns  *standIns
	places    *hosts // of those who decide from what is held, because they must
	audits    *hosts // of those who do so without need
	pins      *hosts // places of those who only want to know where a tag leads
	closed    atomic.Bool

	subjects *flight.Group[flightKey, Result]
	resolves *flight.Group[referrerstore.Reference, referrerstore.Subject]
	verdicts *flight.Group[proofKey, Result]
	deciding *flight.Group[flightKey, Result] // from what is held
	auditing *flight.Group[flightKey, Result] // the same without need
	pinning  *flight.Group[flightKey, referrerstore.Subject]
}

// Request asks for a decision on one image.
type Request struct {
	Reference referrerstore.Reference
	// Namespace is the Kubernetes namespace the image is to run in, from a
	// source that the pod's author cannot choose; empty if unknown.
	Namespace string
	// Lane is who asks: somebody who waits for admission, or an audit.
	Lane referrerstore.Lane
	// Unpinned is what becomes of the image if it has only a tag.
	Unpinned Unpinned
	// Audit lets older evidence answer than an admission would believe, so that
	// no registry is asked. From the first of these that answers:
	//
	//   - What any request would be told from memory: a proof that has not ended,
	//     by the list's age, its certificates and revocations, however long ago
	//     its list should have been asked for again.
	//   - Of a tag, the proof of where it led when the registry was asked last.
	//   - What the stores remember of the registry, judged anew by the trust of
	//     now: where the tag led, and the lists. Content that is not held is
	//     fetched.
	//   - The registry, as for any request in its lane.
	//
	// Where the tag led, and the lists, may be younger than [ProofTerms].TTL, or as
	// old as [DownTerms] let them be where they stand in for a registry that is
	// away. The second and the third only allow, and say so with [Result].Held,
	// unless they rest on a list of a pinned image that is young enough to be a
	// proof: that is one to any request. A failure of the registry is no verdict,
	// as ever, and a denial is always the registry's or a young proof's.
	//
	// Nothing that comes of it prolongs a proof or is kept as one, and with the
	// background lane, which should be set beside it, no proof counts as in use.
	Audit bool
}

// canonical is the request whoever asks it.
func (r Request) canonical() Request {
	r.Lane, r.Audit = referrerstore.LaneAdmission, false
	return r
}

// Result is what is known about a request. Returned without an error its
// Decision is Allowed or Denied; beside an error it holds what was found out
// until then and its Decision is Undecided.
type Result struct {
	Request  Request
	Decision Decision
	// Rule is the name of the rule that decided, empty if none matched.
	Rule string
	// Held is set if the decision, which is Allowed then, rests on what the
	// registry said before, because it did not answer now, or because an audit did
	// not ask it.
	Held *Held
	// Exemption is set if the rule allows, or no longer allows, without proof.
	Exemption *Exemption
	// Denial says why a decision is Denied where the reports alone do not.
	Denial error
	// Subject is set once the reference was resolved.
	Subject referrerstore.Subject
	// Reports in the order of stores, their lists and the rule's verifiers.
	Reports []verifier.Report
	// Timings of the steps, for people.
	Timings Timings
	// Proof is the number of the proof that the result was read from, in this
	// process; 0 if it was not read from one, or from one that has ended in
	// part. Results of the same request that were read from the same proof tell
	// the same.
	Proof uint64
}

// Timings says how long the steps of one request took; zero means not reached.
type Timings struct {
	Resolve, Referrers, Total time.Duration
}

// Why a Denied result is denied, beside what its reports say.
var (
	ErrNoRule           = errors.New("no rule of the policy matches the image")
	ErrNamespaceMissing = errors.New("the policy has rules for namespaces and the request names none")
	ErrNoStore          = errors.New("no store serves the image's registry")
	ErrExemptionEnded   = errors.New("the rule's exemption has ended")
	ErrNoArtifacts      = errors.New("nothing that the policy accepts refers to the image")
	ErrRequirement      = errors.New("what refers to the image does not meet the policy")
	ErrUnpinned         = errors.New("the image has only a tag")
)

// ErrInconclusive is in the chain of errors that say that a decision depends
// on reports or lists that could not be had.
var ErrInconclusive = errors.New("no verdict could be reached")

// New makes an executor. Every verifier that a rule may name must be given;
// stores are asked in the order given. What it starts ends with ctx or Close.
func New(ctx context.Context, stores []referrerstore.Store, verifiers []verifier.Verifier, policy Policy, opts Options) *Executor {
	byName := make(map[string]verifier.Verifier, len(verifiers))
	for _, v := range verifiers {
		byName[v.Name()] = v
	}
	opts = opts.withDefaults()
	e := &Executor{
		stores:    stores,
		verifiers: byName,
		policy:    policy,
		opts:      opts,
		metrics:   newMetrics(opts.Registerer),
		tracer:    newTracer(opts.Tracer),
		memory:    newMemory(opts),
		works:     newWorks[flightKey](),
		proving:   newWorks[proofKey](),
		resolving: newWorks[referrerstore.Reference](),
		hosts:     newHosts(opts.SubjectsAtOnce),
		refreshes: newRefreshes(),
		asking:    newAsking(),
		standIns:  newStandIns(),
		places:    newHosts(opts.SubjectsAtOnce),
		audits:    newHosts(max(opts.SubjectsAtOnce/auditsShare, 1)),
		pins:      newHosts(opts.SubjectsAtOnce),
		resolves:  flight.New[referrerstore.Reference, referrerstore.Subject](ctx),
	}
	linger := opts.Background
	e.subjects = flight.NewBounded[flightKey, Result](ctx, flight.Bounds[flightKey]{
		Linger: linger.MaxDuration, Number: linger.MaxFlights, Keep: mayLinger,
		// A client that closes its connection has run out of patience; it, or
		// another for it, will ask again.
		Always: true,
	})
	e.verdicts = flight.NewBounded[proofKey, Result](ctx, flight.Bounds[proofKey]{
		Linger: linger.MaxDuration, Number: linger.MaxFlights,
	})
	e.deciding = flight.NewBounded[flightKey, Result](ctx, flight.Bounds[flightKey]{})
	e.auditing = flight.NewBounded[flightKey, Result](ctx, flight.Bounds[flightKey]{})
	e.pinning = flight.NewBounded[flightKey, referrerstore.Subject](ctx, flight.Bounds[flightKey]{
		Linger: linger.MaxDuration, Number: linger.MaxFlights, Keep: mayLinger, Always: true,
	})
	e.metrics.watch(opts.Registerer, e)
	return e
}

// Close ends all work that is under way, whose results are dropped, and returns
// when it has ended. Requests that wait for it get no verdict.
func (e *Executor) Close() {
	e.closed.Store(true)
	e.subjects.Close()
	e.verdicts.Close()
	e.pinning.Close()
	e.resolves.Close()
	e.deciding.Close()
	e.auditing.Close()
}

func (o Options) withDefaults() Options {
	if o.ArtifactsAtOnce <= 0 {
		o.ArtifactsAtOnce = 16
	}
	if o.SubjectsAtOnce <= 0 {
		o.SubjectsAtOnce = 256
	}
	if o.MaxArtifacts <= 0 {
		o.MaxArtifacts = 100
	}
	if o.ManifestBytes <= 0 {
		o.ManifestBytes = 256 << 10
	}
	if o.Budget == nil {
		o.Budget = referrerstore.NewSharedBudget(32<<20, 8<<20)
	}
	if o.HeldAfter <= 0 {
		o.HeldAfter = heldAfter
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Verify decides on one request within ctx. An error says that no verdict was
// reached; it wraps a sentinel of package referrerstore, ErrInconclusive, or
// the cause of ctx's end. Whoever asks for what is being worked on already
// waits for that; what ctx's deadline cuts off goes on within the bounds of
// [Background], so that whoever asks again finds it done.
func (e *Executor) Verify(ctx context.Context, req Request) (result Result, err error) {
	start := time.Now()
	result.Request = req
	defer func() {
		if p := recover(); p != nil {
			err = e.panicked(ctx, p, nil, req)
		}
		if err != nil {
			result.Decision = Undecided
		}
		result.Timings.Total = time.Since(start)
		e.metrics.observe(result, err)
	}()
	pl, result, decided := e.plan(req, start)
	if !decided {
		result, decided = e.recall(pl, start)
	}
	if decided {
		return result, nil
	}
	if pl.req.Audit {
		if result, decided = e.audit(ctx, pl, start); decided {
			return result, nil
		}
	}
	return e.await(ctx, pl, start)
}

func (r Result) denied(why error) Result {
	r.Decision, r.Denial = Denied, why
	return r
}
