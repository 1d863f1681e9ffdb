package canary_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/executor/canary"
	"github.com/gatehouse-project/gatehouse/referrerstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// proverFunc is a Prover.
type proverFunc func(ctx context.Context, req executor.Request) (executor.Result, error)

func (f proverFunc) Prove(ctx context.Context, req executor.Request) (executor.Result, error) {
	return f(ctx, req)
}

func allowed() (executor.Result, error) {
	return executor.Result{Decision: executor.Allowed}, nil
}

func denied(why error) (executor.Result, error) {
	return executor.Result{Decision: executor.Denied, Denial: why}, nil
}

func always(result executor.Result, err error) proverFunc {
	return func(context.Context, executor.Request) (executor.Result, error) { return result, err }
}

const (
	good = "registry.example/app:good"
	bad  = "registry.example/app:bad"
)

// running is a canary at work, with what it tells.
type running struct {
	reg  *prometheus.Registry
	log  *lockedBuffer
	stop func()
}

type lockedBuffer struct {
	mu sync.Mutex // guards the field that follows it
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) lines() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Split(strings.TrimSpace(b.b.String()), "\n")
}

func start(t *testing.T, prover canary.Prover, opts canary.Options) running {
	t.Helper()
	r := running{reg: prometheus.NewRegistry(), log: &lockedBuffer{}}
	opts.Registerer, opts.Logger = r.reg, slog.New(slog.NewTextHandler(r.log, nil))
	c, err := canary.New(prover, opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() { c.Run(ctx) })
	r.stop = func() { cancel(); group.Wait() }
	t.Cleanup(r.stop)
	return r
}

// tells says what the metrics of the names must be.
func (r running) tells(t *testing.T, want string, names ...string) {
	t.Helper()
	if err := testutil.GatherAndCompare(r.reg, strings.NewReader(want), names...); err != nil {
		t.Error(err)
	}
}

const okHead = `# HELP gatehouse_canary_ok 1 if the canary image was as expected (pass or fail) when it was proven last, 0 if it was not or there was no verdict.
# TYPE gatehouse_canary_ok gauge
`

const runsHead = `# HELP gatehouse_canary_runs_total Canary images proven, by what was expected (pass or fail) and outcome (expected, unexpected, no_verdict).
# TYPE gatehouse_canary_runs_total counter
`

func TestOutcomes(t *testing.T) {
	t.Parallel()
	exempt := func() (executor.Result, error) {
		return executor.Result{Decision: executor.Allowed, Exemption: &executor.Exemption{Reason: "a ticket"}}, nil
	}
	away := func() (executor.Result, error) {
		return executor.Result{}, fmt.Errorf("resolve: %w", referrerstore.ErrUnavailable)
	}
	of := func(why error) func() (executor.Result, error) {
		return func() (executor.Result, error) { return denied(why) }
	}
	tests := map[string]struct {
		comes      func() (executor.Result, error)
		pass, fail string // the outcome of an image that must
	}{
		"allowed":              {allowed, "expected", "unexpected"},
		"allowed unproven":     {exempt, "no_verdict", "unexpected"},
		"not signed":           {of(executor.ErrNoArtifacts), "unexpected", "expected"},
		"not by whom it must":  {of(executor.ErrRequirement), "unexpected", "expected"},
		"no rule":              {of(executor.ErrNoRule), "unexpected", "expected"},
		"no such image":        {of(fmt.Errorf("resolve: %w", referrerstore.ErrNotFound)), "unexpected", "no_verdict"},
		"the registry is away": {away, "no_verdict", "no_verdict"},
		"nothing at all":       {func() (executor.Result, error) { return executor.Result{}, nil }, "no_verdict", "no_verdict"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := start(t, always(test.comes()), canary.Options{MustPass: []string{good}, MustFail: []string{bad}})
				synctest.Wait()
				var runs strings.Builder
				for _, expected := range []string{"fail", "pass"} {
					for _, outcome := range []string{"expected", "no_verdict", "unexpected"} {
						n := 0
						if (expected == "pass" && outcome == test.pass) || (expected == "fail" && outcome == test.fail) {
							n = 1
						}
						fmt.Fprintf(&runs, "gatehouse_canary_runs_total{expected=%q,outcome=%q} %d\n", expected, outcome, n)
					}
				}
				r.tells(t, runsHead+runs.String(), "gatehouse_canary_runs_total")
				ok := map[string]int{"expected": 1}
				r.tells(t, okHead+fmt.Sprintf("gatehouse_canary_ok{expected=\"fail\",image=%q} %d\ngatehouse_canary_ok{expected=\"pass\",image=%q} %d\n",
					bad, ok[test.fail], good, ok[test.pass]), "gatehouse_canary_ok")
			})
		})
	}
}

// A change is logged once, and by how bad it is.
func TestChangesAreLoggedOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var phase atomic.Int32
		prover := proverFunc(func(context.Context, executor.Request) (executor.Result, error) {
			switch phase.Load() {
			case 1:
				return allowed()
			case 2:
				return executor.Result{}, referrerstore.ErrUnavailable
			default:
				return denied(executor.ErrNoArtifacts)
			}
		})
		r := start(t, prover, canary.Options{MustFail: []string{bad}, Interval: time.Minute})
		for range 4 {
			time.Sleep(5*time.Minute + time.Second)
			phase.Add(1)
		}
		lines := r.log.lines()
		want := []string{"level=ERROR", "level=WARN", "level=INFO"}
		if len(lines) != len(want) {
			t.Fatalf("%d lines, want %d:\n%s", len(lines), len(want), strings.Join(lines, "\n"))
		}
		for i, line := range lines {
			if !strings.Contains(line, want[i]) || !strings.Contains(line, bad) || !strings.Contains(line, "expected=fail") {
				t.Errorf("line %d is %s; want %s of %s", i, line, want[i], bad)
			}
		}
	})
}

// Rounds begin every interval; a slow one delays the next and is not overlapped.
func TestRounds(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		takes time.Duration
		want  []time.Duration // from the start to each begin within 95 s
	}{
		{time.Second, []time.Duration{0, 30 * time.Second, 60 * time.Second, 90 * time.Second}},
		{45 * time.Second, []time.Duration{0, 45 * time.Second, 90 * time.Second}},
	} {
		t.Run(test.takes.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				start0 := time.Now()
				var begun []time.Duration // by one image, whose proofs must not overlap
				var busy atomic.Int32
				prover := proverFunc(func(context.Context, executor.Request) (executor.Result, error) {
					if busy.Add(1) > 1 {
						t.Error("two rounds at once")
					}
					defer busy.Add(-1)
					begun = append(begun, time.Since(start0))
					time.Sleep(test.takes)
					return allowed()
				})
				r := start(t, prover, canary.Options{MustPass: []string{good}, Timeout: time.Minute})
				time.Sleep(95 * time.Second)
				r.stop()
				if fmt.Sprint(begun) != fmt.Sprint(test.want) {
					t.Errorf("rounds began at %v, want %v", begun, test.want)
				}
			})
		})
	}
}

// All images are proven at once, within the bound, each within its own time.
func TestAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		images := make([]string, 20)
		for i := range images {
			images[i] = fmt.Sprintf("registry.example/app:%d", i)
		}
		var running, peak, late atomic.Int32
		prover := proverFunc(func(ctx context.Context, req executor.Request) (executor.Result, error) {
			if req.Lane != referrerstore.LaneBackground || req.Namespace != "prod" {
				t.Errorf("asked for %+v", req)
			}
			if n := running.Add(1); n > peak.Load() {
				peak.Store(n)
			}
			defer running.Add(-1)
			<-ctx.Done()
			late.Add(1)
			return executor.Result{}, context.Cause(ctx)
		})
		began := time.Now()
		r := start(t, prover, canary.Options{MustPass: images, Namespace: "prod", Interval: time.Hour})
		time.Sleep(30*time.Second + time.Millisecond) // 20 images in three lots of ten seconds
		if peak.Load() != 8 || late.Load() != 20 {
			t.Errorf("%d at once, %d cut off; want 8 and 20", peak.Load(), late.Load())
		}
		r.tells(t, fmt.Sprintf("# HELP gatehouse_canary_last_run_timestamp_seconds When all canary images had last been proven, in Unix time; 0 before the first time.\n"+
			"# TYPE gatehouse_canary_last_run_timestamp_seconds gauge\ngatehouse_canary_last_run_timestamp_seconds %v\n",
			float64(began.Add(30*time.Second).UnixNano())/1e9), "gatehouse_canary_last_run_timestamp_seconds")
	})
}

// What the end of a configuration cuts off is neither counted nor logged.
func TestStops(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		prover := proverFunc(func(ctx context.Context, _ executor.Request) (executor.Result, error) {
			<-ctx.Done()
			return executor.Result{}, context.Cause(ctx)
		})
		r := start(t, prover, canary.Options{MustPass: []string{good}})
		synctest.Wait()
		r.stop()
		if n, err := testutil.GatherAndCount(r.reg, "gatehouse_canary_ok"); err != nil || n != 0 {
			t.Errorf("it told of %d images, %v", n, err)
		}
		r.tells(t, runsHead+`gatehouse_canary_runs_total{expected="pass",outcome="expected"} 0
gatehouse_canary_runs_total{expected="pass",outcome="no_verdict"} 0
gatehouse_canary_runs_total{expected="pass",outcome="unexpected"} 0
`, "gatehouse_canary_runs_total")
		if lines := r.log.lines(); lines[0] != "" {
			t.Errorf("it logged %q", lines)
		}
	})
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	many := make([]string, 21)
	for i := range many {
		many[i] = fmt.Sprintf("registry.example/app:%d", i)
	}
	for name, test := range map[string]struct {
		opts canary.Options
		want []string
		is   error
	}{
		"nothing":          {canary.Options{}, []string{"names no image"}, nil},
		"no references":    {canary.Options{MustPass: []string{good, "Bad Image"}, MustFail: []string{"", bad}}, []string{"mustPass[1]", "mustFail[0]"}, referrerstore.ErrInvalidReference},
		"twice":            {canary.Options{MustPass: []string{good, good}}, []string{"mustPass[1]", "mustPass[0]"}, nil},
		"both":             {canary.Options{MustPass: []string{good}, MustFail: []string{good}}, []string{"mustFail[0]", "mustPass[0]"}, nil},
		"the same in full": {canary.Options{MustPass: []string{"busybox:1"}, MustFail: []string{"docker.io/library/busybox:1"}}, []string{"mustFail[0]", "mustPass[0]"}, nil},
		"too many":         {canary.Options{MustFail: many}, []string{"mustFail[20]", "at most 20"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := canary.New(always(allowed()), test.opts)
			if err == nil || c != nil {
				t.Fatal("it was accepted")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
			if test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("%v is not %v", err, test.is)
			}
		})
	}
}
