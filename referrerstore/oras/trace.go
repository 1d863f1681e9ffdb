package oras

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// tracerName is the instrumentation scope of this package's spans.
const tracerName = "github.com/gatehouse-project/gatehouse/referrerstore/oras"

// The attributes of spans, by the semantic conventions of OpenTelemetry for
// HTTP where those have one. Paths, queries and headers are in none.
const (
	attrMethod  = attribute.Key("http.request.method")
	attrStatus  = attribute.Key("http.response.status_code")
	attrAddress = attribute.Key("server.address")
	attrPort    = attribute.Key("server.port")
	attrKind    = attribute.Key("gatehouse.kind")
	attrAttempt = attribute.Key("gatehouse.attempt")
	// attrJoined says that another's flight was waited for.
	attrJoined = attribute.Key("gatehouse.joined")
)

// The events of a request's span: before eventSent it waits for its turn, and
// from eventHeader on its body is read.
const (
	eventSent   = "sent"
	eventHeader = "header"
)

// tracer begins spans. The zero value begins none and costs nothing: callers
// make attributes only for a span that records.
type tracer struct{ inner trace.Tracer }

func newTracer(provider trace.TracerProvider) tracer {
	if provider == nil {
		return tracer{}
	}
	return tracer{provider.Tracer(tracerName)}
}

// request begins the span of one request, which ends when the answer's body is
// closed.
func (t tracer) request(ctx context.Context, method string, to *url.URL, k kind) (context.Context, trace.Span) {
	if t.inner == nil {
		return ctx, noop.Span{}
	}
	ctx, span := t.inner.Start(ctx, spanName(method, k), trace.WithSpanKind(trace.SpanKindClient))
	if span.IsRecording() {
		span.SetAttributes(
			attrMethod.String(method), attrKind.String(string(k)), attrAttempt.Int(attemptOf(ctx)),
			attrAddress.String(to.Hostname()),
		)
		if port, err := strconv.Atoi(to.Port()); err == nil {
			span.SetAttributes(attrPort.Int(port))
		}
	}
	return ctx, span
}

func spanName(method string, k kind) string { return method + " " + string(k) }

// join begins the span of whoever waits for a flight, be it another's.
func (t tracer) join(ctx context.Context, name string) (context.Context, trace.Span) {
	if t.inner == nil {
		return ctx, noop.Span{}
	}
	ctx, span := t.inner.Start(ctx, name)
	if span.IsRecording() {
		span.SetAttributes(attrJoined.Bool(true))
	}
	return ctx, span
}

// aboard gives a flight's context, which has no values of any caller, the span
// of whoever began it.
func (t tracer) aboard(own, caller context.Context) context.Context {
	if t.inner == nil {
		return own
	}
	span := trace.SpanFromContext(caller)
	if span.IsRecording() {
		span.SetAttributes(attrJoined.Bool(false))
	}
	return trace.ContextWithSpan(own, span)
}

// answered notes the answer to a request. One that teaches what the host
// wants is what was asked for, whatever its status.
func answered(span trace.Span, method string, k kind, resp *http.Response) {
	if !span.IsRecording() {
		return
	}
	span.SetName(spanName(method, k))
	span.SetAttributes(attrKind.String(string(k)), attrStatus.Int(resp.StatusCode))
	span.AddEvent(eventHeader)
	if resp.StatusCode >= http.StatusBadRequest && k != kindChallenge {
		span.SetStatus(codes.Error, "") // the status code says why
	}
}

// fault marks a span with the kind of an error: its text may quote what a host
// said.
func fault(span trace.Span, err error) {
	if err == nil || !span.IsRecording() {
		return
	}
	what := "internal error"
	for _, sentinel := range sentinels {
		if errors.Is(err, sentinel) {
			what = sentinel.Error()
			break
		}
	}
	for _, end := range []error{context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, end) {
			what = end.Error()
		}
	}
	span.SetStatus(codes.Error, what)
}

// finish ends a span that is the wait for something.
func finish(span trace.Span, err error) {
	fault(span, err)
	span.End()
}

type attemptKey struct{}

// withAttempt notes that a request is not the first of its kind.
func withAttempt(req *http.Request, attempt int) *http.Request {
	return req.WithContext(context.WithValue(req.Context(), attemptKey{}, attempt))
}

// attemptOf counts from one.
func attemptOf(ctx context.Context) int {
	if attempt, ok := ctx.Value(attemptKey{}).(int); ok {
		return attempt
	}
	return 1
}
