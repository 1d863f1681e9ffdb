package executor

import (
	"context"
	"testing"

	"go.opentelemetry.io/otel/trace"

	"github.com/gatehouse-project/gatehouse/verifier"
)

// Without a tracer a step allocates nothing for its span.
func TestNoTracerCostsNothing(t *testing.T) {
	ctx := context.Background()
	e := &Executor{tracer: newTracer(nil)}
	var span trace.Span
	cost := testing.AllocsPerRun(100, func() {
		var own context.Context
		own, span = e.tracer.join(ctx, "subject")
		own = e.tracer.aboard(own, span)
		finishArtifact(span, source{}, []verifier.Report{{Verifier: "v"}})
		finishList(span, &plan{}, nil, 1, errDecided)
		finishResolve(span, &plan{}, errDecided)
		finishSubject(span, Result{}, errDecided)
		if own != ctx {
			t.Error("a context was made for nothing")
		}
	})
	if cost != 0 {
		t.Errorf("%v allocations a step", cost)
	}
}
