package executor_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/executor/policy"
	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/storetest"
	"github.com/gatehouse-project/gatehouse/verifier"
)

// audit asks as an audit does.
func (s site) audit(t testing.TB, text string) (executor.Result, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 1900*time.Millisecond)
	defer cancel()
	req := request(t, text)
	req.Lane, req.Audit = referrerstore.LaneBackground, true
	if result, ok := s.Recall(req, time.Now()); ok {
		return result, nil
	}
	return s.Verify(ctx, req)
}

// audits says what an audit of an image must come to, by evidence of which age, a
// negative one for what is as good as asked for, and at which cost.
func (s site) audits(t testing.TB, text string, want executor.Decision, age time.Duration, cost storetest.Counts) {
	t.Helper()
	got := s.asked(func() {
		result, err := s.audit(t, text)
		heldFor := -time.Second
		if result.Held != nil {
			heldFor = result.Held.Age
			if result.Held.Code() != executor.CodeNotAsked || result.Proof != 0 || !result.Request.Audit || len(result.Reports) == 0 {
				t.Errorf("%s: %+v, held %+v", text, result, result.Held)
			}
		}
		if err != nil || result.Decision != want || heldFor != max(age, -time.Second) {
			t.Errorf("%s: %v (%v) held for %s, %v; want %v by %s", text, result.Decision, result.Denial, heldFor, err, want, age)
		}
	})
	if got != cost {
		t.Errorf("%s: asked %+v, want %+v", text, got, cost)
	}
}

const asAsked = -time.Second

// first is what an image costs of which nothing is known.
var first = storetest.Counts{Resolve: 1, Referrers: 1, Fetch: 2}

// An audit goes by a proof for as long as that lasts, by where a tag led when it
// was asked for last, and lets nothing grow older or younger for it.
func TestAuditByProofs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, every, remembering(), "pass a")
		s.expect(t, image, executor.Allowed, first)
		s.audits(t, image, executor.Allowed, asAsked, nothing) // as anybody is told
		for _, age := range []time.Duration{11 * time.Second, 30 * time.Minute, time.Hour - time.Nanosecond} {
			start := age
			time.Sleep(time.Until(s.begun(t).Add(start)))
			s.audits(t, image, executor.Allowed, age, nothing)
			s.audits(t, s.pinned(), executor.Allowed, asAsked, nothing)
			synctest.Wait() // nothing is asked for behind it, although the list has aged
		}
		time.Sleep(time.Nanosecond)
		s.audits(t, image, executor.Allowed, asAsked, first)
	})
}

// begun is when the test's clock began: newSite takes no time.
func (site) begun(testing.TB) time.Time { return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) }

// What certificates end, ends for an audit too.
func TestAuditEndsWithCertificates(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store, subject := signed("pass a")
		v := &expiring{scripted: scripted{name: "v"}, until: time.Now().Add(20 * time.Minute)}
		e := executor.New(t.Context(), []referrerstore.Store{store}, []verifier.Verifier{v}, ruleFor(t, every, false, "v"), remembering())
		t.Cleanup(e.Close)
		s := site{e, store, subject}
		s.expect(t, image, executor.Allowed, first)
		time.Sleep(20*time.Minute - time.Nanosecond)
		s.audits(t, image, executor.Allowed, 20*time.Minute-time.Nanosecond, nothing)
		time.Sleep(time.Nanosecond)
		if result, err := s.audit(t, image); err != nil || result.Decision != executor.Denied || result.Held != nil {
			t.Errorf("%v, held %+v, %v", result.Decision, result.Held, err)
		}
	})
}

// After a restart an audit goes by what the store remembers: of a pinned image's
// young list as any request does, beyond that as far as it may stand in.
func TestAuditByWhatStoresHold(t *testing.T) {
	t.Parallel()
	tags := executor.DownTerms{UseHeld: 3 * time.Hour, Tags: true}
	for name, test := range map[string]struct {
		terms    executor.DownTerms
		age      time.Duration
		tag, pin time.Duration // by evidence of which age
	}{
		"young":                      {executor.DownTerms{}, 30 * time.Minute, 30 * time.Minute, asAsked},
		"at the end of a proof":      {executor.DownTerms{}, time.Hour, asAsked, asAsked},
		"for digests":                {executor.DownTerms{UseHeld: 3 * time.Hour}, 2 * time.Hour, asAsked, 2 * time.Hour},
		"for digests, at its end":    {executor.DownTerms{UseHeld: 3 * time.Hour}, 3 * time.Hour, asAsked, 3 * time.Hour},
		"for digests, beyond":        {executor.DownTerms{UseHeld: 3 * time.Hour}, 3*time.Hour + 1, asAsked, asAsked},
		"for tags":                   {tags, 2 * time.Hour, 2 * time.Hour, 2 * time.Hour},
		"for tags, beyond their end": {tags, 3*time.Hour + 1, asAsked, asAsked},
	} {
		for _, of := range []string{"tag", "digest"} {
			t.Run(name+"/"+of, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					h := newHeld(t, every, afresh(), "pass a")
					h.expect(t, image, executor.Allowed, first)
					time.Sleep(test.age)
					h = h.again(t, every, afresh(useHeld(test.terms)))
					text, age := image, test.tag
					if of == "digest" {
						text, age = h.pinned(), test.pin
					}
					cost := nothing
					if age == asAsked && test.age >= time.Hour { // else it is proven by the young list
						cost = storetest.Counts{Resolve: 1, Referrers: 1}
					}
					h.audits(t, text, executor.Allowed, age, cost)
					// No proof comes of what is held for too long: an admission asks.
					if age > time.Hour {
						h.expect(t, text, executor.Allowed, storetest.Counts{Resolve: 1, Referrers: 1})
					}
				})
			})
		}
	}
}

// What is held only allows: that something is not on its lists is no absence, and
// where it does not allow the registry has the word, be it that there is none.
func TestAuditAsksWhereHeldEvidenceDoesNotAllow(t *testing.T) {
	t.Parallel()
	terms := useHeld(executor.DownTerms{UseHeld: 24 * time.Hour, Tags: true})
	for name, blob := range map[string]string{"failed": "fail a", "in doubt": "doubt"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := newHeld(t, every, afresh(), blob)
				if _, err := h.Verify(t.Context(), request(t, image)); (err != nil) != (blob == "doubt") {
					t.Fatal(err)
				}
				time.Sleep(2 * time.Hour)
				h = h.again(t, every, afresh(terms))
				asked := h.asked(func() {
					result, err := h.audit(t, image)
					if result.Decision == executor.Allowed || result.Held != nil || (err != nil) != (blob == "doubt") {
						t.Errorf("%v, held %+v, %v", result.Decision, result.Held, err)
					}
				})
				if asked.Resolve != 1 || asked.Referrers != 1 {
					t.Errorf("asked %+v", asked)
				}
			})
		})
	}
	t.Run("a registry that is away", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			h := newHeld(t, every, afresh(), "fail a")
			h.expect(t, image, executor.Denied, first)
			time.Sleep(2 * time.Hour)
			h = h.again(t, every, afresh(terms))
			h.last.answers(referrerstore.ErrUnavailable, referrerstore.ErrUnavailable)
			if result, err := h.audit(t, image); !errors.Is(err, referrerstore.ErrUnavailable) || result.Decision != executor.Undecided {
				t.Errorf("%v, %v; want no verdict", result.Decision, err)
			}
		})
	})
	t.Run("a tag that is gone, or has moved", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			h := newHeld(t, every, afresh(terms), "pass a")
			h.expect(t, image, executor.Allowed, first)
			h.last.full = true // and so the store does not know it
			time.Sleep(11 * time.Second)
			moved := h.store.AddImage("registry.example/app:other", []byte("another layer"))
			h.store.Tag(h.subject.Reference, moved.Descriptor)
			h.expect(t, image, executor.Denied, storetest.Counts{Resolve: 1, Referrers: 1})
			time.Sleep(11 * time.Second) // of the tag, and of the denial
			h.audits(t, image, executor.Denied, asAsked, storetest.Counts{Resolve: 1, Referrers: 1})
			time.Sleep(11 * time.Second)
			h.last.answers(referrerstore.ErrNotFound, nil)
			for range 2 {
				result, err := h.audit(t, image)
				if err != nil || result.Decision != executor.Denied || !errors.Is(result.Denial, referrerstore.ErrNotFound) {
					t.Errorf("%v (%v), %v", result.Decision, result.Denial, err)
				}
				time.Sleep(6 * time.Second) // what is not there is not believed for longer
			}
		})
	})
}

// Verifiers that hang over what is held leave time to ask the registry.
func TestAuditLeavesTimeForTheRegistry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHeld(t, policy.Node{Verifier: "v"}, afresh(), "hang a")
		if _, err := h.Verify(withTimeout(t, time.Second), request(t, image)); err == nil {
			t.Fatal("it did not hang")
		}
		time.Sleep(2 * time.Hour)
		h = h.again(t, policy.Node{Verifier: "v"}, afresh(useHeld(executor.DownTerms{UseHeld: 24 * time.Hour, Tags: true})))
		h.store.AddReferrer(h.subject, sigType, blob("pass b"))
		result, err := h.audit(t, image)
		if err != nil || result.Decision != executor.Allowed || result.Held != nil {
			t.Errorf("%v, held %+v, %v", result.Decision, result.Held, err)
		}
	})
}

func withTimeout(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// Whoever asked first, an admission's answer is never that of an audit.
func TestAuditChangesNoAdmission(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, every, remembering(), "pass a")
		s.audits(t, image, executor.Allowed, asAsked, first)
		time.Sleep(11 * time.Second)
		s.audits(t, image, executor.Allowed, 11*time.Second, nothing)
		result := s.expect(t, image, executor.Allowed, storetest.Counts{Resolve: 1})
		if diff := cmp.Diff(request(t, image), result.Request); diff != "" || result.Held != nil {
			t.Errorf("held %+v, request:\n%s", result.Held, diff)
		}
	})
}

// However many audits hang over what is held, an admission is decided from what is
// held in place of a registry that is away.
func TestAuditsTakeNoPlaceOfAdmissions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHeld(t, every, afresh(), "pass a")
		h.expect(t, image, executor.Allowed, first)
		const other = "registry.example/other:v1"
		h.store.AddReferrer(h.store.AddImage(other), sigType, blob("hang"))
		if _, err := h.Verify(withTimeout(t, time.Second), request(t, other)); err == nil {
			t.Fatal("it did not hang")
		}
		time.Sleep(2 * time.Hour)
		h = h.again(t, every, afresh(useHeld(executor.DownTerms{UseHeld: 24 * time.Hour, Tags: true}), func(o *executor.Options) { o.SubjectsAtOnce = 1 }))
		h.last.breaks(hangs)
		var group sync.WaitGroup
		defer group.Wait()
		group.Go(func() { _, _ = h.audit(t, other) }) // half of 1.9 s
		synctest.Wait()
		ctx := withTimeout(t, 900*time.Millisecond)
		if result, err := h.Verify(ctx, request(t, image)); err != nil || result.Held == nil {
			t.Errorf("%v, held %+v, %v", result.Decision, result.Held, err)
		}
	})
}
