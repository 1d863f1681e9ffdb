package httpserver

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net/http"

	"go.opentelemetry.io/otel/trace"
)

// traceHeader is the header of W3C's Trace Context, as net/http writes it.
const traceHeader = "Traceparent"

// The lengths of the parts of a traceparent: version-trace-parent-flags.
const (
	versionEnd = 2
	traceEnd   = versionEnd + 1 + 32
	parentEnd  = traceEnd + 1 + 16
	flagsEnd   = parentEnd + 1 + 2
	// maxTraceparent bounds one of a later version, which may say more.
	maxTraceparent = 256
)

// traceOf names a request, in 32 hexadecimal digits: as its caller does, whose
// span is the parent of ours then, or else by chance. What is not a traceparent
// to the letter is ignored.
func traceOf(r *http.Request) (id string, parent trace.SpanContext) {
	if headers := r.Header[traceHeader]; len(headers) == 1 {
		if parent, ok := parseTraceparent(headers[0]); ok {
			return parent.TraceID().String(), parent
		}
	}
	return newTraceID(), trace.SpanContext{}
}

// newTraceID names a request. It is no secret, only unlikely to come twice.
func newTraceID() string {
	var id [16]byte
	binary.NativeEndian.PutUint64(id[:8], rand.Uint64()) //nolint:gosec // see above
	binary.NativeEndian.PutUint64(id[8:], rand.Uint64()) //nolint:gosec // see above
	return hex.EncodeToString(id[:])
}

// parseTraceparent reads a traceparent of W3C's Trace Context: what version 00
// says of it, and of a later version the part that all have.
func parseTraceparent(text string) (trace.SpanContext, bool) {
	var none trace.SpanContext
	if len(text) < flagsEnd || len(text) > maxTraceparent || text[versionEnd] != '-' || text[traceEnd] != '-' || text[parentEnd] != '-' {
		return none, false
	}
	version, ok := hexByte(text[:versionEnd])
	later := version != 0 && (len(text) == flagsEnd || text[flagsEnd] == '-')
	if !ok || version == 0xff || (len(text) != flagsEnd && !later) {
		return none, false
	}
	traceID, err := trace.TraceIDFromHex(text[versionEnd+1 : traceEnd])
	if err != nil {
		return none, false
	}
	spanID, err := trace.SpanIDFromHex(text[traceEnd+1 : parentEnd])
	if err != nil {
		return none, false
	}
	flags, ok := hexByte(text[parentEnd+1 : flagsEnd])
	if !ok {
		return none, false
	}
	return trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: traceID, SpanID: spanID, TraceFlags: trace.TraceFlags(flags) & trace.FlagsSampled, Remote: true,
	}), true
}

// hexByte reads two hexadecimal digits in lower case.
func hexByte(text string) (value byte, ok bool) {
	for i := range len(text) {
		c := text[i]
		switch {
		case '0' <= c && c <= '9':
			value = value<<4 | (c - '0')
		case 'a' <= c && c <= 'f':
			value = value<<4 | (c - 'a' + 10)
		default:
			return 0, false
		}
	}
	return value, true
}

// within makes the caller's span the parent of those under ctx.
func within(ctx context.Context, parent trace.SpanContext) context.Context {
	if !parent.IsValid() {
		return ctx
	}
	return trace.ContextWithRemoteSpanContext(ctx, parent)
}

// traced ends a text for a person with the name of its request, by which the
// log has more.
func traced(text, id string) string { return text + " [trace " + id + "]" }
