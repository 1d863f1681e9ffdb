package executor_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/executor/policy"
	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/storetest"
	"github.com/gatehouse-project/gatehouse/verifier"
)

func atLeast(n int) policy.Node { return policy.Node{Verifier: "v", AtLeast: &n} }

// After a restart what was proven is proven again without a single request, and
// believed no longer than if there had been none.
func TestRestartAsksNothing(t *testing.T) {
	t.Parallel()
	for name, require := range map[string]policy.Node{"one": {Verifier: "v"}, "every": every, "two": atLeast(2)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := newHeld(t, every, afresh(), "pass a", "pass b")
				h.expect(t, h.pinned(), executor.Allowed, storetest.Counts{Resolve: 1, Referrers: 1, Fetch: 4})
				time.Sleep(30 * time.Minute)
				h = h.again(t, require, afresh())
				first := h.expect(t, h.pinned(), executor.Allowed, nothing)
				if first.Held != nil || first.Subject.Descriptor.MediaType == "" {
					t.Errorf("%+v: it is as good as remembered", first)
				}
				cost := h.asked(func() { // its list is older than a minute
					if _, ok := h.Recall(request(t, h.pinned()), time.Now()); !ok {
						t.Error("not remembered")
					}
					synctest.Wait()
				})
				if cost != (storetest.Counts{Referrers: 1}) {
					t.Errorf("asked %+v behind the second use, want the list", cost)
				}
			})
		})
	}
}

// A proof from held evidence is as old as that.
func TestRestartProlongsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		noRefresh := func(o *executor.Options) { o.Proofs.ListTTL = 0 }
		h := newHeld(t, policy.Node{Verifier: "v"}, afresh(noRefresh), "pass a")
		h.expect(t, h.pinned(), executor.Allowed, storetest.Counts{Resolve: 1, Referrers: 1, Fetch: 2})
		time.Sleep(50 * time.Minute)
		h = h.again(t, every, afresh(noRefresh))
		h.expect(t, h.pinned(), executor.Allowed, nothing)
		time.Sleep(10*time.Minute - time.Nanosecond)
		if _, ok := h.Recall(request(t, h.pinned()), time.Now()); !ok {
			t.Error("forgotten before its end")
		}
		time.Sleep(time.Nanosecond)
		if _, ok := h.Recall(request(t, h.pinned()), time.Now()); ok {
			t.Error("believed for more than an hour since the list")
		}
	})
}

// The age that a list may have is that of a proof, to the nanosecond.
func TestHeldListHasAnEnd(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		age  time.Duration
		cost storetest.Counts
	}{
		"just young enough": {time.Hour - time.Nanosecond, nothing},
		"just too old":      {time.Hour, storetest.Counts{Resolve: 1, Referrers: 1}},
		"of a time to come": {-2 * time.Minute, storetest.Counts{Resolve: 1, Referrers: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := newHeld(t, every, afresh(), "pass a")
				h.expect(t, h.pinned(), executor.Allowed, storetest.Counts{Resolve: 1, Referrers: 1, Fetch: 2})
				if test.age > 0 {
					time.Sleep(test.age)
				} else {
					h.last.redate(h.subject, -test.age)
				}
				h = h.again(t, every, afresh())
				h.expect(t, h.pinned(), executor.Allowed, test.cost)
			})
		})
	}
}

// redate moves the moment at which the list was asked for.
func (l *lasting) redate(subject referrerstore.Subject, by time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.lists[subject.Descriptor.Digest]
	r.at = r.at.Add(by)
	l.lists[subject.Descriptor.Digest] = r
}

// A tag is asked for; what it leads to is not.
func TestRestartAsksWhereTagsLead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHeld(t, every, afresh(), "pass a")
		h.expect(t, image, executor.Allowed, storetest.Counts{Resolve: 1, Referrers: 1, Fetch: 2})
		h = h.again(t, every, afresh())
		h.expect(t, image, executor.Allowed, storetest.Counts{Resolve: 1})
		h.expect(t, h.pinned(), executor.Allowed, nothing)
	})
}

// What is held is no absence: where it does not allow, only what the registry
// says now counts. What was judged already is not judged twice.
func TestHeldListIsNoAbsence(t *testing.T) {
	t.Parallel()
	whole := storetest.Counts{Resolve: 1, Referrers: 1}
	for name, test := range map[string]struct {
		before, after []string
		require       policy.Node
		decision      executor.Decision
		judged        int // after the restart
		cost          storetest.Counts
	}{
		"empty, signed since":            {nil, []string{"pass a"}, every, executor.Allowed, 1, storetest.Counts{Resolve: 1, Referrers: 1, Fetch: 2}},
		"empty, as it was":               {nil, nil, every, executor.Denied, 0, whole},
		"the second of two came since":   {[]string{"pass a"}, []string{"pass b"}, atLeast(2), executor.Allowed, 2, storetest.Counts{Resolve: 1, Referrers: 1, Fetch: 2}},
		"the second of two never came":   {[]string{"pass a"}, nil, atLeast(2), executor.Denied, 1, whole},
		"only a bad one, a good one now": {[]string{"fail a"}, []string{"pass b"}, policy.Node{Verifier: "v"}, executor.Allowed, 2, storetest.Counts{Resolve: 1, Referrers: 1, Fetch: 2}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := newHeld(t, every, afresh(), test.before...)
				if _, err := h.Verify(t.Context(), request(t, h.pinned())); err != nil {
					t.Fatal(err)
				}
				for _, text := range test.after {
					h.store.AddReferrer(h.subject, sigType, blob(text))
				}
				h.Close()
				v := &scripted{name: "v"}
				e := executor.New(t.Context(), []referrerstore.Store{h.last}, []verifier.Verifier{v}, ruleFor(t, test.require, false, "v"), afresh())
				defer e.Close()
				site{e, h.store, h.subject}.expect(t, h.pinned(), test.decision, test.cost)
				if n := int(v.started.Load()); n != test.judged {
					t.Errorf("%d artifacts judged, want %d", n, test.judged)
				}
			})
		})
	}
}

// Where the registry denies what is held, or does not answer, the held list
// proves nothing against it.
func TestHeldListIsNoVerdict(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHeld(t, every, afresh(), "fail a")
		h.expect(t, h.pinned(), executor.Denied, storetest.Counts{Resolve: 1, Referrers: 1, Fetch: 2})
		h = h.again(t, every, afresh())
		h.last.answers(nil, referrerstore.ErrUnavailable)
		h.fails(t, h.pinned(), referrerstore.ErrUnavailable)
		h.last.answers(referrerstore.ErrNotFound, nil)
		h = h.again(t, every, afresh())
		result := h.expect(t, h.pinned(), executor.Denied, storetest.Counts{Resolve: 1, Referrers: 1})
		if !errors.Is(result.Denial, referrerstore.ErrNotFound) {
			t.Errorf("denied for %v, want that there is no such image", result.Denial)
		}
	})
}

// The same digest under another media type is another subject: what was judged
// for the one that is held is not taken over.
func TestHeldSubjectMayDiffer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHeld(t, every, afresh(), "pass a")
		h.expect(t, h.pinned(), executor.Allowed, storetest.Counts{Resolve: 1, Referrers: 1, Fetch: 2})
		for ref, r := range h.last.led {
			r.said.Descriptor.MediaType = ocispec.MediaTypeImageIndex
			h.last.led[ref] = r
		}
		h.Close()
		v := &scripted{name: "v"}
		e := executor.New(t.Context(), []referrerstore.Store{h.last}, []verifier.Verifier{v}, ruleFor(t, atLeast(2), false, "v"), afresh())
		defer e.Close()
		h.store.AddReferrer(h.subject, sigType, blob("pass b"))
		s := site{e, h.store, h.subject}
		result := s.expect(t, h.pinned(), executor.Allowed, storetest.Counts{Resolve: 1, Referrers: 2, Fetch: 2})
		if n := v.started.Load(); n != 4 || result.Subject.Descriptor.MediaType != h.subject.Descriptor.MediaType {
			t.Errorf("judged %d times for %+v, want both anew for %+v", n, result.Subject.Descriptor, h.subject.Descriptor)
		}
	})
}

// What a digest is said to lead to must be that digest, and whole.
func TestHeldSubjectMustBeWhole(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*ocispec.Descriptor){
		"no media type":    func(d *ocispec.Descriptor) { d.MediaType = "" },
		"another digest":   func(d *ocispec.Descriptor) { d.Digest = digest.FromString("another") },
		"no digest at all": func(d *ocispec.Descriptor) { d.Digest = "" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := newHeld(t, every, afresh(useHeld(day)), "pass a")
				h.expect(t, h.pinned(), executor.Allowed, storetest.Counts{Resolve: 1, Referrers: 1, Fetch: 2})
				for ref, r := range h.last.led {
					spoil(&r.said.Descriptor)
					h.last.led[ref] = r
				}
				h = h.again(t, every, afresh(useHeld(day)))
				h.last.answers(referrerstore.ErrUnavailable, referrerstore.ErrUnavailable)
				h.fails(t, h.pinned(), referrerstore.ErrUnavailable)
				h.last.answers(nil, nil)
				h.expect(t, h.pinned(), executor.Allowed, storetest.Counts{Resolve: 1, Referrers: 1})
			})
		})
	}
}

// EvaluateAll wants a whole list, and a held one is.
func TestRestartEvaluatesAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHeld(t, every, afresh(), "pass a", "pass b", "pass c")
		h.expect(t, h.pinned(), executor.Allowed, storetest.Counts{Resolve: 1, Referrers: 1, Fetch: 6})
		h.Close()
		e := executor.New(t.Context(), []referrerstore.Store{h.last}, []verifier.Verifier{&scripted{name: "v"}}, ruleFor(t, policy.Node{Verifier: "v"}, true, "v"), afresh())
		defer e.Close()
		s := site{e, h.store, h.subject}
		if got := s.expect(t, h.pinned(), executor.Allowed, nothing); len(got.Reports) != 3 {
			t.Errorf("%d reports, want all", len(got.Reports))
		}
		s.expect(t, h.pinned(), executor.Allowed, nothing)
	})
}

// Of two stores both must remember their lists.
func TestRestartWithTwoStores(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		second func(t *testing.T, m *storetest.Memory) referrerstore.Store
		cost   storetest.Counts
	}{
		"both remember": {func(_ *testing.T, m *storetest.Memory) referrerstore.Store { return lastingOf(m) }, nothing},
		"one forgets":   {func(_ *testing.T, m *storetest.Memory) referrerstore.Store { return m }, storetest.Counts{Referrers: 1, Resolve: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				a, subject := signed("pass a")
				b, _ := signed("pass b")
				stores := []referrerstore.Store{lastingOf(a), test.second(t, b)}
				for _, cost := range []storetest.Counts{{Referrers: 1, Resolve: 1, Fetch: 2}, test.cost} {
					e := executor.New(t.Context(), stores, []verifier.Verifier{&scripted{name: "v"}}, ruleFor(t, atLeast(2), false, "v"), afresh())
					s := site{e, a, subject}
					s.expect(t, s.pinned(), executor.Allowed, cost)
					e.Close()
				}
			})
		})
	}
}

// A new policy, or new trust, judges what is held by itself.
func TestRestartUnderAnotherPolicy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHeld(t, policy.Node{Verifier: "v"}, afresh(useHeld(day)), "pass a", "fail b")
		if got, err := h.Verify(t.Context(), request(t, h.pinned())); err != nil || got.Decision != executor.Allowed {
			t.Fatalf("%v, %v", got.Decision, err)
		}
		h = h.again(t, every, afresh(useHeld(day)))
		h.last.answers(nil, referrerstore.ErrUnavailable)
		h.fails(t, h.pinned(), referrerstore.ErrUnavailable)
		h.last.answers(nil, nil)
		if got, err := h.Verify(t.Context(), request(t, h.pinned())); err != nil || got.Decision != executor.Denied {
			t.Errorf("%v, %v; the stricter policy denies it", got.Decision, err)
		}
	})
}

// A store that panics over what it remembers costs no more than a verdict.
func TestPanicInRecall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHeld(t, every, afresh(useHeld(day)), "pass a")
		e := executor.New(t.Context(), []referrerstore.Store{forgetful{h.last}}, []verifier.Verifier{&scripted{name: "v"}}, ruleFor(t, every, false, "v"), afresh(useHeld(day)))
		defer e.Close()
		if _, err := e.Verify(t.Context(), request(t, h.pinned())); !errors.Is(err, executor.ErrInconclusive) {
			t.Errorf("%v, want no verdict", err)
		}
	})
}

type forgetful struct{ *lasting }

func (forgetful) RecallSubject(referrerstore.Reference) (referrerstore.Subject, time.Time, bool) {
	panic("a torn record")
}
