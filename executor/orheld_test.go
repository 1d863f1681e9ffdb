package executor_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/executor/policy"
	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/verifier"
)

// A registry that hangs has a part of the time only, and what it owes goes on
// behind the answer.
func TestHangingRegistry(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		after, deadline, want time.Duration
	}{
		"as a rule":        {0, 1900 * time.Millisecond, 900 * time.Millisecond},
		"as is said":       {300 * time.Millisecond, 1900 * time.Millisecond, 300 * time.Millisecond},
		"half of a second": {0, time.Second, 500 * time.Millisecond},
		"no deadline":      {0, 0, 900 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := outage(t, every, []string{"pass a"}, useHeld(day), func(o *executor.Options) { o.HeldAfter = test.after })
				answered := make(chan struct{})
				h.last.breaks(func(ctx context.Context, _ bool) error {
					select {
					case <-answered:
						return nil
					case <-ctx.Done():
						return context.Cause(ctx)
					}
				})
				ctx, cancel := context.WithCancel(t.Context())
				if test.deadline > 0 {
					ctx, cancel = context.WithTimeout(t.Context(), test.deadline)
				}
				defer cancel()
				start := time.Now()
				result, err := h.Verify(ctx, request(t, h.pinned()))
				if err != nil || result.Held == nil || result.Held.Code() != executor.CodeDeadline || time.Since(start) != test.want {
					t.Errorf("%v, held %+v, %v after %s, want it after %s", result.Decision, result.Held, err, time.Since(start), test.want)
				}
				close(answered)
				synctest.Wait()
				if result, ok := h.Recall(request(t, h.pinned()), time.Now()); !ok || result.Held != nil || result.Decision != executor.Allowed {
					t.Errorf("%v (%v), held %+v; the work behind the answer should have proven it", result.Decision, ok, result.Held)
				}
			})
		})
	}
}

// Where nothing that is held allows it, a registry that hangs has all the time.
func TestHangingRegistryWithoutEvidence(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := outage(t, every, []string{"fail a"}, useHeld(day))
		h.last.breaks(hangs)
		_, took, err := h.within(t, h.pinned())
		if !errors.Is(err, context.DeadlineExceeded) || took != 1900*time.Millisecond {
			t.Errorf("%v after %s", err, took)
		}
		h.last.breaks(func(ctx context.Context, list bool) error {
			time.Sleep(1500 * time.Millisecond)
			return nil
		})
		time.Sleep(20 * time.Second)
		if result, took, err := h.within(t, h.pinned()); err != nil || result.Decision != executor.Denied || took != 1500*time.Millisecond {
			t.Errorf("%v, %v after %s", result.Decision, err, took)
		}
	})
}

// What the registry says in time counts, be it that what is held is no more.
func TestRegistryInTimeWins(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		slow, judging time.Duration
		held          bool
	}{
		"before what is held is looked at": {800 * time.Millisecond, 0, false},
		"while that is judged":             {time.Second, 500 * time.Millisecond, false},
		"too late":                         {1500 * time.Millisecond, 500 * time.Millisecond, true},
		"in the same moment":               {900 * time.Millisecond, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := outage(t, every, []string{"pass a"})
				h.Close()
				h.store.AddReferrer(h.subject, sigType, blob("fail b"))
				v := &slowly{scripted{name: "v"}, test.judging}
				e := executor.New(t.Context(), []referrerstore.Store{h.last}, []verifier.Verifier{v}, ruleFor(t, every, false, "v"), afresh(useHeld(day)))
				defer e.Close()
				h.last.breaks(func(_ context.Context, list bool) error {
					if list {
						time.Sleep(test.slow - time.Nanosecond)
					}
					return nil
				})
				result, took, err := site{e, h.store, h.subject}.within(t, h.pinned())
				want := executor.Denied
				if test.held {
					want = executor.Allowed
				}
				if err != nil || result.Decision != want || (result.Held != nil) != test.held {
					t.Errorf("%v, held %+v, %v after %s", result.Decision, result.Held, err, took)
				}
				synctest.Wait()
				time.Sleep(2 * time.Second)
			})
		})
	}
}

// slowly judges good artifacts only after a while.
type slowly struct {
	scripted
	takes time.Duration
}

func (s *slowly) Verify(ctx context.Context, in verifier.Input) (verifier.Report, error) {
	r, err := s.scripted.Verify(ctx, in)
	if r.Outcome != verifier.Passed {
		return r, err
	}
	select {
	case <-time.After(s.takes):
		return r, err
	case <-ctx.Done():
		return verifier.Report{}, context.Cause(ctx)
	}
}

// A part of an answer speaks against doing without the rest.
func TestHalfAnAnswer(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		list error
		want error
	}{
		"the list is denied":  {referrerstore.ErrAuthDenied, context.DeadlineExceeded},
		"the list is no list": {referrerstore.ErrProtocol, context.DeadlineExceeded},
		"the list is down":    {referrerstore.ErrUnavailable, nil},
		"the list is whole":   {nil, nil}, // but whether there is such an image is not known
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := outage(t, every, []string{"pass a"}, useHeld(day))
				h.last.breaks(func(ctx context.Context, list bool) error {
					if list {
						return test.list
					}
					return hangs(ctx, list)
				})
				if test.want != nil {
					h.fails(t, h.pinned(), test.want)
					return
				}
				h.standsIn(t, h.pinned())
			})
		})
	}
}

// An answer that comes while what is held is judged speaks against it as well.
func TestHalfAnAnswerMeanwhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := outage(t, every, []string{"pass a"})
		h.Close()
		e := executor.New(t.Context(), []referrerstore.Store{h.last}, []verifier.Verifier{&slowly{scripted{name: "v"}, 500 * time.Millisecond}}, ruleFor(t, every, false, "v"), afresh(useHeld(day)))
		defer e.Close()
		h.last.breaks(func(ctx context.Context, list bool) error {
			if !list {
				return hangs(ctx, list)
			}
			time.Sleep(time.Second)
			return referrerstore.ErrAuthDenied
		})
		site{e, h.store, h.subject}.fails(t, h.pinned(), context.DeadlineExceeded)
	})
}

// A list that ends because the look-up has failed is no answer of its own.
func TestListEndsWithTheLookUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := outage(t, every, []string{"pass a"}, useHeld(day))
		h.last.breaks(func(ctx context.Context, list bool) error {
			if list {
				<-ctx.Done()
				return ctx.Err()
			}
			time.Sleep(time.Millisecond)
			return referrerstore.ErrUnavailable
		})
		h.standsIn(t, h.pinned())
	})
}

// What is not held after all is not waited for where something else is enough.
func TestHeldContentIsEnough(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := outage(t, every, []string{"pass a", "pass b"})
		h.Close()
		first := h.last.lists[h.subject.Descriptor.Digest].said[0]
		delete(h.last.content, first.Digest)
		h.store.FetchFault = func(ctx context.Context, _ ocispec.Descriptor) error { return hangs(ctx, false) }
		h.last.breaks(hangs)
		busy := informedLasting{h.last, referrerstore.HostState{Throttled: true}}
		e := executor.New(t.Context(), []referrerstore.Store{busy}, []verifier.Verifier{&scripted{name: "v"}}, ruleFor(t, policy.Node{Verifier: "v"}, false, "v"), afresh(useHeld(day)))
		defer e.Close()
		site{e, h.store, h.subject}.standsIn(t, h.pinned())
	})
}

// Whoever judges what is held knows how much time there is.
func TestHeldWorkHasADeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := outage(t, every, []string{"pass a"})
		h.Close()
		e := executor.New(t.Context(), []referrerstore.Store{h.last}, []verifier.Verifier{&hurried{scripted{name: "v"}}}, ruleFor(t, every, false, "v"), afresh(useHeld(day)))
		defer e.Close()
		h.last.breaks(hangs)
		s := site{e, h.store, h.subject}
		if result, took, err := s.within(t, h.pinned()); err != nil || result.Held == nil || took != 900*time.Millisecond+750*time.Millisecond {
			t.Errorf("held %+v, %v after %s", result.Held, err, took)
		}
	})
}

// hurried takes three quarters of the time that there is, as one does who asks a
// responder that keeps silent.
type hurried struct{ scripted }

func (h *hurried) Verify(ctx context.Context, in verifier.Input) (verifier.Report, error) {
	left := time.Hour
	if deadline, ok := ctx.Deadline(); ok {
		left = time.Until(deadline)
	}
	select {
	case <-time.After(left * 3 / 4):
		return h.scripted.Verify(ctx, in)
	case <-ctx.Done():
		return verifier.Report{}, context.Cause(ctx)
	}
}

// A registry that has answered all that it was asked is not away because judging
// takes long.
func TestSlowJudgementIsNoOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := outage(t, every, []string{"pass a"})
		h.Close()
		v := &slowly{scripted{name: "v"}, 1500 * time.Millisecond}
		e := executor.New(t.Context(), []referrerstore.Store{h.last}, []verifier.Verifier{v}, ruleFor(t, every, false, "v"), afresh(useHeld(day)))
		defer e.Close()
		result, took, err := site{e, h.store, h.subject}.within(t, h.pinned())
		if err != nil || result.Held != nil || took != 1500*time.Millisecond || v.started.Load() != 1 {
			t.Errorf("held %+v, %v after %s, judged %d times", result.Held, err, took, v.started.Load())
		}
	})
}

// A registry that is known to be away costs no time.
func TestKnownOutageCostsNothing(t *testing.T) {
	t.Parallel()
	limited := &referrerstore.RetryAfterError{After: 5 * time.Second, Err: referrerstore.ErrRateLimited}
	for name, test := range map[string]struct {
		state referrerstore.HostState
		fault func(ctx context.Context, list bool) error
	}{
		"its breaker is open":    {referrerstore.HostState{}, func(context.Context, bool) error { return referrerstore.ErrUnavailable }},
		"it would be waited for": {referrerstore.HostState{Throttled: true, Wait: 5 * time.Second}, hangs},
		"it asked for a pause": {referrerstore.HostState{}, func(ctx context.Context, list bool) error {
			work := referrerstore.WorkOf(ctx)
			work.SetHold(referrerstore.Hold{Until: time.Now().Add(5 * time.Second), Err: limited})
			defer work.SetHold(referrerstore.Hold{})
			return hangs(ctx, list)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := outage(t, every, []string{"pass a"})
				h.Close()
				h.last.breaks(test.fault)
				e := executor.New(t.Context(), []referrerstore.Store{informedLasting{h.last, test.state}}, []verifier.Verifier{&scripted{name: "v"}}, ruleFor(t, every, false, "v"), afresh(useHeld(day)))
				defer e.Close()
				result, took, err := site{e, h.store, h.subject}.within(t, h.pinned())
				if err != nil || result.Held == nil || took != 0 {
					t.Errorf("held %+v, %v after %s", result.Held, err, took)
				}
			})
		})
	}
}

type informedLasting struct {
	*lasting
	state referrerstore.HostState
}

func (i informedLasting) About(string) referrerstore.HostState { return i.state }

// All who ask at once are served by one judgement, and a crowd before a registry
// that hangs takes no places from it.
func TestCrowdBeforeAnOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := outage(t, every, []string{"pass a"})
		h.Close()
		v := &scripted{name: "v"}
		e := executor.New(t.Context(), []referrerstore.Store{h.last}, []verifier.Verifier{v}, ruleFor(t, every, false, "v"), afresh(useHeld(day), func(o *executor.Options) { o.SubjectsAtOnce = 1 }))
		defer e.Close()
		other := h.store.AddImage("registry.example/other:v1")
		h.last.breaks(hangs)
		s := site{e, h.store, h.subject}
		var crowd sync.WaitGroup
		crowd.Go(func() { // has the only place
			s.fails(t, "registry.example/other@"+other.Descriptor.Digest.String(), context.DeadlineExceeded)
		})
		time.Sleep(time.Millisecond)
		for range 64 {
			crowd.Go(func() { s.standsIn(t, h.pinned()) })
		}
		crowd.Wait()
		if n := v.started.Load(); n < 1 || n > 16 { // who comes when it is done begins anew
			t.Errorf("judged %d times", n)
		}
	})
}

// A registry that fails while what is held is being judged is away; one that
// answers somebody else meanwhile is not.
func TestRegistryWhileHeldIsJudged(t *testing.T) {
	t.Parallel()
	begin := func(t *testing.T) (site, *lasting) {
		t.Helper()
		h := outage(t, every, []string{"pass a"})
		h.Close()
		e := executor.New(t.Context(), []referrerstore.Store{h.last}, []verifier.Verifier{&slowly{scripted{name: "v"}, 500 * time.Millisecond}}, ruleFor(t, every, false, "v"), afresh(useHeld(day)))
		t.Cleanup(e.Close)
		return site{e, h.store, h.subject}, h.last
	}
	t.Run("fails", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			s, last := begin(t)
			last.breaks(func(context.Context, bool) error {
				time.Sleep(time.Second)
				return referrerstore.ErrUnavailable
			})
			result, took, err := s.within(t, s.pinned())
			if err != nil || result.Held == nil || result.Held.Code() != executor.CodeUnavailable || took != 1400*time.Millisecond {
				t.Errorf("held %+v, %v after %s", result.Held, err, took)
			}
		})
	})
	t.Run("is back", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			s, last := begin(t)
			last.answers(nil, referrerstore.ErrUnavailable)
			var first sync.WaitGroup
			first.Go(func() { s.fails(t, s.pinned(), referrerstore.ErrUnavailable) })
			time.Sleep(100 * time.Millisecond)
			last.answers(nil, nil)
			s.store.AddReferrer(s.subject, sigType, blob("fail b"))
			if result, _, err := s.within(t, s.pinned()); err != nil || result.Decision != executor.Denied {
				t.Errorf("%v, %v", result.Decision, err)
			}
			first.Wait()
		})
	})
}

// Whoever has more time than the one who began is not failed by his deadline.
func TestHeldWorkOfAnother(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := outage(t, every, []string{"pass a"})
		h.Close()
		v := &patient{scripted{name: "v"}, time.Second}
		e := executor.New(t.Context(), []referrerstore.Store{h.last}, []verifier.Verifier{v}, ruleFor(t, every, false, "v"), afresh(useHeld(day)))
		defer e.Close()
		h.last.answers(nil, referrerstore.ErrUnavailable)
		var both sync.WaitGroup
		for left, want := range map[time.Duration]bool{500 * time.Millisecond: false, 10 * time.Second: true} {
			both.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), left)
				defer cancel()
				if want {
					time.Sleep(time.Millisecond)
				}
				if result, err := e.Verify(ctx, request(t, h.pinned())); (err == nil) != want || (result.Held != nil) != want {
					t.Errorf("%s: %v, held %+v, %v", left, result.Decision, result.Held, err)
				}
			})
		}
		both.Wait()
	})
}

// patient takes its time, as far as its context lets it.
type patient struct {
	scripted
	takes time.Duration
}

func (p *patient) Verify(ctx context.Context, in verifier.Input) (verifier.Report, error) {
	select {
	case <-time.After(p.takes):
		return p.scripted.Verify(ctx, in)
	case <-ctx.Done():
		return verifier.Report{}, context.Cause(ctx)
	}
}
