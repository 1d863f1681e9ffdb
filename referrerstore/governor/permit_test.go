package governor_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/governor"
)

// take acquires a permit at once.
func take(t *testing.T, ctx context.Context, h *governor.Host) *governor.Permit {
	t.Helper()
	p, err := h.Acquire(ctx)
	if err != nil {
		t.Fatalf("Acquire: %v", err)
	}
	return p
}

func finish(p *governor.Permit, o governor.Outcome) {
	p.Answered(o)
	p.Release()
}

// fail has a host fail so often in a row.
func fail(t *testing.T, h *governor.Host, times int, o governor.Outcome) {
	t.Helper()
	for range times {
		finish(take(t, t.Context(), h), o)
	}
}

func TestReleaseTwice(t *testing.T) {
	t.Parallel()
	g := newGovernor(t, governor.Options{StartInFlight: 2, MaxInFlight: 2})
	h := g.Host(key)
	p, other := take(t, t.Context(), h), take(t, t.Context(), h)
	p.Release()
	p.Release()
	p.Answered(governor.Outcome{Status: http.StatusTooManyRequests}) // too late to count
	other.Answered(governor.Outcome{Status: http.StatusOK})
	other.Answered(governor.Outcome{Status: http.StatusTooManyRequests})
	if s := g.Status()[0]; s.InFlight != 1 || s.LastError != "" {
		t.Errorf("in flight %d, last error %q", s.InFlight, s.LastError)
	}
	other.Release()
	if s := g.Status()[0]; s.InFlight != 0 {
		t.Errorf("in flight %d", s.InFlight)
	}
}

func TestCancelledWhileWaiting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGovernor(t, governor.Options{StartInFlight: 1, MaxInFlight: 1})
		h := g.Host(key)
		p := take(t, t.Context(), h)
		why := errors.New("not wanted any more")
		ctx, cancel := context.WithCancelCause(t.Context())
		done := make(chan error)
		go func() {
			_, err := h.Acquire(ctx)
			done <- err
		}()
		synctest.Wait()
		if s := g.Status()[0]; s.Waiting.Admission != 1 {
			t.Errorf("%d wait", s.Waiting.Admission)
		}
		cancel(why)
		if err := <-done; !errors.Is(err, why) {
			t.Errorf("Acquire: %v, want the cause", err)
		}
		if s := g.Status()[0]; s.Waiting.Admission != 0 {
			t.Errorf("%d wait after the cancellation", s.Waiting.Admission)
		}
		if _, err := h.Acquire(ctx); !errors.Is(err, why) {
			t.Errorf("Acquire with an ended context: %v", err)
		}
		p.Release()
		take(t, t.Context(), h).Release()
	})
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		status int
		asked  time.Duration
		want   time.Duration
		err    error
	}{
		{"429", http.StatusTooManyRequests, 3 * time.Second, 3 * time.Second, referrerstore.ErrRateLimited},
		{"503", http.StatusServiceUnavailable, 3 * time.Second, 3 * time.Second, referrerstore.ErrUnavailable},
		{"a day", http.StatusTooManyRequests, 24 * time.Hour, time.Minute, referrerstore.ErrRateLimited},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { testRetryAfter(t, test.status, test.asked, test.want, test.err) })
		})
	}
}

func testRetryAfter(t *testing.T, status int, asked, want time.Duration, sentinel error) {
	g := newGovernor(t, governor.Options{})
	h := g.Host(key)
	begun := time.Now()
	// One that waits when the pause begins, with too early a deadline.
	var early error
	var wg sync.WaitGroup
	permits := make([]*governor.Permit, 16)
	for i := range permits {
		permits[i] = take(t, t.Context(), h)
	}
	wg.Go(func() {
		ctx, cancel := context.WithTimeout(t.Context(), want-time.Millisecond)
		defer cancel()
		_, early = h.Acquire(ctx)
	})
	synctest.Wait()
	finish(permits[0], governor.Outcome{Status: status, RetryAfter: asked})
	wg.Wait()
	if !errors.Is(early, sentinel) || referrerstore.RetryAfter(early) != want || time.Since(begun) > 0 {
		t.Errorf("early deadline: %v after %v", early, time.Since(begun))
	}
	for _, p := range permits[1:] {
		finish(p, governor.Outcome{Status: http.StatusOK})
	}
	if wait, err := h.Throttled(); wait != want || !errors.Is(err, sentinel) {
		t.Errorf("Throttled: %v, %v", wait, err)
	}
	if s := g.Status()[0]; !s.PausedUntil.Equal(begun.Add(want)) {
		t.Errorf("paused until %v", s.PausedUntil)
	}

	// Those who can wait: one probe first, the others when it was answered.
	work := referrerstore.NewWork(begun, referrerstore.LaneAdmission)
	var holds atomic.Int32
	stop := work.Watch(func(referrerstore.Hold) { holds.Add(1) })
	defer stop()
	ctx := referrerstore.WithWork(t.Context(), work)
	granted := make(chan *governor.Permit, 3)
	for range 3 {
		wg.Go(func() {
			p, err := h.Acquire(ctx)
			if err != nil {
				t.Errorf("Acquire: %v", err)
			}
			granted <- p
		})
	}
	synctest.Wait()
	if hold := work.Hold(); !hold.Until.Equal(begun.Add(want)) || !errors.Is(hold.Err, sentinel) || holds.Load() == 0 {
		t.Errorf("hold %v, told %d times", hold, holds.Load())
	}
	probe := <-granted
	if since := time.Since(begun); since != want {
		t.Errorf("the probe went after %v", since)
	}
	time.Sleep(100 * time.Millisecond)
	synctest.Wait()
	if len(granted) != 0 {
		t.Error("others went before the probe was answered")
	}
	if hold := work.Hold(); hold.Err != nil {
		t.Errorf("held after the grant: %v", hold)
	}
	finish(probe, governor.Outcome{Status: http.StatusUnauthorized})
	wg.Wait()
	for range 2 {
		finish(<-granted, governor.Outcome{Status: http.StatusOK})
	}
}

func TestProbeRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newGovernor(t, governor.Options{}).Host(key)
		limited := governor.Outcome{Status: http.StatusTooManyRequests}
		begun := time.Now()
		for range 20 {
			finish(take(t, t.Context(), h), limited)
		}
		// Each pause is twice as long as the one before, up to half a minute.
		if took := time.Since(begun); took < 2*time.Minute || took > 10*time.Minute {
			t.Errorf("19 refused probes took %v", took)
		}
	})
}

func TestUnansweredProbe(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newGovernor(t, governor.Options{}).Host(key)
		finish(take(t, t.Context(), h), governor.Outcome{Status: http.StatusTooManyRequests, RetryAfter: time.Second})
		hangs := take(t, t.Context(), h)
		begun := time.Now()
		next := take(t, t.Context(), h)
		if took := time.Since(begun); took != 2*time.Second {
			t.Errorf("the second probe went after %v", took)
		}
		next.Release() // given up: another one goes at once
		finish(take(t, t.Context(), h), governor.Outcome{Status: http.StatusOK})
		take(t, t.Context(), h).Release()
		hangs.Release()
	})
}

func TestBreaker(t *testing.T) {
	t.Parallel()
	boom := governor.Outcome{Err: errors.New("dial tcp: connection refused\nGET https://user:secret@r.example.com/v2/?token=hush")}
	for _, test := range []struct {
		name  string
		with  governor.Outcome
		opens bool
	}{
		{"network", boom, true},
		{"timeout", governor.Outcome{Err: fmt.Errorf("net: %w", context.DeadlineExceeded), Latency: 5 * time.Second}, true},
		{"deadline too short", governor.Outcome{Err: context.DeadlineExceeded, Latency: 50 * time.Millisecond}, false},
		{"cancelled", governor.Outcome{Err: fmt.Errorf("get: %w", context.Canceled)}, false},
		{"refused by us", governor.Outcome{Err: referrerstore.ErrRefused}, false},
		{"500", governor.Outcome{Status: 500}, true},
		{"502", governor.Outcome{Status: 502}, true},
		{"503", governor.Outcome{Status: 503}, true},
		{"401", governor.Outcome{Status: 401}, false},
		{"403", governor.Outcome{Status: 403}, false},
		{"404", governor.Outcome{Status: 404}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			g := newGovernor(t, governor.Options{})
			fail(t, g.Host(key), 5, test.with)
			if s := g.Status()[0]; (s.Breaker.State == "open") != test.opens {
				t.Errorf("the breaker is %s", s.Breaker.State)
			}
		})
	}
	t.Run("in a row only", func(t *testing.T) {
		t.Parallel()
		g := newGovernor(t, governor.Options{})
		fail(t, g.Host(key), 4, boom)
		fail(t, g.Host(key), 1, governor.Outcome{Status: 404})
		fail(t, g.Host(key), 4, boom)
		if s := g.Status()[0]; s.Breaker.State != "closed" {
			t.Errorf("the breaker is %s", s.Breaker.State)
		}
	})
}

func TestBreakerOpensAndCloses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGovernor(t, governor.Options{})
		h := g.Host(key)
		boom := governor.Outcome{Err: errors.New("connection refused")}
		fail(t, h, 5, boom)
		for i := range 8 {
			_, err := h.Acquire(t.Context())
			rest := referrerstore.RetryAfter(err)
			least := min(time.Second<<i, 30*time.Second)
			if !errors.Is(err, referrerstore.ErrUnavailable) || rest < least || rest > least*5/4 {
				t.Fatalf("opening %d: %v", i, err)
			}
			// Little enough is waited out.
			time.Sleep(rest - 200*time.Millisecond)
			probe := take(t, t.Context(), h)
			if state := g.Status()[0].Breaker.State; state != "half-open" {
				t.Errorf("during the probe: %s", state)
			}
			finish(probe, boom)
		}
		_, err := h.Acquire(t.Context())
		time.Sleep(referrerstore.RetryAfter(err))
		finish(take(t, t.Context(), h), governor.Outcome{Status: 401})
		if state := g.Status()[0].Breaker.State; state != "closed" {
			t.Errorf("after a good probe: %s", state)
		}
	})
}

func TestSlowProbeOfBreaker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newGovernor(t, governor.Options{}).Host(key)
		fail(t, h, 5, governor.Outcome{Status: 500})
		_, err := h.Acquire(t.Context())
		time.Sleep(referrerstore.RetryAfter(err))
		hangs := take(t, t.Context(), h)
		begun := time.Now()
		if _, err := h.Acquire(t.Context()); !errors.Is(err, referrerstore.ErrUnavailable) || time.Since(begun) != 250*time.Millisecond {
			t.Errorf("behind a probe that hangs: %v after %v", err, time.Since(begun))
		}
		if _, err := h.Acquire(t.Context()); !errors.Is(err, referrerstore.ErrUnavailable) || time.Since(begun) != 250*time.Millisecond {
			t.Errorf("later: %v after %v", err, time.Since(begun))
		}
		finish(hangs, governor.Outcome{Status: 200})
		take(t, t.Context(), h).Release()
	})
}

func TestWaitersFailWhenTheBreakerOpens(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newGovernor(t, governor.Options{StartInFlight: 5, MaxInFlight: 5}).Host(key)
		var permits [5]*governor.Permit
		for i := range permits {
			permits[i] = take(t, t.Context(), h)
		}
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if _, err := h.Acquire(t.Context()); !errors.Is(err, referrerstore.ErrUnavailable) {
					t.Errorf("Acquire: %v", err)
				}
			})
		}
		synctest.Wait()
		for _, p := range permits {
			p.Answered(governor.Outcome{Status: 500})
		}
		wg.Wait()
	})
}

func TestUnnamed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGovernor(t, governor.Options{Named: func(host string) bool { return host == key.Host }})
		background := referrerstore.WithWork(t.Context(), referrerstore.NewWork(time.Now(), referrerstore.LaneBackground))
		if _, err := g.Host(governor.Key{Host: "h0"}).Acquire(background); !errors.Is(err, referrerstore.ErrBusy) {
			t.Errorf("background work: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		permits := make(chan *governor.Permit, 100)
		for i := range 100 {
			h := g.Host(governor.Key{Host: fmt.Sprintf("h%d", i%10)})
			wg.Go(func() {
				if p, err := h.Acquire(ctx); err == nil {
					permits <- p
				}
			})
		}
		for want := 32; want < 60; want++ {
			synctest.Wait()
			if len(permits) != want {
				t.Fatalf("%d permits, want %d", len(permits), want)
			}
			(<-permits).Release()
			permits <- nil // keeps the count
			if want == 32 {
				take(t, t.Context(), g.Host(key)).Release() // named hosts do not care
			}
		}
		cancel()
		wg.Wait()
		for _, s := range g.Status() {
			if !s.Named && (s.InFlight > 8 || s.Waiting.Admission > 0) {
				t.Errorf("%s: %d in flight, %d wait", s.Host, s.InFlight, s.Waiting.Admission)
			}
		}
	})
}

func TestManyHosts(t *testing.T) {
	t.Parallel()
	g := newGovernor(t, governor.Options{Named: func(host string) bool { return host == key.Host }})
	held := take(t, t.Context(), g.Host(governor.Key{Host: "held"}))
	g.Host(key)
	for i := range 5000 {
		g.Host(governor.Key{Host: fmt.Sprintf("h%d", i)})
	}
	list := g.Status()
	if len(list) != 22 { // one named, 20 of the others, and their rest
		t.Fatalf("%d entries", len(list))
	}
	if rest := list[21]; rest.Host != "other" || rest.InFlight != 1 {
		t.Errorf("the rest: %+v", rest)
	}
	if s := list[20]; s.Host != key.Host || !s.Named {
		t.Errorf("the named host is gone: %+v", s)
	}
	held.Release()
}

func TestClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGovernor(t, governor.Options{Rate: 1})
		h := g.Host(key)
		p := take(t, t.Context(), h)
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := h.Acquire(t.Context()); !errors.Is(err, referrerstore.ErrUnavailable) {
				t.Errorf("waiting: %v", err)
			}
		})
		synctest.Wait()
		g.Close()
		g.Close()
		wg.Wait()
		if _, err := g.Host(key).Acquire(t.Context()); !errors.Is(err, referrerstore.ErrUnavailable) {
			t.Errorf("afterwards: %v", err)
		}
		finish(p, governor.Outcome{Status: 200})
	})
}

func TestTooManyWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGovernor(t, governor.Options{StartInFlight: 1, MaxInFlight: 1})
		h := g.Host(key)
		p := take(t, t.Context(), h)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 8192 {
			wg.Go(func() { _, _ = h.Acquire(ctx) })
		}
		synctest.Wait()
		if _, err := h.Acquire(t.Context()); !errors.Is(err, referrerstore.ErrBusy) {
			t.Errorf("Acquire: %v", err)
		}
		cancel()
		wg.Wait()
		p.Release()
	})
}

func TestLatency(t *testing.T) {
	t.Parallel()
	g := newGovernor(t, governor.Options{})
	h := g.Host(key)
	answer := func(times int, took time.Duration) {
		for range times {
			finish(take(t, t.Context(), h), governor.Outcome{Status: 200, Latency: took})
		}
	}
	answer(3, 10*time.Millisecond)
	if u := h.Usual(); u != 0 {
		t.Errorf("usual after three answers: %v", u)
	}
	answer(50, 10*time.Millisecond)
	if u := h.Usual(); u < 10*time.Millisecond || u > 12*time.Millisecond {
		t.Errorf("usual: %v", u)
	}
	answer(50, 30*time.Millisecond) // a noisy machine
	if s := g.Status()[0]; s.Limit != 16 {
		t.Errorf("limit %d", s.Limit)
	}
	answer(50, time.Second)
	if s := g.Status()[0]; s.Limit != 12 { // once in a second
		t.Errorf("limit %d after the latency rose", s.Limit)
	}
}

func TestShedding(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGovernor(t, governor.Options{})
		h := g.Host(key)
		busy := governor.Outcome{Status: 503, RetryAfter: 10 * time.Millisecond}
		permits := make([]*governor.Permit, 16)
		for i := range permits {
			permits[i] = take(t, t.Context(), h)
		}
		for _, p := range permits {
			finish(p, busy)
		}
		if s := g.Status()[0]; s.Limit != 11 {
			t.Errorf("limit %d after a wave of 503", s.Limit)
		}
		fail(t, h, 20, busy)
		if s := g.Status()[0]; s.Limit != 1 {
			t.Errorf("limit %d after many of them", s.Limit)
		}
	})
}

func TestOptions(t *testing.T) {
	t.Parallel()
	for _, bad := range []governor.Options{{StartInFlight: -1}, {Rate: -1}, {MaxRetryAfter: -1}} {
		if _, err := governor.New(bad); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
	g := newGovernor(t, governor.Options{StartInFlight: 1000, MaxInFlight: 1000})
	g.Host(key)
	if limit := g.Status()[0].Limit; limit != 32 {
		t.Errorf("starts at %d", limit)
	}
}
