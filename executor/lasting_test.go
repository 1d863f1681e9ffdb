package executor_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/executor/policy"
	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/storetest"
	"github.com/gatehouse-project/gatehouse/verifier"
)

// lasting is a store that outlives executors: it remembers what its registry
// said, and hands out content that it has fetched without asking again. What is
// counted is what the registry was asked.
type lasting struct {
	*storetest.Memory

	mu      sync.Mutex // guards the fields that follow it
	full    bool       // and so notes nothing any more
	fault   func(ctx context.Context, list bool) error
	led     map[referrerstore.Reference]recalled[referrerstore.Subject]
	lists   map[digest.Digest]recalled[[]ocispec.Descriptor]
	content map[digest.Digest][]byte
}

type recalled[T any] struct {
	said T
	at   time.Time
}

var _ referrerstore.Recalling = (*lasting)(nil)

func lastingOf(store *storetest.Memory) *lasting {
	l := &lasting{
		Memory: store, content: make(map[digest.Digest][]byte),
		led:   make(map[referrerstore.Reference]recalled[referrerstore.Subject]),
		lists: make(map[digest.Digest]recalled[[]ocispec.Descriptor]),
	}
	store.ResolveFault = func(ctx context.Context, _ referrerstore.Reference) error { return l.fails(ctx, false) }
	store.ReferrersFault = func(ctx context.Context, _ referrerstore.Subject, n int) error {
		if n > 0 {
			return nil
		}
		return l.fails(ctx, true)
	}
	return l
}

// breaks makes the registry fail from now on: nil mends it.
func (l *lasting) breaks(fault func(ctx context.Context, list bool) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fault = fault
}

// answers makes the registry fail with errors, nil for none.
func (l *lasting) answers(resolve, list error) {
	l.breaks(func(_ context.Context, isList bool) error {
		if isList {
			return list
		}
		return resolve
	})
}

func (l *lasting) fails(ctx context.Context, list bool) error {
	l.mu.Lock()
	fault := l.fault
	l.mu.Unlock()
	if fault == nil {
		return nil
	}
	return fault(ctx, list)
}

func (l *lasting) Resolve(ctx context.Context, ref referrerstore.Reference) (referrerstore.Subject, error) {
	asked := time.Now().Round(0)
	subject, err := l.Memory.Resolve(ctx, ref)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.full:
	case err == nil:
		l.led[ref] = recalled[referrerstore.Subject]{subject, asked}
		ref.Tag, ref.Digest = "", subject.Descriptor.Digest
		l.led[ref] = recalled[referrerstore.Subject]{subject, asked}
	case errors.Is(err, referrerstore.ErrNotFound):
		delete(l.led, ref)
	}
	return subject, err
}

func (l *lasting) Referrers(ctx context.Context, subject referrerstore.Subject) iter.Seq2[ocispec.Descriptor, error] {
	return func(yield func(ocispec.Descriptor, error) bool) {
		asked := time.Now().Round(0)
		var all []ocispec.Descriptor
		for desc, err := range l.Memory.Referrers(ctx, subject) {
			if !yield(desc, err) || err != nil {
				return
			}
			all = append(all, desc)
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.lists[subject.Descriptor.Digest] = recalled[[]ocispec.Descriptor]{all, asked}
	}
}

func (l *lasting) Fetch(ctx context.Context, subject referrerstore.Subject, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	l.mu.Lock()
	data, ok := l.content[desc.Digest]
	l.mu.Unlock()
	if !ok {
		var err error
		if data, err = referrerstore.ReadAll(ctx, l.Memory, subject, desc, 1<<20); err != nil {
			return nil, err
		}
		l.mu.Lock()
		l.content[desc.Digest] = data
		l.mu.Unlock()
	}
	return io.NopCloser(bytes.NewReader(data[offset:])), nil
}

func (l *lasting) RecallSubject(ref referrerstore.Reference) (referrerstore.Subject, time.Time, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r, ok := l.led[ref]
	return r.said, r.at, ok
}

func (l *lasting) RecallReferrers(subject referrerstore.Subject) ([]ocispec.Descriptor, time.Time, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r, ok := l.lists[subject.Descriptor.Digest]
	return r.said, r.at, ok
}

// held is a site whose store outlives its executors.
type held struct {
	site
	last *lasting
}

// newHeld makes a site, and proves its image if there is a rule for it to meet.
func newHeld(t testing.TB, require policy.Node, opts executor.Options, blobs ...string) held {
	t.Helper()
	store, subject := signed(blobs...)
	last := lastingOf(store)
	return held{siteOf(t, store, last, subject, require, opts), last}
}

// again is the site after a restart: another process, over the same disk.
func (h held) again(t testing.TB, require policy.Node, opts executor.Options) held {
	t.Helper()
	h.Close()
	return held{siteOf(t, h.store, h.last, h.subject, require, opts), h.last}
}

// afresh is options of another process.
func afresh(change ...func(*executor.Options)) executor.Options {
	opts := remembering()
	for _, f := range change {
		f(&opts)
	}
	return opts
}

// useHeld lets a day's evidence stand in for a registry that is away.
func useHeld(terms executor.DownTerms) func(*executor.Options) {
	return func(o *executor.Options) {
		o.Down = func(string) executor.DownTerms { return terms }
	}
}

// day is as much as most let stand in.
var day = executor.DownTerms{UseHeld: 24 * time.Hour}

// within verifies within the time that a request has as a rule.
func (s site) within(t testing.TB, text string) (executor.Result, time.Duration, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 1900*time.Millisecond)
	defer cancel()
	start := time.Now()
	result, err := s.Verify(ctx, request(t, text))
	return result, time.Since(start), err
}

// standsIn verifies an image that is to be allowed by what is held.
func (s site) standsIn(t testing.TB, text string) executor.Result {
	t.Helper()
	result, _, err := s.within(t, text)
	if err != nil || result.Decision != executor.Allowed || result.Held == nil {
		t.Errorf("%s: %v (%v), held %+v, %v; want it allowed by what is held", text, result.Decision, result.Denial, result.Held, err)
	}
	return result
}

// fails verifies an image of which the registry's error is to be told.
func (s site) fails(t testing.TB, text string, want error) {
	t.Helper()
	result, _, err := s.within(t, text)
	if !errors.Is(err, want) || result.Decision != executor.Undecided || result.Held != nil {
		t.Errorf("%s: %v, held %+v, %v; want %v", text, result.Decision, result.Held, err, want)
	}
}

// hangs is a fault that lasts until whoever asks gives up.
func hangs(ctx context.Context, _ bool) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

// expiring is a verifier whose certificates all expire at a time.
type expiring struct {
	scripted
	until time.Time
}

func (e *expiring) Verify(ctx context.Context, in verifier.Input) (verifier.Report, error) {
	if !time.Now().Before(e.until) {
		return verifier.Report{Outcome: verifier.Failed, Reason: verifier.Reason{Code: verifier.CodeCertificateExpired, What: "expired"}}, nil
	}
	r, err := e.scripted.Verify(ctx, in)
	r.ValidUntil = e.until
	return r, err
}
