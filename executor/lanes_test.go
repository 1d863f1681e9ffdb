package executor_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
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
	"github.com/gatehouse-project/gatehouse/verifier"
)

// slowToResolve is a site of which the tags of all repositories but "app" take a
// second to resolve, and keep their place among the host's subjects meanwhile.
func slowToResolve(t *testing.T, places int) site {
	t.Helper()
	opts := remembering()
	opts.SubjectsAtOnce = places
	opts.TagTTL = 0
	s := newSite(t, every, opts, "pass a")
	other := s.store.AddImage("registry.example/other:v1")
	s.store.AddReferrer(other, sigType, blob("pass"))
	s.store.ResolveFault = func(_ context.Context, ref referrerstore.Reference) error {
		if ref.Repository != "app" {
			time.Sleep(time.Second)
		}
		return nil
	}
	s.expect(t, s.pinned(), executor.Allowed, storetest.Counts{Resolve: 1, Referrers: 1, Fetch: 2})
	time.Sleep(80 * time.Second) // the list has aged: whoever asks begins a refresh
	return s
}

// A refresh takes no place among the subjects of its host: those who have one may
// come to wait for it.
func TestRefreshWaitsForNoPlace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := slowToResolve(t, 1)
		var group sync.WaitGroup
		defer group.Wait()
		verify := func(text string) {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			start := time.Now()
			got, err := s.Verify(ctx, request(t, text))
			if err != nil || got.Decision != executor.Allowed || time.Since(start) > 10*time.Second {
				t.Errorf("%s: %v, %v after %s", text, got.Decision, err, time.Since(start))
			}
		}
		group.Go(func() { verify("registry.example/other:v1") }) // takes the only place
		synctest.Wait()
		group.Go(func() { verify(image) }) // queues for it, and leads to what is refreshed
		synctest.Wait()
		if _, ok := s.Recall(request(t, s.pinned()), time.Now()); !ok {
			t.Error("forgotten")
		}
	})
}

// However many queue for what is being refreshed, and come back when their time
// is up, others of the host are let in soon.
func TestRefreshStallsNoHost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const places = 16
		s := slowToResolve(t, places)
		ask := func(text string) (executor.Result, error) {
			ctx, cancel := context.WithTimeout(t.Context(), 2800*time.Millisecond)
			defer cancel()
			return s.Verify(ctx, request(t, text))
		}
		var group sync.WaitGroup
		defer group.Wait()
		for i := range places {
			group.Go(func() { _, _ = ask(fmt.Sprintf("registry.example/busy:v%d", i)) })
		}
		synctest.Wait()
		for i := range places {
			text := fmt.Sprintf("registry.example/app:t%d", i)
			s.store.Tag(request(t, text).Reference, s.subject.Descriptor)
			group.Go(func() {
				for range 10 { // a pod's retries
					_, _ = ask(text)
					time.Sleep(2 * time.Second)
				}
			})
		}
		synctest.Wait()
		s.Recall(request(t, s.pinned()), time.Now())
		start := time.Now()
		for time.Since(start) < time.Minute {
			if got, _ := ask("registry.example/other:v1"); got.Decision == executor.Allowed {
				break
			}
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("another image of the host is let in after %s", took)
		}
	})
}

// Work that an audit began under one name of an image goes to the admission lane
// when an admission comes to wait for it under another, and back when it leaves.
func TestJoinedWorkIsInTheLaneOfWhoWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, every, remembering(), "pass a")
		work := make(chan *referrerstore.Work, 2)
		s.store.FetchFault = func(ctx context.Context, _ ocispec.Descriptor) error {
			work <- referrerstore.WorkOf(ctx)
			time.Sleep(5 * time.Second)
			return nil
		}
		expect := func(w *referrerstore.Work, want referrerstore.Lane) {
			t.Helper()
			if got := w.Lane(); got != want {
				t.Errorf("work in lane %v, want %v", got, want)
			}
		}
		var group sync.WaitGroup
		defer group.Wait()
		audit := request(t, image)
		audit.Lane = referrerstore.LaneBackground
		group.Go(func() { _, _ = s.Verify(t.Context(), audit) })
		w := <-work
		expect(w, referrerstore.LaneBackground)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		group.Go(func() { _, _ = s.Verify(ctx, request(t, s.pinned())) })
		synctest.Wait()
		expect(w, referrerstore.LaneAdmission)
		cancel()
		synctest.Wait()
		expect(w, referrerstore.LaneBackground)
	})
}

// Whoever joins work under another name of the image is told of its hold as well.
func TestJoinedWorkTellsOfItsHold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, every, remembering(), "pass a")
		limited := &referrerstore.RetryAfterError{After: 5 * time.Second, Err: referrerstore.ErrRateLimited}
		s.store.FetchFault = func(ctx context.Context, _ ocispec.Descriptor) error {
			work := referrerstore.WorkOf(ctx)
			time.Sleep(time.Second)
			work.SetHold(referrerstore.Hold{Until: time.Now().Add(5 * time.Second), Err: limited})
			defer work.SetHold(referrerstore.Hold{})
			time.Sleep(5 * time.Second)
			return nil
		}
		var group sync.WaitGroup
		defer group.Wait()
		group.Go(func() {
			if got, err := s.Verify(t.Context(), request(t, image)); err != nil || got.Decision != executor.Allowed {
				t.Errorf("%v, %v; want that it goes on for who has time", got.Decision, err)
			}
		})
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		start := time.Now()
		_, err := s.Verify(ctx, request(t, s.pinned()))
		if took := time.Since(start); !errors.Is(err, referrerstore.ErrRateLimited) || took != time.Second {
			t.Errorf("%v after %s, want the limit as soon as it is known", err, took)
		}
	})
}

// A client that closes its connection has run out of patience and will ask again:
// the work goes on for it.
func TestWorkOutlivesAClientThatLeaves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, every, remembering(), "pass a")
		s.store.FetchFault = func(ctx context.Context, _ ocispec.Descriptor) error {
			select {
			case <-time.After(time.Second):
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(1500*time.Millisecond, cancel)
		if _, err := s.Verify(ctx, request(t, image)); !errors.Is(err, context.Canceled) {
			t.Errorf("%v, want that the client left", err)
		}
		time.Sleep(3 * time.Second)
		s.expect(t, image, executor.Allowed, nothing)
	})
}

// What ends the work in the moment in which the subject becomes known leaves its
// artifacts either with the whole subject or with none: the race detector sees
// one that reads what is being written.
func TestSubjectArrivesAsTheWorkEnds(t *testing.T) {
	t.Parallel()
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, every, remembering(), "pass a", "pass b", "pass c", "pass d")
			var closing atomic.Bool
			s.store.ResolveFault = func(context.Context, referrerstore.Reference) error {
				time.Sleep(time.Second)
				return nil
			}
			time.AfterFunc(time.Second, func() {
				closing.Store(true)
				s.Close()
			})
			got, err := s.Verify(t.Context(), request(t, s.pinned()))
			if !closing.Load() || (err == nil && got.Decision != executor.Allowed) || (err != nil && !errors.Is(err, executor.ErrInconclusive)) {
				t.Errorf("%v, %v; want it allowed or no verdict", got.Decision, err)
			}
			synctest.Wait()
		})
	}
}

// Namespaces that the policy leads to the same rule wait for one work: an image
// that is rolled out to many is judged once.
func TestNamespacesOfARuleShareTheWork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rules := []policy.Rule{
			{Name: "some", Images: []string{"**"}, Namespaces: []string{"x*"}, Require: &policy.Node{Verifier: "v"}},
			{Name: "all", Images: []string{"**"}, Require: &every},
		}
		p, err := policy.New(rules, []string{"v"})
		if err != nil {
			t.Fatal(err)
		}
		store, subject := signed("pass a", "fail b")
		store.FetchFault = func(context.Context, ocispec.Descriptor) error { time.Sleep(time.Second); return nil }
		e := executor.New(t.Context(), []referrerstore.Store{store}, []verifier.Verifier{&scripted{name: "v"}}, p, remembering())
		t.Cleanup(e.Close)
		s := site{e, store, subject}
		ask := func(want executor.Decision, namespaces ...string) storetest.Counts {
			return s.asked(func() {
				var group sync.WaitGroup
				for _, namespace := range namespaces {
					req := request(t, image)
					req.Namespace = namespace
					group.Go(func() {
						if got, err := s.Verify(t.Context(), req); err != nil || got.Decision != want || got.Request.Namespace != namespace {
							t.Errorf("in %s: %v for %s, %v; want %v", namespace, got.Decision, got.Request.Namespace, err, want)
						}
					})
				}
				group.Wait()
			})
		}
		if cost := ask(executor.Denied, "a", "b", "c", "d"); cost.Referrers != 1 || cost.Fetch > 4 {
			t.Errorf("asked %+v for one image in four namespaces at once", cost)
		}
		if cost := ask(executor.Denied, "e"); cost != nothing {
			t.Errorf("asked %+v for it in a fifth", cost)
		}
		ask(executor.Allowed, "x1", "x2") // by another rule, whatever is remembered for that one
	})
}

// A look-up that an audit began by one rule goes to the admission lane when an
// admission comes to wait for it by another, and tells it of its hold.
func TestJoinedLookUpIsInTheLaneOfWhoWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, err := policy.New([]policy.Rule{
			{Name: "a", Images: []string{"**"}, Namespaces: []string{"a"}, Require: &every},
			{Name: "b", Images: []string{"**"}, Require: &every},
		}, []string{"v"})
		if err != nil {
			t.Fatal(err)
		}
		store, _ := signed("pass a")
		work := make(chan *referrerstore.Work, 1)
		store.ResolveFault = func(ctx context.Context, _ referrerstore.Reference) error {
			work <- referrerstore.WorkOf(ctx)
			time.Sleep(5 * time.Second)
			return nil
		}
		e := executor.New(t.Context(), []referrerstore.Store{store}, []verifier.Verifier{&scripted{name: "v"}}, p, remembering())
		t.Cleanup(e.Close)
		ask := func(namespace string, lane referrerstore.Lane, pin bool) func() {
			req := request(t, image)
			req.Namespace, req.Lane = namespace, lane
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			t.Cleanup(cancel)
			return func() {
				if pin {
					_, _ = e.Pin(ctx, req)
					return
				}
				_, _ = e.Verify(ctx, req)
			}
		}
		var group sync.WaitGroup
		defer group.Wait()
		expect := func(w *referrerstore.Work, want referrerstore.Lane) {
			t.Helper()
			synctest.Wait()
			if got := w.Lane(); got != want {
				t.Errorf("work in lane %v, want %v", got, want)
			}
		}
		group.Go(ask("a", referrerstore.LaneBackground, false))
		w := <-work
		expect(w, referrerstore.LaneBackground)
		for _, pin := range []bool{false, true} {
			ctx := ask("b", referrerstore.LaneAdmission, pin)
			group.Go(ctx)
			expect(w, referrerstore.LaneAdmission)
			time.Sleep(2 * time.Second)
			expect(w, referrerstore.LaneBackground)
		}
		begun := time.Now()
		group.Go(func() {
			ask("b", referrerstore.LaneAdmission, true)()
			if took := time.Since(begun); took != 0 {
				t.Errorf("waited %s for what is held for longer", took)
			}
		})
		w.SetHold(referrerstore.Hold{Until: time.Now().Add(time.Minute), Err: referrerstore.ErrRateLimited})
		synctest.Wait()
	})
}

// Hosts that the configuration does not name get no background work: who asks for
// some is told so at once, and nobody else shares that answer.
func TestUnnamedHostsGetNoBackgroundWork(t *testing.T) {
	t.Parallel()
	store, subject := signed("pass a")
	s := siteOf(t, store, aboutHost{store, referrerstore.HostState{Unnamed: true}}, subject, every, remembering())
	audit := request(t, image)
	audit.Lane, audit.Audit = referrerstore.LaneBackground, true
	asked := s.asked(func() {
		result, err := s.Verify(t.Context(), audit)
		x := executor.Explain(result, err)
		if !errors.Is(err, referrerstore.ErrBusy) || x.Code != executor.CodeBusy || !strings.Contains(x.Do, "stores[].hosts") || !strings.Contains(x.What, "registry.example") {
			t.Errorf("%v: %s", err, x.Line())
		}
	})
	if asked != nothing {
		t.Errorf("asked %+v", asked)
	}
	s.expect(t, image, executor.Allowed, storetest.Counts{Resolve: 1, Referrers: 1, Fetch: 2})
	if result, err := s.Verify(t.Context(), audit); err != nil || result.Decision != executor.Allowed {
		t.Errorf("of what is remembered: %v, %v", result.Decision, err)
	}
	opts := remembering()
	opts.Named = func(host string) bool { return host == "registry.example" } // as an upstream of pulls
	s = siteOf(t, store, aboutHost{store, referrerstore.HostState{Unnamed: true}}, subject, every, opts)
	if result, err := s.Verify(t.Context(), audit); err != nil || result.Decision != executor.Allowed {
		t.Errorf("of a host that is named elsewhere: %v, %v", result.Decision, err)
	}
}
