package httpserver_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/frameworks/constraint/pkg/externaldata"
	"go.opentelemetry.io/otel/trace"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/httpserver"
	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// What a URL says reaches whoever decides, and never makes anything laxer.
func TestURLs(t *testing.T) {
	t.Parallel()
	const verify, audit = httpserver.VerifyPath, httpserver.AuditPath
	const allow, warn, deny = executor.UnpinnedAllow, executor.UnpinnedWarn, executor.UnpinnedDeny
	background := referrerstore.LaneBackground
	tests := []struct {
		set    executor.Unpinned
		path   string
		status int
		want   executor.Request
	}{
		{allow, verify, 200, executor.Request{}},
		{warn, verify, 200, executor.Request{Unpinned: warn}},
		{deny, verify, 200, executor.Request{Unpinned: deny}},
		{allow, verify + "?unpinned=deny", 200, executor.Request{Unpinned: deny}},
		{allow, verify + "?unpinned=warn", 200, executor.Request{Unpinned: warn}},
		{deny, verify + "?unpinned=warn", 200, executor.Request{Unpinned: deny}},
		{warn, verify + "?unpinned=deny&lane=audit", 200, executor.Request{Unpinned: deny, Lane: background}},
		{allow, verify + "?lane=audit", 200, executor.Request{Lane: background}},
		{allow, verify + "?lane=other", 400, executor.Request{}},
		{allow, verify + "?unpined=deny", 400, executor.Request{}},
		{allow, verify + "?lane=audit&lane=audit", 400, executor.Request{}},
		{allow, audit, 200, executor.Request{Lane: background, Audit: true}},
		{allow, audit + "?lane=audit&unpinned=warn", 200, executor.Request{Lane: background, Audit: true, Unpinned: warn}},
		{deny, verify + "?unpinned=allow", 400, executor.Request{}},
		{allow, verify + "?unpinned=", 400, executor.Request{}},
		{allow, verify + "?unpinned=Deny", 400, executor.Request{}},
		{allow, verify + "?unpinned=deny&unpinned=warn", 400, executor.Request{}},
		{allow, verify + "?unpinned=deny;lane=audit", 400, executor.Request{}},
		{allow, audit + "?unpinned=%zz", 400, executor.Request{}},
		{allow, audit + "s", 404, executor.Request{}},
	}
	for _, test := range tests {
		t.Run(test.path, func(t *testing.T) {
			t.Parallel()
			seen := &recorder{}
			h := newServer(t, seen, func(s *httpserver.Snapshot) { s.Unpinned, s.AnswerBytes = test.set, 1<<20 }).Handler()
			status, response, _ := post(t, h, test.path, "r.example/app:v1")
			if status != test.status {
				t.Fatalf("status %d, want %d: %+v", status, test.status, response)
			}
			if status != http.StatusOK {
				if !strings.Contains(response.Response.SystemError, " [trace ") || len(seen.requests) != 0 {
					t.Errorf("%+v", response)
				}
				return
			}
			test.want.Reference = seen.requests[0].Reference
			if diff := cmp.Diff(test.want, seen.requests[0]); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			// What has a digest is one and the same to all of them.
			post(t, h, test.path, "r.example/app:v1@"+someDigest)
			if got := seen.requests[1]; got.Unpinned != allow {
				t.Errorf("of one with a digest: %v", got.Unpinned)
			}
		})
	}
}

// byUnpinned allows what it is asked for, and says how it was asked, from a proof.
type byUnpinned struct{ recorder }

func (*byUnpinned) Recall(req executor.Request, _ time.Time) (executor.Result, bool) {
	r := executor.Result{Request: req, Decision: executor.Allowed, Rule: "all", Proof: 7}
	if req.Unpinned == executor.UnpinnedDeny {
		r.Decision, r.Denial, r.Proof = executor.Denied, executor.ErrUnpinned, 0
	}
	return r, true
}

// The same body means something else by another URL, whatever is kept of it.
func TestUnpinnedIsPartOfTheQuestion(t *testing.T) {
	t.Parallel()
	h := newServer(t, &byUnpinned{}, func(s *httpserver.Snapshot) { s.AnswerBytes = 1 << 20 }).Handler()
	for range 3 {
		for query, want := range map[string][2]bool{ // success, told
			"": {true, false}, "?unpinned=warn": {true, true}, "?unpinned=deny": {false, true},
		} {
			_, _, body := post(t, h, httpserver.VerifyPath+query, "r.example/app:v1")
			success, told := strings.Contains(body, `"isSuccess":true,"succeeded":true`), strings.Contains(body, `,"unpinned":true,`)
			if success != want[0] || told != want[1] || strings.Contains(body, "IMAGE_NOT_PINNED: the image has only the tag v1; ") == success {
				t.Errorf("%q: %s", query, body)
			}
		}
		// Nor is a mutation's meaning taken for it.
		_, response, _ := post(t, h, httpserver.MutatePath, "r.example/app:v1")
		if got := values(t, response); got["r.example/app:v1"] != pinnedTo(t, "r.example/app:v1", false) {
			t.Errorf("%v", got)
		}
	}
}

// audited answers audits from what is held, and others from a proof.
type audited struct{ recorder }

func (*audited) Recall(req executor.Request, _ time.Time) (executor.Result, bool) {
	r := executor.Result{Request: req, Decision: executor.Allowed, Rule: "all", Proof: 7}
	if req.Audit {
		r.Proof, r.Held = 0, &executor.Held{Since: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC), Age: time.Hour, Why: executor.ErrNotAsked}
	}
	return r, true
}

// What an audit is told of is told of to no admission, and to neither as a change.
func TestAuditsAnswersAreItsOwn(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	s := httpserver.New(httpserver.Options{Logger: slog.New(slog.NewJSONHandler(&log, nil))})
	s.Swap(&httpserver.Snapshot{Decider: &audited{}, VerifyTimeout: time.Minute, AnswerBytes: 1 << 20, Limits: httpserver.Limits{BodyBytes: 1 << 20, Keys: 10, KeyBytes: 1024}})
	const said = `"held":{"since":"2026-03-04T05:06:07Z","ageSeconds":3600,"reason":"NOT_ASKED"}`
	for range 3 {
		for _, path := range []string{httpserver.VerifyPath, httpserver.AuditPath} {
			if _, _, body := post(t, s.Handler(), path, "r.example/app:v1"); strings.Contains(body, said) != (path == httpserver.AuditPath) || !strings.Contains(body, `"isSuccess":true`) {
				t.Errorf("%s: %s", path, body)
			}
		}
	}
	if n := strings.Count(log.String(), "\n"); n != 2 || strings.Contains(log.String(), `"level":"WARN"`) {
		t.Errorf("want one line for each of them, as information: %s", log.String())
	}
}

const (
	callersTrace = "0af7651916cd43dd8448eb211c80319c"
	traceparent  = "00-" + callersTrace + "-b7ad6b7169203331-01"
)

// spanned notes the span that requests are below.
type spanned struct {
	decider
	spans chan trace.SpanContext
}

func (s *spanned) Verify(ctx context.Context, req executor.Request) (executor.Result, error) {
	s.spans <- trace.SpanContextFromContext(ctx)
	return s.decider.Verify(ctx, req)
}

func (s *spanned) Pin(ctx context.Context, req executor.Request) (executor.Pin, error) {
	s.spans <- trace.SpanContextFromContext(ctx)
	return s.decider.Pin(ctx, req)
}

// A caller's trace goes on: in what it is told, in the log, and in spans, those of
// a verification behind a mutation among them.
func TestTraceGoesOn(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	d := &spanned{spans: make(chan trace.SpanContext, 10)}
	s := httpserver.New(httpserver.Options{Logger: slog.New(slog.NewJSONHandler(&log, nil))})
	s.Swap(&httpserver.Snapshot{Decider: d, VerifyTimeout: time.Minute, Limits: httpserver.Limits{BodyBytes: 1 << 20, Keys: 10, KeyBytes: 1024}})
	ask := func(path, body string, headers ...string) externaldata.ProviderResponse {
		r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
		for _, header := range headers {
			r.Header.Add("traceparent", header)
		}
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, r)
		var response externaldata.ProviderResponse
		if err := json.Unmarshal(w.Body.Bytes(), &response); err != nil {
			t.Fatal(err)
		}
		return response
	}
	keys := func(of ...string) string { return string(requestBody(t, of...)) }
	const suffix = " [trace " + callersTrace + "]"
	response := ask(httpserver.VerifyPath, keys("r.example/bad", "r.example/down"), traceparent)
	if id := response.Response.Items[0].Value.(map[string]any)["traceID"]; id != callersTrace || !strings.HasSuffix(response.Response.SystemError, suffix) {
		t.Errorf("verify: trace %v, systemError %q", id, response.Response.SystemError)
	}
	response = ask(httpserver.MutatePath, keys("r.example/absent", "r.example/good"), traceparent)
	if text := response.Response.Items[0].Error; !strings.HasSuffix(text, suffix) {
		t.Errorf("mutate: %q", text)
	}
	for _, body := range []string{"{", `{"kind":"x"}`} {
		if text := ask(httpserver.AuditPath, body, traceparent).Response.SystemError; !strings.HasSuffix(text, suffix) {
			t.Errorf("refused: %q", text)
		}
	}
	for range 5 { // two of verify, two of mutate, and one behind it
		if span := <-d.spans; span.TraceID().String() != callersTrace || span.SpanID().String() != "b7ad6b7169203331" || !span.IsSampled() || !span.IsRemote() {
			t.Errorf("below span %+v", span)
		}
	}
	for line := range strings.Lines(log.String()) {
		if !strings.Contains(line, `"trace_id":"`+callersTrace+`"`) {
			t.Errorf("a line without the trace: %s", line)
		}
	}
	// Two headers are none, and chance gives another name each time.
	one, two := ask(httpserver.VerifyPath, "{", traceparent, traceparent), ask(httpserver.VerifyPath, "{")
	if a, b := one.Response.SystemError, two.Response.SystemError; a == b || strings.Contains(a, callersTrace) || !strings.Contains(a, " [trace ") {
		t.Errorf("%q, %q", a, b)
	}
}

// The log has a line at the level of information for each request of which
// something was not allowed, or was found out anew, and none for others.
func TestRequestLines(t *testing.T) {
	t.Parallel()
	tests := []struct{ path, keys, level, tells string }{
		{httpserver.VerifyPath, "r.example/remembered/good", "DEBUG", `"allowed":1,"denied":0,"undecided":0`},
		{httpserver.VerifyPath, "r.example/remembered/good r.example/remembered/bad", "INFO", `"allowed":1,"denied":1,"undecided":0`},
		{httpserver.VerifyPath, "r.example/remembered/good r.example/good", "INFO", `"allowed":2,"denied":0,"undecided":0`},
		{httpserver.VerifyPath, "r.example/down", "INFO", `"allowed":0,"denied":0,"undecided":1`},
		{httpserver.VerifyPath, "[x]", "INFO", `"allowed":0,"denied":1,"undecided":0`},
		{httpserver.VerifyPath, "r.example/remembered/good [x]\n", "INFO", `"first":"[x]: INVALID_KEY: `},
		{httpserver.VerifyPath, "r.example/remembered/bad [x]", "INFO", `"first":"r.example/remembered/bad: SIGNER_UNTRUSTED: `},
		{httpserver.AuditPath, "r.example/down", "INFO", `"first":"r.example/down: REGISTRY_UNAVAILABLE: `},
		{httpserver.AuditPath, "r.example/remembered/bad", "INFO", `"path":"audit","keys":1,"subjects":1,"allowed":0,"denied":1`},
		{httpserver.MutatePath, "r.example/known r.example/outside r.example/x@" + someDigest, "DEBUG", `"pinned":1,"echoed":2,"failed":0`},
		{httpserver.MutatePath, "r.example/known r.example/good", "INFO", `"pinned":2,"echoed":0,"failed":0`},
		{httpserver.MutatePath, "r.example/known [x] r.example/absent", "INFO", `"failure":"[x]: INVALID_KEY: `},
		{httpserver.MutatePath, "r.example/x@" + someDigest + " r.example/absent", "INFO", `"pinned":0,"echoed":1,"failed":1,"held":0`},
	}
	for _, test := range tests {
		t.Run(test.path+" "+test.keys, func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			d := &decider{}
			d.proof.Store(1)
			s := httpserver.New(httpserver.Options{Logger: slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
			s.Swap(&httpserver.Snapshot{Decider: &quiet{decider: d}, VerifyTimeout: time.Minute, Limits: httpserver.Limits{BodyBytes: 1 << 20, Keys: 10, KeyBytes: 1024}})
			post(t, s.Handler(), test.path, strings.Fields(test.keys)...)
			var lines []string
			for line := range strings.Lines(log.String()) {
				if !strings.Contains(line, `"msg":"verdict"`) {
					lines = append(lines, line)
				}
			}
			if len(lines) != 1 || !strings.Contains(lines[0], `"level":"`+test.level+`"`) || !strings.Contains(lines[0], test.tells) || !strings.Contains(lines[0], `"trace_id":"`) {
				t.Errorf("want one line at %s with %s: %s", test.level, test.tells, lines)
			}
		})
	}
}

// quiet has nothing to prove behind a mutation.
type quiet struct{ *decider }

func (q *quiet) Pin(ctx context.Context, req executor.Request) (executor.Pin, error) {
	pin, err := q.decider.Pin(ctx, req)
	pin.Unproven = false
	return pin, err
}

func (q *quiet) RecallPin(req executor.Request, now time.Time) (executor.Pin, bool, error) {
	pin, known, err := q.decider.RecallPin(req, now)
	pin.Unproven = false
	return pin, known, err
}

// A verdict on an image that has only a tag says so in the log, where that is to
// be told.
func TestUnpinnedVerdictLine(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	s := httpserver.New(httpserver.Options{Logger: slog.New(slog.NewJSONHandler(&log, nil))})
	s.Swap(&httpserver.Snapshot{Decider: &byUnpinned{}, Unpinned: executor.UnpinnedWarn, VerifyTimeout: time.Minute, Limits: httpserver.Limits{BodyBytes: 1 << 20, Keys: 10, KeyBytes: 1024}})
	post(t, s.Handler(), httpserver.VerifyPath, "r.example/app:v1", "r.example/app@"+someDigest)
	want := map[string]bool{`"image":"r.example/app:v1"`: true, `"image":"r.example/app@` + someDigest + `"`: false}
	for line := range strings.Lines(log.String()) {
		for image, told := range want {
			if strings.Contains(line, image) {
				if strings.Contains(line, `"unpinned":true`) != told || strings.Contains(line, `"level":"WARN"`) != told {
					t.Error(line)
				}
				delete(want, image)
			}
		}
	}
	if len(want) != 0 {
		t.Errorf("no line for %v in %s", want, log.String())
	}
}
