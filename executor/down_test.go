package executor_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/executor/policy"
	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/storetest"
	"github.com/gatehouse-project/gatehouse/verifier"
)

// outage is a site whose image was proven two hours ago, which is longer than a
// proof is believed, by an executor that has ended.
func outage(t *testing.T, require policy.Node, blobs []string, change ...func(*executor.Options)) held {
	t.Helper()
	h := newHeld(t, every, afresh(), blobs...)
	if _, err := h.Verify(t.Context(), request(t, image)); err != nil && !errors.Is(err, executor.ErrInconclusive) {
		t.Fatal(err)
	}
	h.last.remembersPinned(h.subject)
	time.Sleep(2 * time.Hour)
	return h.again(t, require, afresh(change...))
}

// remembersPinned says that the digest was resolved too.
func (l *lasting) remembersPinned(subject referrerstore.Subject) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ref := subject.Reference
	ref.Tag, ref.Digest = "", subject.Descriptor.Digest
	l.led[ref] = recalled[referrerstore.Subject]{subject, time.Now().Round(0)}
}

// What counts as a registry that is away, and what as its answer.
func TestWhatHeldEvidenceStandsInFor(t *testing.T) {
	t.Parallel()
	late := &referrerstore.RetryAfterError{After: time.Minute, Err: referrerstore.ErrRateLimited}
	errs := map[string]struct {
		err     error
		standIn verifier.Code // why, empty if nothing stands in
	}{
		"unavailable":           {referrerstore.ErrUnavailable, executor.CodeUnavailable},
		"broken off":            {referrerstore.ErrBrokenOff, executor.CodeUnavailable},
		"rate limited":          {referrerstore.ErrRateLimited, executor.CodeRateLimited},
		"rate limited for long": {late, executor.CodeRateLimited},
		"breaker":               {&referrerstore.RetryAfterError{After: time.Second, Err: referrerstore.ErrUnavailable}, executor.CodeUnavailable},
		"its own deadline":      {context.DeadlineExceeded, executor.CodeDeadline},
		"access denied":         {referrerstore.ErrAuthDenied, ""},
		"refused":               {&referrerstore.RefusedError{What: "no"}, ""},
		"protocol":              {referrerstore.ErrProtocol, ""},
		"digest mismatch":       {referrerstore.ErrDigestMismatch, ""},
		"too large":             {referrerstore.ErrTooLarge, ""},
		"busy":                  {referrerstore.ErrBusy, ""},
		"busy until late":       {fmt.Errorf("%w: %w", referrerstore.ErrBusy, context.DeadlineExceeded), ""},
		"denied while away":     {fmt.Errorf("%w: %w", referrerstore.ErrUnavailable, referrerstore.ErrAuthDenied), ""},
		"something else":        {errors.New("who knows"), ""},
		"canceled":              {context.Canceled, ""},
	}
	for name, test := range errs {
		for _, of := range []string{"resolve", "list", "both"} {
			t.Run(name+"/"+of, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					var resolve, list error
					if of != "list" {
						resolve = test.err
					}
					if of != "resolve" {
						list = test.err
					}
					without := outage(t, every, []string{"pass a", "pass b"})
					without.last.answers(resolve, list)
					without.fails(t, without.pinned(), test.err)
					h := outage(t, every, []string{"pass a", "pass b"}, useHeld(day))
					h.last.answers(resolve, list)
					if test.standIn == "" {
						h.fails(t, h.pinned(), test.err)
						return
					}
					result := h.standsIn(t, h.pinned())
					if of == "resolve" && result.Held != nil && result.Held.Age == 0 {
						result.Held.Age = 2 * time.Hour // the list came before that had failed
					}
					if result.Held == nil || result.Held.Age != 2*time.Hour || !errors.Is(result.Held.Why, test.err) || result.Held.Code() != test.standIn || len(result.Reports) != 2 {
						t.Errorf("held %+v with %d reports", result.Held, len(result.Reports))
					}
				})
			})
		}
	}
}

// That there is no such image is an answer, whatever else fails.
func TestNotFoundWins(t *testing.T) {
	t.Parallel()
	for name, list := range map[string]error{"whole": nil, "down": referrerstore.ErrUnavailable} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := outage(t, every, []string{"pass a"}, useHeld(day))
				h.last.answers(referrerstore.ErrNotFound, list)
				result, _, err := h.within(t, h.pinned())
				if err != nil || result.Decision != executor.Denied || !errors.Is(result.Denial, referrerstore.ErrNotFound) {
					t.Errorf("%v (%v), %v", result.Decision, result.Denial, err)
				}
				// It is what the registry said last.
				time.Sleep(6 * time.Second)
				h.last.answers(referrerstore.ErrUnavailable, referrerstore.ErrUnavailable)
				h.fails(t, h.pinned(), referrerstore.ErrUnavailable)
			})
		})
	}
	t.Run("after what is held stood in", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			h := outage(t, every, []string{"pass a"}, useHeld(day))
			answer := make(chan struct{})
			h.last.breaks(func(_ context.Context, list bool) error {
				if !list {
					<-answer
					return referrerstore.ErrNotFound
				}
				return nil
			})
			h.standsIn(t, h.pinned())
			close(answer)
			synctest.Wait()
			for _, wait := range []time.Duration{0, 6 * time.Second} {
				time.Sleep(wait)
				if result, _, err := h.within(t, h.pinned()); err != nil || result.Decision != executor.Denied {
					t.Errorf("%v, held %+v, %v; the registry has said that there is none", result.Decision, result.Held, err)
				}
			}
		})
	})
}

// Tags are only believed to lead where they led if that is said.
func TestHeldTags(t *testing.T) {
	t.Parallel()
	tags := executor.DownTerms{UseHeld: 3 * time.Hour, Tags: true}
	for name, test := range map[string]struct {
		terms         executor.DownTerms
		resolve, list error
		wait          time.Duration
		allowed       bool
	}{
		"not without":           {day, referrerstore.ErrUnavailable, nil, 0, false},
		"not without, resolved": {day, nil, referrerstore.ErrUnavailable, 0, false},
		"with":                  {tags, referrerstore.ErrUnavailable, nil, 0, true},
		"with, resolved":        {tags, nil, referrerstore.ErrUnavailable, 0, true},
		"at its end":            {tags, referrerstore.ErrUnavailable, nil, time.Hour, true},
		"beyond its end":        {tags, referrerstore.ErrUnavailable, nil, time.Hour + time.Nanosecond, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := outage(t, every, []string{"pass a"}, useHeld(test.terms))
				time.Sleep(test.wait)
				h.last.answers(test.resolve, test.list)
				if !test.allowed {
					h.fails(t, image, referrerstore.ErrUnavailable)
					return
				}
				h.standsIn(t, image)
			})
		})
	}
	t.Run("the tag alone is too old", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			h := outage(t, every, []string{"pass a"}, useHeld(tags))
			time.Sleep(2 * time.Hour)
			h.last.redate(h.subject, 3*time.Hour) // it led there four hours ago
			h.last.answers(referrerstore.ErrUnavailable, referrerstore.ErrUnavailable)
			h.fails(t, image, referrerstore.ErrUnavailable)
			h.standsIn(t, h.pinned())
		})
	})
	t.Run("older than the list", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			h := outage(t, every, []string{"pass a"}, useHeld(tags))
			h.last.redate(h.subject, time.Hour)
			h.last.answers(referrerstore.ErrUnavailable, referrerstore.ErrUnavailable)
			if tag, pinned := h.standsIn(t, image), h.standsIn(t, h.pinned()); tag.Held.Age != 2*time.Hour || pinned.Held.Age != time.Hour {
				t.Errorf("the tag is held for %s, what it leads to for %s", tag.Held.Age, pinned.Held.Age)
			}
		})
	})
	t.Run("a tag that has moved unnoted", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			h := outage(t, every, []string{"pass a"}, useHeld(tags))
			moved := h.store.AddImage("registry.example/app:other", []byte("another layer"))
			h.store.Tag(h.subject.Reference, moved.Descriptor)
			h.last.full = true
			h.last.answers(nil, referrerstore.ErrUnavailable)
			h.fails(t, image, referrerstore.ErrUnavailable)
		})
	})
	t.Run("a tag that moves meanwhile", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			h := outage(t, every, []string{"pass a"})
			h.Close()
			moved := h.store.AddImage("registry.example/app:other", []byte("another layer"))
			h.store.Tag(h.subject.Reference, moved.Descriptor)
			e := executor.New(t.Context(), []referrerstore.Store{h.last}, []verifier.Verifier{&slowly{scripted{name: "v"}, 500 * time.Millisecond}}, ruleFor(t, every, false, "v"), afresh(useHeld(tags)))
			defer e.Close()
			h.last.breaks(func(ctx context.Context, list bool) error {
				if list {
					return hangs(ctx, list)
				}
				time.Sleep(time.Second)
				return nil
			})
			site{e, h.store, h.subject}.fails(t, image, context.DeadlineExceeded)
		})
	})
	t.Run("a tag that has moved", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			h := outage(t, every, []string{"pass a"}, useHeld(tags))
			moved := h.store.AddImage("registry.example/app:other", []byte("another layer"))
			h.store.Tag(h.subject.Reference, moved.Descriptor)
			h.last.answers(nil, referrerstore.ErrUnavailable)
			h.fails(t, image, referrerstore.ErrUnavailable) // nothing is held of where it leads now
		})
	})
}

// The age of a list may be what is said, and no more.
func TestHeldAgeIsBounded(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		age     time.Duration
		allowed bool
	}{"at": {5 * time.Hour, true}, "beyond": {5*time.Hour + time.Nanosecond, false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := outage(t, every, []string{"pass a"}, useHeld(executor.DownTerms{UseHeld: 5 * time.Hour}))
				h.last.answers(referrerstore.ErrUnavailable, referrerstore.ErrUnavailable)
				time.Sleep(test.age - 2*time.Hour)
				if !test.allowed {
					h.fails(t, h.pinned(), referrerstore.ErrUnavailable)
					return
				}
				if result := h.standsIn(t, h.pinned()); result.Held.Age != test.age || time.Since(result.Held.Since) != test.age {
					t.Errorf("held for %+v", result.Held)
				}
			})
		})
	}
}

// What stood in is believed for a minute at the most, and then the registry is
// asked again.
func TestHeldDecisionIsBrief(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		denied, useHeld, want time.Duration
	}{
		"as what was denied": {20 * time.Second, 24 * time.Hour, 20 * time.Second},
		"a minute at most":   {time.Hour, 24 * time.Hour, time.Minute},
		"not beyond its age": {time.Minute, 2*time.Hour + 30*time.Second, 30 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := outage(t, every, []string{"pass a"}, useHeld(executor.DownTerms{UseHeld: test.useHeld}), func(o *executor.Options) { o.Proofs.DeniedTTL = test.denied })
				h.last.answers(nil, referrerstore.ErrUnavailable)
				h.standsIn(t, h.pinned())
				h.last.answers(nil, nil)
				if _, ok := h.Recall(request(t, h.pinned()), time.Now()); ok {
					t.Error("it is remembered as if the registry had said so")
				}
				time.Sleep(test.want - time.Nanosecond)
				cost := h.asked(func() {
					if result := h.standsIn(t, h.pinned()); result.Held.Age != 2*time.Hour+test.want-time.Nanosecond || !errors.Is(result.Held.Why, referrerstore.ErrUnavailable) {
						t.Errorf("held %+v", result.Held)
					}
				})
				if cost != nothing {
					t.Errorf("asked %+v", cost)
				}
				time.Sleep(time.Nanosecond)
				h.store.AddReferrer(h.subject, sigType, blob("fail b"))
				if result, _, err := h.within(t, h.pinned()); err != nil || result.Decision != executor.Denied || result.Held != nil {
					t.Errorf("%v, held %+v, %v; the registry is back", result.Decision, result.Held, err)
				}
			})
		})
	}
}

// An end of what a signature rests on is no later because the registry is away.
func TestHeldEvidenceExpires(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := outage(t, every, []string{"pass a"})
		h.Close()
		v := &expiring{scripted{name: "v"}, time.Now().Add(10 * time.Second)}
		e := executor.New(t.Context(), []referrerstore.Store{h.last}, []verifier.Verifier{v}, ruleFor(t, every, false, "v"), afresh(useHeld(day)))
		defer e.Close()
		s := site{e, h.store, h.subject}
		h.last.answers(nil, referrerstore.ErrUnavailable)
		s.standsIn(t, h.pinned())
		time.Sleep(10*time.Second - time.Nanosecond)
		s.standsIn(t, h.pinned())
		time.Sleep(time.Nanosecond)
		s.fails(t, h.pinned(), referrerstore.ErrUnavailable)
	})
}

// What was decided with a status of revocation that is not known is nothing to
// decide by otherwise.
func TestStaleRevocation(t *testing.T) {
	t.Parallel()
	accept := executor.DownTerms{UseHeld: 24 * time.Hour, AcceptStaleRevocation: true}
	synctest.Test(t, func(t *testing.T) {
		h := outage(t, policy.Node{Verifier: "v"}, []string{"stale a"}, useHeld(day))
		h.last.answers(nil, referrerstore.ErrUnavailable)
		h.fails(t, h.pinned(), referrerstore.ErrUnavailable)
		h = h.again(t, policy.Node{Verifier: "v"}, afresh(useHeld(accept)))
		if result := h.standsIn(t, h.pinned()); len(result.Reports) != 1 || len(result.Reports[0].Warnings) != 1 {
			t.Errorf("reports %+v", result.Reports)
		}
		time.Sleep(time.Minute)
		h.last.answers(nil, nil)
		for range 2 {
			if result, _, err := h.within(t, h.pinned()); err == nil || result.Decision != executor.Undecided || result.Held != nil {
				t.Errorf("%v, held %+v, %v; with the registry back it is in doubt", result.Decision, result.Held, err)
			}
		}
		h = h.again(t, policy.Node{Verifier: "v"}, afresh(useHeld(accept)))
		if result, _, err := h.within(t, h.pinned()); err == nil {
			t.Errorf("%v; a restart with the registry there is no outage", result.Decision)
		}
	})
}

// EvaluateAll judges all that is held.
func TestHeldEvaluatesAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := outage(t, every, []string{"pass a", "fail b", "pass c"})
		h.Close()
		e := executor.New(t.Context(), []referrerstore.Store{h.last}, []verifier.Verifier{&scripted{name: "v"}}, ruleFor(t, policy.Node{Verifier: "v"}, true, "v"), afresh(useHeld(day)))
		defer e.Close()
		h.last.answers(nil, referrerstore.ErrUnavailable)
		if result := (site{e, h.store, h.subject}).standsIn(t, h.pinned()); len(result.Reports) != 3 {
			t.Errorf("%d reports, want all", len(result.Reports))
		}
	})
}

// Of two stores the one that is away is made up for, unless the other one denies
// access.
func TestHeldWithTwoStores(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		first, second error
		forgets       bool
		want          error
	}{
		"one away":             {referrerstore.ErrUnavailable, nil, false, nil},
		"both away":            {referrerstore.ErrUnavailable, referrerstore.ErrRateLimited, false, nil},
		"the other one denies": {referrerstore.ErrUnavailable, referrerstore.ErrAuthDenied, false, referrerstore.ErrAuthDenied},
		"one denies first":     {referrerstore.ErrAuthDenied, referrerstore.ErrUnavailable, false, referrerstore.ErrAuthDenied},
		"one forgets":          {referrerstore.ErrUnavailable, nil, true, referrerstore.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				a, subject := signed("pass a")
				b, _ := signed("pass b")
				first, second := lastingOf(a), lastingOf(b)
				stores := []referrerstore.Store{first, second}
				if test.forgets {
					stores[1] = b
				}
				start := func() site {
					e := executor.New(t.Context(), stores, []verifier.Verifier{&scripted{name: "v"}}, ruleFor(t, atLeast(2), false, "v"), afresh(useHeld(day)))
					t.Cleanup(e.Close)
					return site{e, a, subject}
				}
				s := start()
				s.expect(t, s.pinned(), executor.Allowed, storetest.Counts{Resolve: 1, Referrers: 1, Fetch: 2})
				time.Sleep(2 * time.Hour)
				first.answers(nil, test.first)
				second.answers(nil, test.second)
				if s = start(); test.want != nil {
					s.fails(t, s.pinned(), test.want)
					return
				}
				s.standsIn(t, s.pinned())
			})
		})
	}
}

// Proofs outlast an outage until their end, and then what is held takes over.
func TestOutageFromBeginningToEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHeld(t, every, afresh(useHeld(executor.DownTerms{UseHeld: 3 * time.Hour})), "pass a")
		h.run(t)
		h.expect(t, h.pinned(), executor.Allowed, storetest.Counts{Resolve: 1, Referrers: 1, Fetch: 2})
		h.last.answers(referrerstore.ErrUnavailable, referrerstore.ErrUnavailable)
		for minutes := range 240 {
			result, _, err := h.within(t, h.pinned())
			switch {
			case minutes < 60 && (err != nil || result.Held != nil):
				t.Fatalf("minute %d: held %+v, %v", minutes, result.Held, err)
			case minutes >= 60 && minutes <= 180 && (err != nil || result.Held == nil || result.Decision != executor.Allowed):
				t.Fatalf("minute %d: %v, held %+v, %v", minutes, result.Decision, result.Held, err)
			case minutes > 180 && !errors.Is(err, referrerstore.ErrUnavailable):
				t.Fatalf("minute %d: %v, %v", minutes, result.Decision, err)
			}
			time.Sleep(time.Minute)
		}
		h.last.answers(nil, nil)
		if result, _, err := h.within(t, h.pinned()); err != nil || result.Held != nil || result.Decision != executor.Allowed {
			t.Errorf("%v, held %+v, %v; the registry is back", result.Decision, result.Held, err)
		}
	})
}

// People are told what was decided by, how old that is, and why.
func TestHeldIsTold(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		age  time.Duration
		why  error
		want string
	}{
		{65 * time.Minute, referrerstore.ErrUnavailable, `ALLOWED_BY_HELD: rule "all" is met, decided from evidence held for 1h5m: the registry is unavailable`},
		{90 * time.Second, referrerstore.ErrRateLimited, `ALLOWED_BY_HELD: rule "all" is met, decided from evidence held for 1m30s: the registry limits the rate of requests`},
		{10 * time.Minute, context.DeadlineExceeded, `ALLOWED_BY_HELD: rule "all" is met, decided from evidence held for 10m: the registry did not answer in time`},
		{10 * time.Second, errors.New("silence"), `ALLOWED_BY_HELD: rule "all" is met, decided from evidence held for 10s: the registry did not answer in time`},
		{50 * time.Hour, referrerstore.ErrUnavailable, `ALLOWED_BY_HELD: rule "all" is met, decided from evidence held for 50h0m: the registry is unavailable`},
	} {
		result := executor.Result{Decision: executor.Allowed, Rule: "all", Held: &executor.Held{Age: test.age, Why: test.why}}
		if got := executor.Explain(result, nil).Line(); got != test.want {
			t.Errorf("%s\nwant %s", got, test.want)
		}
	}
}

// Each decision by what is held is counted, and why.
func TestHeldIsCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		h := outage(t, every, []string{"pass a"}, useHeld(day), func(o *executor.Options) { o.Registerer = reg })
		h.last.answers(nil, referrerstore.ErrUnavailable)
		h.standsIn(t, h.pinned())
		h.standsIn(t, h.pinned())
		want := `# HELP gatehouse_held_decisions_total Subjects allowed by what their registry said before, because it did not answer, by the code of why.
# TYPE gatehouse_held_decisions_total counter
gatehouse_held_decisions_total{reason="REGISTRY_UNAVAILABLE"} 2
# HELP gatehouse_subjects_total Subjects decided on, by rule, decision and code; decision is undecided where no verdict was reached.
# TYPE gatehouse_subjects_total counter
gatehouse_subjects_total{code="ALLOWED",decision="allowed",rule="all"} 0
gatehouse_subjects_total{code="ALLOWED_BY_HELD",decision="allowed",rule="all"} 2
`
		if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "gatehouse_held_decisions_total", "gatehouse_subjects_total"); err != nil {
			t.Error(err)
		}
	})
}
