package executor_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/executor/policy"
	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/storetest"
)

// fetchAny stands for as much as it took: one of several may be enough.
const fetchAny = -1

// oneProof is what a proof of an image with one signature takes of a registry.
var oneProof = storetest.Counts{Resolve: 1, Referrers: 1, Fetch: 2}

// proves lets an image be proven anew and says what it must come to and cost.
func (s site) proves(t *testing.T, text string, decision executor.Decision, cost storetest.Counts) executor.Result {
	t.Helper()
	var result executor.Result
	got := s.asked(func() {
		var err error
		result, err = s.Prove(t.Context(), request(t, text))
		if err != nil || result.Decision != decision {
			t.Errorf("%s anew: %v (%v), %v; want %v", text, result.Decision, result.Denial, err, decision)
		}
	})
	if cost.Fetch == fetchAny {
		cost.Fetch = got.Fetch
	}
	if got != cost {
		t.Errorf("%s anew: asked %+v, want %+v", text, got, cost)
	}
	if result.Proof != 0 || result.Held != nil {
		t.Errorf("%s anew: read from proof %d, held %v", text, result.Proof, result.Held)
	}
	return result
}

func TestProveUsesNoMemory(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"tag", "digest"} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, every, remembering(), "pass")
				name := map[string]string{"tag": image, "digest": s.pinned()}[text]
				s.expect(t, name, executor.Allowed, oneProof)
				for range 3 {
					result := s.proves(t, name, executor.Allowed, oneProof)
					if len(result.Reports) != 1 || result.Subject.Descriptor.Digest != s.subject.Descriptor.Digest {
						t.Errorf("it tells %+v", result)
					}
				}
				s.expect(t, name, executor.Allowed, nothing)
			})
		})
	}
}

func TestProveFeedsNoMemory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, every, remembering(), "pass")
		s.proves(t, image, executor.Allowed, oneProof)
		if result, ok := s.Recall(request(t, image), time.Now()); ok {
			t.Errorf("it is remembered: %+v", result)
		}
		s.expect(t, image, executor.Allowed, oneProof)
	})
}

// What was believed of a tag, of a list or of an artifact is not what is proven,
// and whoever believes it goes on to.
func TestProveSeesWhatChanged(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		blobs         []string
		change        func(s site)
		before, after executor.Decision
		cost          storetest.Counts
	}{
		"the tag leads elsewhere": {[]string{"pass"}, func(s site) {
			s.store.Tag(s.subject.Reference, s.store.AddImage("registry.example/app:other", []byte("other")).Descriptor)
		}, executor.Allowed, executor.Denied, storetest.Counts{Resolve: 1, Referrers: 1}},
		"a bad signature was added": {[]string{"pass"}, func(s site) {
			s.store.AddReferrer(s.subject, sigType, blob("fail"))
		}, executor.Allowed, executor.Denied, storetest.Counts{Resolve: 1, Referrers: 1, Fetch: fetchAny}},
		"a signature was added": {nil, func(s site) {
			s.store.AddReferrer(s.subject, sigType, blob("pass"))
		}, executor.Denied, executor.Allowed, oneProof},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, every, remembering(), test.blobs...)
				if result, err := s.Verify(t.Context(), request(t, image)); err != nil || result.Decision != test.before {
					t.Fatalf("before: %v, %v", result.Decision, err)
				}
				test.change(s)
				s.proves(t, image, test.after, test.cost)
				s.expect(t, image, test.before, nothing)
			})
		})
	}
}

func TestProveWithoutVerdict(t *testing.T) {
	t.Parallel()
	away := func(context.Context, referrerstore.Reference) error { return referrerstore.ErrUnavailable }
	tests := map[string]struct {
		blob string
		set  func(m *storetest.Memory)
		want error
	}{
		"the registry is away": {"pass", func(m *storetest.Memory) { m.ResolveFault = away }, referrerstore.ErrUnavailable},
		"the store panics": {"pass", func(m *storetest.Memory) {
			m.ResolveFault = func(context.Context, referrerstore.Reference) error { panic("store") }
		}, executor.ErrInconclusive},
		"nothing can be fetched": {"pass", func(m *storetest.Memory) {
			m.FetchFault = func(context.Context, ocispec.Descriptor) error { return referrerstore.ErrUnavailable }
		}, executor.ErrInconclusive},
		"the list breaks off": {"pass", func(m *storetest.Memory) {
			m.ReferrersFault = func(context.Context, referrerstore.Subject, int) error { return referrerstore.ErrUnavailable }
		}, executor.ErrInconclusive},
		"the verifier is in doubt": {"doubt", nil, executor.ErrInconclusive},
		"the verifier is too slow": {"hang", nil, context.DeadlineExceeded},
		"the verifier panics":      {"panic", nil, executor.ErrInconclusive},
		"the registry says nothing": {"pass", func(m *storetest.Memory) {
			m.ResolveFault = func(ctx context.Context, _ referrerstore.Reference) error { <-ctx.Done(); return context.Cause(ctx) }
		}, context.DeadlineExceeded},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, every, remembering(), "pass")
				s.expect(t, image, executor.Allowed, oneProof) // which must not be gone by
				s.store.AddReferrer(s.subject, sigType, blob(test.blob))
				if test.set != nil {
					test.set(s.store)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				result, err := s.Prove(ctx, request(t, image))
				if !errors.Is(err, test.want) || result.Decision != executor.Undecided {
					t.Errorf("%v, %v; want %v", result.Decision, err, test.want)
				}
				if open := s.store.Counts().Open; open != 0 {
					t.Errorf("%d streams left open", open)
				}
			})
		})
	}
}

func TestProveDenies(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, every, remembering())
		if got := s.proves(t, image, executor.Denied, storetest.Counts{Resolve: 1, Referrers: 1}); !errors.Is(got.Denial, executor.ErrNoArtifacts) {
			t.Errorf("denied for %v", got.Denial)
		}
		if got := s.proves(t, "registry.example/app:gone", executor.Denied, storetest.Counts{Resolve: 1}); !errors.Is(got.Denial, referrerstore.ErrNotFound) {
			t.Errorf("denied for %v", got.Denial)
		}
		p, err := policy.New([]policy.Rule{{Name: "none", Images: []string{"elsewhere.example/**"}, Require: &every}}, []string{"v"})
		if err != nil {
			t.Fatal(err)
		}
		e := executor.New(t.Context(), []referrerstore.Store{s.store}, nil, p, remembering())
		defer e.Close()
		if got := (site{e, s.store, s.subject}).proves(t, image, executor.Denied, nothing); !errors.Is(got.Denial, executor.ErrNoRule) {
			t.Errorf("denied for %v", got.Denial)
		}
	})
}

// Every request is of the background lane, whatever the caller says.
func TestProveIsBackgroundWork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, every, remembering(), "pass")
		var seen, pressing atomic.Int32
		look := func(ctx context.Context) error {
			seen.Add(1)
			if work := referrerstore.WorkOf(ctx); work == nil || work.Lane() != referrerstore.LaneBackground {
				pressing.Add(1)
			}
			return nil
		}
		s.store.ResolveFault = func(ctx context.Context, _ referrerstore.Reference) error { return look(ctx) }
		s.store.ReferrersFault = func(ctx context.Context, _ referrerstore.Subject, _ int) error { return look(ctx) }
		s.store.FetchFault = func(ctx context.Context, _ ocispec.Descriptor) error { return look(ctx) }
		s.proves(t, image, executor.Allowed, oneProof)
		if seen.Load() < 4 || pressing.Load() != 0 {
			t.Errorf("of %d requests %d were not of the background lane", seen.Load(), pressing.Load())
		}
	})
}

// It does its own work beside that of others, and is not counted with theirs.
func TestProveJoinsNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		opts, reg := remembering(), prometheus.NewRegistry()
		opts.Registerer = reg
		s := newSite(t, every, opts, "pass")
		s.store.FetchFault = func(context.Context, ocispec.Descriptor) error { time.Sleep(time.Second); return nil }
		asked := s.asked(func() {
			var both sync.WaitGroup
			for _, ask := range []func(context.Context, executor.Request) (executor.Result, error){s.Verify, s.Prove} {
				both.Go(func() {
					if got, err := ask(t.Context(), request(t, image)); err != nil || got.Decision != executor.Allowed {
						t.Errorf("%v, %v", got.Decision, err)
					}
				})
			}
			both.Wait()
		})
		if asked != (storetest.Counts{Resolve: 2, Referrers: 2, Fetch: 4}) {
			t.Errorf("asked %+v", asked)
		}
		if n, err := testutil.GatherAndCount(reg, "gatehouse_subjects_total"); err != nil || n != 1 {
			t.Errorf("%d series of subjects, %v", n, err)
		}
		if got := counted(t, reg, "gatehouse_recalls_total", "miss"); got != 1 {
			t.Errorf("%v subjects took work, want the one that was asked for", got)
		}
	})
}

// counted is the value of one series of a counter, by the value of its last label.
func counted(t *testing.T, reg *prometheus.Registry, name, value string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if labels := m.GetLabel(); family.GetName() == name && labels[len(labels)-1].GetValue() == value {
				return m.GetCounter().GetValue()
			}
		}
	}
	t.Fatalf("%s: no series %s", name, value)
	return 0
}

func TestProveAfterClose(t *testing.T) {
	t.Parallel()
	s := newSite(t, every, remembering(), "pass")
	s.Close()
	if result, err := s.Prove(t.Context(), request(t, image)); !errors.Is(err, executor.ErrInconclusive) || result.Decision != executor.Undecided {
		t.Errorf("%v, %v", result.Decision, err)
	}
}
