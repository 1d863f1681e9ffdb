package executor

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/verifier"
)

// tracerName is the instrumentation scope of this package's spans.
const tracerName = "github.com/gatehouse-project/gatehouse/executor"

// The attributes of spans. What came from a registry or a pod's author is in
// them only where it was parsed, or made one bounded line: a collector drops
// whole batches over text that is not UTF-8.
const (
	attrImage     = attribute.Key("gatehouse.image")
	attrRule      = attribute.Key("gatehouse.rule")
	attrDecision  = attribute.Key("gatehouse.decision")
	attrCode      = attribute.Key("gatehouse.code")
	attrStore     = attribute.Key("gatehouse.store")
	attrListed    = attribute.Key("gatehouse.listed")
	attrDigest    = attribute.Key("gatehouse.artifact.digest")
	attrVerifiers = attribute.Key("gatehouse.artifact.verifiers")
	attrOutcomes  = attribute.Key("gatehouse.artifact.outcomes")
	// attrJoined says that the work was under way already: the span is the wait
	// for it, and what was done is below the span of whoever began it.
	attrJoined = attribute.Key("gatehouse.joined")
)

// outcomeNeedless stands for the outcome of an artifact that the decision came
// before.
const outcomeNeedless = "needless"

// tracer begins spans. The zero value begins none and costs nothing: callers
// make attributes only for a span that records.
type tracer struct{ inner trace.Tracer }

func newTracer(provider trace.TracerProvider) tracer {
	if provider == nil {
		return tracer{}
	}
	return tracer{provider.Tracer(tracerName)}
}

func (t tracer) start(ctx context.Context, name string) (context.Context, trace.Span) {
	if t.inner == nil {
		return ctx, noop.Span{}
	}
	return t.inner.Start(ctx, name)
}

// join begins the span of whoever waits for a flight, be it another's.
func (t tracer) join(ctx context.Context, name string) (context.Context, trace.Span) {
	ctx, span := t.start(ctx, name)
	if span.IsRecording() {
		span.SetAttributes(attrJoined.Bool(true))
	}
	return ctx, span
}

// aboard gives a flight's context, which has no values of any caller, the span
// of whoever began it. The span may end before the flight does.
func (t tracer) aboard(own context.Context, span trace.Span) context.Context {
	if t.inner == nil {
		return own
	}
	if span.IsRecording() {
		span.SetAttributes(attrJoined.Bool(false))
	}
	return trace.ContextWithSpan(own, span)
}

// failed marks a span with what a person would be told of the error.
func failed(span trace.Span, r Result, err error) {
	if err != nil && span.IsRecording() {
		span.SetStatus(codes.Error, Explain(r, err).Line())
	}
}

// finishResolve ends the span of a look-up. That there is no such image is what
// was to be found out.
func finishResolve(span trace.Span, pl *plan, err error) {
	if errors.Is(err, referrerstore.ErrNotFound) && span.IsRecording() {
		span.SetAttributes(attrCode.String(string(CodeSubjectNotFound)))
		err = nil
	}
	finish(span, pl, err)
}

// finish ends a step's span.
func finish(span trace.Span, pl *plan, err error) {
	failed(span, Result{Request: pl.req}, err)
	span.End()
}

// finishSubject ends the span of a request that took work.
func finishSubject(span trace.Span, r Result, err error) {
	if span.IsRecording() {
		if err != nil {
			r.Decision = Undecided
		}
		span.SetAttributes(
			attrImage.String(r.Request.Reference.String()), attrRule.String(r.Rule),
			attrDecision.String(r.Decision.String()), attrCode.String(string(codeOf(r, err))),
		)
		failed(span, r, err)
	}
	span.End()
}

// finishList ends the span of a list of referrers. That the decision cut it
// short, or a bound did, is no failure.
func finishList(span trace.Span, pl *plan, store referrerstore.Store, listed int, err error) {
	if span.IsRecording() {
		span.SetAttributes(attrStore.String(store.Name()), attrListed.Int(listed))
		if !errors.Is(err, errDecided) && !errors.Is(err, referrerstore.ErrTooManyReferrers) {
			failed(span, Result{Request: pl.req}, err)
		}
	}
	span.End()
}

// finishArtifact ends the span of an artifact with what each verifier said.
func finishArtifact(span trace.Span, from source, reports []verifier.Report) {
	if span.IsRecording() {
		verifiers, outcomes := make([]string, len(reports)), make([]string, len(reports))
		for i, r := range reports {
			verifiers[i], outcomes[i] = r.Verifier, r.Outcome.String()
			switch {
			case errors.Is(r.Reason.Err, errDecided):
				outcomes[i] = outcomeNeedless
			case r.Outcome == verifier.Inconclusive:
				span.SetStatus(codes.Error, ExplainReport(r).Line())
			}
		}
		span.SetAttributes(
			attrStore.String(from.store.Name()), attrDigest.String(from.artifact.Digest.String()),
			attrVerifiers.StringSlice(verifiers), attrOutcomes.StringSlice(outcomes),
		)
	}
	span.End()
}
