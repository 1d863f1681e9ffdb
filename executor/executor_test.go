package executor_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/executor/policy"
	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/storetest"
	"github.com/gatehouse-project/gatehouse/verifier"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const sigType = "application/vnd.test.signature"

// scripted is a verifier that does what an artifact's blob says.
type scripted struct {
	name    string
	started atomic.Int32
	peak    atomic.Int32
	running atomic.Int32
}

func (s *scripted) Name() string { return s.name }
func (s *scripted) Type() string { return "scripted" }

func (s *scripted) Matches(d ocispec.Descriptor) bool { return d.ArtifactType == sigType }

func (s *scripted) Verify(ctx context.Context, in verifier.Input) (verifier.Report, error) {
	s.started.Add(1)
	if n := s.running.Add(1); n > s.peak.Load() {
		s.peak.Store(n)
	}
	defer s.running.Add(-1)
	m, err := in.Content.Manifest(ctx)
	if err != nil {
		return verifier.Report{}, err
	}
	blob, err := in.Content.Blob(ctx, m.Layers[0], 1<<20)
	if err != nil {
		return verifier.Report{}, err
	}
	word, _, _ := strings.Cut(string(blob), " ")
	switch word {
	case "pass":
		return verifier.Report{Outcome: verifier.Passed, Statement: digest.FromBytes(blob), Reason: verifier.Reason{Code: verifier.CodeVerified}}, nil
	case "fail":
		return verifier.Report{Outcome: verifier.Failed, Reason: verifier.Reason{Code: verifier.CodeSignerUntrusted, What: "a stranger"}}, nil
	case "stale":
		if in.RevocationMayBeStale {
			return verifier.Report{Outcome: verifier.Passed, Statement: digest.FromBytes(blob), Warnings: []string{"revocation: unknown"}, Reason: verifier.Reason{Code: verifier.CodeVerified}}, nil
		}
		return verifier.Report{Reason: verifier.Reason{Code: verifier.CodeRevocationUnknown, What: "no answer"}}, nil
	case "empty":
		return verifier.Report{Outcome: verifier.Passed}, nil
	case "doubt":
		return verifier.Report{Reason: verifier.Reason{Code: verifier.CodeRevocationUnknown, What: "no answer"}}, nil
	case "panic":
		panic("hostile bytes")
	case "hang":
		<-ctx.Done()
		return verifier.Report{}, context.Cause(ctx)
	}
	return verifier.Report{}, errors.New("cannot say")
}

func blob(text string) storetest.Blob {
	return storetest.Blob{MediaType: "text/plain", Data: []byte(text)}
}

const image = "registry.example/app:v1"

func request(t testing.TB, text string) executor.Request {
	t.Helper()
	ref, err := referrerstore.ParseReference(text)
	if err != nil {
		t.Fatal(err)
	}
	return executor.Request{Reference: ref}
}

func ruleFor(t testing.TB, require policy.Node, all bool, verifiers ...string) executor.Policy {
	t.Helper()
	p, err := policy.New([]policy.Rule{{Name: "all", Images: []string{"**"}, Require: &require, EvaluateAll: all}}, verifiers)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func signed(texts ...string) (*storetest.Memory, referrerstore.Subject) {
	store := storetest.New("memory")
	subject := store.AddImage(image)
	for _, text := range texts {
		store.AddReferrer(subject, sigType, blob(text))
	}
	return store, subject
}

func TestVerifyDecides(t *testing.T) {
	t.Parallel()
	one := policy.Node{Verifier: "v"}
	two := 2
	tests := []struct {
		name     string
		require  policy.Node
		all      bool
		blobs    []string
		decision executor.Decision
		denial   error
		err      error
		reports  int // -1: any
	}{
		{name: "one good", require: one, blobs: []string{"pass"}, decision: executor.Allowed, reports: 1},
		{name: "none", require: one, decision: executor.Denied, denial: executor.ErrNoArtifacts},
		{name: "one bad", require: one, blobs: []string{"fail"}, decision: executor.Denied, denial: executor.ErrRequirement, reports: 1},
		{name: "good among bad", require: one, blobs: []string{"fail a", "pass", "fail b"}, decision: executor.Allowed, reports: -1},
		{name: "good beside a hanging one", require: one, blobs: []string{"hang", "pass"}, decision: executor.Allowed, reports: 1},
		{name: "good beside a panic", require: one, blobs: []string{"panic", "pass"}, decision: executor.Allowed, reports: -1},
		{name: "panic alone", require: one, blobs: []string{"panic"}, err: executor.ErrInconclusive, reports: 1},
		{name: "error alone", require: one, blobs: []string{"error"}, err: executor.ErrInconclusive, reports: 1},
		{name: "doubt alone", require: one, blobs: []string{"doubt"}, err: executor.ErrInconclusive, reports: 1},
		{name: "a pass that proves nothing", require: one, blobs: []string{"empty"}, err: executor.ErrInconclusive, reports: 1},
		{name: "two distinct", require: policy.Node{Verifier: "v", AtLeast: &two}, blobs: []string{"pass a", "pass b"}, decision: executor.Allowed, reports: 2},
		{name: "the same twice is one", require: policy.Node{Verifier: "v", AtLeast: &two}, blobs: []string{"pass a", "pass a"}, decision: executor.Denied, denial: executor.ErrRequirement, reports: -1},
		{name: "every", require: policy.Node{Verifier: "v", Every: true}, blobs: []string{"pass a", "pass b"}, decision: executor.Allowed, reports: 2},
		{name: "every with one bad", require: policy.Node{Verifier: "v", Every: true}, blobs: []string{"pass a", "hang", "fail"}, decision: executor.Denied, denial: executor.ErrRequirement, reports: -1},
		{name: "every of none", require: policy.Node{Verifier: "v", Every: true}, decision: executor.Denied, denial: executor.ErrNoArtifacts},
		{name: "every with doubt", require: policy.Node{Verifier: "v", Every: true}, blobs: []string{"pass a", "doubt"}, err: executor.ErrInconclusive, reports: 2},
		{name: "evaluate all", require: one, all: true, blobs: []string{"pass a", "fail", "pass b"}, decision: executor.Allowed, reports: 3},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			store, subject := signed(test.blobs...)
			e := executor.New(t.Context(), []referrerstore.Store{store}, []verifier.Verifier{&scripted{name: "v"}}, ruleFor(t, test.require, test.all, "v"), executor.Options{})
			got, err := e.Verify(t.Context(), request(t, image))
			if !errors.Is(err, test.err) || (err == nil) != (test.err == nil) {
				t.Fatalf("error = %v, want %v", err, test.err)
			}
			if got.Decision != test.decision || !errors.Is(got.Denial, test.denial) {
				t.Errorf("decision = %v (%v), want %v (%v)", got.Decision, got.Denial, test.decision, test.denial)
			}
			if test.reports >= 0 && len(got.Reports) != test.reports {
				t.Errorf("%d reports, want %d: %+v", len(got.Reports), test.reports, got.Reports)
			}
			if got.Subject.Descriptor.Digest != subject.Descriptor.Digest {
				t.Errorf("subject = %v", got.Subject)
			}
			if open := store.Counts().Open; open != 0 {
				t.Errorf("%d streams left open", open)
			}
		})
	}
}

// Reports come in the order of the list, however long each one took.
func TestReportsAreInListOrder(t *testing.T) {
	t.Parallel()
	store, subject := signed("pass 0", "pass 1", "pass 2", "pass 3", "pass 4")
	want := make([]digest.Digest, 0, 5)
	for desc, err := range store.Referrers(t.Context(), subject) {
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, desc.Digest)
	}
	var calls atomic.Int32
	store.FetchFault = func(context.Context, ocispec.Descriptor) error {
		if calls.Add(1)%3 == 0 {
			time.Sleep(time.Millisecond)
		}
		return nil
	}
	e := executor.New(t.Context(), []referrerstore.Store{store}, []verifier.Verifier{&scripted{name: "v"}}, ruleFor(t, policy.Node{Verifier: "v", Every: true}, false, "v"), executor.Options{})
	for range 20 {
		result, err := e.Verify(t.Context(), request(t, image))
		if err != nil {
			t.Fatal(err)
		}
		got := make([]digest.Digest, 0, len(result.Reports))
		for _, r := range result.Reports {
			got = append(got, r.Artifact.Digest)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("reports for %v, want %v", got, want)
		}
	}
}

func TestListFailures(t *testing.T) {
	t.Parallel()
	breaks := errors.New("broke off")
	tests := []struct {
		name     string
		require  policy.Node
		blobs    []string
		fault    error
		decision executor.Decision
		denial   error
		err      error
	}{
		{"broken, nothing found", policy.Node{Verifier: "v"}, []string{"fail"}, breaks, executor.Undecided, nil, breaks},
		{"broken, but enough found", policy.Node{Verifier: "v"}, []string{"pass"}, breaks, executor.Allowed, nil, nil},
		{"broken under every", policy.Node{Verifier: "v", Every: true}, []string{"pass"}, breaks, executor.Undecided, nil, breaks},
		{"broken under every, one bad", policy.Node{Verifier: "v", Every: true}, []string{"fail"}, breaks, executor.Denied, executor.ErrRequirement, nil},
		{"cut, nothing found", policy.Node{Verifier: "v"}, []string{"fail"}, referrerstore.ErrTooManyReferrers, executor.Denied, referrerstore.ErrTooManyReferrers, nil},
		{"cut, but enough found", policy.Node{Verifier: "v"}, []string{"pass"}, referrerstore.ErrTooManyReferrers, executor.Allowed, nil, nil},
		{"cut under every", policy.Node{Verifier: "v", Every: true}, []string{"pass"}, referrerstore.ErrTooManyReferrers, executor.Denied, referrerstore.ErrTooManyReferrers, nil},
		{"cut and in doubt", policy.Node{Verifier: "v"}, []string{"doubt"}, referrerstore.ErrTooManyReferrers, executor.Undecided, nil, executor.ErrInconclusive},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			store, _ := signed(test.blobs...)
			store.ReferrersFault = func(_ context.Context, _ referrerstore.Subject, yielded int) error {
				if yielded == len(test.blobs) {
					return test.fault
				}
				return nil
			}
			e := executor.New(t.Context(), []referrerstore.Store{store}, []verifier.Verifier{&scripted{name: "v"}}, ruleFor(t, test.require, false, "v"), executor.Options{})
			got, err := e.Verify(t.Context(), request(t, image))
			if !errors.Is(err, test.err) || (err == nil) != (test.err == nil) {
				t.Fatalf("error = %v, want %v", err, test.err)
			}
			if got.Decision != test.decision || !errors.Is(got.Denial, test.denial) {
				t.Errorf("decision = %v (%v), want %v (%v)", got.Decision, got.Denial, test.decision, test.denial)
			}
		})
	}
}

func TestMaxArtifactsIsACut(t *testing.T) {
	t.Parallel()
	texts := make([]string, 10)
	for i := range texts {
		texts[i] = fmt.Sprintf("fail %d", i)
	}
	store, _ := signed(append(texts, "pass")...)
	v := &scripted{name: "v"}
	e := executor.New(t.Context(), []referrerstore.Store{store}, []verifier.Verifier{v}, ruleFor(t, policy.Node{Verifier: "v"}, false, "v"), executor.Options{MaxArtifacts: 4})
	got, err := e.Verify(t.Context(), request(t, image))
	if err != nil || got.Decision != executor.Denied || !errors.Is(got.Denial, referrerstore.ErrTooManyReferrers) {
		t.Fatalf("got %v, %v, %v", got.Decision, got.Denial, err)
	}
	if n := v.started.Load(); n != 4 {
		t.Errorf("%d artifacts judged, want 4", n)
	}
}

func TestResolveFailures(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		fault  error
		denied bool
	}{
		{"absent", referrerstore.ErrNotFound, true},
		{"throttled", referrerstore.ErrRateLimited, false},
		{"down", referrerstore.ErrUnavailable, false},
		{"no access", referrerstore.ErrAuthDenied, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			first, _ := signed("pass")
			first.ResolveFault = func(context.Context, referrerstore.Reference) error { return test.fault }
			second, _ := signed("pass")
			e := executor.New(t.Context(), []referrerstore.Store{first, second}, []verifier.Verifier{&scripted{name: "v"}}, ruleFor(t, policy.Node{Verifier: "v"}, false, "v"), executor.Options{})
			got, err := e.Verify(t.Context(), request(t, image))
			if test.denied {
				if err != nil || got.Decision != executor.Denied || !errors.Is(got.Denial, test.fault) {
					t.Fatalf("got %v, %v, %v; want a denial", got.Decision, got.Denial, err)
				}
			} else if !errors.Is(err, test.fault) || got.Decision != executor.Undecided {
				t.Fatalf("got %v, %v; want no verdict", got.Decision, err)
			}
			if n := second.Counts().Resolve; n != 0 {
				t.Errorf("the second store was asked to resolve %d times", n)
			}
		})
	}
}

// A registry that answers a pinned reference with another digest is not believed.
func TestPinnedReferenceMustResolveToItself(t *testing.T) {
	t.Parallel()
	store, _ := signed("pass")
	e := executor.New(t.Context(), []referrerstore.Store{liar{store}}, []verifier.Verifier{&scripted{name: "v"}}, ruleFor(t, policy.Node{Verifier: "v"}, false, "v"), executor.Options{})
	other := digest.FromString("another image")
	_, err := e.Verify(t.Context(), request(t, "registry.example/app@"+other.String()))
	if !errors.Is(err, referrerstore.ErrDigestMismatch) {
		t.Fatalf("error = %v", err)
	}
}

type liar struct{ *storetest.Memory }

func (l liar) Resolve(ctx context.Context, ref referrerstore.Reference) (referrerstore.Subject, error) {
	ref.Digest, ref.Tag = "", "v1"
	return l.Memory.Resolve(ctx, ref)
}

// Referrers are gathered from every store that serves the host, and what two
// stores list counts once.
func TestReferrersOfAllStores(t *testing.T) {
	t.Parallel()
	a, _ := signed("fail", "pass a")
	b, _ := signed("pass a", "pass b")
	away, _ := signed("pass c")
	away.ServesHost = func(string) bool { return false }
	e := executor.New(t.Context(), []referrerstore.Store{a, b, away}, []verifier.Verifier{&scripted{name: "v"}}, ruleFor(t, policy.Node{Verifier: "v"}, true, "v"), executor.Options{})
	got, err := e.Verify(t.Context(), request(t, image))
	if err != nil || got.Decision != executor.Allowed || len(got.Reports) != 3 {
		t.Fatalf("got %v with %d reports, %v", got.Decision, len(got.Reports), err)
	}
	if n := away.Counts(); n != (storetest.Counts{}) {
		t.Errorf("a store that does not serve the host was asked: %+v", n)
	}
}

// One store's false listing or failure does not hide what another store has
// under the same digest.
func TestAnotherStoreHasTheArtifact(t *testing.T) {
	t.Parallel()
	for _, require := range []policy.Node{{Verifier: "v"}, {Verifier: "v", Every: true}} {
		for name, spoil := range map[string]func(*storetest.Memory, referrerstore.Subject, ocispec.Descriptor){
			"wrong size": func(m *storetest.Memory, s referrerstore.Subject, d ocispec.Descriptor) {
				d.Size = 1 << 30
				m.List(s, d)
			},
			"down": func(m *storetest.Memory, _ referrerstore.Subject, _ ocispec.Descriptor) {
				m.FetchFault = func(context.Context, ocispec.Descriptor) error { return referrerstore.ErrUnavailable }
			},
		} {
			honest, subject := signed("pass")
			var good ocispec.Descriptor
			for desc := range honest.Referrers(t.Context(), subject) {
				good = desc
			}
			spoilt, _ := signed()
			if name == "down" {
				spoilt, _ = signed("pass")
			}
			spoil(spoilt, subject, good)
			// The honest store answers late, so that the other one is first.
			honest.ReferrersFault = func(context.Context, referrerstore.Subject, int) error {
				time.Sleep(5 * time.Millisecond)
				return nil
			}
			e := executor.New(t.Context(), []referrerstore.Store{honest, spoilt}, []verifier.Verifier{&scripted{name: "v"}}, ruleFor(t, require, false, "v"), executor.Options{})
			got, err := e.Verify(t.Context(), request(t, image))
			if err != nil || got.Decision != executor.Allowed || len(got.Reports) != 1 {
				t.Errorf("%s, %+v: %v with %+v, %v", name, require, got.Decision, got.Reports, err)
			}
		}
	}
}

// A verifier that panics over a listing costs no other verifier its evidence.
func TestPanicInMatches(t *testing.T) {
	t.Parallel()
	store, _ := signed("pass")
	require := policy.Node{AnyOf: []policy.Node{{Verifier: "v"}, {Verifier: "w"}}}
	e := executor.New(t.Context(), []referrerstore.Store{store}, []verifier.Verifier{&scripted{name: "v"}, nervous{&scripted{name: "w"}}}, ruleFor(t, require, false, "v", "w"), executor.Options{})
	if got, err := e.Verify(t.Context(), request(t, image)); err != nil || got.Decision != executor.Allowed {
		t.Errorf("%v, %v", got.Decision, err)
	}
}

type nervous struct{ *scripted }

func (nervous) Matches(ocispec.Descriptor) bool { panic("hostile listing") }

// What no rule lets through costs no I/O at all.
func TestNameAloneDenies(t *testing.T) {
	t.Parallel()
	store, _ := signed("pass")
	p, err := policy.New([]policy.Rule{
		{Name: "mine", Images: []string{"registry.example/mine/**"}, Require: &policy.Node{Verifier: "v"}},
		{Name: "ended", Images: []string{"registry.example/old"}, Allow: &executor.Exemption{Reason: "T-1", Until: time.Now().Add(-time.Minute)}},
		{Name: "exempt", Images: []string{"registry.example/new"}, Allow: &executor.Exemption{Reason: "T-2", Until: time.Now().Add(time.Hour)}},
	}, []string{"v"})
	if err != nil {
		t.Fatal(err)
	}
	e := executor.New(t.Context(), []referrerstore.Store{store}, []verifier.Verifier{&scripted{name: "v"}}, p, executor.Options{})
	tests := []struct {
		image    string
		decision executor.Decision
		code     verifier.Code
	}{
		{image, executor.Denied, executor.CodeNoRule},
		{"registry.example/old", executor.Denied, executor.CodeExemptionEnded},
		{"registry.example/new", executor.Allowed, executor.CodeExempted},
	}
	for _, test := range tests {
		got, err := e.Verify(t.Context(), request(t, test.image))
		if err != nil || got.Decision != test.decision || executor.Explain(got, err).Code != test.code {
			t.Errorf("%s: %v, %v, %v", test.image, got.Decision, executor.Explain(got, err), err)
		}
	}
	if n := store.Counts(); n != (storetest.Counts{}) {
		t.Errorf("the store was asked: %+v", n)
	}
}

// Two verifiers of one artifact share one reading of it.
func TestEverythingIsFetchedOnce(t *testing.T) {
	t.Parallel()
	store, _ := signed("pass a", "pass b")
	both := policy.Node{AllOf: []policy.Node{{Verifier: "v", Every: true}, {Verifier: "w", Every: true}}}
	e := executor.New(t.Context(), []referrerstore.Store{store}, []verifier.Verifier{&scripted{name: "v"}, &scripted{name: "w"}}, ruleFor(t, both, false, "v", "w"), executor.Options{})
	got, err := e.Verify(t.Context(), request(t, image))
	if err != nil || got.Decision != executor.Allowed || len(got.Reports) != 4 {
		t.Fatalf("got %v with %d reports, %v", got.Decision, len(got.Reports), err)
	}
	if n := store.Counts(); n.Resolve != 1 || n.Referrers != 1 || n.Fetch != 4 {
		t.Errorf("asked %+v, want 1 resolve, 1 list, 4 fetches", n)
	}
}

// Only the verifiers that the rule names are called.
func TestOnlyNeededVerifiersRun(t *testing.T) {
	t.Parallel()
	store, _ := signed("pass a")
	v, w := &scripted{name: "v"}, &scripted{name: "w"}
	e := executor.New(t.Context(), []referrerstore.Store{store}, []verifier.Verifier{v, w}, ruleFor(t, policy.Node{Verifier: "v"}, true, "v", "w"), executor.Options{})
	if _, err := e.Verify(t.Context(), request(t, image)); err != nil {
		t.Fatal(err)
	}
	if w.started.Load() != 0 || v.started.Load() != 1 {
		t.Errorf("v ran %d times, w %d", v.started.Load(), w.started.Load())
	}
}

// The deadline ends a request whatever hangs below it, and says so.
func TestDeadline(t *testing.T) {
	t.Parallel()
	hang := func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }
	tests := map[string]func(*storetest.Memory){
		"resolve": func(m *storetest.Memory) {
			m.ResolveFault = func(ctx context.Context, _ referrerstore.Reference) error { return hang(ctx) }
		},
		"referrers": func(m *storetest.Memory) {
			m.ReferrersFault = func(ctx context.Context, _ referrerstore.Subject, _ int) error { return hang(ctx) }
		},
		"fetch": func(m *storetest.Memory) {
			m.FetchFault = func(ctx context.Context, _ ocispec.Descriptor) error { return hang(ctx) }
		},
		"read": func(m *storetest.Memory) {
			m.ReadFault = func(ctx context.Context, _ ocispec.Descriptor) error { return hang(ctx) }
		},
	}
	for name, set := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				store, _ := signed("pass")
				set(store)
				e := executor.New(t.Context(), []referrerstore.Store{store}, []verifier.Verifier{&scripted{name: "v"}}, ruleFor(t, policy.Node{Verifier: "v"}, false, "v"), executor.Options{})
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				start := time.Now()
				got, err := e.Verify(ctx, request(t, image))
				if !errors.Is(err, context.DeadlineExceeded) || got.Decision != executor.Undecided {
					t.Fatalf("got %v, %v", got.Decision, err)
				}
				if code := executor.Explain(got, err).Code; code != executor.CodeDeadline {
					t.Errorf("code = %s", code)
				}
				if took := time.Since(start); took != time.Second {
					t.Errorf("answered after %v", took)
				}
			})
		})
	}
}

func TestStorePanicIsNoVerdict(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]func(*storetest.Memory){
		"resolve": func(m *storetest.Memory) {
			m.ResolveFault = func(context.Context, referrerstore.Reference) error { panic("r") }
		},
		"referrers": func(m *storetest.Memory) {
			m.ReferrersFault = func(context.Context, referrerstore.Subject, int) error { panic("l") }
		},
		"fetch": func(m *storetest.Memory) {
			m.FetchFault = func(context.Context, ocispec.Descriptor) error { panic("f") }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, _ := signed("pass")
			set(store)
			e := executor.New(t.Context(), []referrerstore.Store{store}, []verifier.Verifier{&scripted{name: "v"}}, ruleFor(t, policy.Node{Verifier: "v"}, false, "v"), executor.Options{})
			got, err := e.Verify(t.Context(), request(t, image))
			if !errors.Is(err, executor.ErrInconclusive) || got.Decision != executor.Undecided {
				t.Fatalf("got %v, %v", got.Decision, err)
			}
		})
	}
}

func TestArtifactsAtOnceIsBounded(t *testing.T) {
	t.Parallel()
	texts := make([]string, 40)
	for i := range texts {
		texts[i] = fmt.Sprintf("pass %d", i)
	}
	store, _ := signed(texts...)
	v := &scripted{name: "v"}
	e := executor.New(t.Context(), []referrerstore.Store{store}, []verifier.Verifier{v}, ruleFor(t, policy.Node{Verifier: "v", Every: true}, false, "v"), executor.Options{ArtifactsAtOnce: 3})
	if got, err := e.Verify(t.Context(), request(t, image)); err != nil || got.Decision != executor.Allowed {
		t.Fatalf("got %v, %v", got.Decision, err)
	}
	if peak := v.peak.Load(); peak > 3 {
		t.Errorf("%d artifacts at once, bound is 3", peak)
	}
}

// Bytes are taken from the budget before they are read and all given back,
// also when many requests fight for a budget that holds one artifact.
func TestBudgetIsKeptAndGivenBack(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("x", 4000)
	store, _ := signed("pass "+big, "pass 2"+big, "fail "+big, "panic "+big)
	budget := referrerstore.NewBudget(5000)
	var over atomic.Bool
	store.ReadFault = func(context.Context, ocispec.Descriptor) error {
		if budget.InUse() > 5000 || budget.InUse() == 0 {
			over.Store(true)
		}
		return nil
	}
	e := executor.New(t.Context(), []referrerstore.Store{store}, []verifier.Verifier{&scripted{name: "v"}}, ruleFor(t, policy.Node{Verifier: "v"}, true, "v"), executor.Options{Budget: budget})
	var group sync.WaitGroup
	for range 10 {
		group.Go(func() {
			if got, err := e.Verify(t.Context(), request(t, image)); err != nil || got.Decision != executor.Allowed {
				t.Errorf("got %v, %v", got.Decision, err)
			}
		})
	}
	group.Wait()
	if over.Load() {
		t.Error("bytes were read beyond or without the budget")
	}
	if n := budget.InUse(); n != 0 {
		t.Errorf("%d bytes never given back", n)
	}
}

func TestHostileManifests(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		data func(subject referrerstore.Subject) string
		code verifier.Code
	}{
		{"not JSON", func(referrerstore.Subject) string { return "}{" }, verifier.CodeArtifactMalformed},
		{"no subject", func(referrerstore.Subject) string { return `{"layers":[]}` }, verifier.CodeArtifactMalformed},
		{"another subject", func(referrerstore.Subject) string {
			return `{"subject":{"digest":"` + digest.FromString("x").String() + `"}}`
		}, verifier.CodeArtifactMalformed},
		{"too many layers", func(s referrerstore.Subject) string {
			return `{"subject":{"digest":"` + s.Descriptor.Digest.String() + `"},"layers":[` + strings.Repeat("{},", 5000) + `{}]}`
		}, verifier.CodeArtifactMalformed},
		{"too large", func(s referrerstore.Subject) string { return strings.Repeat(" ", 300<<10) }, verifier.CodeArtifactTooLarge},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			store, subject := signed()
			desc := store.AddManifest(subject.Reference, ocispec.MediaTypeImageManifest, []byte(test.data(subject)))
			desc.ArtifactType = sigType
			store.List(subject, desc)
			e := executor.New(t.Context(), []referrerstore.Store{store}, []verifier.Verifier{&scripted{name: "v"}}, ruleFor(t, policy.Node{Verifier: "v"}, false, "v"), executor.Options{})
			got, err := e.Verify(t.Context(), request(t, image))
			if err != nil || got.Decision != executor.Denied {
				t.Fatalf("got %v, %v", got.Decision, err)
			}
			if len(got.Reports) != 1 || got.Reports[0].Reason.Code != test.code || got.Reports[0].Outcome != verifier.Failed {
				t.Errorf("reports = %+v", got.Reports)
			}
		})
	}
}

// Content that does not have its digest is doubt, never proof and never absence.
func TestAlteredContentIsNoVerdict(t *testing.T) {
	t.Parallel()
	store, _ := signed("fail")
	store.Alter = func(desc ocispec.Descriptor, data []byte) []byte {
		if desc.MediaType == "text/plain" {
			return []byte("pass")
		}
		return data
	}
	e := executor.New(t.Context(), []referrerstore.Store{store}, []verifier.Verifier{&scripted{name: "v"}}, ruleFor(t, policy.Node{Verifier: "v"}, false, "v"), executor.Options{})
	got, err := e.Verify(t.Context(), request(t, image))
	if !errors.Is(err, referrerstore.ErrDigestMismatch) || executor.Explain(got, err).Code != executor.CodeDigest {
		t.Fatalf("got %v, %v", got.Decision, err)
	}
}

func ExampleExecutor_Verify() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	store := storetest.New("memory")
	subject := store.AddImage("registry.example/app:v1")
	store.AddReferrer(subject, sigType, blob("pass"))
	rules, err := policy.New([]policy.Rule{{Name: "all", Images: []string{"**"}, Require: &policy.Node{Verifier: "v"}}}, []string{"v"})
	if err != nil {
		panic(err)
	}
	e := executor.New(ctx, []referrerstore.Store{store}, []verifier.Verifier{&scripted{name: "v"}}, rules, executor.Options{})
	ref, err := referrerstore.ParseReference("registry.example/app:v1")
	if err != nil {
		panic(err)
	}
	result, err := e.Verify(ctx, executor.Request{Reference: ref})
	fmt.Println(result.Decision, executor.Explain(result, err).Line())
	// Output: allowed ALLOWED: rule "all" is met
}

func BenchmarkVerify(b *testing.B) {
	store, _ := signed("pass 0", "pass 1", "pass 2", "pass 3", "pass 4")
	e := executor.New(b.Context(), []referrerstore.Store{store}, []verifier.Verifier{&scripted{name: "v"}}, ruleFor(b, policy.Node{Verifier: "v", Every: true}, false, "v"), executor.Options{})
	req := request(b, image)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.Verify(b.Context(), req); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRecall(b *testing.B) {
	s := newSite(b, policy.Node{Verifier: "v", Every: true}, remembering(), "pass 0", "pass 1")
	req := request(b, s.pinned())
	if _, err := s.Verify(b.Context(), req); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := s.Recall(req, time.Now()); !ok {
			b.Fatal("forgotten")
		}
	}
}
