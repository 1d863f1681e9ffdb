package evidence

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/storetest"
)

// A tag is asked for each time. What it leads to, and since when, is known after a
// restart, until its registry says that there is none.
func TestTagsAreAskedFor(t *testing.T) {
	t.Parallel()
	inner := storetest.New("inner")
	subject := inner.AddImage("registry.example.com/app:v1")
	other := inner.AddImage("registry.example.com/app:v2").Descriptor
	moment := time.Unix(1_700_000_000, 0).UTC()
	clock := Options{Now: func() time.Time { return moment }}
	dir := t.TempDir()
	first := openCache(t, dir)
	s := New(inner, first, clock)
	for i, want := range []ocispec.Descriptor{subject.Descriptor, other} {
		moment = moment.Add(time.Minute)
		inner.Tag(subject.Reference, want)
		got, err := s.Resolve(t.Context(), subject.Reference)
		if err != nil || got.Descriptor.Digest != want.Digest || inner.Counts().Resolve != i+1 {
			t.Fatalf("%v, %v after %d questions", got, err, inner.Counts().Resolve)
		}
	}
	closeCache(t, first)
	s = New(inner, openCache(t, dir), clock)
	asked := moment
	got, at, known := s.RecallSubject(subject.Reference)
	want := referrerstore.Subject{Reference: subject.Reference, Descriptor: other}
	if diff := cmp.Diff(want, got); diff != "" || !at.Equal(asked) || !known {
		t.Errorf("%s at %s", diff, at)
	}
	moment = moment.Add(time.Hour)
	for _, fault := range []error{referrerstore.ErrUnavailable, referrerstore.ErrAuthDenied, referrerstore.ErrRateLimited} {
		inner.ResolveFault = func(context.Context, referrerstore.Reference) error { return fault }
		if _, err := s.Resolve(t.Context(), subject.Reference); !errors.Is(err, fault) {
			t.Errorf("%v, want %v", err, fault)
		}
		if _, at, known := s.RecallSubject(subject.Reference); !known || !at.Equal(asked) {
			t.Errorf("%v makes it forget, or younger", fault)
		}
	}
	inner.ResolveFault = func(context.Context, referrerstore.Reference) error { return referrerstore.ErrNotFound }
	if _, err := s.Resolve(t.Context(), subject.Reference); !errors.Is(err, referrerstore.ErrNotFound) {
		t.Error(err)
	}
	if _, _, known := s.RecallSubject(subject.Reference); known {
		t.Error("a tag that is gone is recalled")
	}
	if _, _, known := s.RecallSubject(subject.Reference.Pinned(other.Digest)); !known {
		t.Error("what the tag led to is forgotten")
	}
}

// Lists are kept if they ended whole, with the time at which they were asked for.
func TestListsAreKeptWhole(t *testing.T) {
	t.Parallel()
	inner := storetest.New("inner")
	subject := inner.AddImage("registry.example.com/app:v1")
	moment := time.Unix(1_700_000_000, 0).UTC()
	dir := t.TempDir()
	first := openCache(t, dir)
	s := New(inner, first, Options{Now: func() time.Time { return moment }})
	list := func(stop int) error {
		asked := moment
		defer func() { moment = asked.Add(time.Hour) }()
		n := 0
		for _, err := range s.Referrers(t.Context(), subject) {
			moment = moment.Add(time.Minute) // a list takes its time
			if err != nil {
				return err
			}
			if n++; n == stop {
				break
			}
		}
		return nil
	}
	expect := func(when time.Time, want ...ocispec.Descriptor) {
		t.Helper()
		got, at, known := s.RecallReferrers(subject)
		if len(got) != len(want) || !at.Equal(when) || !known {
			t.Errorf("recalls %d entries of %s (%t), want %d of %s", len(got), at, known, len(want), when)
		}
		for i := range min(len(got), len(want)) {
			if diff := cmp.Diff(want[i], got[i]); diff != "" {
				t.Error(diff)
			}
		}
	}
	if _, _, known := s.RecallReferrers(subject); known {
		t.Error("nobody has asked yet")
	}
	begun := moment
	if err := list(0); err != nil {
		t.Fatal(err)
	}
	expect(begun) // an empty list is a list
	a, b := inner.AddReferrer(subject, "example/a"), inner.AddReferrer(subject, "example/b")
	if err := list(1); err != nil {
		t.Fatal(err)
	}
	expect(begun, a) // left early: what there was of it is known
	heard := []ocispec.Descriptor{a}
	for _, fault := range []error{referrerstore.ErrTooManyReferrers, referrerstore.ErrBrokenOff} {
		for at := range 3 {
			inner.ReferrersFault = func(_ context.Context, _ referrerstore.Subject, yielded int) error {
				if yielded == at {
					return fault
				}
				return nil
			}
			if err := list(0); !errors.Is(err, fault) {
				t.Errorf("%v, want %v", err, fault)
			}
			if at == 2 {
				heard = []ocispec.Descriptor{b, a}
			}
			expect(begun, heard...)
		}
	}
	inner.ReferrersFault = nil
	again := moment
	if err := list(0); err != nil {
		t.Fatal(err)
	}
	expect(again, a, b)
	closeCache(t, first)
	s = New(inner, openCache(t, dir), Options{})
	expect(again, a, b)
}

// What a list was heard to have before it was left, cut or broken is on the one that
// is kept, which grows no younger.
func TestKeptListsMissNothingHeard(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		stop  int   // after so many entries, 0 for never
		fault error // behind the third entry
		long  bool
	}{
		"left":   {3, nil, false},
		"cut":    {0, referrerstore.ErrTooManyReferrers, false},
		"broken": {0, referrerstore.ErrBrokenOff, false},
		"long":   {0, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inner := storetest.New("inner")
			subject := inner.AddImage("registry.example.com/app:v1")
			moment := time.Unix(1_700_000_000, 0).UTC()
			s := New(inner, openCache(t, t.TempDir()), Options{Now: func() time.Time { return moment }})
			first := inner.AddReferrer(subject, "example/a")
			for _, err := range s.Referrers(t.Context(), subject) {
				if err != nil {
					t.Fatal(err)
				}
			}
			begun := moment
			moment = moment.Add(time.Hour)
			second, third := inner.AddReferrer(subject, "example/b"), inner.AddReferrer(subject, "example/c")
			for i := range maxListed {
				if tt.long {
					inner.List(subject, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(fmt.Sprint(i)), Size: 1})
				}
			}
			inner.ReferrersFault = func(_ context.Context, _ referrerstore.Subject, yielded int) error {
				if yielded == 3 {
					return tt.fault
				}
				return nil
			}
			n := 0
			for range s.Referrers(t.Context(), subject) {
				if n++; n == tt.stop {
					break
				}
			}
			got, at, known := s.RecallReferrers(subject)
			for _, want := range []ocispec.Descriptor{second, third} {
				if !slices.ContainsFunc(got, func(d ocispec.Descriptor) bool { return d.Digest == want.Digest }) {
					t.Errorf("%s is not among %d entries", want.Digest, len(got))
				}
			}
			if !known || !at.Equal(begun) {
				t.Errorf("of %s (%t), want %s", at, known, begun)
			}
			if !tt.long && (len(got) != 3 || !slices.ContainsFunc(got, func(d ocispec.Descriptor) bool { return d.Digest == first.Digest })) {
				t.Errorf("%d entries, want what was kept and what came", len(got))
			}
		})
	}
}

// A list beyond what is kept goes through, and is not kept.
func TestLongListsGoThrough(t *testing.T) {
	t.Parallel()
	inner := storetest.New("inner")
	subject := inner.AddImage("registry.example.com/app:v1")
	descs := make([]ocispec.Descriptor, maxListed+1)
	for i := range descs {
		descs[i] = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(fmt.Sprint(i)), Size: 1}
	}
	inner.List(subject, descs...)
	s := New(inner, openCache(t, t.TempDir()), Options{})
	n := 0
	for _, err := range s.Referrers(t.Context(), subject) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if _, _, known := s.RecallReferrers(subject); n != len(descs) || known {
		t.Errorf("%d entries of %d, kept %t", n, len(descs), known)
	}
}
