package executor_test

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/executor/policy"
	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/storetest"
)

// dated is a store that lists when artifacts were made: the first last.
type dated struct{ *storetest.Memory }

func (d dated) Referrers(ctx context.Context, subject referrerstore.Subject) iter.Seq2[ocispec.Descriptor, error] {
	return func(yield func(ocispec.Descriptor, error) bool) {
		made := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		for desc, err := range d.Memory.Referrers(ctx, subject) {
			desc.Annotations = map[string]string{ocispec.AnnotationCreated: made.Format(time.RFC3339)}
			made = made.Add(time.Hour)
			if !yield(desc, err) {
				return
			}
		}
	}
}

func (dated) About(string) referrerstore.HostState {
	return referrerstore.HostState{Usual: 10 * time.Millisecond}
}

// String has the notes in order; those of one moment have none of their own.
func (d *diary) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Join(slices.Sorted(slices.Values(d.notes)), ", ")
}

// diary notes what was fetched, and when.
type diary struct {
	start time.Time
	mu    sync.Mutex // guards the field that follows it
	notes []string
}

func (d *diary) note(text string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.notes = append(d.notes, fmt.Sprintf("%03d %s", time.Since(d.start).Milliseconds(), text))
}

// Where few artifacts are enough, few are fetched: the newest first, and more
// when one does not pass or takes long.
func TestFront(t *testing.T) {
	t.Parallel()
	two := 2
	tests := map[string]struct {
		require  policy.Node
		blobs    []string // by their age, the oldest first
		slow     string   // never comes
		decision executor.Decision
		want     string
	}{
		"one is enough":           {policy.Node{Verifier: "v"}, []string{"pass 1", "pass 2", "pass 3"}, "", executor.Allowed, "000 pass 3"},
		"the newest fails":        {policy.Node{Verifier: "v"}, []string{"pass 1", "pass 2", "pass 3", "fail 4"}, "", executor.Allowed, "000 fail 4, 010 pass 2, 010 pass 3"},
		"only the oldest is good": {policy.Node{Verifier: "v"}, []string{"pass 1", "fail 2", "fail 3", "fail 4", "fail 5"}, "", executor.Allowed, "000 fail 5, 010 fail 3, 010 fail 4, 020 fail 2, 020 pass 1"},
		"the newest hangs":        {policy.Node{Verifier: "v"}, []string{"pass 1", "pass 2", "pass 3"}, "pass 3", executor.Allowed, "000 pass 3, 160 pass 2"},
		"two are needed":          {policy.Node{Verifier: "v", AtLeast: &two}, []string{"pass 1", "pass 2", "pass 3"}, "", executor.Allowed, "000 pass 2, 000 pass 3"},
		"every is wanted":         {every, []string{"pass 1", "pass 2", "pass 3"}, "", executor.Allowed, "000 pass 1, 000 pass 2, 000 pass 3"},
		"none is good":            {policy.Node{Verifier: "v"}, []string{"fail 1", "fail 2"}, "", executor.Denied, "000 fail 2, 010 fail 1"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				store, subject := signed(test.blobs...)
				log := &diary{start: time.Now()}
				texts := make(map[digest.Digest]string)
				for _, text := range test.blobs {
					texts[digest.FromString(text)] = text
				}
				store.FetchFault = func(ctx context.Context, desc ocispec.Descriptor) error {
					text, isBlob := texts[desc.Digest]
					if !isBlob {
						return nil
					}
					log.note(text)
					wait := 10 * time.Millisecond
					if text == test.slow {
						wait = time.Hour
					}
					select {
					case <-time.After(wait):
						return nil
					case <-ctx.Done():
						return context.Cause(ctx)
					}
				}
				s := siteOf(t, store, dated{store}, subject, test.require, executor.Options{})
				got, err := s.Verify(t.Context(), request(t, image))
				if err != nil || got.Decision != test.decision {
					t.Errorf("%v, %v", got.Decision, err)
				}
				if notes := log.String(); notes != test.want {
					t.Errorf("fetched %q, want %q", notes, test.want)
				}
			})
		})
	}
}
