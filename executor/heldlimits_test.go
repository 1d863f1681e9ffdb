package executor_test

import (
	"context"
	"iter"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/verifier"
)

// unanswered is a verifier whose responders keep silent, until it gives up or is
// told to bear with that.
type unanswered struct{ scripted }

func (u *unanswered) Verify(ctx context.Context, in verifier.Input) (verifier.Report, error) {
	if in.RevocationMayBeStale {
		return u.scripted.Verify(ctx, in)
	}
	select {
	case <-time.After(1500 * time.Millisecond):
	case <-ctx.Done():
	}
	return verifier.Report{Reason: verifier.Reason{Code: verifier.CodeRevocationUnknown, What: "no answer"}}, nil
}

// accepting lets a day's evidence stand in, and unknown revocation with it.
var accepting = executor.DownTerms{UseHeld: 24 * time.Hour, AcceptStaleRevocation: true}

// restarted is a site after a restart ten minutes behind its first proof: its list
// is young enough to be gone by.
func restarted(t *testing.T, v verifier.Verifier, state referrerstore.HostState, terms executor.DownTerms) held {
	t.Helper()
	h := newHeld(t, every, afresh(), "pass a")
	if _, err := h.Verify(t.Context(), request(t, h.pinned())); err != nil {
		t.Fatal(err)
	}
	time.Sleep(10 * time.Minute)
	h.Close()
	e := executor.New(t.Context(), []referrerstore.Store{informedLasting{h.last, state}}, []verifier.Verifier{v}, ruleFor(t, every, false, v.Name()), afresh(useHeld(terms)))
	t.Cleanup(e.Close)
	h.Executor = e
	return h
}

// A responder that keeps silent is no outage of the registry, which nobody has
// asked while what is held is judged after a restart.
func TestSilentResponderIsNoOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := restarted(t, &unanswered{scripted{name: "v"}}, referrerstore.HostState{}, accepting)
		if result, took, err := h.within(t, h.pinned()); err == nil || result.Held != nil {
			t.Errorf("%v, held %+v after %s; the registry is there", result.Decision, result.Held, took)
		}
	})
}

// If the registry keeps silent as well, neither costs more time than it has.
func TestSilentResponderAndRegistry(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		state referrerstore.HostState
		most  time.Duration
	}{
		"hangs":                  {referrerstore.HostState{}, 900 * time.Millisecond},
		"it would be waited for": {referrerstore.HostState{Throttled: true, Wait: 5 * time.Second}, 450 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := restarted(t, &unanswered{scripted{name: "v"}}, test.state, accepting)
				h.last.breaks(hangs)
				result, took, err := h.within(t, h.pinned())
				if err != nil || result.Held == nil || took > test.most {
					t.Errorf("%v, held %+v, %v after %s, want it after %s", result.Decision, result.Held, err, took, test.most)
				}
			})
		})
	}
}

// hasty passes what it had no time to ask about, as revocation in mode log: it would
// have learnt that it is revoked.
type hasty struct {
	scripted
	takes time.Duration
}

func (h *hasty) Verify(ctx context.Context, in verifier.Input) (verifier.Report, error) {
	select {
	case <-time.After(h.takes):
		return verifier.Report{Outcome: verifier.Failed, Reason: verifier.Reason{Code: verifier.CodeCertificateRevoked, What: "revoked"}}, nil
	case <-ctx.Done():
		return h.scripted.Verify(context.WithoutCancel(ctx), in)
	}
}

// Judging what is held has an end, and what is passed for want of time by then does
// not count.
func TestJudgementCutShortDoesNotCount(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := restarted(t, &hasty{scripted{name: "v"}, 400 * time.Millisecond}, referrerstore.HostState{}, day)
		if result, took, err := h.within(t, h.pinned()); err != nil || result.Decision != executor.Denied {
			t.Errorf("%v, held %+v, %v after %s; it is revoked", result.Decision, result.Held, err, took)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		h := outage(t, every, []string{"pass a"})
		h.Close()
		e := executor.New(t.Context(), []referrerstore.Store{h.last}, []verifier.Verifier{&hasty{scripted{name: "v"}, 1200 * time.Millisecond}}, ruleFor(t, every, false, "v"), afresh(useHeld(day)))
		defer e.Close()
		h.last.breaks(hangs)
		s := site{e, h.store, h.subject}
		var hurried sync.WaitGroup
		hurried.Go(func() { // begins it, and has less time than who joins
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := e.Verify(ctx, request(t, h.pinned())); err == nil {
				t.Error("allowed in haste")
			}
		})
		time.Sleep(time.Millisecond)
		s.fails(t, h.pinned(), context.DeadlineExceeded)
		hurried.Wait()
	})
}

// partly is a registry that does not list an artifact, and ends its lists with err.
type partly struct {
	*lasting
	without ocispec.Descriptor
	err     error
}

func (p *partly) Referrers(ctx context.Context, subject referrerstore.Subject) iter.Seq2[ocispec.Descriptor, error] {
	return func(yield func(ocispec.Descriptor, error) bool) {
		for desc, err := range p.Memory.Referrers(ctx, subject) {
			if (err != nil || desc.Digest != p.without.Digest) && !yield(desc, err) {
				return
			}
		}
		if p.err != nil {
			yield(ocispec.Descriptor{}, p.err)
		}
	}
}

// What only a held list has counts no longer than that list, whatever else is found
// out meanwhile.
func TestHearsayProlongsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHeld(t, every, afresh(), "pass a")
		if _, err := h.Verify(t.Context(), request(t, h.pinned())); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour - time.Minute)
		h.Close()
		h.store.AddReferrer(h.subject, sigType, blob("pass b"))
		first := h.last.lists[h.subject.Descriptor.Digest].said[0]
		e := executor.New(t.Context(), []referrerstore.Store{&partly{h.last, first, referrerstore.ErrBrokenOff}}, []verifier.Verifier{&scripted{name: "v"}}, ruleFor(t, atLeast(2), false, "v"), afresh())
		defer e.Close()
		s := site{e, h.store, h.subject}
		s.fails(t, h.pinned(), referrerstore.ErrBrokenOff)
		time.Sleep(time.Minute)
		s.fails(t, h.pinned(), referrerstore.ErrBrokenOff)
	})
}

// An answer to whoever asks by another name ends what stood in for it.
func TestAnswerToAnotherReference(t *testing.T) {
	t.Parallel()
	for name, list := range map[string]error{"access denied": referrerstore.ErrAuthDenied, "no list": referrerstore.ErrProtocol} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := outage(t, every, []string{"pass a"}, useHeld(day))
				h.last.answers(nil, referrerstore.ErrUnavailable)
				h.standsIn(t, h.pinned())
				time.Sleep(time.Second)
				h.fails(t, image, referrerstore.ErrUnavailable)
				h.standsIn(t, h.pinned())
				h.last.answers(nil, list)
				h.fails(t, image, list)
				h.fails(t, h.pinned(), list)
				h.last.answers(nil, referrerstore.ErrUnavailable)
				h.standsIn(t, h.pinned()) // it is away again
			})
		})
	}
	t.Run("nothing refers to it any more", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			h := outage(t, every, []string{"pass a"})
			h.Close()
			store := &partly{lasting: h.last}
			e := executor.New(t.Context(), []referrerstore.Store{store}, []verifier.Verifier{&scripted{name: "v"}}, ruleFor(t, every, false, "v"), afresh(useHeld(day)))
			defer e.Close()
			s := site{e, h.store, h.subject}
			s.run(t)
			h.last.answers(nil, referrerstore.ErrUnavailable)
			s.standsIn(t, h.pinned())
			time.Sleep(time.Second)
			h.last.answers(nil, nil)
			store.without = h.last.lists[h.subject.Descriptor.Digest].said[0]
			if result, _, err := s.within(t, image); err != nil || result.Decision != executor.Denied {
				t.Errorf("%v, %v", result.Decision, err)
			}
			time.Sleep(20 * time.Second) // what is missing is believed for five
			if result, _, err := s.within(t, h.pinned()); err != nil || result.Decision != executor.Denied {
				t.Errorf("%v, held %+v, %v", result.Decision, result.Held, err)
			}
		})
	})
}

// What has come of a list that does not end counts with what is held: it may be
// what every artifact is asked to pass for.
func TestListThatHangsIsHeard(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		all     bool
		allowed bool
	}{"every": {true, false}, "one": {false, true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				require := atLeast(1)
				if test.all {
					require = every
				}
				h := outage(t, require, []string{"pass a"}, useHeld(day))
				h.store.AddReferrer(h.subject, sigType, blob("hang b"))
				h.store.ResolveFault = func(ctx context.Context, _ referrerstore.Reference) error { return hangs(ctx, false) }
				h.store.ReferrersFault = func(ctx context.Context, _ referrerstore.Subject, yielded int) error {
					if yielded < 2 {
						return nil
					}
					return hangs(ctx, true)
				}
				if !test.allowed {
					h.fails(t, h.pinned(), context.DeadlineExceeded)
					return
				}
				h.standsIn(t, h.pinned())
			})
		})
	}
}
