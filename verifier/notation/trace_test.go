package notation_test

import (
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/gatehouse-project/gatehouse/test/signing"
	"github.com/gatehouse-project/gatehouse/verifier"
	"github.com/gatehouse-project/gatehouse/verifier/notation"
)

// Each call of the library has a span below the caller's.
func TestSpanOfACheck(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans), sdktrace.WithSampler(sdktrace.AlwaysSample()))
	root := authority(t, signing.ECDSA256)
	v := must[*notation.Verifier](t)(notation.New("v", options(), notation.Deps{Trust: stores(t, root), HTTPClient: noNetwork(t), Tracer: provider}))
	in, _ := input(t, sign(t, issue(t, root, signing.ECDSA256, signing.IssueOptions{}), image(), signing.SignOptions{}))
	ctx, above := provider.Tracer("test").Start(t.Context(), "above")
	if report, err := v.Verify(ctx, in); err != nil || report.Outcome != verifier.Passed {
		t.Fatalf("%+v, %v", report, err)
	}
	ended := spans.Ended()
	if len(ended) != 1 || ended[0].Name() != "check signature" || ended[0].Parent().SpanID() != above.SpanContext().SpanID() {
		t.Errorf("%d spans, %v", len(ended), ended)
	}
}
