package httpserver

import (
	"context"
	"log/slog"
	"time"

	"github.com/gatehouse-project/gatehouse/executor"
)

// MutateTo says what mutation makes of a tag.
type MutateTo int

// A tag becomes REPOSITORY@DIGEST, or REPOSITORY:TAG@DIGEST.
const (
	MutateToDigest MutateTo = iota
	MutateToTagAndDigest
)

// pinning is the errand of mutate: the digest that each subject's tag leads to.
// What has a digest, what the policy demands no proof of, and what no store serves
// is its own value, to the byte, and costs no request. An item has a value or an
// error, and is one whatever happens: a systemError would void what was found out
// for others.
type pinning struct{ s *Server }

// recall answers for a panic as decide's caller does: one that reached the handler
// would void the whole batch.
func (p pinning) recall(ctx context.Context, b *batch, j job, now time.Time) (a *answer) {
	defer func() {
		if v := recover(); v != nil {
			p.s.logPanic(b, v)
			a = p.failed(b, j, errPanic)
		}
	}()
	pin, known, err := b.live.Decider.RecallPin(j.req, now)
	if !known {
		return nil
	}
	return p.answer(ctx, b, j, pin, err)
}

func (p pinning) decide(ctx context.Context, b *batch, j job) *answer {
	pin, err := b.live.Decider.Pin(ctx, j.req)
	return p.answer(ctx, b, j, pin, err)
}

func (pinning) failed(_ *batch, j job, err error) *answer {
	return &answer{err: err, explanation: executor.ExplainPin(j.req, err)}
}

// answer makes an answer of a pin. The verification that will be asked for next
// begins here, as soon as its subject is known.
func (p pinning) answer(ctx context.Context, b *batch, j job, pin executor.Pin, err error) *answer {
	switch {
	case err != nil:
		return p.failed(b, j, err)
	case pin.Digest == "":
		return &answer{echo: true}
	}
	ref := j.req.Reference.Pinned(pin.Digest)
	if b.live.MutateTo == MutateToTagAndDigest {
		ref.Tag = j.req.Reference.Tag
	}
	if pin.Unproven {
		p.s.verifyAhead(ctx, b, executor.Request{Reference: ref, Namespace: j.req.Namespace})
	}
	a := &answer{encoded: appendString(nil, ref.String())}
	a.result.Held = pin.Held
	return a
}

func (pinning) respond(body []byte, b *batch, _ time.Time) []byte {
	return appendMutation(body, b.keys, b.told, b.trace)
}

// mutated is how a key ended.
type mutated int

const (
	mutatedPinned mutated = iota
	mutatedEchoed
	mutatedFailed
)

func (m mutated) String() string { return [...]string{"pinned", "echoed", "failed"}[m] }

func (a *answer) mutated() mutated {
	switch {
	case a.echo:
		return mutatedEchoed
	case a.encoded != nil:
		return mutatedPinned
	default:
		return mutatedFailed
	}
}

// record counts and logs one line for the request, with the reason of the first
// that failed. It is for debugging if all was known.
func (p pinning) record(ctx context.Context, b *batch, elapsed time.Duration) {
	var counts [3]int
	held, failure := 0, ""
	for _, k := range b.keys {
		a := b.told[k.slot]
		counts[a.mutated()]++
		if a.result.Held != nil {
			held++
		}
		if a.mutated() == mutatedFailed && failure == "" {
			failure = a.line(k)
		}
	}
	p.s.metrics.answered(b.to, elapsed)
	p.s.metrics.mutated(counts)
	level := slog.LevelDebug
	if b.fresh || failure != "" {
		level = slog.LevelInfo
	}
	if !p.s.opts.Logger.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("trace_id", b.trace), slog.Int("keys", len(b.keys)), slog.Int("subjects", len(b.told)), slog.String("namespace", b.namespace),
		slog.Int("pinned", counts[mutatedPinned]), slog.Int("echoed", counts[mutatedEchoed]), slog.Int("failed", counts[mutatedFailed]),
		slog.Int("held", held), slog.Int64("duration_ms", elapsed.Milliseconds()),
	}
	if failure != "" {
		attrs = append(attrs, slog.String("failure", failure))
	}
	p.s.opts.Logger.LogAttrs(ctx, level, "mutation", attrs...)
}

// appendMutation makes the answer to a well-formed mutation: an item for each key
// in its order. Gatekeeper takes it only if it is marked idempotent, and it is: a
// value that has a digest is its own.
func appendMutation(body []byte, keys []keyed, answers []*answer, trace string) []byte {
	body = append(body, responseHead+`"idempotent":true`...)
	separator := `,"items":[`
	for _, k := range keys {
		body = append(body, separator...)
		body = append(body, `{"key":`...)
		body = append(body, k.json...)
		switch a := answers[k.slot]; a.mutated() {
		case mutatedEchoed:
			body = append(append(body, `,"value":`...), k.json...)
		case mutatedPinned:
			body = append(append(body, `,"value":`...), a.encoded...)
		default:
			body = appendString(append(body, `,"error":`...), traced(a.explanation.Line(), trace))
		}
		body = append(body, '}')
		separator = ","
	}
	if separator == "," {
		body = append(body, ']')
	}
	return append(body, "}}\n"...)
}
