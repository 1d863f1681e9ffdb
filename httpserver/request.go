package httpserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// answer is what was found for one subject of a request.
type answer struct {
	explanation executor.Explanation
	result      executor.Result
	err         error // no verdict, or no digest
	invalid     bool  // the key can never name an image
	echo        bool  // of a mutation: the key is its value
	// encoded is the value in JSON, of a verdict but for what differs between two
	// requests; nil where there is none.
	encoded   encodedValue
	artifacts int // that were judged
	// logged is when the log last knew of it, see verdicts.
	logged *atomic.Uint64
}

// batch is one request's work: one answer for each distinct subject, and each
// key with the index of its answer. Workers write answers under mu; only the
// handler writes the response.
type batch struct {
	live  *snapshot
	trace string
	terms
	errand errand
	fresh  bool // something was not known already
	*asked

	mu      sync.Mutex // guards the field that follows it
	answers []*answer  // nil where there is none yet; what they point to is immutable

	told []*answer // what the response tells; the handler's own
}

// errand is what a request wants of each of its subjects, and how that is told.
type errand interface {
	// recall answers without waiting; nil says that it takes decide.
	recall(ctx context.Context, b *batch, j job, now time.Time) *answer
	// decide answers soon after ctx ends, at the latest.
	decide(ctx context.Context, b *batch, j job) *answer
	// failed answers for what was not decided on.
	failed(b *batch, j job, err error) *answer
	// respond appends the response's body, record counts it and logs it.
	respond(body []byte, b *batch, now time.Time) []byte
	record(ctx context.Context, b *batch, elapsed time.Duration)
}

// serve answers a request to one of the paths.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, to route) {
	start := time.Now()
	live := s.live.Load()
	if live == nil {
		s.refuse(w, r, refused(http.StatusServiceUnavailable, "gatehouse is starting: retry"))
		return
	}
	timeout := live.timeout(to)
	deadline := start.Add(timeout)
	answerBy := deadline.Add(-writeMargin(timeout))
	s.metrics.inFlight.Inc()
	defer s.metrics.inFlight.Dec()

	terms, err := live.termsOf(r, to)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	asked, release, err := s.read(w, r, live, terms, answerBy)
	defer release()
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	trace, parent := traceOf(r)
	ctx := within(r.Context(), parent)
	b := &batch{live: live, trace: trace, terms: terms, errand: s.errandOf(to), asked: asked, answers: slices.Clone(asked.template)}
	b.told = b.answers
	if rest := b.recall(ctx, start); len(rest) > 0 {
		b.fresh = true
		// The server's background read, which notices that a client has gone,
		// must not end on the deadline that was meant for the body.
		_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // a closed connection ends the context
		s.work(ctx, answerBy, b, rest)
	}
	s.respond(w, r, deadline, b)
	b.errand.record(ctx, b, time.Since(start))
}

func (s *Server) errandOf(to route) errand {
	if to == routeMutate {
		return pinning{s}
	}
	return judging{s}
}

// writeMargin is kept back from the deadline to encode and send the answer.
func writeMargin(timeout time.Duration) time.Duration {
	return min(timeout/10, 150*time.Millisecond)
}

// recall answers what can be answered without waiting, and gives back the rest.
func (b *batch) recall(ctx context.Context, now time.Time) []job {
	var rest []job
	for _, j := range b.jobs {
		j.req.Lane, j.req.Audit = b.lane, b.to == routeAudit
		a := b.errand.recall(ctx, b, j, now)
		if a == nil {
			rest = append(rest, j)
			continue
		}
		b.answers[j.slot] = a
	}
	return rest
}

// work decides on what is not remembered, until answerBy. The answers are those
// that there are then.
func (s *Server) work(ctx context.Context, answerBy time.Time, b *batch, rest []job) {
	ctx, cancel := context.WithDeadline(ctx, answerBy)
	defer cancel()
	// Workers stop a little before, so that they can say why.
	working, stop := context.WithDeadline(ctx, answerBy.Add(-lastWords))
	defer stop()
	s.run(ctx, working, b, rest)
	b.finish(ctx)
}

// lastWords is the time that a worker has to find out why time ran out.
const lastWords = 15 * time.Millisecond

// run decides on all subjects at once, as far as the bounds allow, and returns
// when all are done or ctx ends. What is late then belongs to the server's
// wait group and may still write to the batch, which nobody reads any more.
func (s *Server) run(ctx, working context.Context, b *batch, jobs []job) {
	done := make(chan struct{})
	s.workers.Go(func() {
		defer close(done)
		var group errgroup.Group
		group.SetLimit(len(jobs))
		for _, j := range jobs {
			host := j.req.Reference.Registry
			if !s.hosts.join(host) {
				b.put(j, b.errand.failed(b, j, errQueueFull))
				continue
			}
			group.Go(func() error {
				defer s.hosts.part(host)
				s.decide(working, b, j)
				return nil
			})
		}
		_ = group.Wait() // its functions return nil
	})
	select {
	case <-done:
	case <-ctx.Done():
	}
}

var errQueueFull = fmt.Errorf("%w: too many images of this registry wait", referrerstore.ErrBusy)

// decide decides on one subject. A panic in the making of its answer is an answer
// of its own.
func (s *Server) decide(ctx context.Context, b *batch, j job) {
	defer func() {
		if p := recover(); p != nil {
			s.logPanic(b, p)
			b.put(j, b.errand.failed(b, j, errPanic))
		}
	}()
	b.put(j, b.errand.decide(ctx, b, j))
}

func (s *Server) logPanic(b *batch, value any) {
	s.opts.Logger.Error("panic while answering", "panic", value, "stack", string(debug.Stack()), "trace_id", b.trace)
}

// put fills one answer, encoded, so that nothing but writing is left to do when
// the deadline comes.
func (b *batch) put(j job, a *answer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answers[j.slot] = a
}

// finish takes the answers as they stand, away from workers that are late;
// subjects that were not decided in time have the cause as their error.
func (b *batch) finish(ctx context.Context) {
	b.mu.Lock()
	b.told = slices.Clone(b.answers)
	b.mu.Unlock()
	for _, j := range b.jobs {
		if b.told[j.slot] == nil {
			b.told[j.slot] = b.errand.failed(b, j, context.Cause(ctx))
		}
	}
}

// respond writes the one answer of a well-formed request. What is held until a
// slow client has read it counts with the bodies of requests; a mutation's, which
// is little more than its request's, is written in any case, because a systemError
// would void the whole of it.
func (s *Server) respond(w http.ResponseWriter, r *http.Request, deadline time.Time, b *batch) {
	buffer := s.buffers.take(responseSize(b.keys, b.told))
	defer s.buffers.give(buffer)
	body := b.errand.respond(buffer.data[:0], b, time.Now())
	buffer.data = body
	if held := int64(len(body)); s.bodies.TryAcquire(held) {
		defer s.bodies.Release(held)
	} else if b.to != routeMutate {
		body = encodeSystemError(traced(string(executor.CodeBusy)+": too many requests are being answered; retry", b.trace))
	}
	s.write(w, r, http.StatusOK, deadline, body)
}

// Headers that every answer has. They are not changed.
var contentType, noSniff = []string{"application/json"}, []string{"nosniff"} //nolint:gochecknoglobals // constants

// refuse answers a request that is not well-formed and closes its connection:
// the rest of it may never come, and the server would wait for it.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	status, text := http.StatusInternalServerError, string(executor.CodeInternalError)+": internal error"
	if refusal, ok := errors.AsType[*requestError](err); ok {
		status, text = refusal.status, refusal.Error()
	}
	to := routeOf(r.URL.Path)
	trace, _ := traceOf(r)
	s.metrics.refused(to, status)
	w.Header().Set("Connection", "close")
	deadline := time.Now().Add(time.Second)
	_ = http.NewResponseController(w).SetReadDeadline(deadline) // best effort: it is closed anyway
	s.write(w, r, status, deadline, encodeSystemError(traced(text, trace)))
	s.opts.Logger.Info("request refused", "trace_id", trace, "path", to.String(), "status", status, "reason", text, "peer", r.RemoteAddr)
}

func (s *Server) write(w http.ResponseWriter, r *http.Request, status int, deadline time.Time, body []byte) {
	err := http.NewResponseController(w).SetWriteDeadline(deadline)
	if err != nil && !errors.Is(err, http.ErrNotSupported) {
		return
	}
	header := w.Header()
	header["Content-Type"] = contentType
	header["X-Content-Type-Options"] = noSniff
	header.Set("Content-Length", strconv.Itoa(len(body)))
	release := cork(r)
	defer release()
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that has gone is not our error
	_ = http.NewResponseController(w).Flush()
}
