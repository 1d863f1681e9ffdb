package httpserver

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
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
	err         error // no verdict
	invalid     bool  // the key can never name an image
	done        bool
	encoded     encodedValue // nil where there is none
}

// batch is one request's work: one answer for each distinct subject, and each
// key with the index of its answer. Workers write answers under mu; only the
// handler writes the response.
type batch struct {
	live  *snapshot
	trace string
	start time.Time
	keys  []keyed

	mu      sync.Mutex // guards the field that follows it
	answers []answer
}

// keyed is a key with the index of its answer.
type keyed struct {
	key  string
	slot int
}

// job is a subject to decide on and where its answer goes.
type job struct {
	slot int
	key  string
	req  executor.Request
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
	ctx, cancel := context.WithDeadline(r.Context(), deadline.Add(-writeMargin(live.VerifyTimeout)))
	defer cancel()
	s.metrics.inFlight.Inc()
	defer s.metrics.inFlight.Dec()

	namespace, err := pathNamespace(mux.Vars(r), live.NamespaceFrom)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	keys, release, err := s.readKeys(ctx, w, r, live.Limits)
	defer release()
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	b, jobs := plan(keys, live, namespace, laneOf(r))
	b.start = start
	s.run(ctx, b, b.recall(jobs))
	answers := b.finished(ctx)
	s.respond(w, deadline, b, answers)
	s.record(b, answers, time.Since(start))
}

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

func newTraceID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // crypto/rand never fails: it aborts the process
	return hex.EncodeToString(id[:])
}

// plan parses the keys and gives every distinct subject one slot. Keys that
// can never be valid are answered here.
func plan(keys []string, live *snapshot, namespace string, lane referrerstore.Lane) (*batch, []job) {
	b := &batch{live: live, trace: newTraceID(), keys: make([]keyed, len(keys))}
	slots := make(map[executor.Request]int, len(keys))
	var jobs []job
	for i, key := range keys {
		req, err := parseKey(key, live.NamespaceFrom, namespace, live.Limits)
		req.Lane = lane
		if err != nil {
			b.keys[i] = keyed{key, len(b.answers)}
			a := answer{explanation: executor.ExplainInvalidKey(err), invalid: true, done: true}
			a.encoded = b.encode(&a, key)
			b.answers = append(b.answers, a)
			continue
		}
		slot, known := slots[req]
		if !known {
			slot = len(b.answers)
			slots[req] = slot
			b.answers = append(b.answers, answer{result: executor.Result{Request: req}})
			jobs = append(jobs, job{slot, key, req})
		}
		b.keys[i] = keyed{key, slot}
	}
	return b, jobs
}

// recall answers what can be answered without waiting, and gives back the rest.
func (b *batch) recall(jobs []job) []job {
	var rest []job
	for _, j := range jobs {
		result, ok := b.live.Decider.Recall(j.req)
		if !ok {
			rest = append(rest, j)
			continue
		}
		b.put(j, result, nil)
	}
	return rest
}

// run decides on all subjects at once, as far as the bounds allow, and returns
// when all are done or ctx ends. What is late then belongs to the server's
// wait group and may still write to the batch, which nobody reads any more.
func (s *Server) run(ctx context.Context, b *batch, jobs []job) {
	if len(jobs) == 0 {
		return
	}
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
				result, err := b.live.Decider.Verify(ctx, j.req)
				b.put(j, result, err)
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

// put fills one answer, encoded, so that nothing but writing is left to do when
// the deadline comes.
func (b *batch) put(j job, result executor.Result, err error) {
	a := b.live.answers.find(result, err)
	a.encoded = b.encode(&a, j.key)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answers[j.slot] = a
}

// encode makes an answer's value, nil where the lack of a verdict is none.
func (b *batch) encode(a *answer, key string) encodedValue {
	if a.err != nil && b.live.OnFailure == FailureIsSystemError {
		return nil
	}
	most := maxAnswerBytes / max(len(b.keys), 1)
	if a.encoded != nil && len(a.encoded) <= most {
		return a.encoded
	}
	return encodeValue(a, key, most)
}

// finished takes the answers as they stand; subjects that were not decided in
// time have the cause as their error.
func (b *batch) finished(ctx context.Context) []answer {
	b.mu.Lock()
	answers := append([]answer(nil), b.answers...)
	b.mu.Unlock()
	for _, k := range b.keys {
		a := &answers[k.slot]
		if a.done {
			continue
		}
		a.done, a.err = true, context.Cause(ctx)
		a.explanation = executor.Explain(a.result, a.err)
		a.encoded = b.encode(a, k.key)
	}
	return answers
}

// respond writes the one answer of a well-formed request. What is held until a
// slow client has read it counts with the bodies of requests.
func (s *Server) respond(w http.ResponseWriter, deadline time.Time, b *batch, answers []answer) {
	body := encodeResponse(b.keys, answers, b.trace, time.Now())
	if held := int64(len(body)); s.bodies.TryAcquire(held) {
		defer s.bodies.Release(held)
	} else {
		body = encodeSystemError(string(executor.CodeBusy) + ": too many requests are being answered; retry")
	}
	s.write(w, http.StatusOK, deadline, body)
}

// refuse answers a request that is not well-formed and closes its connection:
// the rest of it may never come, and the server would wait for it.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	status, text := http.StatusInternalServerError, string(executor.CodeInternalError)+": internal error"
	if refusal, ok := errors.AsType[*requestError](err); ok {
		status, text = refusal.status, refusal.Error()
	}
	s.metrics.requests.WithLabelValues(statusLabel(status)).Inc()
	s.opts.Logger.Info("request refused", "status", status, "reason", text, "peer", r.RemoteAddr)
	w.Header().Set("Connection", "close")
	deadline := time.Now().Add(time.Second)
	_ = http.NewResponseController(w).SetReadDeadline(deadline) // best effort: it is closed anyway
	s.write(w, status, deadline, encodeSystemError(text))
}

func (s *Server) write(w http.ResponseWriter, status int, deadline time.Time, body []byte) {
	err := http.NewResponseController(w).SetWriteDeadline(deadline)
	if err != nil && !errors.Is(err, http.ErrNotSupported) {
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that has gone is not our error
}

// record counts and logs one line for the request and one for each verdict
// that is not what it was last time.
func (s *Server) record(b *batch, answers []answer, elapsed time.Duration) {
	counts := map[executor.Decision]int{}
	for _, k := range b.keys {
		decision := answers[k.slot].decision()
		counts[decision]++
		s.metrics.keys.WithLabelValues(decision.String()).Inc()
	}
	s.metrics.requests.WithLabelValues(statusLabel(http.StatusOK)).Inc()
	s.metrics.duration.Observe(elapsed.Seconds())
	s.opts.Logger.Info("request", "trace_id", b.trace, "keys", len(b.keys), "subjects", len(answers),
		"allowed", counts[executor.Allowed], "denied", counts[executor.Denied], "undecided", counts[executor.Undecided],
		"duration_ms", elapsed.Milliseconds())
	for i := range answers {
		s.logVerdict(&answers[i], b.trace)
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
	req := a.result.Request
	req.Lane = referrerstore.LaneAdmission // the same image, whoever asks
	if a.invalid || !s.verdicts.changed(req, a.decision(), a.explanation.Code) {
		return
	}
	level := slog.LevelInfo
	if a.decision() != executor.Allowed {
		level = slog.LevelWarn
	}
	attrs := []any{
		"trace_id", trace, "decision", a.decision().String(), "code", string(a.explanation.Code), "reason", a.explanation.What,
		"image", a.result.Request.Reference.String(), "namespace", a.result.Request.Namespace,
		"digest", a.result.Subject.Descriptor.Digest.String(), "rule", a.result.Rule, "artifacts", len(a.result.Reports),
	}
	if a.err != nil {
		attrs = append(attrs, "error", a.err.Error())
	}
	s.opts.Logger.Log(context.Background(), level, "verdict", attrs...) // a log line outlives its request
}
