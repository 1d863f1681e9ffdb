package executor_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/executor/policy"
	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/storetest"
	"github.com/gatehouse-project/gatehouse/verifier"
)

// expectPin pins an image and says what it must come to and cost.
func (s site) expectPin(t *testing.T, req executor.Request, want executor.Pin, cost storetest.Counts) {
	t.Helper()
	got := s.asked(func() {
		pin, err := s.Pin(t.Context(), req)
		if diff := cmp.Diff(want, pin, cmpopts.EquateErrors()); err != nil || diff != "" {
			t.Errorf("%s in %q: %v (-want +got):\n%s", req.Reference, req.Namespace, err, diff)
		}
	})
	if got != cost {
		t.Errorf("%s in %q: asked %+v, want %+v", req.Reference, req.Namespace, got, cost)
	}
}

// What needs no proof, or cannot have one, stays as it is and costs nothing; what
// needs one is resolved, once.
func TestPinByPolicy(t *testing.T) {
	t.Parallel()
	ended := executor.Exemption{Reason: "T-1", Until: time.Now().Add(-time.Hour)}
	lasting := executor.Exemption{Reason: "T-2", Until: time.Now().Add(time.Hour)}
	base := []policy.Rule{
		{Name: "ended", Images: []string{"registry.example/ended"}, Allow: &ended},
		{Name: "exempt", Images: []string{"registry.example/exempt"}, Allow: &lasting},
		{Name: "proof", Images: []string{"registry.example/app", "away.example/**"}, Require: &every},
	}
	spaced := append([]policy.Rule{
		{Name: "spaced", Images: []string{"registry.example/app"}, Namespaces: []string{"prod"}, Require: &every},
		{Name: "lifted", Images: []string{"registry.example/partly"}, Namespaces: []string{"test"}, Allow: &lasting},
		{Name: "partly", Images: []string{"registry.example/partly"}, Require: &every},
	}, base...)
	asks := storetest.Counts{Resolve: 1}
	tests := []struct {
		name, image, namespace string
		rules                  []policy.Rule
		pinned, unproven       bool
		cost                   storetest.Counts
	}{
		{"proof", image, "", base, true, true, asks},
		{"proof, in a namespace", image, "dev", base, true, true, asks},
		{"no rule", "registry.example/other:v1", "", base, false, false, nothing},
		{"exempt", "registry.example/exempt:v1", "", base, false, false, nothing},
		{"exempt until now", "registry.example/ended:v1", "", base, false, false, nothing},
		{"no store", "away.example/app:v1", "", base, false, false, nothing},
		{"a digest", "registry.example/app@" + digest.FromString("x").String(), "", base, false, false, nothing},
		{"a tag and a digest", image + "@" + digest.FromString("x").String(), "", base, false, false, nothing},
		{"rules for namespaces", image, "prod", spaced, true, true, asks},
		{"rules for namespaces, and none", image, "", spaced, true, false, asks},
		{"rules for namespaces, and none, and no rule", "registry.example/other:v1", "", spaced, false, false, nothing},
		{"rules for namespaces, and none, exempt", "registry.example/exempt:v1", "", spaced, false, false, nothing},
		{"rules for namespaces, and none, exempt in one", "registry.example/partly:v1", "", spaced, true, false, asks},
		{"rules for namespaces, and none, no store", "away.example/app:v1", "", spaced, false, false, nothing},
		{"rules for namespaces, and none, a digest", "registry.example/app@" + digest.FromString("x").String(), "", spaced, false, false, nothing},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p, err := policy.New(test.rules, []string{"v"})
			if err != nil {
				t.Fatal(err)
			}
			store, subject := signed("pass")
			store.ServesHost = func(host string) bool { return host == "registry.example" }
			leads := map[string]digest.Digest{image: subject.Descriptor.Digest}
			leads["registry.example/partly:v1"] = store.AddImage("registry.example/partly:v1").Descriptor.Digest
			e := executor.New(t.Context(), []referrerstore.Store{store}, []verifier.Verifier{&scripted{name: "v"}}, p, remembering())
			t.Cleanup(e.Close)
			s := site{e, store, subject}
			req := request(t, test.image)
			req.Namespace, req.Unpinned = test.namespace, executor.UnpinnedDeny // which does not matter
			want := executor.Pin{Unproven: test.unproven}
			if test.pinned {
				want.Digest = leads[test.image]
			}
			if _, known, err := s.RecallPin(req, time.Now()); known != (test.cost == nothing) || err != nil {
				t.Errorf("known without asking: %t, %v", known, err)
			}
			s.expectPin(t, req, want, test.cost)
			s.expectPin(t, req, want, nothing)
			if got, known, err := s.RecallPin(req, time.Now()); !known || err != nil || got != want {
				t.Errorf("recalled %+v, %t, %v", got, known, err)
			}
		})
	}
}

// Verification and mutation remember where a tag leads for each other, as long as
// that is believed, and what is proven is not to be proven again.
func TestPinSharesTheTag(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, every, remembering(), "pass a")
		d := s.subject.Descriptor.Digest
		s.expectPin(t, request(t, image), executor.Pin{Digest: d, Unproven: true}, storetest.Counts{Resolve: 1})
		s.expect(t, image, executor.Allowed, storetest.Counts{Referrers: 1, Fetch: 2})
		s.expectPin(t, request(t, image), executor.Pin{Digest: d}, nothing)
		time.Sleep(10 * time.Second)
		s.expectPin(t, request(t, image), executor.Pin{Digest: d}, storetest.Counts{Resolve: 1})
		s.expect(t, image, executor.Allowed, nothing)
	})
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, every, remembering(), "pass a")
		s.expect(t, image, executor.Allowed, storetest.Counts{Resolve: 1, Referrers: 1, Fetch: 2})
		s.expectPin(t, request(t, image), executor.Pin{Digest: s.subject.Descriptor.Digest}, nothing)
	})
}

// However many mutate and verify at once, where a tag leads is asked for once, and
// all are told the same.
func TestPinAndVerifyResolveOnce(t *testing.T) {
	t.Parallel()
	for range 10 {
		store, subject := signed("pass a")
		var entered atomic.Int32
		open := make(chan struct{})
		store.ResolveFault = func(context.Context, referrerstore.Reference) error {
			entered.Add(1)
			<-open
			return nil
		}
		s := siteOf(t, store, store, subject, every, remembering())
		var group sync.WaitGroup
		for i := range 200 {
			group.Go(func() {
				if i%2 == 0 {
					pin, err := s.Pin(t.Context(), request(t, image))
					if err != nil || pin.Digest != subject.Descriptor.Digest {
						t.Errorf("%+v, %v", pin, err)
					}
					return
				}
				got, err := s.Verify(t.Context(), request(t, image))
				if err != nil || got.Decision != executor.Allowed || got.Subject.Descriptor.Digest != subject.Descriptor.Digest {
					t.Errorf("%v, %v", got.Decision, err)
				}
			})
		}
		for entered.Load() == 0 {
			time.Sleep(time.Millisecond)
		}
		close(open)
		group.Wait()
		if n := entered.Load(); n != 1 {
			t.Errorf("resolved %d times, want once", n)
		}
	}
}

func TestPinFailures(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		fault error
		code  verifier.Code
		known bool // and is remembered
	}{
		"absent":    {referrerstore.ErrNotFound, executor.CodeSubjectNotFound, true},
		"throttled": {&referrerstore.RetryAfterError{After: 7 * time.Second, Err: referrerstore.ErrRateLimited}, executor.CodeRateLimited, false},
		"down":      {referrerstore.ErrUnavailable, executor.CodeUnavailable, false},
		"no access": {referrerstore.ErrAuthDenied, executor.CodeAuthDenied, false},
		"late":      {context.DeadlineExceeded, executor.CodeDeadline, false},
		"other":     {errors.New("who\nknows"), executor.CodeInternalError, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, every, remembering(), "pass a")
			s.store.ResolveFault = func(context.Context, referrerstore.Reference) error { return test.fault }
			req := request(t, image)
			_, err := s.Pin(t.Context(), req)
			x := executor.ExplainPin(req, err)
			if !errors.Is(err, test.fault) || x.Code != test.code || x.Do == "" || strings.Contains(x.Line(), "verdict") {
				t.Errorf("%v: %s", err, x.Line())
			}
			if _, known, err := s.RecallPin(req, time.Now()); known != test.known || errors.Is(err, test.fault) != test.known {
				t.Errorf("remembered: %t, %v", known, err)
			}
		})
	}
	t.Run("a panic", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, every, remembering(), "pass a")
		s.store.ResolveFault = func(context.Context, referrerstore.Reference) error { panic("hostile bytes") }
		if _, err := s.Pin(t.Context(), request(t, image)); !errors.Is(err, executor.ErrInconclusive) {
			t.Errorf("%v", err)
		}
	})
	t.Run("no digest", func(t *testing.T) {
		t.Parallel()
		store, subject := signed("pass a")
		s := siteOf(t, store, vague{store}, subject, every, remembering())
		if pin, err := s.Pin(t.Context(), request(t, image)); !errors.Is(err, referrerstore.ErrProtocol) || pin.Digest != "" {
			t.Errorf("%+v, %v", pin, err)
		}
	})
	t.Run("closed", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, every, remembering(), "pass a")
		s.Close()
		if _, err := s.Pin(t.Context(), request(t, image)); !errors.Is(err, executor.ErrInconclusive) {
			t.Errorf("%v", err)
		}
	})
}

// vague is a store whose registry names what is no digest.
type vague struct{ *storetest.Memory }

func (vague) Resolve(_ context.Context, ref referrerstore.Reference) (referrerstore.Subject, error) {
	return referrerstore.Subject{Reference: ref, Descriptor: ocispec.Descriptor{Digest: "sha256:00\n", MediaType: "x"}}, nil
}

// A look-up outlives whoever has no more time for it, and whoever comes back
// finds it done; one of a host that nobody configured does not.
func TestPinOutlivesItsRequest(t *testing.T) {
	t.Parallel()
	for name, unnamed := range map[string]bool{"named": false, "unnamed": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				store, subject := signed("pass a")
				store.ResolveFault = func(ctx context.Context, _ referrerstore.Reference) error {
					select {
					case <-time.After(2 * time.Second):
						return nil
					case <-ctx.Done():
						return context.Cause(ctx)
					}
				}
				s := siteOf(t, store, aboutHost{store, referrerstore.HostState{Unnamed: unnamed}}, subject, every, remembering())
				ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
				defer cancel()
				begun := time.Now()
				if _, err := s.Pin(ctx, request(t, image)); !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != 700*time.Millisecond {
					t.Errorf("%v after %s", err, time.Since(begun))
				}
				time.Sleep(2 * time.Second)
				if _, known, _ := s.RecallPin(request(t, image), time.Now()); known == unnamed {
					t.Errorf("known: %t", known)
				}
			})
		})
	}
}

// Nothing is begun that nobody waits for, where anybody may have named the host.
func TestPinExpectsNothingOfUnnamedHosts(t *testing.T) {
	t.Parallel()
	for _, unnamed := range []bool{false, true} {
		store, subject := signed("pass a")
		s := siteOf(t, store, aboutHost{store, referrerstore.HostState{Unnamed: unnamed}}, subject, every, remembering())
		s.expectPin(t, request(t, image), executor.Pin{Digest: subject.Descriptor.Digest, Unproven: !unnamed}, storetest.Counts{Resolve: 1})
	}
}

// aboutHost is a store of whose hosts something is to be known.
type aboutHost struct {
	*storetest.Memory
	state referrerstore.HostState
}

func (a aboutHost) About(string) referrerstore.HostState { return a.state }

// Whoever cannot have an answer in time, because the registry pauses, is told at
// once.
func TestPinLeavesEarly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, every, remembering(), "pass a")
		limited := &referrerstore.RetryAfterError{After: 5 * time.Second, Err: referrerstore.ErrRateLimited}
		s.store.ResolveFault = func(ctx context.Context, _ referrerstore.Reference) error {
			work := referrerstore.WorkOf(ctx)
			if lane := work.Lane(); lane != referrerstore.LaneAdmission {
				t.Errorf("asked in lane %s", lane)
			}
			work.SetHold(referrerstore.Hold{Until: time.Now().Add(5 * time.Second), Err: limited})
			defer work.SetHold(referrerstore.Hold{})
			time.Sleep(5 * time.Second)
			return nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begun := time.Now()
		_, err := s.Pin(ctx, request(t, image))
		if took := time.Since(begun); !errors.Is(err, referrerstore.ErrRateLimited) || took != 0 {
			t.Errorf("%v after %s", err, took)
		}
		time.Sleep(6 * time.Second)
	})
}

// A tag leads where it led before while its registry is away, as far as that may
// stand in, and no further.
func TestPinByWhatIsHeld(t *testing.T) {
	t.Parallel()
	tags := executor.DownTerms{UseHeld: 3 * time.Hour, Tags: true}
	for name, test := range map[string]struct {
		terms  executor.DownTerms
		fault  func(context.Context, bool) error
		wait   time.Duration
		stands verifier.Code
		took   time.Duration
	}{
		"down":               {tags, answers(referrerstore.ErrUnavailable), 0, executor.CodeUnavailable, 0},
		"limited":            {tags, answers(referrerstore.ErrRateLimited), 0, executor.CodeRateLimited, 0},
		"silent":             {tags, hangs, 0, executor.CodeDeadline, 300 * time.Millisecond},
		"at its end":         {tags, answers(referrerstore.ErrUnavailable), time.Hour, executor.CodeUnavailable, 0},
		"beyond its end":     {tags, answers(referrerstore.ErrUnavailable), time.Hour + time.Nanosecond, "", 0},
		"at its end, silent": {tags, hangs, time.Hour, "", 600 * time.Millisecond}, // it is too old by then
		"an answer":          {tags, answers(referrerstore.ErrAuthDenied), 0, "", 0},
		"gone":               {tags, answers(referrerstore.ErrNotFound), 0, "", 0},
		"only for digests":   {day, answers(referrerstore.ErrUnavailable), 0, "", 0},
		"not at all":         {executor.DownTerms{}, answers(referrerstore.ErrUnavailable), 0, "", 0},
		"not at all, silent": {executor.DownTerms{}, hangs, 0, "", 600 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := outage(t, every, []string{"pass a"}, useHeld(test.terms))
				time.Sleep(test.wait)
				h.last.breaks(test.fault)
				ctx, cancel := context.WithTimeout(t.Context(), 600*time.Millisecond)
				defer cancel()
				begun := time.Now()
				pin, err := h.Pin(ctx, request(t, image))
				if took := time.Since(begun); took != test.took {
					t.Errorf("answered after %s, want %s", took, test.took)
				}
				if test.stands == "" {
					if err == nil || pin.Digest != "" {
						t.Errorf("%+v, want an error", pin)
					}
					return
				}
				if err != nil || pin.Digest != h.subject.Descriptor.Digest || pin.Held == nil || pin.Held.Code() != test.stands || pin.Held.Age < 2*time.Hour+test.wait {
					t.Errorf("%+v, held %+v, %v; want %s", pin, pin.Held, err, test.stands)
				}
			})
		})
	}
}

func answers(err error) func(context.Context, bool) error {
	return func(context.Context, bool) error { return err }
}

func TestPinMetrics(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	opts := remembering()
	opts.Registerer = reg
	s := newSite(t, every, opts, "pass a")
	for range 3 {
		s.Pin(t.Context(), request(t, image))
	}
	s.store.ResolveFault = func(context.Context, referrerstore.Reference) error { return referrerstore.ErrUnavailable }
	s.Pin(t.Context(), request(t, "registry.example/app:v2"))
	want := `
# HELP gatehouse_pins_total Digests looked for that a tag leads to, by outcome: known already, resolved, held from before, or failed.
# TYPE gatehouse_pins_total counter
gatehouse_pins_total{outcome="failed"} 1
gatehouse_pins_total{outcome="known"} 2
gatehouse_pins_total{outcome="resolved"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "gatehouse_pins_total"); err != nil {
		t.Error(err)
	}
	want = `
# HELP gatehouse_recalls_total Subjects that were answered from a proof (hit), and those that took work (miss).
# TYPE gatehouse_recalls_total counter
gatehouse_recalls_total{outcome="hit"} 0
gatehouse_recalls_total{outcome="miss"} 0
` // no verdict was asked for
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "gatehouse_recalls_total"); err != nil {
		t.Error(err)
	}
}
