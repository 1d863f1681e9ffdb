package executor_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/executor/policy"
	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/storetest"
)

// run keeps the executor's proofs young until the test ends.
func (s site) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { s.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
}

// pinned is the reference by digest.
func (s site) pinned() string {
	return "registry.example/app@" + s.subject.Descriptor.Digest.String()
}

// A refresh that fails leaves what was proven as good as it was: it is there to
// keep images admissible, not to lose them to a registry's hiccup.
func TestFailedRefreshKeepsWhatWasProven(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		listTTL, after time.Duration
		breaks         bool // the list, beside what is fetched
	}{
		"before its end, nothing can be fetched": {0, 55 * time.Minute, false},
		"of an aged list, which breaks off":      {time.Minute, 80 * time.Second, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				opts := remembering()
				opts.Proofs.ListTTL = test.listTTL
				s := newSite(t, every, opts, "pass a", "pass b")
				var down atomic.Bool
				s.store.FetchFault = func(context.Context, ocispec.Descriptor) error {
					if down.Load() {
						return referrerstore.ErrUnavailable
					}
					return nil
				}
				s.store.ReferrersFault = func(_ context.Context, _ referrerstore.Subject, yielded int) error {
					if down.Load() && test.breaks && yielded == 1 {
						return referrerstore.ErrUnavailable
					}
					return nil
				}
				s.run(t)
				s.expect(t, s.pinned(), executor.Allowed, storetest.Counts{Resolve: 1, Referrers: 1, Fetch: 4})
				down.Store(true)
				tried := s.asked(func() {
					time.Sleep(test.after)
					s.Recall(request(t, s.pinned()), time.Now()) // what is in use is refreshed
					synctest.Wait()
				})
				if tried.Referrers == 0 {
					t.Error("no refresh was tried")
				}
				got, ok := s.Recall(request(t, s.pinned()), time.Now())
				if !ok || got.Decision != executor.Allowed || len(got.Reports) != 2 {
					t.Errorf("after a failed refresh it is %v (%v) with %d reports; want what was proven for an hour", got.Decision, ok, len(got.Reports))
				}
			})
		})
	}
}

// Images that were proven together and stay in use are refreshed one by one
// within the last part of their hour, and nobody ever waits for them.
func TestImagesInUseAreNeverMissed(t *testing.T) {
	t.Parallel()
	const images = 40
	for _, listTTL := range []time.Duration{0, time.Minute} {
		t.Run(fmt.Sprintf("list for %s", listTTL), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				opts := remembering()
				opts.Proofs.ListTTL = listTTL
				s := newSite(t, every, opts)
				start := time.Now()
				var mu sync.Mutex
				var refreshed []time.Duration
				s.store.FetchFault = func(context.Context, ocispec.Descriptor) error { time.Sleep(25 * time.Millisecond); return nil }
				s.store.ReferrersFault = func(_ context.Context, _ referrerstore.Subject, yielded int) error {
					if at := time.Since(start); yielded == 0 && at > time.Minute {
						mu.Lock()
						defer mu.Unlock()
						refreshed = append(refreshed, at)
					}
					return nil
				}
				reqs := make([]executor.Request, images)
				for i := range reqs {
					subject := s.store.AddImage(fmt.Sprintf("registry.example/app%d:v1", i))
					s.store.AddReferrer(subject, sigType, blob("pass"))
					reqs[i] = request(t, fmt.Sprintf("registry.example/app%d@%s", i, subject.Descriptor.Digest))
				}
				s.run(t)
				var group sync.WaitGroup
				for _, req := range reqs {
					group.Go(func() {
						if got, err := s.Verify(t.Context(), req); err != nil || got.Decision != executor.Allowed {
							t.Errorf("%s: %v, %v", req.Reference, got.Decision, err)
						}
					})
				}
				group.Wait()
				for time.Since(start) < 80*time.Minute {
					time.Sleep(20 * time.Second)
					for _, req := range reqs {
						if got, ok := s.Recall(req, time.Now()); !ok || got.Decision != executor.Allowed {
							t.Fatalf("%s is %v (%v) after %s", req.Reference, got.Decision, ok, time.Since(start))
						}
					}
				}
				mu.Lock()
				defer mu.Unlock()
				if listTTL > 0 {
					return
				}
				if len(refreshed) != images {
					t.Fatalf("%d refreshes, want one for each of %d images", len(refreshed), images)
				}
				first, last := slices.Min(refreshed), slices.Max(refreshed)
				if first < 48*time.Minute || last > 55*time.Minute || last-first < 3*time.Minute {
					t.Errorf("refreshed from %s to %s, want it spread between 48m and 54m", first, last)
				}
			})
		})
	}
}

// The admission that found it out counts as one that asked for it.
func TestFirstAdmissionCountsAsAsked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		opts := remembering()
		opts.Proofs.ListTTL = 0
		s := newSite(t, every, opts, "pass a")
		s.run(t)
		s.expect(t, s.pinned(), executor.Allowed, storetest.Counts{Resolve: 1, Referrers: 1, Fetch: 2})
		time.Sleep(time.Hour + time.Second)
		s.expect(t, s.pinned(), executor.Allowed, nothing)
	})
}

// Where few are enough the list is often left early: it ages nevertheless, and is
// asked for each time that it has.
func TestListLeftEarlyAges(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, policy.Node{Verifier: "v"}, remembering(), "pass a", "pass b")
		s.store.ReferrersFault = func(ctx context.Context, _ referrerstore.Subject, yielded int) error {
			if yielded == 0 {
				return nil
			}
			select { // its first entry alone comes soon
			case <-time.After(time.Second):
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		if got, err := s.Verify(t.Context(), request(t, s.pinned())); err != nil || got.Decision != executor.Allowed {
			t.Fatalf("%v, %v", got.Decision, err)
		}
		for i := range 5 {
			time.Sleep(80 * time.Second)
			cost := s.asked(func() {
				if got, ok := s.Recall(request(t, s.pinned()), time.Now()); !ok || got.Decision != executor.Allowed {
					t.Errorf("%v (%v)", got.Decision, ok)
				}
				synctest.Wait()
			})
			if cost.Referrers != 1 {
				t.Errorf("refresh %d: the list was asked for %d times", i, cost.Referrers)
			}
		}
	})
}

// A list that breaks off says nothing of what is beyond the break: what was
// proven of that still is.
func TestBrokenListForgetsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, every, remembering(), "pass a", "pass b", "pass c", "doubt")
		var breaks atomic.Bool
		s.store.ReferrersFault = func(_ context.Context, _ referrerstore.Subject, yielded int) error {
			if breaks.Load() && yielded == 1 {
				return referrerstore.ErrUnavailable
			}
			return nil
		}
		verify := func() storetest.Counts {
			return s.asked(func() {
				if got, err := s.Verify(t.Context(), request(t, image)); err == nil || got.Decision != executor.Undecided {
					t.Errorf("%v, %v; want no verdict", got.Decision, err)
				}
			})
		}
		verify()
		time.Sleep(61 * time.Second)
		breaks.Store(true)
		verify()
		breaks.Store(false)
		if cost := verify(); cost.Fetch > 2 {
			t.Errorf("asked %+v, want the doubt alone to be judged again", cost)
		}
	})
}

// A bad signature beside a good one is believed for a minute only; that is no
// reason to refresh a proof that holds without it.
func TestFailedBesideGoodIsNoReasonToRefresh(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		opts := remembering()
		opts.Proofs.ListTTL = 0
		store, subject := signed("pass a", "fail b")
		s := siteOf(t, store, dated{store}, subject, policy.Node{Verifier: "v"}, opts) // the bad one comes first
		s.run(t)
		s.expect(t, s.pinned(), executor.Allowed, storetest.Counts{Resolve: 1, Referrers: 1, Fetch: 4})
		cost := s.asked(func() {
			time.Sleep(45 * time.Minute)
			synctest.Wait()
		})
		if cost != nothing {
			t.Errorf("asked %+v for a proof that is good for an hour", cost)
		}
	})
}

// A replica whose proof has ended looks where others may have put a later one
// before it asks a registry.
func TestLaterProofOfAnotherIsFound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		opts := remembering()
		opts.Proofs.ListTTL = 0
		store, subject := signed("pass")
		whole := storetest.Counts{Resolve: 1, Referrers: 1, Fetch: 2}
		a, b := siteOf(t, store, store, subject, every, opts), siteOf(t, store, store, subject, every, opts)
		a.expect(t, a.pinned(), executor.Allowed, whole)
		time.Sleep(61 * time.Minute)
		b.expect(t, b.pinned(), executor.Allowed, whole)
		a.expect(t, a.pinned(), executor.Allowed, nothing)
	})
}
