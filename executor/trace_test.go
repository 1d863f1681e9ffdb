package executor_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/executor/policy"
	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// traced are options with a memory, and what it recorded of spans.
func traced(t testing.TB) (executor.Options, *tracetest.SpanRecorder) {
	t.Helper()
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans), sdktrace.WithSampler(sdktrace.AlwaysSample()))
	opts := remembering()
	opts.Tracer = provider
	return opts, spans
}

// tree draws the ended spans as lines, each indented below its parent.
func tree(spans *tracetest.SpanRecorder, attrs ...attribute.Key) []string {
	ended := spans.Ended()
	slices.SortStableFunc(ended, func(a, b sdktrace.ReadOnlySpan) int { return strings.Compare(a.Name(), b.Name()) })
	var lines []string
	var below func(parent trace.SpanID, indent string)
	below = func(parent trace.SpanID, indent string) {
		for _, s := range ended {
			if s.Parent().SpanID() != parent {
				continue
			}
			line := indent + s.Name()
			for _, key := range attrs {
				if v, ok := value(s, key); ok {
					line += " " + v
				}
			}
			lines = append(lines, line)
			below(s.SpanContext().SpanID(), indent+"  ")
		}
	}
	below(trace.SpanID{}, "")
	return lines
}

func value(s sdktrace.ReadOnlySpan, key attribute.Key) (string, bool) {
	for _, a := range s.Attributes() {
		if a.Key == key {
			return a.Value.String(), true
		}
	}
	return "", false
}

func TestSpansOfARequest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		opts, spans := traced(t)
		s := newSite(t, policy.Node{Verifier: "v"}, opts, "fail")
		if _, err := s.Verify(t.Context(), request(t, image)); err != nil {
			t.Fatal(err)
		}
		want := []string{
			"subject registry.example/app:v1 all denied SIGNER_UNTRUSTED false",
			"  prove false",
			`    artifact memory ["v"] ["failed"]`,
			"    list referrers memory 1",
			"  resolve false",
			"  wait for a place",
		}
		got := tree(spans, "gatehouse.image", "gatehouse.rule", "gatehouse.decision", "gatehouse.code", "gatehouse.store",
			"gatehouse.listed", "gatehouse.artifact.verifiers", "gatehouse.artifact.outcomes", "gatehouse.joined")
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("spans (-want +got):\n%s", diff)
		}
		for _, span := range spans.Ended() {
			if span.Status().Code == codes.Error {
				t.Errorf("%s: a verdict is no failure: %s", span.Name(), span.Status().Description)
			}
			if d, ok := value(span, "gatehouse.artifact.digest"); span.Name() == "artifact" && (!ok || !strings.HasPrefix(d, "sha256:")) {
				t.Errorf("the artifact's digest is %q", d)
			}
		}
	})
}

// What is answered from a proof has no span, by either way in.
func TestNoSpanOnTheWarmPath(t *testing.T) {
	t.Parallel()
	opts, spans := traced(t)
	s := newSite(t, every, opts, "pass")
	if _, err := s.Verify(t.Context(), request(t, image)); err != nil {
		t.Fatal(err)
	}
	cold := len(spans.Started())
	if _, ok := s.Recall(request(t, image), time.Now()); !ok {
		t.Fatal("not remembered")
	}
	if _, err := s.Verify(t.Context(), request(t, image)); err != nil {
		t.Fatal(err)
	}
	if n := len(spans.Started()) - cold; cold == 0 || n != 0 {
		t.Errorf("%d spans cold, %d warm", cold, n)
	}
}

// Of two who want the same the work is below the one who began it, be it the
// same reference or another that leads to the same.
func TestSpansOfSharedWork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		opts, spans := traced(t)
		store, subject := signed("pass")
		release := make(chan struct{})
		store.Alter = func(_ ocispec.Descriptor, data []byte) []byte { <-release; return data }
		s := siteOf(t, store, store, subject, every, opts)
		digested := "registry.example/app@" + subject.Descriptor.Digest.String()
		done := make(chan error, 3)
		for _, text := range []string{image, image, digested} {
			go func() {
				_, err := s.Verify(t.Context(), request(t, text))
				done <- err
			}()
			synctest.Wait()
		}
		close(release)
		for range 3 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		want := []string{
			"subject false",
			"  prove false",
			"    artifact",
			"    list referrers",
			"  resolve false",
			"  wait for a place",
			"subject true",
			"subject false",
			"  prove true",
			"  wait for a place",
		}
		got := tree(spans, "gatehouse.joined")
		slices.Sort(got)
		slices.Sort(want)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("spans (-want +got):\n%s", diff)
		}
	})
}

// What goes on behind a caller whose time is up belongs to that caller's trace.
func TestSpansOutliveTheCaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		opts, spans := traced(t)
		store, subject := signed("pass")
		store.Alter = func(_ ocispec.Descriptor, data []byte) []byte { time.Sleep(time.Second); return data }
		s := siteOf(t, store, store, subject, every, opts)
		short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := s.Verify(short, request(t, image)); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		ended := spans.Ended()
		caller := ended[len(ended)-1]
		if code, _ := value(caller, "gatehouse.code"); caller.Name() != "subject" || code != string(executor.CodeDeadline) || caller.Status().Code != codes.Error {
			t.Errorf("%s %s %+v", caller.Name(), code, caller.Status())
		}
		time.Sleep(10 * time.Second)
		var late []string
		for _, span := range spans.Ended()[len(ended):] {
			late = append(late, span.Name())
			if span.SpanContext().TraceID() != caller.SpanContext().TraceID() {
				t.Errorf("%s is in another trace", span.Name())
			}
		}
		slices.Sort(late)
		if diff := cmp.Diff([]string{"artifact", "prove"}, late); diff != "" {
			t.Errorf("spans of what went on (-want +got):\n%s", diff)
		}
	})
}

func TestSpansOfFailures(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		image string
		blobs []string
		want  map[string]string // by name of the span: its status
	}{
		"not there": {image: "registry.example/app:absent", want: map[string]string{}},
		"doubt": {image: image, blobs: []string{"doubt"}, want: map[string]string{
			"artifact": "REVOCATION_UNKNOWN: no answer",
			"prove":    "REVOCATION_UNKNOWN: no answer; see the log of gatehouse",
			"subject":  "REVOCATION_UNKNOWN: no answer; see the log of gatehouse",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			opts, spans := traced(t)
			s := newSite(t, every, opts, test.blobs...)
			_, err := s.Verify(t.Context(), request(t, test.image))
			if (err != nil) != (len(test.want) > 0) {
				t.Fatal(err)
			}
			got := map[string]string{}
			for _, span := range spans.Ended() {
				if span.Status().Code == codes.Error {
					got[span.Name()], _, _ = strings.Cut(span.Status().Description, ";")
				}
			}
			for name, text := range test.want {
				test.want[name], _, _ = strings.Cut(text, ";")
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("failures (-want +got):\n%s", diff)
			}
		})
	}
}

// Artifacts that the decision came before are told apart from doubt.
func TestSpansOfTheNeedless(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		opts, spans := traced(t)
		store, subject := signed("fail", "hang")
		store.Alter = func(_ ocispec.Descriptor, data []byte) []byte {
			if string(data) == "fail" {
				time.Sleep(time.Second) // the other is under way by then
			}
			return data
		}
		s := siteOf(t, store, store, subject, every, opts)
		if _, err := s.Verify(t.Context(), request(t, image)); err != nil {
			t.Fatal(err)
		}
		outcomes := map[string]int{}
		for _, span := range spans.Ended() {
			if o, ok := value(span, "gatehouse.artifact.outcomes"); ok {
				outcomes[o]++
				if span.Status().Code == codes.Error {
					t.Errorf("%s: %s", o, span.Status().Description)
				}
			}
		}
		if diff := cmp.Diff(map[string]int{`["failed"]`: 1, `["needless"]`: 1}, outcomes); diff != "" {
			t.Error(diff)
		}
	})
}

// A wait for memory is seen, and only if it is one.
func TestSpanOfAWaitForMemory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		opts, spans := traced(t)
		opts.Budget = referrerstore.NewBudget(1 << 20)
		s := newSite(t, every, opts, "pass")
		if !opts.Budget.TryAcquire(1 << 20) {
			t.Fatal("taken")
		}
		time.AfterFunc(time.Second, func() { opts.Budget.Release(1 << 20) })
		if _, err := s.Verify(t.Context(), request(t, image)); err != nil {
			t.Fatal(err)
		}
		var waits []time.Duration
		for _, span := range spans.Ended() {
			if span.Name() == "wait for memory" {
				waits = append(waits, span.EndTime().Sub(span.StartTime()))
			}
		}
		if diff := cmp.Diff([]time.Duration{time.Second}, waits); diff != "" {
			t.Errorf("waits (-want +got):\n%s", diff)
		}
	})
}

// Proving again in the background is a trace of its own.
func TestSpanOfARefresh(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		opts, spans := traced(t)
		s := newSite(t, every, opts, "pass")
		if _, err := s.Verify(t.Context(), request(t, image)); err != nil {
			t.Fatal(err)
		}
		before := len(spans.Ended())
		time.Sleep(5 * time.Minute)
		if _, ok := s.Recall(request(t, "registry.example/app@"+s.subject.Descriptor.Digest.String()), time.Now()); !ok {
			t.Fatal("not remembered")
		}
		synctest.Wait()
		var names []string
		for _, span := range spans.Ended()[before:] {
			names = append(names, span.Name())
		}
		if diff := cmp.Diff([]string{"list referrers", "refresh"}, names); diff != "" {
			t.Errorf("spans (-want +got):\n%s", diff)
		}
	})
}
