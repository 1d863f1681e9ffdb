package executor_test

import (
	"context"
	"errors"
	"iter"
	"sync"
	"sync/atomic"
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

// typed is a verifier for artifacts of one type. It fails what says one text,
// whatever others make of it.
type typed struct {
	*scripted
	of, rejects string
}

func verifierOf(name, artifactType string) typed {
	return typed{scripted: &scripted{name: name}, of: artifactType}
}

func (v typed) Matches(d ocispec.Descriptor) bool { return d.ArtifactType == v.of }

func (v typed) Verify(ctx context.Context, in verifier.Input) (verifier.Report, error) {
	r, err := v.scripted.Verify(ctx, in)
	if v.rejects != "" && r.Statement == digest.FromString(v.rejects) {
		return verifier.Report{Outcome: verifier.Failed, Reason: verifier.Reason{Code: verifier.CodeSignerUntrusted}}, nil
	}
	return r, err
}

// relabelled is a store that lists one artifact under another type from some
// moment on.
type relabelled struct {
	*storetest.Memory
	artifact digest.Digest
	as       string
	now      *atomic.Bool
}

func (r relabelled) Referrers(ctx context.Context, s referrerstore.Subject) iter.Seq2[ocispec.Descriptor, error] {
	return func(yield func(ocispec.Descriptor, error) bool) {
		for d, err := range r.Memory.Referrers(ctx, s) {
			if d.Digest == r.artifact && r.now.Load() {
				d.ArtifactType = r.as
			}
			if !yield(d, err) {
				return
			}
		}
	}
}

// newExecutor makes one that remembers and ends with the test.
func newExecutor(t *testing.T, require policy.Node, all bool, stores []referrerstore.Store, verifiers ...verifier.Verifier) *executor.Executor {
	t.Helper()
	names := make([]string, 0, len(verifiers))
	for _, v := range verifiers {
		names = append(names, v.Name())
	}
	e := executor.New(t.Context(), stores, verifiers, ruleFor(t, require, all, names...), remembering())
	t.Cleanup(e.Close)
	return e
}

// An artifact that a second store lists under another type is also judged by
// whom that concerns, and the proof says so: else what failed would be forgotten
// and the retry let in.
func TestStoresThatListUnderTwoTypes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b := storetest.New("a"), storetest.New("b")
		subject := a.AddImage(image)
		b.AddImage(image)
		a.AddReferrer(subject, "t1", blob("pass 1"))
		a.AddReferrer(subject, "t2", blob("pass 2"))
		bad := a.AddReferrer(subject, "t1", blob("fail"))
		b.AddReferrer(subject, "t1", blob("fail"))
		b.ReferrersFault = func(context.Context, referrerstore.Subject, int) error {
			time.Sleep(time.Millisecond) // so that the first store's listing is judged already
			return nil
		}
		var always atomic.Bool
		always.Store(true)
		second := relabelled{b, bad.Digest, "t2", &always}
		one := 1
		require := policy.Node{AllOf: []policy.Node{{Verifier: "v1", AtLeast: &one}, {Verifier: "v2", Every: true}}}
		e := newExecutor(t, require, true, []referrerstore.Store{a, second}, verifierOf("v1", "t1"), verifierOf("v2", "t2"))
		got, err := e.Verify(t.Context(), request(t, image))
		if err != nil || got.Decision != executor.Denied || len(got.Reports) != 4 {
			t.Fatalf("%v with %d reports, %v; want a denial with 4", got.Decision, len(got.Reports), err)
		}
		again, ok := e.Recall(request(t, image), time.Now())
		if !ok || again.Decision != executor.Denied || len(again.Reports) != 4 {
			t.Errorf("remembered (%v) as %v with %d reports; want the same", ok, again.Decision, len(again.Reports))
		}
	})
}

// What was proven of an artifact by one verifier says nothing about another
// that its list names later: that one judges it, as one without memory would.
func TestArtifactThatChangesItsType(t *testing.T) {
	t.Parallel()
	everyV2, v1, v2 := policy.Node{Verifier: "v2", Every: true}, policy.Node{Verifier: "v1"}, policy.Node{Verifier: "v2"}
	tests := map[string]struct {
		require policy.Node
		rejects string
		want    executor.Decision
	}{
		"accepted by the other": {policy.Node{AnyOf: []policy.Node{everyV2, {AllOf: []policy.Node{everyV2, v1}}}}, "", executor.Allowed},
		"rejected by the other": {policy.Node{AllOf: []policy.Node{everyV2, {AnyOf: []policy.Node{v1, v2}}}}, "pass 1", executor.Denied},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				store := storetest.New("a")
				subject := store.AddImage(image)
				store.AddReferrer(subject, "t2", blob("pass 2"))
				other := store.AddReferrer(subject, "t1", blob("pass 1"))
				var changed atomic.Bool
				stores := []referrerstore.Store{relabelled{store, other.Digest, "t2", &changed}}
				second := verifierOf("v2", "t2")
				second.rejects = test.rejects
				e := newExecutor(t, test.require, true, stores, verifierOf("v1", "t1"), second)
				if got, err := e.Verify(t.Context(), request(t, image)); err != nil || got.Decision != executor.Allowed {
					t.Fatalf("%v, %v; want it allowed at first", got.Decision, err)
				}
				changed.Store(true)
				time.Sleep(80 * time.Second) // the list has aged
				if _, err := e.Verify(t.Context(), request(t, image)); err != nil {
					t.Fatal(err)
				}
				synctest.Wait() // for the refresh behind it
				got, err := e.Verify(t.Context(), request(t, image))
				if err != nil || got.Decision != test.want || second.started.Load() != 2 {
					t.Errorf("%v, %v after the second verifier judged %d; want %v after 2", got.Decision, err, second.started.Load(), test.want)
				}
			})
		})
	}
}

// ofType is a verifier that goes by the type under which an artifact is listed.
type ofType struct {
	*scripted
	accepts string
}

func (o ofType) Matches(ocispec.Descriptor) bool { return true }

func (o ofType) Verify(ctx context.Context, in verifier.Input) (verifier.Report, error) {
	r, err := o.scripted.Verify(ctx, in)
	if in.Artifact.ArtifactType != o.accepts {
		return verifier.Report{Outcome: verifier.Failed, Reason: verifier.Reason{Code: verifier.CodeArtifactMalformed}}, nil
	}
	return r, err
}

// What a verifier made of an artifact counts as it was listed then: under another
// type the same verifier judges it again.
func TestArtifactIsJudgedAsListed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := storetest.New("a")
		artifact := store.AddReferrer(store.AddImage(image), "t1", blob("pass"))
		var changed atomic.Bool
		e := newExecutor(t, every, false, []referrerstore.Store{relabelled{store, artifact.Digest, "t2", &changed}}, ofType{&scripted{name: "v"}, "t1"})
		if got, err := e.Verify(t.Context(), request(t, image)); err != nil || got.Decision != executor.Allowed {
			t.Fatalf("%v, %v; want it allowed at first", got.Decision, err)
		}
		changed.Store(true)
		time.Sleep(80 * time.Second)
		_, _ = e.Verify(t.Context(), request(t, image)) // begins a refresh
		synctest.Wait()
		if got, err := e.Verify(t.Context(), request(t, image)); err != nil || got.Decision != executor.Denied {
			t.Errorf("%v, %v; want it denied under the other type", got.Decision, err)
		}
	})
}

// retyped is a store of which one tag leads to the same bytes under another
// media type.
type retyped struct{ *storetest.Memory }

func (r retyped) Resolve(ctx context.Context, ref referrerstore.Reference) (referrerstore.Subject, error) {
	subject, err := r.Memory.Resolve(ctx, ref)
	if ref.Tag == "v2" {
		subject.Descriptor.MediaType = ocispec.MediaTypeImageIndex
	}
	return subject, err
}

// ofManifests is a verifier of signatures that name an image manifest.
type ofManifests struct{ *scripted }

func (o ofManifests) Verify(ctx context.Context, in verifier.Input) (verifier.Report, error) {
	r, err := o.scripted.Verify(ctx, in)
	if in.Subject.Descriptor.MediaType != ocispec.MediaTypeImageManifest {
		return verifier.Report{Outcome: verifier.Failed, Reason: verifier.Reason{Code: verifier.CodeSubjectMismatch}}, nil
	}
	return r, err
}

// One digest under two media types is two subjects: whoever joins the work on
// the one is not let in for the other.
func TestMediaTypesShareNoWork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store, subject := signed("pass")
		store.FetchFault = func(context.Context, ocispec.Descriptor) error { time.Sleep(time.Second); return nil }
		e := newExecutor(t, every, false, []referrerstore.Store{retyped{store}}, ofManifests{&scripted{name: "v"}})
		first, second := request(t, image), request(t, "registry.example/app:v2")
		store.Tag(second.Reference, subject.Descriptor)
		check := func(req executor.Request, want executor.Decision, mediaType string) {
			got, err := e.Verify(t.Context(), req)
			if err != nil || got.Decision != want || got.Subject.Descriptor.MediaType != mediaType {
				t.Errorf("%s: %v as %s, %v; want %v as %s", req.Reference, got.Decision, got.Subject.Descriptor.MediaType, err, want, mediaType)
			}
		}
		var group sync.WaitGroup
		defer group.Wait()
		group.Go(func() { check(first, executor.Allowed, ocispec.MediaTypeImageManifest) })
		synctest.Wait()
		group.Go(func() { check(second, executor.Denied, ocispec.MediaTypeImageIndex) })
		group.Wait()
		check(second, executor.Denied, ocispec.MediaTypeImageIndex)
		check(first, executor.Allowed, ocispec.MediaTypeImageManifest)
	})
}

// Of two kinds the second may be on its way when the first one is there: that is
// as brief a denial as if there were nothing yet.
func TestSignThenRetryOfTheSecondKind(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := storetest.New("a")
		subject := store.AddImage(image)
		store.AddReferrer(subject, "t1", blob("pass 1"))
		require := policy.Node{AllOf: []policy.Node{{Verifier: "v1"}, {Verifier: "v2"}}}
		e := newExecutor(t, require, false, []referrerstore.Store{store}, verifierOf("v1", "t1"), verifierOf("v2", "t2"))
		if got, err := e.Verify(t.Context(), request(t, image)); err != nil || got.Decision != executor.Denied {
			t.Fatalf("%v, %v; want a denial", got.Decision, err)
		}
		store.AddReferrer(subject, "t2", blob("pass 2"))
		time.Sleep(5 * time.Second)
		if got, err := e.Verify(t.Context(), request(t, image)); err != nil || got.Decision != executor.Allowed {
			t.Errorf("%v (%v), %v 5s after it was signed; want it allowed", got.Decision, got.Denial, err)
		}
	})
}

// firstEnds is a verifier of which the first pass rests on what ends at a time.
type firstEnds struct {
	scripted
	until time.Time
	calls atomic.Int32
}

func (f *firstEnds) Verify(ctx context.Context, in verifier.Input) (verifier.Report, error) {
	r, err := f.scripted.Verify(ctx, in)
	if f.calls.Add(1) == 1 {
		r.ValidUntil = f.until
	}
	return r, err
}

// A certificate that ends while another artifact is awaited, or while what the
// decision made needless comes to its end, allows nothing; it is a doubt, and
// whoever asks again has the artifact judged again.
func TestReportEndsWhileOthersAreGathered(t *testing.T) {
	t.Parallel()
	tests := map[string]policy.Node{
		"that are needed":   every,
		"that are needless": {AnyOf: []policy.Node{{Verifier: "v"}, every}},
	}
	for name, require := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				store, subject := signed("pass a")
				slow := store.AddReferrer(subject, sigType, blob("pass b"))
				store.FetchFault = func(_ context.Context, desc ocispec.Descriptor) error {
					if time.Sleep(time.Millisecond); desc.Digest == slow.Digest {
						time.Sleep(5 * time.Second) // whatever its context says
					}
					return nil
				}
				v := &firstEnds{scripted: scripted{name: "v"}, until: time.Now().Add(2 * time.Second)}
				e := newExecutor(t, require, false, []referrerstore.Store{store}, v)
				got, err := e.Verify(t.Context(), request(t, image))
				if !errors.Is(err, executor.ErrInconclusive) || got.Decision != executor.Undecided {
					t.Errorf("%v, %v on a report that ended 3s ago; want no verdict", got.Decision, err)
				}
				if got, err := e.Verify(t.Context(), request(t, image)); err != nil || got.Decision != executor.Allowed {
					t.Errorf("%v, %v; want it judged again", got.Decision, err)
				}
			})
		})
	}
}

// A proof's number stands for all that it tells: what has ended in part is not
// told under the same one, or an answer kept for it would tell too much.
func TestProofThatEndsInPartHasNoNumber(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		opts := remembering()
		opts.Proofs.ListTTL = 0
		store, subject := signed("pass a", "pass b")
		v := &firstEnds{scripted: scripted{name: "v"}, until: time.Now().Add(30 * time.Second)}
		build := func(require policy.Node, all bool) site {
			e := executor.New(t.Context(), []referrerstore.Store{store}, []verifier.Verifier{v}, ruleFor(t, require, all, "v"), opts)
			t.Cleanup(e.Close)
			return site{e, store, subject}
		}
		pinned := request(t, "registry.example/app@"+subject.Descriptor.Digest.String())
		// One rule wants all reports, another reads its proof and is content
		// with any.
		for _, s := range []site{build(policy.Node{Verifier: "v"}, true), build(policy.Node{Verifier: "v"}, false)} {
			if got, err := s.Verify(t.Context(), pinned); err != nil || got.Decision != executor.Allowed {
				t.Fatalf("%v, %v", got.Decision, err)
			}
			whole, ok := s.Recall(pinned, time.Now())
			if !ok || whole.Proof == 0 || len(whole.Reports) != 2 {
				t.Fatalf("recalled (%v) proof %d with %d reports; want one with 2", ok, whole.Proof, len(whole.Reports))
			}
		}
		s := build(policy.Node{Verifier: "v"}, false)
		whole, err := s.Verify(t.Context(), pinned)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Second)
		part, ok := s.Recall(pinned, time.Now())
		if !ok || part.Decision != executor.Allowed || len(part.Reports) != 1 || part.Proof == whole.Proof {
			t.Errorf("recalled (%v) %v by proof %d with %d reports; want 1, and not under number %d", ok, part.Decision, part.Proof, len(part.Reports), whole.Proof)
		}
	})
}
