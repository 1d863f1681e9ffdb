// Package executor decides on one subject: it finds the policy's rule, resolves
// the image once, fans out over the stores and artifacts that may prove it, and
// lets the policy decide on the reports as they arrive.
//
// It knows roles only: [referrerstore.Store], [verifier.Verifier], [Policy] and
// [ProofStore]. A decision is either reached (a [Result] that is Allowed or
// Denied) or not (an error): nothing in between, and never a guess. The texts
// that people read about both are made in explain.go.
//
//   - executor.go is the straight story of one request, and what it is made of.
//   - flights.go lets all who ask for the same thing wait for one work on it,
//     which goes on behind them when their time is up.
//   - proof.go is what was found out about a subject and for how long it is
//     believed, memory.go where that is kept, refresh.go what keeps it young.
//   - fanout.go and front.go gather the evidence: all of it at once where all
//     must pass, no more than needed where few are enough. content.go is the
//     bounded reading of artifacts.
package executor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"
	"weak"

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
	hosts     *hosts
	refreshes *refreshes
	closed    atomic.Bool

	subjects *flight.Group[flightKey, Result]
	resolves *flight.Group[referrerstore.Reference, referrerstore.Subject]
	verdicts *flight.Group[proofKey, Result]
}

// Request asks for a decision on one image.
type Request struct {
	Reference referrerstore.Reference
	// Namespace is the Kubernetes namespace the image is to run in, from a
	// source that the pod's author cannot choose; empty if unknown.
	Namespace string
	// Lane is who asks: somebody who waits for admission, or an audit.
	Lane referrerstore.Lane
}

// Result is what is known about a request. Returned without an error its
// Decision is Allowed or Denied; beside an error it holds what was found out
// until then and its Decision is Undecided.
type Result struct {
	Request  Request
	Decision Decision
	// Rule is the name of the rule that decided, empty if none matched.
	Rule string
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
		hosts:     newHosts(opts.SubjectsAtOnce),
		refreshes: newRefreshes(),
		resolves:  flight.New[referrerstore.Reference, referrerstore.Subject](ctx),
	}
	linger := opts.Background
	e.subjects = flight.NewBounded[flightKey, Result](ctx, flight.Bounds[flightKey]{
		Linger: linger.MaxDuration, Number: linger.MaxFlights, Keep: e.mayLinger,
		// A client that closes its connection has run out of patience; it, or
		// another for it, will ask again.
		Always: true,
	})
	e.verdicts = flight.NewBounded[proofKey, Result](ctx, flight.Bounds[proofKey]{
		Linger: linger.MaxDuration, Number: linger.MaxFlights,
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
	e.resolves.Close()
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
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

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
	return e.await(ctx, pl, start)
}

// plan is a request with what the policy and the configuration say of it, found
// without I/O. It is immutable.
type plan struct {
	req     Request
	rule    Rule
	serving []referrerstore.Store
	about   proofKey // without a digest
	recent  *recent
	allowed prometheus.Counter // of subjects that the rule allowed by reports
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

// plan finds the rule and the stores for a request, or what it found before.
// Where they alone decide, the result is whole.
func (e *Executor) plan(req Request, now time.Time) (plan, Result, bool) {
	key := req
	key.Lane = referrerstore.LaneAdmission // whoever asks
	if pl, ok := e.memory.plans.GetIfPresent(key); ok {
		pl.req = req
		return pl, Result{}, false
	}
	pl, result, decided := e.newPlan(req, now)
	if !decided {
		e.memory.plans.Set(key, pl)
	}
	return pl, result, decided
}

func (e *Executor) newPlan(req Request, now time.Time) (plan, Result, bool) {
	result := Result{Request: req}
	rule, found, err := e.policy.Match(req.Reference, req.Namespace)
	if err != nil {
		return plan{}, result.denied(err), true
	}
	if !found {
		return plan{}, result.denied(ErrNoRule), true
	}
	result.Rule = rule.Name
	if rule.Exemption != nil {
		return plan{}, exempt(result, rule.Exemption, now), true
	}
	serving := e.serving(req.Reference.Registry)
	if len(serving) == 0 {
		return plan{}, result.denied(ErrNoStore), true
	}
	pl := plan{req: req, rule: rule, serving: serving, recent: &recent{}, allowed: e.metrics.allowed(rule.Name), about: proofKey{registry: req.Reference.Registry, repository: req.Reference.Repository, rule: rule.Name}}
	pl.about.identity = identity(serving, req.Reference.Registry)
	return pl, result, false
}

// identity is whose credentials the stores show to the host.
func identity(serving []referrerstore.Store, host string) string {
	if len(serving) == 1 {
		return referrerstore.About(serving[0], host).Identity
	}
	var all strings.Builder
	for _, s := range serving {
		all.WriteString(s.Name() + "=" + referrerstore.About(s, host).Identity + ",")
	}
	return all.String()
}

func (p plan) result() Result { return Result{Request: p.req, Rule: p.rule.Name} }

func (p plan) key(subject referrerstore.Subject) proofKey {
	key := p.about
	key.digest = subject.Descriptor.Digest
	return key
}

// recall reads the result from what is remembered. What is in use and has aged
// is refreshed behind it.
func (e *Executor) recall(pl plan, now time.Time) (Result, bool) {
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
	if way == nil || !now.Before(way.until) {
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
func (e *Executor) lookFor(pl plan, now time.Time) (*found, *remembered, error) {
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
func (e *Executor) read(pl plan, subject referrerstore.Subject, p *proof, now time.Time) (Result, bool) {
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

func (r Result) denied(why error) Result {
	r.Decision, r.Denial = Denied, why
	return r
}

func exempt(result Result, exemption *Exemption, now time.Time) Result {
	result.Exemption = exemption
	if !now.Before(exemption.Until) {
		return result.denied(ErrExemptionEnded)
	}
	result.Decision = Allowed
	return result
}

func (e *Executor) serving(host string) []referrerstore.Store {
	var serving []referrerstore.Store
	for _, s := range e.stores {
		if s.Serves(host) {
			serving = append(serving, s)
		}
	}
	return serving
}

// prove finds out what is to be known of a subject, beyond what is remembered,
// keeps it, and reads the decision from it. Anew says that the list of artifacts
// is to be asked for even if one is remembered.
func (e *Executor) prove(ctx context.Context, key proofKey, pl plan, subject referrerstore.Subject, anew bool) (Result, error) {
	begun := time.Now().Round(0)
	prior, result, ok := e.before(ctx, key, pl, subject, begun)
	if ok && !anew {
		return result, nil
	}
	g := e.gather(ctx, pl, subject, prior, anew)
	if !g.panicked.Load() {
		e.keep(ctx, key, g.proof(begun, e.memory.terms), pl)
	}
	return e.conclude(ctx, pl, g)
}

// before finds what was proven before: in the replica, or else where others may
// have put a later proof. True says that it is enough.
func (e *Executor) before(ctx context.Context, key proofKey, pl plan, subject referrerstore.Subject, now time.Time) (*proof, Result, bool) {
	held, known := e.memory.proof(key)
	if known {
		if result, ok := e.read(pl, subject, held.proof, now); ok {
			return held.proof, result, true
		}
	}
	later, err := e.memory.fetch(ctx, key, held, pl)
	if err != nil {
		e.opts.Logger.WarnContext(ctx, "a proof could not be read", "error", err, "subject", subject.String())
	}
	if later != nil {
		if result, ok := e.read(pl, subject, later.proof, now); ok {
			return later.proof, result, true
		}
		held = later
	}
	if held == nil || (subject.Descriptor.MediaType != "" && subject.Descriptor.MediaType != held.subject.MediaType) {
		return nil, Result{}, false
	}
	return held.proof, Result{}, false
}

// keepTimeout bounds how long it may take to put a proof away.
const keepTimeout = 2 * time.Second

// keep remembers a proof, unless the configuration that it rests on has been
// retired meanwhile.
func (e *Executor) keep(ctx context.Context, key proofKey, p *proof, pl plan) {
	if p == nil || e.closed.Load() {
		return
	}
	if referrerstore.WorkOf(ctx).Lane() == referrerstore.LaneAdmission {
		p.asked.Store(p.begun.Unix())
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keepTimeout)
	defer cancel()
	if err := e.memory.keep(ctx, key, p, pl); err != nil {
		e.opts.Logger.WarnContext(ctx, "a proof could not be kept", "error", err)
	}
}

// conclude reads the result from what was gathered.
func (e *Executor) conclude(ctx context.Context, pl plan, g *gathering) (Result, error) {
	result := pl.result()
	if errors.Is(g.lost, referrerstore.ErrNotFound) {
		return result.denied(g.lost), nil
	}
	if g.lost != nil {
		return result, g.lost
	}
	if g.panicked.Load() {
		return result, fmt.Errorf("%w: internal error", ErrInconclusive)
	}
	result.Subject = g.subject
	result.Reports, result.Timings.Referrers = g.reports(), g.listed
	result.Decision = g.decision
	switch {
	case !g.holds():
		result.Decision = Undecided
		return result, fmt.Errorf("verify %s: %w: what it rests on has ended meanwhile", result.Subject, ErrInconclusive)
	case g.decision == Allowed:
		return result, nil
	case g.decision == Denied && len(result.Reports) == 0:
		return result.denied(ErrNoArtifacts), nil
	case g.decision == Denied:
		return result.denied(ErrRequirement), nil
	}
	return result.open(ctx, g)
}

// open answers for a decision that stayed open: because time ran out, because
// something could not be had, or, when only a bound stands in the way, for
// good.
func (r Result) open(ctx context.Context, g *gathering) (Result, error) {
	if ctx.Err() != nil {
		return r, fmt.Errorf("verify %s: %w", r.Subject, context.Cause(ctx))
	}
	if err := g.broken(); err != nil {
		return r, fmt.Errorf("list referrers of %s: %w: %w", r.Subject, ErrInconclusive, err)
	}
	if report, ok := firstInconclusive(r.Reports); ok {
		return r, fmt.Errorf("verify %s: %w: %w", r.Subject, ErrInconclusive, &ReportError{report})
	}
	if g.cut() {
		return r.denied(referrerstore.ErrTooManyReferrers), nil
	}
	return r, fmt.Errorf("verify %s: %w", r.Subject, ErrInconclusive)
}

func firstInconclusive(reports []verifier.Report) (verifier.Report, bool) {
	for _, r := range reports {
		if r.Outcome == verifier.Inconclusive {
			return r, true
		}
	}
	return verifier.Report{}, false
}

// ReportError is an inconclusive report that kept a decision open.
type ReportError struct {
	Report verifier.Report
}

func (e *ReportError) Error() string {
	return fmt.Sprintf("artifact %s: %s: %s", e.Report.Artifact.Digest, e.Report.Reason.Code, e.Report.Reason.What)
}

// Unwrap gives the report's cause, if it kept one.
func (e *ReportError) Unwrap() error { return e.Report.Reason.Err }
