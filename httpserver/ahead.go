package httpserver

import (
	"context"
	"log/slog"
	"runtime/debug"
	"sync"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// The bounds on verifications that nobody has asked for yet: a part of those that
// requests wait for, and half of what an executor works on at once for one host.
const (
	aheadPerHost = queuedPerHost / 32
	aheadAtOnce  = queued / 8
)

// ahead are the verifications that were begun behind a mutation. The one that it
// expects comes milliseconds later, and finds it under way or done.
type ahead struct {
	hosts *hosts

	mu      sync.Mutex // guards the field that follows it
	running map[expected]struct{}
}

// expected is what is being verified, under which configuration.
type expected struct {
	generation uint64
	req        executor.Request
}

func newAhead() *ahead {
	return &ahead{hosts: newHosts(aheadPerHost, aheadAtOnce), running: make(map[expected]struct{})}
}

// begin enters a verification, unless it is under way or there are too many. Who
// began must end.
func (a *ahead) begin(of expected) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, busy := a.running[of]; busy || !a.hosts.join(of.req.Reference.Registry) {
		return false
	}
	a.running[of] = struct{}{}
	return true
}

func (a *ahead) end(of expected) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.running, of)
	a.hosts.part(of.req.Reference.Registry)
}

// verifyAhead begins a verification and returns at once. It outlives the request
// behind which it begins, has the time of one of its own, and belongs to the
// server's wait group. Until the one that it expects joins it, nobody waits for it:
// it stays behind those who are waited for.
func (s *Server) verifyAhead(ctx context.Context, b *batch, req executor.Request) {
	req.Lane = referrerstore.LaneBackground
	of := expected{b.live.Generation, req}
	if s.draining.Load() || !s.ahead.begin(of) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), b.live.VerifyTimeout)
	decider, trace := b.live.Decider, b.trace
	s.workers.Go(func() {
		defer cancel()
		defer s.ahead.end(of)
		defer func() {
			if p := recover(); p != nil {
				s.opts.Logger.Error("panic while verifying ahead", "panic", p, "stack", string(debug.Stack()), "trace_id", trace)
			}
		}()
		result, err := decider.Verify(ctx, req)
		s.opts.Logger.LogAttrs(ctx, slog.LevelDebug, "verified ahead", slog.String("trace_id", trace), slog.String("image", req.Reference.String()),
			slog.String("namespace", req.Namespace), slog.String("code", string(executor.Explain(result, err).Code)))
	})
}
