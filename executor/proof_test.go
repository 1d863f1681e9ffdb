package executor_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"pgregory.net/rapid"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/executor/policy"
	"github.com/gatehouse-project/gatehouse/executor/proofs"
	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/storetest"
	"github.com/gatehouse-project/gatehouse/verifier"
)

// remembering is an executor's options with a memory.
func remembering() executor.Options {
	return executor.Options{
		Generation:   "1",
		Proofs:       executor.ProofTerms{TTL: time.Hour, DeniedTTL: time.Minute, AbsentTTL: 5 * time.Second, ListTTL: time.Minute},
		ProofStore:   proofs.NewMemory(1 << 20),
		ReplicaBytes: 1 << 20,
		TagTTL:       10 * time.Second,
		Background:   executor.Background{MaxDuration: 15 * time.Second, MaxFlights: 100},
	}
}

// site is a store with an executor that remembers.
type site struct {
	*executor.Executor
	store   *storetest.Memory
	subject referrerstore.Subject
}

// newSite makes a site of which the executor ends with the test.
func newSite(t testing.TB, require policy.Node, opts executor.Options, blobs ...string) site {
	t.Helper()
	store, subject := signed(blobs...)
	return siteOf(t, store, store, subject, require, opts)
}

func siteOf(t testing.TB, store *storetest.Memory, as referrerstore.Store, subject referrerstore.Subject, require policy.Node, opts executor.Options) site {
	t.Helper()
	e := executor.New(t.Context(), []referrerstore.Store{as}, []verifier.Verifier{&scripted{name: "v"}}, ruleFor(t, require, false, "v"), opts)
	t.Cleanup(e.Close)
	return site{e, store, subject}
}

// asked is how much was asked of the store since the last call's end.
func (s site) asked(f func()) storetest.Counts {
	before := s.store.Counts()
	f()
	after := s.store.Counts()
	return storetest.Counts{Resolve: after.Resolve - before.Resolve, Referrers: after.Referrers - before.Referrers, Fetch: after.Fetch - before.Fetch}
}

// expect verifies an image and says what it must come to and cost.
func (s site) expect(t *testing.T, text string, decision executor.Decision, cost storetest.Counts) executor.Result {
	t.Helper()
	var result executor.Result
	got := s.asked(func() {
		var err error
		result, err = s.Verify(t.Context(), request(t, text))
		if err != nil || result.Decision != decision {
			t.Errorf("%s: %v (%v), %v; want %v", text, result.Decision, result.Denial, err, decision)
		}
	})
	if got != cost {
		t.Errorf("%s: asked %+v, want %+v", text, got, cost)
	}
	return result
}

var (
	every   = policy.Node{Verifier: "v", Every: true}
	nothing = storetest.Counts{}
)

func TestProofAnswersAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, every, remembering(), "pass a", "pass b")
		if _, ok := s.Recall(request(t, image), time.Now()); ok {
			t.Error("recalled what nobody has proven")
		}
		first := s.expect(t, image, executor.Allowed, storetest.Counts{Resolve: 1, Referrers: 1, Fetch: 4})
		second := s.expect(t, image, executor.Allowed, nothing)
		ignore := cmp.Options{
			cmpopts.IgnoreFields(executor.Result{}, "Timings", "Proof"), cmpopts.EquateEmpty(),
			cmpopts.IgnoreFields(ocispec.Descriptor{}, "Annotations"), cmpopts.EquateErrors(),
		}
		if diff := cmp.Diff(first, second, ignore); diff != "" {
			t.Errorf("what is remembered differs (-first +second):\n%s", diff)
		}
		recalled, ok := s.Recall(request(t, image), time.Now())
		if diff := cmp.Diff(second, recalled, cmpopts.IgnoreFields(executor.Result{}, "Timings"), cmpopts.EquateErrors()); !ok || diff != "" || recalled.Proof == 0 {
			t.Errorf("recalled %v:\n%s", ok, diff)
		}
	})
}

// A digest's proof serves every tag that leads to it, and the digest itself;
// but not another repository.
func TestProofIsOfTheDigest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, every, remembering(), "pass a")
		pinned := "registry.example/app@" + s.subject.Descriptor.Digest.String()
		s.expect(t, image, executor.Allowed, storetest.Counts{Resolve: 1, Referrers: 1, Fetch: 2})
		s.expect(t, pinned, executor.Allowed, nothing)
		other, err := referrerstore.ParseReference("registry.example/other:v1")
		if err != nil {
			t.Fatal(err)
		}
		data, err := referrerstore.ReadAll(t.Context(), s.store, s.subject, s.subject.Descriptor, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		s.store.Tag(other, s.store.AddManifest(other, s.subject.Descriptor.MediaType, data))
		s.expect(t, other.String(), executor.Denied, storetest.Counts{Resolve: 1, Referrers: 1})
		time.Sleep(11 * time.Second)
		s.expect(t, image, executor.Allowed, storetest.Counts{Resolve: 1}) // the tag is asked for again
	})
}

// A pinned image costs no round trip more than its list: both are asked for at
// once.
func TestPinnedAsksBesideTheList(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, every, remembering(), "pass a")
		trip := func(ctx context.Context) error {
			select {
			case <-time.After(time.Second):
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		s.store.ResolveFault = func(ctx context.Context, _ referrerstore.Reference) error { return trip(ctx) }
		s.store.ReferrersFault = func(ctx context.Context, _ referrerstore.Subject, n int) error {
			if n > 0 {
				return nil
			}
			return trip(ctx)
		}
		start := time.Now()
		s.expect(t, "registry.example/app@"+s.subject.Descriptor.Digest.String(), executor.Allowed, storetest.Counts{Resolve: 1, Referrers: 1, Fetch: 2})
		if took := time.Since(start); took != time.Second {
			t.Errorf("took %s, want one trip of 1s", took)
		}
		absent := "registry.example/app@sha256:" + "00000000000000000000000000000000000000000000000000000000000000ff"
		result := s.expect(t, absent, executor.Denied, storetest.Counts{Resolve: 1, Referrers: 1})
		if !errors.Is(result.Denial, referrerstore.ErrNotFound) {
			t.Errorf("denied for %v, want that there is no such image", result.Denial)
		}
	})
}

// How long each kind of knowledge is believed.
func TestProofEnds(t *testing.T) {
	t.Parallel()
	whole := storetest.Counts{Resolve: 1, Referrers: 1, Fetch: 2}
	tests := map[string]struct {
		blobs    []string
		decision executor.Decision
		held     time.Duration
		first    storetest.Counts
		again    storetest.Counts
	}{
		"passed": {[]string{"pass"}, executor.Allowed, time.Hour, whole, whole},
		"failed": {[]string{"fail"}, executor.Denied, time.Minute, whole, whole},
		"absent": {nil, executor.Denied, 5 * time.Second, storetest.Counts{Resolve: 1, Referrers: 1}, storetest.Counts{Referrers: 1}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, every, remembering(), test.blobs...)
				pinned := "registry.example/app@" + s.subject.Descriptor.Digest.String()
				s.expect(t, image, test.decision, test.first)
				time.Sleep(test.held - time.Nanosecond)
				if _, ok := s.Recall(request(t, pinned), time.Now()); !ok {
					t.Errorf("forgotten before %s", test.held)
				}
				synctest.Wait() // for a refresh that this may have begun
				time.Sleep(time.Nanosecond)
				if name == "passed" {
					return // refreshed just now, because it was asked for
				}
				s.expect(t, image, test.decision, test.again)
			})
		})
	}
}

// What a certificate or a revocation response ends is believed no longer, by
// the wall clock.
func TestProofEndsWithWhatItRestsOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store, _ := signed("pass")
		v := &ending{scripted{name: "v"}, time.Now().Add(10 * time.Minute)}
		opts := remembering()
		opts.Proofs.ListTTL = 0
		e := executor.New(t.Context(), []referrerstore.Store{store}, []verifier.Verifier{v}, ruleFor(t, every, false, "v"), opts)
		defer e.Close()
		s := site{Executor: e, store: store}
		s.expect(t, image, executor.Allowed, storetest.Counts{Resolve: 1, Referrers: 1, Fetch: 2})
		time.Sleep(10*time.Minute - time.Nanosecond)
		s.expect(t, image, executor.Allowed, storetest.Counts{Resolve: 1})
		time.Sleep(time.Nanosecond)
		s.expect(t, image, executor.Allowed, storetest.Counts{Referrers: 1, Fetch: 2})
	})
}

// ending is a verifier of which every pass rests on what ends at a time.
type ending struct {
	scripted
	until time.Time
}

func (e *ending) Verify(ctx context.Context, in verifier.Input) (verifier.Report, error) {
	r, err := e.scripted.Verify(ctx, in)
	if time.Now().Before(e.until) {
		r.ValidUntil = e.until
	}
	return r, err
}

// Whoever signs after a denial is let in within seconds.
func TestSignThenRetry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, every, remembering())
		s.expect(t, image, executor.Denied, storetest.Counts{Resolve: 1, Referrers: 1})
		s.store.AddReferrer(s.subject, sigType, blob("pass"))
		s.expect(t, image, executor.Denied, nothing)
		time.Sleep(5 * time.Second)
		s.expect(t, image, executor.Allowed, storetest.Counts{Referrers: 1, Fetch: 2})

		tag := "registry.example/late:v1"
		s.expect(t, tag, executor.Denied, storetest.Counts{Resolve: 1})
		late := s.store.AddImage(tag)
		s.store.AddReferrer(late, sigType, blob("pass"))
		s.expect(t, tag, executor.Denied, nothing)
		time.Sleep(5 * time.Second)
		s.expect(t, tag, executor.Allowed, storetest.Counts{Resolve: 1, Referrers: 1, Fetch: 2})
	})
}

// 64 who ask at once cost what one costs.
func TestAllWaitForOneWork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, every, remembering(), "pass a", "pass b")
		s.store.ResolveFault = func(context.Context, referrerstore.Reference) error { time.Sleep(time.Second); return nil }
		pinned := "registry.example/app@" + s.subject.Descriptor.Digest.String()
		cost := s.asked(func() {
			var group sync.WaitGroup
			for i := range 64 {
				group.Go(func() {
					text := image
					if i%2 == 1 {
						text = pinned
						time.Sleep(time.Second) // so that the tag's work has come to the digest
					}
					if got, err := s.Verify(t.Context(), request(t, text)); err != nil || got.Decision != executor.Allowed || got.Request.Reference.String() != text {
						t.Errorf("%v for %s, %v", got.Decision, got.Request.Reference, err)
					}
				})
			}
			group.Wait()
		})
		if want := (storetest.Counts{Resolve: 1, Referrers: 1, Fetch: 4}); cost.Fetch != want.Fetch || cost.Referrers != want.Referrers || cost.Resolve > 2 {
			t.Errorf("asked %+v, want %+v", cost, want)
		}
	})
}

// What the deadline cuts off goes on, so that the retry is a hit; what fails
// behind it leaves nothing; and it has a bound.
func TestWorkOutlivesItsRequest(t *testing.T) {
	t.Parallel()
	slow := func(d time.Duration) func(context.Context, ocispec.Descriptor) error {
		return func(ctx context.Context, _ ocispec.Descriptor) error {
			select {
			case <-time.After(d):
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
	late := func(t *testing.T, s site) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		result, err := s.Verify(ctx, request(t, image))
		if !errors.Is(err, context.DeadlineExceeded) || result.Decision != executor.Undecided {
			t.Errorf("%v, %v; want a deadline", result.Decision, err)
		}
	}
	t.Run("to its end", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, every, remembering(), "pass")
			s.store.FetchFault = slow(3 * time.Second) // twice, one after the other
			late(t, s)
			late(t, s) // joins
			time.Sleep(2 * time.Second)
			synctest.Wait()
			s.expect(t, image, executor.Allowed, nothing)
			if n := s.store.Counts(); n.Fetch != 2 || n.Referrers != 1 {
				t.Errorf("asked %+v", n)
			}
		})
	})
	t.Run("within its bound", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, every, remembering(), "pass")
			s.store.FetchFault = slow(time.Hour)
			late(t, s)
			time.Sleep(15*time.Second + time.Millisecond)
			synctest.Wait()
			s.store.FetchFault = nil
			s.expect(t, image, executor.Allowed, storetest.Counts{Resolve: 1, Fetch: 2}) // the list is known
		})
	})
	t.Run("not for hosts that nobody named", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			store, subject := signed("pass")
			s := siteOf(t, store, informed{store, referrerstore.HostState{Unnamed: true}}, subject, every, remembering())
			var cut atomic.Int32
			store.FetchFault = func(ctx context.Context, _ ocispec.Descriptor) error {
				<-ctx.Done()
				cut.Add(1)
				return context.Cause(ctx)
			}
			late(t, s)
			synctest.Wait()
			if cut.Load() != 1 {
				t.Error("work goes on for a host that the configuration does not name")
			}
		})
	})
	t.Run("keeps what was proven before it failed", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, every, remembering(), "pass a", "pass b", "pass c")
			var fetches atomic.Int32
			s.store.FetchFault = func(context.Context, ocispec.Descriptor) error {
				if fetches.Add(1) > 4 {
					return referrerstore.ErrRateLimited
				}
				return nil
			}
			if _, err := s.Verify(t.Context(), request(t, image)); !errors.Is(err, referrerstore.ErrRateLimited) {
				t.Fatalf("%v, want a limit", err)
			}
			s.store.FetchFault = nil
			cost := s.asked(func() {
				if got, err := s.Verify(t.Context(), request(t, image)); err != nil || got.Decision != executor.Allowed || len(got.Reports) != 3 {
					t.Errorf("%v with %d reports, %v", got.Decision, len(got.Reports), err)
				}
			})
			if cost.Resolve != 0 || cost.Referrers != 0 || cost.Fetch > 6 || cost.Fetch < 2 {
				t.Errorf("asked %+v, want the missing artifacts only", cost)
			}
		})
	})
}

// informed is a store that says something of its hosts.
type informed struct {
	referrerstore.Store
	state referrerstore.HostState
}

func (i informed) About(string) referrerstore.HostState { return i.state }

// Whoever cannot be answered in time is told so at once, and the work goes on.
func TestHeldWorkIsLeftEarly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, every, remembering(), "pass")
		limited := &referrerstore.RetryAfterError{After: 5 * time.Second, Err: referrerstore.ErrRateLimited}
		s.store.FetchFault = func(ctx context.Context, _ ocispec.Descriptor) error {
			work := referrerstore.WorkOf(ctx)
			work.SetHold(referrerstore.Hold{Until: time.Now().Add(5 * time.Second), Err: limited})
			defer work.SetHold(referrerstore.Hold{})
			if time.Sleep(time.Second); work.Lane() != referrerstore.LaneBackground {
				t.Error("work that nobody waits for is not in the background")
			}
			time.Sleep(4 * time.Second)
			return nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		start := time.Now()
		_, err := s.Verify(ctx, request(t, image))
		if !errors.Is(err, referrerstore.ErrRateLimited) || time.Since(start) != 0 {
			t.Errorf("%v after %s, want the limit at once", err, time.Since(start))
		}
		if x := executor.Explain(executor.Result{Request: request(t, image)}, err); x.Code != executor.CodeRateLimited || x.RetryAfter != 5*time.Second {
			t.Errorf("explained as %+v", x)
		}
		time.Sleep(11 * time.Second)
		synctest.Wait()
		s.store.FetchFault = nil
		s.expect(t, image, executor.Allowed, storetest.Counts{Resolve: 1})
	})
}

// Nothing that was found out under one generation counts under another, though
// both keep it in one place; a second process with the same does not ask again.
func TestProofsAreOfAGeneration(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		opts := remembering()
		first := newSite(t, every, opts, "pass")
		first.expect(t, image, executor.Allowed, storetest.Counts{Resolve: 1, Referrers: 1, Fetch: 2})
		same := newSite(t, every, opts, "fail")
		same.store.AddImage(image)
		pinned := "registry.example/app@" + first.subject.Descriptor.Digest.String()
		same.expect(t, pinned, executor.Allowed, nothing)
		opts.Generation = "2"
		other := newSite(t, every, opts, "fail")
		other.expect(t, pinned, executor.Denied, storetest.Counts{Resolve: 1, Referrers: 1, Fetch: 2})
	})
}

// Close drops what it cuts off, and what ends after it.
func TestCloseDiscards(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		opts := remembering()
		s := newSite(t, every, opts, "pass")
		s.store.FetchFault = func(context.Context, ocispec.Descriptor) error { time.Sleep(time.Second); return nil }
		done := make(chan error)
		go func() {
			_, err := s.Verify(t.Context(), request(t, image))
			done <- err
		}()
		time.Sleep(500 * time.Millisecond)
		go s.Close()
		if err := <-done; !errors.Is(err, executor.ErrInconclusive) {
			t.Errorf("%v, want no verdict", err)
		}
		if _, err := s.Verify(t.Context(), request(t, image)); !errors.Is(err, executor.ErrInconclusive) {
			t.Errorf("%v after Close, want no verdict", err)
		}
		again := newSite(t, every, opts, "pass")
		again.expect(t, image, executor.Allowed, storetest.Counts{Resolve: 1, Referrers: 1, Fetch: 2})
	})
}

// The list of an image that is asked for is asked for again once it has aged,
// behind the answer, and what it brings counts from then on.
func TestListIsRefreshedInUse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, every, remembering(), "pass a")
		pinned := "registry.example/app@" + s.subject.Descriptor.Digest.String()
		s.expect(t, pinned, executor.Allowed, storetest.Counts{Resolve: 1, Referrers: 1, Fetch: 2})
		time.Sleep(59 * time.Second)
		s.expect(t, pinned, executor.Allowed, nothing)
		s.store.AddReferrer(s.subject, sigType, blob("fail"))
		time.Sleep(17 * time.Second)
		cost := s.asked(func() {
			if got, _ := s.Recall(request(t, pinned), time.Now()); got.Decision != executor.Allowed {
				t.Errorf("%v, want the answer from the proof", got.Decision)
			}
			synctest.Wait()
		})
		if want := (storetest.Counts{Referrers: 1, Fetch: 2}); cost != want {
			t.Errorf("asked %+v behind it, want the list and what is new on it: %+v", cost, want)
		}
		s.expect(t, pinned, executor.Denied, nothing)
	})
}

// A proof is refreshed before it ends if admission asked for it within its
// life, not if only an audit did.
func TestProofIsRefreshedBeforeItsEnd(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		lane      referrerstore.Lane
		refreshed bool
	}{
		"admission": {referrerstore.LaneAdmission, true},
		"audit":     {referrerstore.LaneBackground, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				opts := remembering()
				opts.Proofs.ListTTL = 0
				s := newSite(t, every, opts, "pass a")
				var running sync.WaitGroup
				ctx, cancel := context.WithCancel(t.Context())
				running.Go(func() { s.Run(ctx) })
				defer running.Wait()
				defer cancel()
				pinned := request(t, "registry.example/app@"+s.subject.Descriptor.Digest.String())
				pinned.Lane = test.lane
				if _, err := s.Verify(t.Context(), pinned); err != nil {
					t.Fatal(err)
				}
				if _, ok := s.Recall(pinned, time.Now()); !ok {
					t.Fatal("forgotten")
				}
				cost := s.asked(func() {
					time.Sleep(time.Hour - time.Second)
					synctest.Wait()
				})
				want := nothing
				if test.refreshed {
					want = storetest.Counts{Referrers: 1, Fetch: 2}
				}
				if cost != want {
					t.Errorf("asked %+v before the end, want %+v", cost, want)
				}
				time.Sleep(2 * time.Second)
				if _, ok := s.Recall(pinned, time.Now()); ok != test.refreshed {
					t.Errorf("believed after an hour: %v", ok)
				}
			})
		})
	}
}

// A list that a bound cut is a verdict, and known as one.
func TestCutIsRemembered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		opts := remembering()
		opts.MaxArtifacts = 2
		s := newSite(t, every, opts, "pass a", "pass b", "pass c")
		for _, fetches := range []int{4, 0} {
			var result executor.Result
			cost := s.asked(func() { result, _ = s.Verify(t.Context(), request(t, image)) })
			if !errors.Is(result.Denial, referrerstore.ErrTooManyReferrers) || cost.Fetch != fetches {
				t.Errorf("%v for %+v", result.Denial, cost)
			}
		}
	})
}

// Whatever fails on the way and in whatever order, a verdict is what the store
// truly holds, and as soon as nothing fails any more there is one: no failure
// is ever kept.
func TestNothingTransientIsKept(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		blobs := rapid.SliceOfN(rapid.SampledFrom([]string{"pass 1", "pass 2", "pass 3", "fail 4", "fail 5"}), 0, 4).Draw(rt, "artifacts")
		blobs = slices.Compact(slices.Sorted(slices.Values(blobs)))
		all := rapid.Bool().Draw(rt, "every")
		failing := rapid.IntRange(1, 9).Draw(rt, "failing, of 10")
		seed := rapid.Uint64().Draw(rt, "seed")
		steps := rapid.SliceOfN(rapid.IntRange(0, 90), 1, 12).Draw(rt, "seconds between requests")
		synctest.Test(t, func(t *testing.T) {
			s, truth := faultySite(t, rt, blobs, all)
			fault := randomFault(seed, failing)
			s.store.ResolveFault = func(ctx context.Context, _ referrerstore.Reference) error { return fault(ctx) }
			s.store.ReferrersFault = func(ctx context.Context, _ referrerstore.Subject, _ int) error { return fault(ctx) }
			s.store.FetchFault = func(ctx context.Context, _ ocispec.Descriptor) error { return fault(ctx) }
			s.store.ReadFault = s.store.FetchFault
			for _, seconds := range steps {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				if got, err := s.Verify(ctx, request(t, image)); err == nil && got.Decision != truth {
					rt.Fatalf("%v (%v), in truth %v", got.Decision, got.Denial, truth)
				}
				cancel()
				time.Sleep(time.Duration(seconds) * time.Second)
			}
			time.Sleep(16 * time.Second) // what lingers has ended
			synctest.Wait()
			s.store.ResolveFault, s.store.ReferrersFault, s.store.FetchFault, s.store.ReadFault = nil, nil, nil, nil
			if got, err := s.Verify(t.Context(), request(t, image)); err != nil || got.Decision != truth {
				rt.Fatalf("nothing fails and yet %v, %v; in truth %v", got.Decision, err, truth)
			}
		})
	})
}

func faultySite(t *testing.T, rt *rapid.T, blobs []string, all bool) (site, executor.Decision) {
	t.Helper()
	require := policy.Node{Verifier: "v"}
	if all {
		require = every
	}
	passed := 0
	for _, b := range blobs {
		if b[:4] == "pass" {
			passed++
		}
	}
	truth := executor.Denied
	if passed > 0 && (!all || passed == len(blobs)) {
		truth = executor.Allowed
	}
	rt.Logf("%v, every %v: in truth %v", blobs, all, truth)
	return newSite(t, require, remembering(), blobs...), truth
}

// randomFault fails or takes long, so many times of ten.
func randomFault(seed uint64, of10 int) func(context.Context) error {
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(seed, 1))
	errs := []error{
		referrerstore.ErrRateLimited, referrerstore.ErrUnavailable, referrerstore.ErrAuthDenied, referrerstore.ErrBusy,
		referrerstore.ErrProtocol, referrerstore.ErrDigestMismatch, fmt.Errorf("something else"), context.DeadlineExceeded,
	}
	return func(ctx context.Context) error {
		mu.Lock()
		hit, which := random.IntN(20) < of10, random.IntN(len(errs)+2)
		mu.Unlock()
		switch {
		case !hit:
			return nil
		case which < len(errs):
			return errs[which]
		}
		select {
		case <-time.After(time.Duration(which) * 300 * time.Millisecond):
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
