package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/gatehouse-project/gatehouse/executor"
)

// maxSpans bounds the spans that a command keeps: those of some thousand images.
const maxSpans = 100_000

// recorder keeps spans in memory as they begin, so that those that have not
// ended when it is asked are there too. It is a [sdktrace.SpanProcessor], and
// safe for concurrent use. A nil one keeps nothing.
type recorder struct {
	mu      sync.Mutex // guards the fields that follow it
	spans   []sdktrace.ReadOnlySpan
	dropped int
}

// OnStart implements [sdktrace.SpanProcessor].
func (r *recorder) OnStart(_ context.Context, s sdktrace.ReadWriteSpan) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.spans) == maxSpans {
		r.dropped++
		return
	}
	r.spans = append(r.spans, s)
}

// OnEnd implements [sdktrace.SpanProcessor].
func (*recorder) OnEnd(sdktrace.ReadOnlySpan) {}

// ForceFlush implements [sdktrace.SpanProcessor].
func (*recorder) ForceFlush(context.Context) error { return nil }

// Shutdown implements [sdktrace.SpanProcessor].
func (*recorder) Shutdown(context.Context) error { return nil }

// provider makes spans that the recorder keeps, all of them whatever the
// environment says of sampling; nil of a nil recorder.
func (r *recorder) provider(ctx context.Context) (trace.TracerProvider, func()) {
	if r == nil {
		return nil, func() {}
	}
	p := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(r), sdktrace.WithSampler(sdktrace.AlwaysSample()))
	return p, func() { _ = p.Shutdown(context.WithoutCancel(ctx)) } // the recorder's never fails
}

// startImage begins the span that all of an image's are below.
func startImage(ctx context.Context, provider trace.TracerProvider) (context.Context, trace.Span) {
	if provider == nil {
		return ctx, noop.Span{}
	}
	return provider.Tracer("github.com/gatehouse-project/gatehouse/cmd/gatehouse").Start(ctx, "image")
}

// step is a span as people and programs read it. Fields are only added.
type step struct {
	ID     string `json:"id"`
	Parent string `json:"parent,omitempty"` // empty at the top
	Name   string `json:"name"`
	// StartMillis counts from when the image was asked for.
	StartMillis float64 `json:"startMs"`
	Millis      float64 `json:"durationMs"`
	// WaitedMillis is the part of it, from its start on, that was spent waiting.
	WaitedMillis float64 `json:"waitedMs,omitempty"`
	// Open says that it had not ended when the command did.
	Open       bool           `json:"open,omitempty"`
	Error      string         `json:"error,omitempty"`
	Attributes map[string]any `json:"attributes,omitempty"`

	depth int
}

// share hands the verdicts their spans, and says how many there was no room for.
func (r *recorder) share(verdicts []verdict) (dropped int) {
	if r == nil {
		return 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	byTrace := make(map[trace.TraceID][]sdktrace.ReadOnlySpan)
	for _, s := range r.spans {
		id := s.SpanContext().TraceID()
		byTrace[id] = append(byTrace[id], s)
	}
	for i := range verdicts {
		verdicts[i].spans = stepsOf(byTrace[verdicts[i].trace], now)
	}
	return r.dropped
}

// stepsOf orders the spans of an image as a tree, each before what is below it.
// The first span is the image's own, which is left out.
func stepsOf(spans []sdktrace.ReadOnlySpan, now time.Time) []step {
	if len(spans) == 0 {
		return nil
	}
	root := spans[0].SpanContext().SpanID()
	known := map[trace.SpanID]bool{}
	below := make(map[trace.SpanID][]sdktrace.ReadOnlySpan)
	for _, s := range spans {
		known[s.SpanContext().SpanID()] = true
	}
	for _, s := range spans[1:] {
		parent := s.Parent().SpanID()
		if !known[parent] {
			parent = root
		}
		below[parent] = append(below[parent], s)
	}
	var steps []step
	var walk func(parent trace.SpanID, depth int)
	walk = func(parent trace.SpanID, depth int) {
		children := below[parent]
		slices.SortStableFunc(children, func(a, b sdktrace.ReadOnlySpan) int { return a.StartTime().Compare(b.StartTime()) })
		for _, s := range children {
			one := stepOf(s, spans[0].StartTime(), now)
			if one.depth = depth; parent != root {
				one.Parent = parent.String()
			}
			steps = append(steps, one)
			walk(s.SpanContext().SpanID(), depth+1)
		}
	}
	walk(root, 0)
	return steps
}

func stepOf(s sdktrace.ReadOnlySpan, zero, now time.Time) step {
	end := s.EndTime()
	one := step{ID: s.SpanContext().SpanID().String(), Name: s.Name(), StartMillis: millis(s.StartTime().Sub(zero)), Open: end.IsZero()}
	if one.Open {
		end = now
	}
	one.Millis = millis(end.Sub(s.StartTime()))
	one.Attributes = attributes(s.Attributes())
	if status := s.Status(); status.Code == codes.Error {
		one.Error = cmp.Or(executor.OneLine(status.Description), one.refusal(), "failed")
	}
	one.WaitedMillis = one.waited(s)
	return one
}

func attributes(all []attribute.KeyValue) map[string]any {
	if len(all) == 0 {
		return nil
	}
	m := make(map[string]any, len(all))
	for _, a := range all {
		m[string(a.Key)] = a.Value.AsInterface()
	}
	return m
}

// refusal is the status of an answer that is no success.
func (s step) refusal() string {
	if code, ok := s.Attributes["http.response.status_code"]; ok {
		return fmt.Sprintf("status %v", code)
	}
	return ""
}

// waited is how long a step waited before anything was done for it: a request
// until it was sent, and whoever joined another's work, all the time.
func (s step) waited(span sdktrace.ReadOnlySpan) float64 {
	if s.waits() {
		return s.Millis
	}
	if span.SpanKind() != trace.SpanKindClient {
		return 0
	}
	for _, e := range span.Events() {
		if e.Name == "sent" {
			return millis(e.Time.Sub(span.StartTime()))
		}
	}
	return s.Millis
}

func (s step) waits() bool {
	return s.Attributes["gatehouse.joined"] == true || strings.HasPrefix(s.Name, "wait for ")
}

const (
	// timelineWidth is that of the bars, in columns.
	timelineWidth = 40
	// leastWait is what a wait must have taken to be drawn, in milliseconds.
	leastWait = 0.1
)

// drawTimeline draws each step as a bar: when it began, how long it took, and
// which part of it was waiting.
func drawTimeline(w io.Writer, steps []step) {
	if len(steps) == 0 {
		return
	}
	total := 0.0
	for _, s := range steps {
		total = max(total, s.StartMillis+s.Millis)
	}
	fmt.Fprintf(w, "\n%10s %9s  │%-*s│ %s\n", "start ms", "took ms", timelineWidth, "█ at work  ░ waiting", "step")
	for _, s := range steps {
		if s.waits() && s.Millis < leastWait && !s.Open {
			continue
		}
		fmt.Fprintf(w, "%10.1f %9.1f  │%s│ %s%s\n", s.StartMillis, s.Millis, s.bar(total), strings.Repeat("  ", s.depth), s.label())
	}
	fmt.Fprintln(w)
}

// bar is timelineWidth columns for the time up to total.
func (s step) bar(total float64) string {
	column := func(at float64) int {
		return min(max(int(at/max(total, 0.001)*timelineWidth), 0), timelineWidth)
	}
	from := min(column(s.StartMillis), timelineWidth-1)
	sent := max(column(s.StartMillis+s.WaitedMillis), from)
	to := max(column(s.StartMillis+s.Millis), from+1)
	if s.WaitedMillis >= s.Millis {
		sent = to
	}
	sent = min(sent, to)
	return strings.Repeat(" ", from) + strings.Repeat("░", sent-from) + strings.Repeat("█", to-sent) + strings.Repeat(" ", timelineWidth-to)
}

// label names the step with what tells it from others of its kind.
func (s step) label() string {
	words := []string{s.Name}
	add := func(format string, args ...any) { words = append(words, fmt.Sprintf(format, args...)) }
	a := s.Attributes
	if status, ok := a["http.response.status_code"]; ok {
		add("%v", status)
	}
	if host, ok := a["server.address"].(string); ok {
		if port, ok := a["server.port"].(int64); ok {
			host = net.JoinHostPort(host, strconv.FormatInt(port, 10))
		}
		add("%s", host)
	}
	if try, ok := a["gatehouse.attempt"].(int64); ok && try > 1 {
		add("try %d", try)
	}
	if n, ok := a["gatehouse.listed"]; ok {
		add("%v listed", n)
	}
	if digest, ok := a["gatehouse.artifact.digest"].(string); ok {
		const shown = len("sha256:") + 12
		add("%s", digest[:min(len(digest), shown)])
	}
	verifiers, _ := a["gatehouse.artifact.verifiers"].([]string)
	outcomes, _ := a["gatehouse.artifact.outcomes"].([]string)
	for i := range min(len(verifiers), len(outcomes)) {
		add("%s %s", verifiers[i], outcomes[i])
	}
	if a["gatehouse.joined"] == true {
		add("(under way for another)")
	}
	if s.Open {
		add("(not done)")
	}
	if s.Error != "" && s.Error != s.refusal() {
		add("! %s", executor.Clip(s.Error, 80))
	}
	return executor.OneLine(strings.Join(words, " "))
}
