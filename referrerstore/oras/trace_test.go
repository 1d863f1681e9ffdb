package oras

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

func traced() (*sdktrace.TracerProvider, *tracetest.SpanRecorder) {
	spans := tracetest.NewSpanRecorder()
	return sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans), sdktrace.WithSampler(sdktrace.AlwaysSample())), spans
}

// lines are the ended spans below a parent in the order of their beginnings,
// with some attributes, each indented below its own.
func lines(spans *tracetest.SpanRecorder, parent trace.SpanID, attrs ...attribute.Key) []string {
	ended := spans.Ended()
	slices.SortStableFunc(ended, func(a, b sdktrace.ReadOnlySpan) int { return a.StartTime().Compare(b.StartTime()) })
	var all []string
	for _, s := range ended {
		if s.Parent().SpanID() != parent {
			continue
		}
		line := s.Name()
		for _, key := range attrs {
			for _, a := range s.Attributes() {
				if a.Key == key {
					line += " " + a.Value.String()
				}
			}
		}
		all = append(all, line)
		for _, below := range lines(spans, s.SpanContext().SpanID(), attrs...) {
			all = append(all, "  "+below)
		}
	}
	return all
}

func TestSpansOfRequests(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, registryOptions{bearer: true})
	subject := r.image(t, "team/app", "v1")
	signature := r.referrer(t, subject, "application/vnd.test", "signed")
	provider, spans := traced()
	store := newStore(t, Options{}, Deps{Tracer: provider}, r)
	ctx, root := provider.Tracer("test").Start(t.Context(), "root")
	if _, err := store.Resolve(ctx, subject.Reference); err != nil {
		t.Fatal(err)
	}
	if _, err := collect(ctx, store, subject); err != nil {
		t.Fatal(err)
	}
	if _, err := referrerstore.ReadAll(ctx, store, subject, signature, 1<<20); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"first request false",
		"  HEAD challenge 401 challenge 1",
		"token false",
		"  GET token 200 token 1",
		"HEAD resolve 200 resolve 1",
		"GET referrers 200 referrers 1",
		"GET manifest 200 manifest 1",
	}
	got := lines(spans, root.SpanContext().SpanID(), attrStatus, attrKind, attrAttempt, attrJoined)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("spans (-want +got):\n%s", diff)
	}
	for _, s := range spans.Ended() {
		if s.SpanKind() != trace.SpanKindClient {
			continue
		}
		var events []string
		for _, e := range s.Events() {
			events = append(events, e.Name)
		}
		if diff := cmp.Diff([]string{eventSent, eventHeader}, events); diff != "" {
			t.Errorf("%s: events (-want +got):\n%s", s.Name(), diff)
		}
		host := fmt.Sprintf("%v", lines(spans, s.Parent().SpanID(), attrAddress, attrPort))
		if address, port, _ := strings.Cut(r.host(), ":"); !strings.Contains(host, address+" "+port) {
			t.Errorf("%s: no host in %s", s.Name(), host)
		}
		if s.Status().Code == codes.Error {
			t.Errorf("%s failed: %s", s.Name(), s.Status().Description)
		}
	}
}

// Nothing that a request shows or asks for is in a span.
func TestSpansHoldNoSecrets(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, registryOptions{bearer: true})
	subject := r.image(t, "team/app", "v1")
	var refusals atomic.Int32
	r.setHook(func(w http.ResponseWriter, req *http.Request) bool {
		switch {
		case req.URL.Path == "/token" && refusals.Add(1) == 1:
			http.Error(w, `{"errors":[{"code":"DENIED","message":"token-secret"}]}`, http.StatusServiceUnavailable)
			return true
		case strings.Contains(req.URL.Path, "/referrers/"):
			http.Redirect(w, req, "http://"+r.host()+"/elsewhere?X-Signature=token-secret", http.StatusTemporaryRedirect)
			return true
		case req.URL.Path == "/elsewhere":
			panic(http.ErrAbortHandler)
		}
		return false
	})
	provider, spans := traced()
	store := newStore(t, Options{}, Deps{Tracer: provider}, r)
	if _, err := store.Resolve(t.Context(), subject.Reference); err != nil {
		t.Fatal(err)
	}
	if _, err := collect(t.Context(), store, subject); err == nil {
		t.Fatal("the list is not to be had")
	}
	failures := 0
	for _, s := range spans.Ended() {
		text := fmt.Sprintf("%s %v %v %s", s.Name(), s.Attributes(), s.Events(), s.Status().Description)
		for _, secret := range []string{"token-", "secret", "?", "/v2/", "elsewhere", "Bearer"} {
			if strings.Contains(text, secret) {
				t.Errorf("%q in %s", secret, text)
			}
		}
		if s.Status().Code == codes.Error {
			failures++
		}
	}
	if failures < 2 {
		t.Errorf("%d failures are told", failures)
	}
}

// Attempts are counted, and whoever is refused by the governor has a span that
// was never sent.
func TestSpansOfAttempts(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, registryOptions{})
	subject := r.image(t, "team/app", "v1")
	var asked atomic.Int32
	r.setHook(func(w http.ResponseWriter, _ *http.Request) bool {
		switch asked.Add(1) {
		case 1:
			w.WriteHeader(http.StatusBadGateway)
		case 3:
			w.Header().Set("Retry-After", "30")
			w.WriteHeader(http.StatusTooManyRequests)
		default:
			return false
		}
		return true
	})
	provider, spans := traced()
	store := newStore(t, Options{}, Deps{Tracer: provider}, r)
	if _, err := store.Resolve(t.Context(), subject.Reference); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for range 2 {
		if _, err := store.Resolve(ctx, subject.Reference); err == nil {
			t.Fatal("it asked to wait")
		}
	}
	want := []string{
		"first request false",
		"  HEAD resolve 502 1",
		"first request false",
		"  HEAD resolve 200 2",
		"HEAD resolve 429 1",
		"HEAD resolve 1",
	}
	if diff := cmp.Diff(want, lines(spans, trace.SpanID{}, attrStatus, attrAttempt, attrJoined)); diff != "" {
		t.Errorf("spans (-want +got):\n%s", diff)
	}
	ended := spans.Ended()
	last := ended[len(ended)-1]
	if len(last.Events()) != 0 || last.Status().Description != referrerstore.ErrRateLimited.Error() {
		t.Errorf("events %v, status %+v", last.Events(), last.Status())
	}
}

// Those who join another's flight have a span of their own for the wait.
func TestSpansOfJoinedFlights(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, registryOptions{bearer: true})
	subject := r.image(t, "team/app", "v1")
	provider, spans := traced()
	store := newStore(t, Options{}, Deps{Tracer: provider}, r)
	release := make(chan struct{})
	r.setHook(func(_ http.ResponseWriter, req *http.Request) bool {
		if req.URL.Path == "/token" {
			<-release
		}
		return false
	})
	const n = 5
	var group errgroup.Group
	for range n {
		group.Go(func() error {
			_, err := store.Resolve(t.Context(), subject.Reference)
			return err
		})
	}
	waitFor(t, func() bool {
		waiting := 0
		for _, s := range spans.Started() {
			if s.Name() == "token" {
				waiting++
			}
		}
		return waiting == n
	})
	close(release)
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for _, line := range lines(spans, trace.SpanID{}, attrJoined) {
		counts[line]++
	}
	if counts["token false"] != 1 || counts["token true"] != n-1 || counts["  GET token"] != 1 || counts["HEAD resolve"] != n {
		t.Errorf("%v", counts)
	}
}

// A host is as busy as its token service, if that is the slower one.
func TestAboutKnowsTheTokenService(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, registryOptions{bearer: true})
	subject := r.image(t, "team/app", "v1")
	r.setHook(func(w http.ResponseWriter, req *http.Request) bool {
		if req.URL.Path != "/token" {
			return false
		}
		w.Header().Set("Retry-After", "30")
		w.WriteHeader(http.StatusTooManyRequests)
		return true
	})
	store := newStore(t, Options{}, Deps{}, r)
	if about := store.About(r.host()); about.Throttled || about.Wait != 0 {
		t.Errorf("before anything was asked: %+v", about)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := store.Resolve(ctx, subject.Reference); err == nil {
		t.Fatal("there is no token")
	}
	if about := store.About(r.host()); !about.Throttled || about.Wait < 20*time.Second {
		t.Errorf("%+v", about)
	}
}

// Without a tracer a request allocates nothing for its span.
func TestNoTracerCostsNothing(t *testing.T) {
	ctx := t.Context()
	off := newTracer(nil)
	cost := testing.AllocsPerRun(100, func() {
		own, span := off.request(ctx, http.MethodGet, nil, kindBlob)
		span.AddEvent(eventSent)
		answered(span, http.MethodGet, kindBlob, nil)
		finish(span, referrerstore.ErrBusy)
		own, span = off.join(own, "token")
		finish(span, nil)
		if off.aboard(own, ctx) != ctx {
			t.Error("a context was made for nothing")
		}
	})
	if cost != 0 {
		t.Errorf("%v allocations a request", cost)
	}
}
