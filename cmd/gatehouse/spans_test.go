package main

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/gatehouse-project/gatehouse/httpserver"
)

// standIn takes spans as a collector does, by OTLP over HTTP.
type standIn struct {
	*httptest.Server

	mu       sync.Mutex // guards the fields that follow it
	spans    []*tracepb.Span
	services []string
	paths    []string
	faults   int // of requests to answer with a failure
}

func newStandIn(t *testing.T) *standIn {
	t.Helper()
	c := &standIn{}
	c.Server = httptest.NewServer(c)
	t.Cleanup(c.Close)
	return c
}

func (c *standIn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	c.mu.Lock()
	defer c.mu.Unlock()
	var request collector.ExportTraceServiceRequest
	if err != nil || c.faults > 0 || proto.Unmarshal(body, &request) != nil {
		c.faults--
		http.Error(w, "no", http.StatusBadRequest)
		return
	}
	c.paths = append(c.paths, r.URL.Path)
	for _, of := range request.ResourceSpans {
		for _, a := range of.Resource.Attributes {
			if a.Key == "service.name" {
				c.services = append(c.services, a.Value.GetStringValue())
			}
		}
		for _, scope := range of.ScopeSpans {
			c.spans = append(c.spans, scope.Spans...)
		}
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}

func (c *standIn) names() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var names []string
	for _, s := range c.spans {
		names = append(names, s.Name)
	}
	slices.Sort(names)
	return names
}

// serveOnce runs serve as the command does, asks it about one image, and stops
// it. It gives what was logged.
func serveOnce(t *testing.T, s *stage) string {
	t.Helper()
	edit(t, s, func(text string) string { return strings.Replace(text, "127.0.0.1:6001", "127.0.0.1:0", 1) })
	var log lines
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- serve(ctx, s.config, slog.New(slog.NewJSONHandler(&log, nil))) }()
	var serving struct{ Msg, Address string }
	for deadline := time.Now().Add(20 * time.Second); serving.Msg != "serving"; time.Sleep(time.Millisecond) {
		for line := range strings.Lines(log.String()) {
			if strings.Contains(line, `"serving"`) {
				if err := json.Unmarshal([]byte(line), &serving); err != nil {
					t.Fatal(err)
				}
			}
		}
		if time.Now().After(deadline) {
			t.Fatal(log.String())
		}
	}
	answer, err := ask(t.Context(), "http://"+serving.Address+httpserver.VerifyPath, []string{s.scenes[0].image})
	if err != nil || len(answer.Response.Items) != 1 || !readValue(answer.Response.Items[0].Value).allowed {
		t.Errorf("%+v, %v", answer, err)
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	return log.String()
}

func TestServeExportsSpans(t *testing.T) {
	s, c := newTestStage(t), newStandIn(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", c.URL)
	log := serveOnce(t, s)
	want := []string{
		"GET blob", "GET manifest", "GET referrers", "HEAD resolve", "artifact", "check signature", "first request",
		"list referrers", "prove", "resolve", "subject", "wait for a place",
	}
	if got := c.names(); !slices.Equal(got, want) {
		t.Errorf("spans %q, want %q\n%s", got, want, log)
	}
	byID := map[string]*tracepb.Span{}
	for _, span := range c.spans {
		byID[string(span.SpanId)] = span
	}
	for name, above := range map[string]string{
		"GET blob": "artifact", "check signature": "artifact", "artifact": "prove", "list referrers": "prove",
		"GET referrers": "list referrers", "HEAD resolve": "first request", "resolve": "subject", "prove": "subject", "subject": "",
	} {
		for _, span := range c.spans {
			if parent := byID[string(span.ParentSpanId)]; span.Name == name && parent.GetName() != above {
				t.Errorf("%s is below %q, want %q", name, parent.GetName(), above)
			}
			if string(span.TraceId) != string(c.spans[0].TraceId) {
				t.Errorf("%s is in another trace", span.Name)
			}
		}
	}
	if len(c.services) == 0 || c.services[0] != "gatehouse" || c.paths[0] != "/v1/traces" {
		t.Errorf("services %q, paths %q", c.services, c.paths)
	}
}

// What the standard variables say is done, and without an endpoint nothing.
func TestSpansByTheEnvironment(t *testing.T) {
	for name, test := range map[string]struct {
		env     map[string]string // ENDPOINT stands for the collector's
		spans   bool
		service string
	}{
		"nothing":           {},
		"disabled":          {env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "ENDPOINT", "OTEL_SDK_DISABLED": "True"}},
		"no exporter":       {env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "ENDPOINT", "OTEL_TRACES_EXPORTER": "none"}},
		"not sampled":       {env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "ENDPOINT", "OTEL_TRACES_SAMPLER": "always_off"}},
		"another's name":    {env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "ENDPOINT", "OTEL_SERVICE_NAME": "gate-7"}, spans: true, service: "gate-7"},
		"for traces":        {env: map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "ENDPOINT/v1/traces"}, spans: true, service: "gatehouse"},
		"other resources":   {env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "ENDPOINT", "OTEL_RESOURCE_ATTRIBUTES": "cluster=a"}, spans: true, service: "gatehouse"},
		"a ratio of nought": {env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "ENDPOINT", "OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := newStandIn(t)
			for key, value := range test.env {
				t.Setenv(key, strings.Replace(value, "ENDPOINT", c.URL, 1))
			}
			provider, end, err := exportSpans(t.Context(), slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			if provider != nil {
				_, span := provider.Tracer("test").Start(t.Context(), "one")
				span.End()
			}
			end()
			if got := c.names(); (len(got) == 1) != test.spans {
				t.Errorf("spans %q", got)
			}
			if test.spans && !slices.Equal(c.services, []string{test.service}) {
				t.Errorf("services %q", c.services)
			}
		})
	}
}

// A collector that refuses is told of once, and when it takes spans again.
func TestCollectorRefuses(t *testing.T) {
	c := newStandIn(t)
	c.faults = 2
	exporter, err := otlptracehttp.New(t.Context(), otlptracehttp.WithEndpointURL(c.URL))
	if err != nil {
		t.Fatal(err)
	}
	var log lines
	logger := slog.New(slog.NewTextHandler(&log, nil))
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(&loggedExporter{SpanExporter: exporter, logger: logger}), sdktrace.WithSampler(sdktrace.AlwaysSample()))
	for range 4 {
		_, span := provider.Tracer("test").Start(t.Context(), "one")
		span.End()
	}
	endExport(t.Context(), provider, exporter, logger, time.Minute)
	text := log.String()
	if strings.Count(text, "cannot be exported") != 1 || strings.Count(text, "exported again") != 1 || len(c.names()) != 2 {
		t.Errorf("%d spans\n%s", len(c.names()), text)
	}
}

// A collector that hangs holds up the end no longer than it may.
func TestCollectorHangs(t *testing.T) {
	asked := make(chan struct{})
	c := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // only then is the client's end noticed
		close(asked)
		<-r.Context().Done()
	}))
	defer c.Close()
	exporter, err := otlptracehttp.New(t.Context(), otlptracehttp.WithEndpointURL(c.URL))
	if err != nil {
		t.Fatal(err)
	}
	var log lines
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithSampler(sdktrace.AlwaysSample()))
	_, span := provider.Tracer("test").Start(t.Context(), "one")
	span.End()
	go func() { _ = provider.ForceFlush(t.Context()) }()
	<-asked
	begun := time.Now()
	endExport(t.Context(), provider, exporter, slog.New(slog.NewTextHandler(&log, nil)), 10*time.Millisecond)
	if took := time.Since(begun); took > 20*time.Second || !strings.Contains(log.String(), "may be lost") {
		t.Errorf("after %v\n%s", took, log.String())
	}
}
