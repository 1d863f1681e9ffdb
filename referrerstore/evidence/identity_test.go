package evidence

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/storetest"
)

// posing is a store with an identity that may change at any time.
type posing struct {
	*storetest.Memory
	identity atomic.Pointer[string]
}

func newPosing(identity string) *posing {
	p := &posing{Memory: storetest.New("posing")}
	p.pose(identity)
	return p
}

func (p *posing) pose(as string) { p.identity.Store(&as) }

func (p *posing) About(string) referrerstore.HostState {
	return referrerstore.HostState{Identity: *p.identity.Load(), Throttled: true}
}

// faults lets a fault decide about all that a registry hands out but lists.
func (p *posing) faults(fault func() error) {
	p.ResolveFault = func(context.Context, referrerstore.Reference) error { return fault() }
	p.FetchFault = func(context.Context, ocispec.Descriptor) error { return fault() }
	p.PullFault = func(context.Context, storetest.Pull) error { return fault() }
}

// What one identity was told is not told to another before the registry was asked.
func TestIdentityBoundsAnswers(t *testing.T) {
	t.Parallel()
	for name, around := range map[string]func(*posing) referrerstore.Store{
		"pulls":   func(p *posing) referrerstore.Store { return p },
		"fetches": func(p *posing) referrerstore.Store { return bareInformed{bare{p}, p} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inner := newPosing("alice")
			boundsAnswers(t, inner, around(inner))
		})
	}
}

type bareInformed struct {
	bare
	referrerstore.Informed
}

func boundsAnswers(t *testing.T, inner *posing, around referrerstore.Store) {
	subject := inner.AddImage("registry.example.com/app:v1")
	inner.AddReferrer(subject, "example/a")
	pinned := subject.Reference.Pinned(subject.Descriptor.Digest)
	blob := inner.AddBlob(subject.Reference, storetest.Blob{MediaType: "example/blob", Data: []byte("for alice")})
	c := openCache(t, t.TempDir())
	s := New(around, c, Options{})
	if !referrerstore.About(s, "registry.example.com").Throttled || s.Name() != "posing" || s.Inner() != around {
		t.Error("it does not say what the inner store says")
	}
	all := func() (failed []string) {
		for name, call := range map[string]func() error{
			"tag":      func() error { _, err := s.Resolve(t.Context(), subject.Reference); return err },
			"digest":   func() error { _, err := s.Resolve(t.Context(), pinned); return err },
			"manifest": func() error { _, err := readAll(t.Context(), s, subject, subject.Descriptor, 0); return err },
			"blob":     func() error { _, err := readAll(t.Context(), s, subject, blob, 0); return err },
		} {
			if err := call(); errors.Is(err, referrerstore.ErrAuthDenied) {
				failed = append(failed, name)
			} else if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		return failed
	}
	for range s.Referrers(t.Context(), subject) {
	}
	if failed := all(); len(failed) > 0 {
		t.Errorf("alice: %v", failed)
	}
	deny := func() error {
		if *inner.identity.Load() != "alice" {
			return referrerstore.ErrAuthDenied
		}
		return nil
	}
	inner.faults(deny)
	inner.pose("mallory")
	if failed := all(); len(failed) != 4 {
		t.Errorf("only %v are denied to mallory", failed)
	}
	for _, ref := range []referrerstore.Reference{subject.Reference, pinned} {
		if got, _, known := s.RecallSubject(ref); known {
			t.Errorf("mallory recalls %v", got)
		}
	}
	if got, _, known := s.RecallReferrers(subject); known {
		t.Errorf("mallory recalls %v", got)
	}
	before := inner.Counts()
	inner.pose("alice")
	for _, ref := range []referrerstore.Reference{subject.Reference, pinned} {
		if _, _, known := s.RecallSubject(ref); !known {
			t.Errorf("alice does not recall %v", ref)
		}
	}
	if got, _, known := s.RecallReferrers(subject); !known || len(got) != 1 {
		t.Errorf("alice recalls %v", got)
	}
	if _, err := readAll(t.Context(), s, subject, blob, 0); err != nil || inner.Counts() != before {
		t.Errorf("alice's is lost: %v", err)
	}
	// Another who may have it costs one question, and is told then.
	inner.faults(func() error { return nil })
	inner.pose("bob")
	if failed := all(); len(failed) > 0 {
		t.Errorf("bob: %v", failed)
	}
}

// Credentials change while an answer is on its way: nobody can say to whom it was
// given, and it is kept for nobody.
func TestIdentityChangesMeanwhile(t *testing.T) {
	t.Parallel()
	inner := newPosing("alice")
	subject := inner.AddImage("registry.example.com/app:v1")
	inner.AddReferrer(subject, "example/a")
	change := func() error {
		inner.pose("bob")
		return nil
	}
	inner.faults(change)
	inner.ReferrersFault = func(context.Context, referrerstore.Subject, int) error { return change() }
	s := New(inner, openCache(t, t.TempDir()), Options{})
	if _, err := s.Resolve(t.Context(), subject.Reference); err != nil {
		t.Error(err)
	}
	inner.pose("alice")
	for _, err := range s.Referrers(t.Context(), subject) {
		if err != nil {
			t.Error(err)
		}
	}
	inner.pose("alice")
	if _, err := readAll(t.Context(), s, subject, subject.Descriptor, 0); err != nil {
		t.Error(err)
	}
	for _, identity := range []string{"alice", "bob"} {
		inner.pose(identity)
		for _, ref := range []referrerstore.Reference{subject.Reference, subject.Reference.Pinned(subject.Descriptor.Digest)} {
			if _, _, known := s.RecallSubject(ref); known {
				t.Errorf("%s recalls %s", identity, ref)
			}
		}
		if _, _, known := s.RecallReferrers(subject); known {
			t.Errorf("%s recalls a list", identity)
		}
	}
}
