package httpserver

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/mux"
	"golang.org/x/sync/errgroup"

	"github.com/gatehouse-project/gatehouse/executor"
)

// subjectsPerRequest bounds the goroutines that one request has at a time.
const subjectsPerRequest = 256

// answer is what was found for one subject of a request.
type answer struct {
	explanation executor.Explanation
	result      executor.Result
	err         error // no verdict
	invalid     bool  // the key can never name an image
	done        bool
}

// batch is one request's work: one answer for each distinct subject, and for
// each key the index of its answer. Workers write answers under mu; only the
// handler writes the response.
type batch struct {
	keys  []string
	index []int

	mu      sync.Mutex // guards the fields that follow it
	answers []answer
}

// verify answers POST /ratify/gatekeeper/v1/verify.
func (s *Server) verify(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	live := s.live.Load()
	if live == nil {
		s.refuse(w, r, start.Add(time.Second), refused(http.StatusServiceUnavailable, "gatehouse is starting: retry"))
		return
	}
	deadline := start.Add(live.VerifyTimeout)
	ctx, cancel := context.WithDeadline(r.Context(), deadline.Add(-writeMargin(live.VerifyTimeout)))
	defer cancel()
	s.metrics.inFlight.Inc()
	defer s.metrics.inFlight.Dec()

	namespace, err := pathNamespace(mux.Vars(r), live.NamespaceFrom)
	if err != nil {
		s.refuse(w, r, deadline, err)
		return
	}
	keys, release, err := s.readKeys(ctx, w, r, live.Limits)
	defer release()
	if err != nil {
		s.refuse(w, r, deadline, err)
		return
	}
	trace := newTraceID()
	b, jobs := plan(keys, live, namespace)
	s.run(ctx, live.Decider, b, jobs)
	s.respond(w, deadline, live, b.finished(ctx), keysOf(b), trace, start)
}

// writeMargin is kept back from the deadline to encode and send the answer.
func writeMargin(timeout time.Duration) time.Duration {
	return min(timeout/10, 100*time.Millisecond)
}

func newTraceID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // crypto/rand never fails: it aborts the process
	return hex.EncodeToString(id[:])
}

// job is a subject to decide on and where its answer goes.
type job struct {
	slot int
	req  executor.Request
}

// plan parses the keys and gives every distinct subject one slot. Keys that
// can never be valid are answered here.
func plan(keys []string, live *Snapshot, namespace string) (*batch, []job) {
	b := &batch{keys: keys, index: make([]int, len(keys))}
	slots := make(map[executor.Request]int, len(keys))
	var jobs []job
	for i, key := range keys {
		req, err := parseKey(key, live.NamespaceFrom, namespace, live.Limits)
		if err != nil {
			b.index[i] = len(b.answers)
			b.answers = append(b.answers, answer{explanation: executor.ExplainInvalidKey(err), invalid: true, done: true})
			continue
		}
		slot, known := slots[req]
		if !known {
			slot = len(b.answers)
			slots[req] = slot
			b.answers = append(b.answers, answer{})
			jobs = append(jobs, job{slot, req})
		}
		b.index[i] = slot
	}
	return b, jobs
}

// run decides on all subjects at once, as far as the bounds allow, and returns
// when all are done or ctx ends. What is late then belongs to the server's
// wait group and may still write to the batch, which nobody reads any more.
func (s *Server) run(ctx context.Context, decider Decider, b *batch, jobs []job) {
	if len(jobs) == 0 {
		return
	}
	done := make(chan struct{})
	s.workers.Go(func() {
		defer close(done)
		var group errgroup.Group
		group.SetLimit(subjectsPerRequest)
		for _, j := range jobs {
			if ctx.Err() != nil {
				break
			}
			group.Go(func() error {
				s.decide(ctx, decider, b, j)
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

func (s *Server) decide(ctx context.Context, decider Decider, b *batch, j job) {
	select {
	case s.subjects <- struct{}{}:
		defer func() { <-s.subjects }()
	case <-ctx.Done():
		return
	}
	result, err := decider.Verify(ctx, j.req)
	a := answer{result: result, err: err, explanation: executor.Explain(result, err), done: true}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answers[j.slot] = a
}

// finished takes the answers as they stand; subjects that were not decided in
// time have the cause as their error.
func (b *batch) finished(ctx context.Context) []answer {
	b.mu.Lock()
	answers := append([]answer(nil), b.answers...)
	b.mu.Unlock()
	for i := range answers {
		if !answers[i].done {
			answers[i].err = context.Cause(ctx)
			answers[i].explanation = executor.Explanation{
				Code: executor.CodeDeadline,
				What: "no verdict in time",
				Do:   "retry",
			}
		}
	}
	return answers
}

// keyed is a key with its answer.
type keyed struct {
	key  string
	slot int
}

func keysOf(b *batch) []keyed {
	out := make([]keyed, len(b.keys))
	for i, key := range b.keys {
		out[i] = keyed{key, b.index[i]}
	}
	return out
}

// respond writes the one answer of a well-formed request.
func (s *Server) respond(w http.ResponseWriter, deadline time.Time, live *Snapshot, answers []answer, keys []keyed, trace string, start time.Time) {
	body, err := encodeResponse(keys, answers, live.OnFailure, trace, time.Now())
	if err != nil {
		s.opts.Logger.Error("encode the response", "error", err, "trace_id", trace)
		body = encodeSystemError("INTERNAL_ERROR: the answer could not be encoded; see the log of gatehouse")
	}
	s.write(w, http.StatusOK, deadline, body)
	s.record(keys, answers, trace, time.Since(start))
}

// refuse answers a request that is not well-formed.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, deadline time.Time, err error) {
	status, text := http.StatusInternalServerError, "internal error"
	if request, ok := errors.AsType[*requestError](err); ok {
		status, text = request.status, request.text
	}
	s.metrics.requests.WithLabelValues(statusLabel(status)).Inc()
	s.opts.Logger.Info("request refused", "status", status, "reason", text, "peer", r.RemoteAddr)
	s.write(w, status, deadline, encodeSystemError(text))
}

func (s *Server) write(w http.ResponseWriter, status int, deadline time.Time, body []byte) {
	err := http.NewResponseController(w).SetWriteDeadline(deadline)
	if err != nil && !errors.Is(err, http.ErrNotSupported) {
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that has gone is not our error
}

// record counts and logs one line for the request and one for each verdict
// that is not what it was last time.
func (s *Server) record(keys []keyed, answers []answer, trace string, elapsed time.Duration) {
	counts := map[executor.Decision]int{}
	for _, k := range keys {
		a := answers[k.slot]
		decision := a.decision()
		counts[decision]++
		s.metrics.keys.WithLabelValues(decision.String()).Inc()
	}
	s.metrics.requests.WithLabelValues(statusLabel(http.StatusOK)).Inc()
	s.metrics.duration.Observe(elapsed.Seconds())
	s.opts.Logger.Info("request", "trace_id", trace, "keys", len(keys), "subjects", len(answers),
		"allowed", counts[executor.Allowed], "denied", counts[executor.Denied], "undecided", counts[executor.Undecided],
		"duration_ms", elapsed.Milliseconds())
	for i := range answers {
		s.logVerdict(&answers[i], trace)
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
	if a.invalid || !a.done || !s.verdicts.changed(a.result.Request, a.decision(), a.explanation.Code) {
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
