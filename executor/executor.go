// Package executor decides on one subject: it finds the policy's rule, resolves
// the image once, fans out over the stores and artifacts that may prove it, and
// lets the policy decide on the reports as they arrive.
//
// It knows roles only: [referrerstore.Store], [verifier.Verifier] and [Policy].
// A decision is either reached (a [Result] that is Allowed or Denied) or not
// (an error): nothing in between, and never a guess. The texts that people read
// about both are made in explain.go.
//
// executor.go is the straight story of one request, fanout.go its concurrency,
// content.go the bounded reading of artifacts.
package executor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/verifier"
)

// Options of an Executor. The zero value works.
type Options struct {
	// ArtifactsAtOnce bounds the artifacts of one subject and store that are
	// fetched and judged at the same time; 0 means 16.
	ArtifactsAtOnce int
	// MaxArtifacts bounds the artifacts of one subject that are judged; what
	// is listed beyond it counts as a cut. 0 means 100.
	MaxArtifacts int
	// ManifestBytes bounds an artifact's manifest; 0 means 256 KiB.
	ManifestBytes int64
	// Budget bounds the bytes of artifacts held by all requests together; nil
	// means one of 32 MiB for this executor, 8 MiB of it for one host.
	Budget *referrerstore.Budget
	// Logger receives what operators need beside the result; nil discards.
	Logger *slog.Logger
	// Registerer receives the metrics; nil keeps them unregistered.
	Registerer prometheus.Registerer
	// Now is the clock for exemptions; nil means time.Now.
	Now func() time.Time
}

// Executor decides on subjects. It is immutable and safe for concurrent use.
type Executor struct {
	stores    []referrerstore.Store
	verifiers map[string]verifier.Verifier
	policy    Policy
	opts      Options
	metrics   *metrics
}

// Request asks for a decision on one image.
type Request struct {
	Reference referrerstore.Reference
	// Namespace is the Kubernetes namespace the image is to run in, from a
	// source that the pod's author cannot choose; empty if unknown.
	Namespace string
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
// stores are asked in the order given.
func New(stores []referrerstore.Store, verifiers []verifier.Verifier, policy Policy, opts Options) *Executor {
	byName := make(map[string]verifier.Verifier, len(verifiers))
	for _, v := range verifiers {
		byName[v.Name()] = v
	}
	return &Executor{
		stores:    stores,
		verifiers: byName,
		policy:    policy,
		opts:      opts.withDefaults(),
		metrics:   newMetrics(opts.Registerer),
	}
}

func (o Options) withDefaults() Options {
	if o.ArtifactsAtOnce <= 0 {
		o.ArtifactsAtOnce = 16
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
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// Verify decides on one request within ctx. An error says that no verdict was
// reached; it wraps a sentinel of package referrerstore, ErrInconclusive, or
// the cause of ctx's end. Verify returns when all it started has ended.
func (e *Executor) Verify(ctx context.Context, req Request) (result Result, err error) {
	start := time.Now()
	result.Request = req
	defer func() {
		if p := recover(); p != nil {
			e.logPanic(ctx, "panic while verifying", p, "reference", req.Reference.String())
			err = fmt.Errorf("%w: internal error", ErrInconclusive)
		}
		if err != nil {
			result.Decision = Undecided
		}
		result.Timings.Total = time.Since(start)
		e.metrics.observe(result, err)
	}()
	return e.verify(ctx, result)
}

func (e *Executor) verify(ctx context.Context, result Result) (Result, error) {
	ref := result.Request.Reference
	rule, found, err := e.policy.Match(ref, result.Request.Namespace)
	if err != nil {
		return result.denied(err), nil
	}
	if !found {
		return result.denied(ErrNoRule), nil
	}
	result.Rule = rule.Name
	if rule.Exemption != nil {
		return e.exempt(result, rule.Exemption), nil
	}
	serving := e.serving(ref.Registry)
	if len(serving) == 0 {
		return result.denied(ErrNoStore), nil
	}
	// The first store listed answers for the host; its error is the answer,
	// or a second store could vouch for what the first one does not have.
	result.Subject, err = e.resolve(ctx, serving[0], &result)
	if errors.Is(err, referrerstore.ErrNotFound) {
		return result.denied(err), nil
	}
	if err != nil {
		return result, err
	}
	return e.evaluate(ctx, result, rule, serving)
}

func (r Result) denied(why error) Result {
	r.Decision, r.Denial = Denied, why
	return r
}

func (e *Executor) exempt(result Result, exemption *Exemption) Result {
	result.Exemption = exemption
	if !e.opts.Now().Before(exemption.Until) {
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

func (e *Executor) resolve(ctx context.Context, store referrerstore.Store, result *Result) (referrerstore.Subject, error) {
	start := time.Now()
	subject, err := store.Resolve(ctx, result.Request.Reference)
	result.Timings.Resolve = time.Since(start)
	if err != nil {
		return referrerstore.Subject{}, fmt.Errorf("resolve %s: %w", result.Request.Reference, err)
	}
	if pinned := result.Request.Reference.Digest; pinned != "" && subject.Descriptor.Digest != pinned {
		return referrerstore.Subject{}, fmt.Errorf("resolve %s: %w", result.Request.Reference, referrerstore.ErrDigestMismatch)
	}
	return subject, nil
}

// evaluate gathers the evidence and reads the decision from it.
func (e *Executor) evaluate(ctx context.Context, result Result, rule Rule, serving []referrerstore.Store) (Result, error) {
	g := e.gather(ctx, result.Subject, rule, serving)
	result.Reports, result.Timings.Referrers = g.reports(), g.listed
	result.Decision = g.decision
	switch {
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
