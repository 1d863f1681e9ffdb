package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/gatehouse-project/gatehouse/executor"
)

// flushTime is how long the end of the process waits for a collector to take
// the last spans.
const flushTime = 3 * time.Second

// exportSpans sends spans to the collector that the standard variables of
// OpenTelemetry name; nil if they name none, or switch it off. All that they
// say of headers, certificates, sampling, batches and bounds is read by the
// SDK. The returned function sends what is left and ends it all.
func exportSpans(ctx context.Context, logger *slog.Logger) (trace.TracerProvider, func(), error) {
	if !wantsSpans(os.Getenv) {
		return nil, func() {}, nil
	}
	of, err := resource.New(ctx,
		resource.WithAttributes(attribute.String("service.name", "gatehouse"), attribute.String("service.version", versionText())),
		resource.WithTelemetrySDK(),
		resource.WithFromEnv(), // last, because it may name the service otherwise
	)
	if of == nil {
		return nil, nil, fmt.Errorf("spans: %w", err)
	}
	if err != nil {
		logger.Warn("spans lack some of what they should tell of the process", "error", oneLine(err))
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("spans: %w", err)
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithResource(of),
		sdktrace.WithBatcher(&loggedExporter{SpanExporter: exporter, logger: logger}),
	)
	logger.Info("spans are exported")
	return provider, func() { endExport(ctx, provider, exporter, logger, flushTime) }, nil
}

// wantsSpans reads the variables that the SDK for Go leaves to its users.
func wantsSpans(getenv func(string) string) bool {
	if strings.EqualFold(strings.TrimSpace(getenv("OTEL_SDK_DISABLED")), "true") || strings.TrimSpace(getenv("OTEL_TRACES_EXPORTER")) == "none" {
		return false
	}
	return getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != ""
}

// endExport gives a collector that hangs up on: the exporter's own end cuts off
// what is under way.
func endExport(ctx context.Context, provider *sdktrace.TracerProvider, exporter sdktrace.SpanExporter, logger *slog.Logger, patience time.Duration) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience) // the caller's has ended: that is why
	defer cancel()
	err := provider.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, exporter.Shutdown(context.WithoutCancel(ctx)))
		logger.Warn("the last spans may be lost", "error", oneLine(err))
	}
}

// oneLine bounds the text of an error in which a server's answer may be.
func oneLine(err error) string {
	const most = 500
	return executor.Clip(executor.OneLine(err.Error()), most)
}

// loggedExporter tells of a collector that takes no spans when that begins, and
// when it ends: the SDK would write each failure to standard error, as text.
type loggedExporter struct {
	sdktrace.SpanExporter
	logger *slog.Logger
	failed atomic.Bool
}

// ExportSpans implements [sdktrace.SpanExporter]; what fails is dropped.
func (e *loggedExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := e.SpanExporter.ExportSpans(ctx, spans)
	switch failing := err != nil; {
	case failing && !e.failed.Swap(true):
		e.logger.Warn("spans cannot be exported, and are dropped until they can", "error", oneLine(err))
	case !failing && e.failed.Swap(false):
		e.logger.Info("spans are exported again")
	}
	return nil //nolint:nilerr // it is told already: the SDK could only write it to standard error
}
