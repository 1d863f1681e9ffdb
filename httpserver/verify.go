package httpserver

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// judging is the errand of verify and of audit: a verdict on each subject.
type judging struct{ s *Server }

func (judging) recall(_ context.Context, b *batch, j job, now time.Time) *answer {
	result, ok := b.live.Decider.Recall(j.req, now)
	if !ok {
		return nil
	}
	return b.answer(j, result, nil)
}

func (judging) decide(ctx context.Context, b *batch, j job) *answer {
	result, err := b.live.Decider.Verify(ctx, j.req)
	return b.answer(j, result, err)
}

func (judging) failed(b *batch, j job, err error) *answer {
	return b.answer(j, executor.Result{Request: j.req}, err)
}

func (judging) respond(body []byte, b *batch, now time.Time) []byte {
	return appendResponse(body, b.keys, b.told, b.trace, now)
}

// answer makes an answer of a result, or finds the one that was made before. It
// has a value unless the lack of a verdict is none.
func (b *batch) answer(j job, result executor.Result, err error) *answer {
	most := share(len(b.keys))
	if a := b.live.answers.find(result, err); a != nil && len(a.encoded) <= most {
		return a
	}
	a := &answer{result: result, err: err, explanation: executor.Explain(result, err), artifacts: len(result.Reports), logged: new(atomic.Uint64)}
	if err != nil && b.live.OnFailure == FailureIsSystemError {
		return a
	}
	// What had to be cut to the room in one request is not for another.
	var whole bool
	if a.encoded, whole = encodeValue(a, j.key, most); whole {
		b.live.answers.keep(a)
	}
	return a
}

// record counts and logs one line for the request, with the reason of the first
// that was not allowed, and one for each verdict that is not what it was last time.
// The request's is for debugging if all was remembered and allowed.
func (g judging) record(ctx context.Context, b *batch, elapsed time.Duration) {
	var counts [3]int
	first := ""
	for _, k := range b.keys {
		a := b.told[k.slot]
		counts[a.decision()]++
		if first == "" && a.decision() != executor.Allowed {
			first = a.line(k)
		}
	}
	g.s.metrics.answered(b.to, elapsed)
	g.s.metrics.decided(counts)
	level := slog.LevelDebug
	if b.fresh || counts[executor.Allowed] < len(b.keys) {
		level = slog.LevelInfo
	}
	if g.s.opts.Logger.Enabled(ctx, level) {
		attrs := []slog.Attr{
			slog.String("trace_id", b.trace), slog.String("path", b.to.String()), slog.Int("keys", len(b.keys)), slog.Int("subjects", len(b.told)),
			slog.Int("allowed", counts[executor.Allowed]), slog.Int("denied", counts[executor.Denied]), slog.Int("undecided", counts[executor.Undecided]),
			slog.Int64("duration_ms", elapsed.Milliseconds()),
		}
		if first != "" {
			attrs = append(attrs, slog.String("first", first))
		}
		g.s.opts.Logger.LogAttrs(ctx, level, "request", attrs...)
	}
	for i := range b.told {
		g.s.logVerdict(ctx, b.told[i], b.trace)
	}
}

// line says for the log of which key it is and why.
func (a *answer) line(of keyed) string {
	return executor.Clip(executor.OneLine(of.key), referrerstore.MaxReferenceBytes) + ": " + a.explanation.Line()
}

func (a *answer) decision() executor.Decision {
	switch {
	case a.invalid:
		return executor.Denied
	case a.err != nil:
		return executor.Undecided
	default:
		return a.result.Decision
	}
}

func (s *Server) logVerdict(ctx context.Context, a *answer, trace string) {
	if a.invalid || !s.verdicts.since(a.logged) || !s.verdicts.changed(verdictOf(a.result), a.decision(), a.explanation.Code) {
		return
	}
	level := slog.LevelInfo
	if a.decision() != executor.Allowed || (a.result.Held != nil && a.result.Held.Code() != executor.CodeNotAsked) || a.result.Unpinned() {
		level = slog.LevelWarn
	}
	attrs := []any{
		"trace_id", trace, "decision", a.decision().String(), "code", string(a.explanation.Code), "reason", a.explanation.What,
		"image", a.result.Request.Reference.String(), "namespace", a.result.Request.Namespace,
		"digest", a.result.Subject.Descriptor.Digest.String(), "rule", a.result.Rule, "artifacts", a.artifacts,
	}
	if a.result.Unpinned() {
		attrs = append(attrs, "unpinned", true)
	}
	if a.err != nil {
		attrs = append(attrs, "error", a.err.Error())
	}
	if held := a.result.Held; held != nil {
		attrs = append(attrs, "held_since", held.Since, "held_s", int64(held.Age.Seconds()), "error", held.Why.Error())
	}
	s.opts.Logger.Log(ctx, level, "verdict", attrs...)
}

// verdictOf is what a verdict is on. That an audit hears of older evidence than an
// admission does is no change of either.
func verdictOf(result executor.Result) executor.Request {
	req := keyOf(result)
	req.Audit = result.Request.Audit && result.Held != nil
	return req
}
