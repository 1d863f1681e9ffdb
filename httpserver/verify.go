package httpserver

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/mux"
	"golang.org/x/sync/errgroup"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// answer is what was found for one subject of a request.
type answer struct {
	explanation executor.Explanation
	result      executor.Result
	err         error        // no verdict
	invalid     bool         // the key can never name an image
	encoded     encodedValue // nil where there is none
	artifacts   int          // that were judged
	// logged is when the log last knew of it, see verdicts.
	logged *atomic.Uint64
}

// batch is one request's work: one answer for each distinct subject, and each
// key with the index of its answer. Workers write answers under mu; only the
// handler writes the response.
type batch struct {
	live  *snapshot
	trace string
	lane  referrerstore.Lane
	*asked

	mu      sync.Mutex // guards the field that follows it
	answers []*answer  // nil where there is none yet; what they point to is immutable

	told []*answer // what the response tells; the handler's own
}

// verify answers POST /ratify/gatekeeper/v1/verify.
func (s *Server) verify(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	live := s.live.Load()
	if live == nil {
		s.refuse(w, r, refused(http.StatusServiceUnavailable, "gatehouse is starting: retry"))
		return
	}
	deadline := start.Add(live.VerifyTimeout)
	answerBy := deadline.Add(-writeMargin(live.VerifyTimeout))
	s.metrics.inFlight.Inc()
	defer s.metrics.inFlight.Dec()

	namespace, err := pathNamespace(mux.Vars(r), live.NamespaceFrom)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	asked, release, err := s.read(w, r, live, namespace, answerBy)
	defer release()
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	b := &batch{live: live, trace: newTraceID(), lane: laneOf(r), asked: asked, answers: slices.Clone(asked.template)}
	b.told = b.answers
	if rest := b.recall(start); len(rest) > 0 {
		// The server's background read, which notices that a client has gone,
		// must not end on the deadline that was meant for the body.
		_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // a closed connection ends the context
		s.work(r.Context(), answerBy, b, rest)
	}
	s.respond(w, r, deadline, b)
	s.record(b, time.Since(start))
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

// laneOf is who asks. Gatekeeper's audit sends what its admission sends; a
// Provider that only audit uses can say so with "?lane=audit" in its URL.
func laneOf(r *http.Request) referrerstore.Lane {
	if r.URL.RawQuery != "" && r.URL.Query().Get("lane") == "audit" {
		return referrerstore.LaneBackground
	}
	return referrerstore.LaneAdmission
}

// writeMargin is kept back from the deadline to encode and send the answer.
func writeMargin(timeout time.Duration) time.Duration {
	return min(timeout/10, 150*time.Millisecond)
}

// newTraceID names a request. It is no secret, only unlikely to come twice.
func newTraceID() string {
	var id [16]byte
	binary.NativeEndian.PutUint64(id[:8], rand.Uint64()) //nolint:gosec // see above
	binary.NativeEndian.PutUint64(id[8:], rand.Uint64()) //nolint:gosec // see above
	return hex.EncodeToString(id[:])
}

// recall answers what can be answered without waiting, and gives back the rest.
func (b *batch) recall(now time.Time) []job {
	var rest []job
	for _, j := range b.jobs {
		j.req.Lane = b.lane
		result, ok := b.live.Decider.Recall(j.req, now)
		if !ok {
			rest = append(rest, j)
			continue
		}
		b.answers[j.slot] = b.answer(j, result, nil)
	}
	return rest
}

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
				b.put(j, executor.Result{Request: j.req}, errQueueFull)
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

// decide decides on one subject. A panic in the making of its answer is an answer
// of its own.
func (s *Server) decide(ctx context.Context, b *batch, j job) {
	defer func() {
		if p := recover(); p != nil {
			s.opts.Logger.Error("panic while answering", "panic", p, "stack", string(debug.Stack()), "trace_id", b.trace)
			b.put(j, executor.Result{Request: j.req}, errPanic)
		}
	}()
	result, err := b.live.Decider.Verify(ctx, j.req)
	b.put(j, result, err)
}

var errQueueFull = fmt.Errorf("%w: too many images of this registry wait", referrerstore.ErrBusy)

// put fills one answer, encoded, so that nothing but writing is left to do when
// the deadline comes.
func (b *batch) put(j job, result executor.Result, err error) {
	a := b.answer(j, result, err)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answers[j.slot] = a
}

// answer makes an answer of a result, or finds the one that was made before. It
// has a value unless the lack of a verdict is none.
func (b *batch) answer(j job, result executor.Result, err error) *answer {
	most := share(len(b.keys))
	if a := b.live.answers.find(result, err); a != nil && len(a.encoded) <= most {
		return a
	}
	a := &answer{result: result, err: err, explanation: executor.Explain(result, err), artifacts: len(result.Reports), logged: new(atomic.Uint64)}
	if err != nil && b.live.OnFailure == FailureIsSystemError {
		return a
	}
	// What had to be cut to the room in one request is not for another.
	var whole bool
	if a.encoded, whole = encodeValue(a, j.key, most); whole {
		b.live.answers.keep(a)
	}
	return a
}

// finish takes the answers as they stand, away from workers that are late;
// subjects that were not decided in time have the cause as their error.
func (b *batch) finish(ctx context.Context) {
	b.mu.Lock()
	b.told = slices.Clone(b.answers)
	b.mu.Unlock()
	for _, j := range b.jobs {
		if b.told[j.slot] == nil {
			b.told[j.slot] = b.answer(j, executor.Result{Request: j.req}, context.Cause(ctx))
		}
	}
}

// respond writes the one answer of a well-formed request. What is held until a
// slow client has read it counts with the bodies of requests.
func (s *Server) respond(w http.ResponseWriter, r *http.Request, deadline time.Time, b *batch) {
	buffer := s.buffers.take(responseSize(b.keys, b.told))
	defer s.buffers.give(buffer)
	body := appendResponse(buffer.data[:0], b.keys, b.told, b.trace, time.Now())
	buffer.data = body
	if held := int64(len(body)); s.bodies.TryAcquire(held) {
		defer s.bodies.Release(held)
	} else {
		body = encodeSystemError(string(executor.CodeBusy) + ": too many requests are being answered; retry")
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
	s.metrics.requests.WithLabelValues(statusLabel(status)).Inc()
	w.Header().Set("Connection", "close")
	deadline := time.Now().Add(time.Second)
	_ = http.NewResponseController(w).SetReadDeadline(deadline) // best effort: it is closed anyway
	s.write(w, r, status, deadline, encodeSystemError(text))
	s.opts.Logger.Info("request refused", "status", status, "reason", text, "peer", r.RemoteAddr)
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

// record counts and logs one line for the request and one for each verdict
// that is not what it was last time.
func (s *Server) record(b *batch, elapsed time.Duration) {
	var counts [3]int
	for _, k := range b.keys {
		counts[b.told[k.slot].decision()]++
	}
	s.metrics.answered(counts, elapsed)
	s.opts.Logger.LogAttrs(context.Background(), slog.LevelInfo, "request", slog.String("trace_id", b.trace), // a log line outlives its request
		slog.Int("keys", len(b.keys)), slog.Int("subjects", len(b.told)),
		slog.Int("allowed", counts[executor.Allowed]), slog.Int("denied", counts[executor.Denied]), slog.Int("undecided", counts[executor.Undecided]),
		slog.Int64("duration_ms", elapsed.Milliseconds()))
	for i := range b.told {
		s.logVerdict(b.told[i], b.trace)
	}
}

func (a *answer) decision() executor.Decision {
	switch {
	case a.invalid:
		return executor.Denied
	case a.err != nil:
		return executor.Undecided
	default:
		return a.result.Decision
	}
}

func (s *Server) logVerdict(a *answer, trace string) {
	if a.invalid || !s.verdicts.since(a.logged) || !s.verdicts.changed(keyOf(a.result), a.decision(), a.explanation.Code) {
		return
	}
	level := slog.LevelInfo
	if a.decision() != executor.Allowed || a.result.Held != nil {
		level = slog.LevelWarn
	}
	attrs := []any{
		"trace_id", trace, "decision", a.decision().String(), "code", string(a.explanation.Code), "reason", a.explanation.What,
		"image", a.result.Request.Reference.String(), "namespace", a.result.Request.Namespace,
		"digest", a.result.Subject.Descriptor.Digest.String(), "rule", a.result.Rule, "artifacts", a.artifacts,
	}
	if a.err != nil {
		attrs = append(attrs, "error", a.err.Error())
	}
	if held := a.result.Held; held != nil {
		attrs = append(attrs, "held_since", held.Since, "held_s", int64(held.Age.Seconds()), "error", held.Why.Error())
	}
	s.opts.Logger.Log(context.Background(), level, "verdict", attrs...) // a log line outlives its request
}
