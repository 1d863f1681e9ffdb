package httpserver_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/frameworks/constraint/pkg/externaldata"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/httpserver"
	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/verifier"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// decider answers by the repository's last segment and counts its calls.
type decider struct {
	calls atomic.Int32
	block chan struct{}
	proof atomic.Uint64 // of what Recall remembers; 0 is nothing
	pins
}

func (d *decider) Verify(ctx context.Context, req executor.Request) (executor.Result, error) {
	d.calls.Add(1)
	r := executor.Result{Request: req, Rule: "all"}
	r.Subject = referrerstore.Subject{Reference: req.Reference, Descriptor: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("subject"), Size: 7}}
	report := verifier.Report{
		Verifier: "notation", Type: "notation", Outcome: verifier.Passed, Statement: digest.FromString("s"),
		Artifact:   ocispec.Descriptor{Digest: digest.FromString("artifact"), ArtifactType: "application/vnd.cncf.notary.signature"},
		Reason:     verifier.Reason{Code: verifier.CodeVerified, What: "signed by CN=acme"},
		Extensions: map[string]string{"Issuer": "CN=acme root", "SN": "1"},
	}
	segments := strings.Split(req.Reference.Repository, "/")
	switch segments[len(segments)-1] {
	case "good":
		r.Decision, r.Reports = executor.Allowed, []verifier.Report{report}
	case "warned":
		report.Warnings = []string{"the signature expired"}
		r.Decision, r.Reports = executor.Allowed, []verifier.Report{report}
	case "exempt":
		r.Decision, r.Exemption = executor.Allowed, &executor.Exemption{Reason: "TICKET-1", Until: time.Date(2027, 2, 1, 0, 0, 0, 0, time.UTC)}
	case "bad":
		report.Outcome, report.Extensions = verifier.Failed, nil
		report.Reason = verifier.Reason{Code: verifier.CodeSignerUntrusted, What: "signed by CN=\u202estranger\n", Do: "trust the signer or sign again"}
		r.Decision, r.Denial, r.Reports = executor.Denied, executor.ErrRequirement, []verifier.Report{report}
	case "unsigned":
		r.Decision, r.Denial = executor.Denied, executor.ErrNoArtifacts
	case "absent":
		r.Subject = referrerstore.Subject{}
		r.Decision, r.Denial = executor.Denied, referrerstore.ErrNotFound
	case "throttled":
		return r, fmt.Errorf("resolve: %w", &referrerstore.RetryAfterError{After: 3 * time.Second, Err: referrerstore.ErrRateLimited})
	case "down":
		return r, fmt.Errorf("resolve: %w", referrerstore.ErrUnavailable)
	case "denied":
		return r, fmt.Errorf("resolve: %w", referrerstore.ErrAuthDenied)
	case "hang":
		<-ctx.Done()
		return r, context.Cause(ctx)
	case "deaf":
		<-d.block
		return r, errors.New("too late")
	}
	return r, nil
}

// Recall remembers what is called remembered, as read from a proof with the
// number that the decider has.
func (d *decider) Recall(req executor.Request, _ time.Time) (executor.Result, bool) {
	proof := d.proof.Load()
	if proof == 0 || !strings.HasPrefix(req.Reference.Repository, "remembered/") {
		return executor.Result{}, false
	}
	r, err := d.Verify(context.Background(), req)
	d.calls.Add(-1)
	r.Proof = proof
	for i := range r.Reports {
		r.Reports[i].Extensions = map[string]string{"proof": strconv.FormatUint(proof, 10)}
	}
	return r, err == nil
}

func newServer(t testing.TB, d httpserver.Decider, change func(*httpserver.Snapshot)) *httpserver.Server {
	t.Helper()
	reg := prometheus.NewRegistry()
	s := httpserver.New(httpserver.Options{Logger: slog.New(slog.DiscardHandler), Registerer: reg, Gatherer: reg})
	snapshot := &httpserver.Snapshot{
		Decider: d, Generation: 1, VerifyTimeout: time.Minute,
		Limits: httpserver.Limits{BodyBytes: 1 << 20, Keys: 1000, KeyBytes: 1024},
	}
	if change != nil {
		change(snapshot)
	}
	s.Swap(snapshot)
	return s
}

func post(t testing.TB, h http.Handler, path string, keys ...string) (int, externaldata.ProviderResponse, string) {
	t.Helper()
	body, err := json.Marshal(externaldata.NewProviderRequest(keys))
	if err != nil {
		t.Fatal(err)
	}
	return send(t, h, http.MethodPost, path, "application/json", bytes.NewReader(body))
}

func send(t testing.TB, h http.Handler, method, path, contentType string, body io.Reader) (int, externaldata.ProviderResponse, string) {
	t.Helper()
	r := httptest.NewRequest(method, path, body)
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	var response externaldata.ProviderResponse
	if err := json.Unmarshal(w.Body.Bytes(), &response); err != nil {
		t.Fatalf("the body is not JSON: %v: %q", err, w.Body)
	}
	if response.Kind != "ProviderResponse" || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("kind %q, content type %q", response.Kind, w.Header().Get("Content-Type"))
	}
	return w.Code, response, w.Body.String()
}

func TestAnswerKeepsKeysAndOrder(t *testing.T) {
	t.Parallel()
	d := &decider{}
	h := newServer(t, d, nil).Handler()
	keys := []string{"r.example/good:v1", "r.example/bad", "R.EXAMPLE:443/good:v1", "not a key", "r.example/good:v1", "r.example/throttled", ""}
	status, response, _ := post(t, h, httpserver.VerifyPath, keys...)
	if status != http.StatusOK {
		t.Fatalf("status %d", status)
	}
	var got []string
	for _, item := range response.Response.Items {
		if item.Error != "" {
			t.Errorf("item %q has an error: %s", item.Key, item.Error)
		}
		success, ok := item.Value.(map[string]any)["isSuccess"].(bool)
		if !ok {
			t.Errorf("item %q: isSuccess is no bool: %v", item.Key, item.Value)
		}
		got = append(got, fmt.Sprintf("%s=%v", item.Key, success))
	}
	want := []string{"r.example/good:v1=true", "r.example/bad=false", "R.EXAMPLE:443/good:v1=true", "not a key=false", "r.example/good:v1=true", "=false"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("items (-want +got):\n%s", diff)
	}
	if !strings.Contains(response.Response.SystemError, "RATE_LIMITED") || !strings.Contains(response.Response.SystemError, "r.example/throttled") || !strings.Contains(response.Response.SystemError, "3 s") {
		t.Errorf("systemError = %q", response.Response.SystemError)
	}
	// Two spellings of one image are one subject.
	if n := d.calls.Load(); n != 3 {
		t.Errorf("%d subjects decided on, want 3", n)
	}
}

func TestNoKeysNoItems(t *testing.T) {
	t.Parallel()
	h := newServer(t, &decider{}, nil).Handler()
	for _, body := range []string{`{}`, `{"request":{}}`, `{"request":{"keys":[]}}`, `{"request":{"keys":null}}`} {
		status, response, _ := send(t, h, http.MethodPost, httpserver.VerifyPath, "application/json", strings.NewReader(body))
		if status != http.StatusOK || len(response.Response.Items) != 0 || response.Response.SystemError != "" {
			t.Errorf("%s: %d %+v", body, status, response)
		}
	}
}

func TestOnFailureValue(t *testing.T) {
	t.Parallel()
	h := newServer(t, &decider{}, func(s *httpserver.Snapshot) { s.OnFailure = httpserver.FailureIsValue }).Handler()
	_, response, body := post(t, h, httpserver.VerifyPath, "r.example/down", "r.example/good")
	if len(response.Response.Items) != 2 || response.Response.SystemError != "" {
		t.Fatalf("%s", body)
	}
	value := response.Response.Items[0].Value.(map[string]any)
	if value["isSuccess"] != false || !strings.Contains(body, "REGISTRY_UNAVAILABLE") {
		t.Errorf("%v", value)
	}
}

func TestRefusedRequests(t *testing.T) {
	t.Parallel()
	many := `{"request":{"keys":["` + strings.Repeat(`a","`, 100_000) + `a"]}}`
	tests := []struct {
		name, method, path, contentType, body string
		status                                int
		want                                  string
	}{
		{"malformed", "POST", httpserver.VerifyPath, "application/json", `{"request":`, 400, "ProviderRequest in JSON"},
		{"trailing", "POST", httpserver.VerifyPath, "application/json", `{} {}`, 400, "ProviderRequest in JSON"},
		{"wrong types", "POST", httpserver.VerifyPath, "application/json", `{"request":{"keys":[1]}}`, 400, "ProviderRequest in JSON"},
		{"array", "POST", httpserver.VerifyPath, "application/json", `[]`, 400, "ProviderRequest in JSON"},
		{"not UTF-8", "POST", httpserver.VerifyPath, "application/json", "{\"request\":{\"keys\":[\"\xff\"]}}", 400, "UTF-8"},
		{"wrong kind", "POST", httpserver.VerifyPath, "application/json", `{"kind":"AdmissionReview"}`, 400, "AdmissionReview"},
		{"wrong version", "POST", httpserver.VerifyPath, "application/json", `{"apiVersion":"externaldata.gatekeeper.sh/v9"}`, 400, "v1beta1"},
		{"empty", "POST", httpserver.VerifyPath, "application/json", ``, 400, "ProviderRequest in JSON"},
		{"10 MB", "POST", httpserver.VerifyPath, "application/json", strings.Repeat("x", 10<<20), 413, "bodyBytes"},
		{"100,000 keys", "POST", httpserver.VerifyPath, "application/json", many, 413, "1000 keys"},
		{"form", "POST", httpserver.VerifyPath, "application/x-www-form-urlencoded", `{}`, 415, "application/json"},
		{"odd type", "POST", httpserver.VerifyPath, ";;", `{}`, 415, "application/json"},
		{"GET", "GET", httpserver.VerifyPath, "", ``, 405, "POST"},
		{"PUT", "PUT", httpserver.VerifyPath, "application/json", `{}`, 405, "POST"},
		{"elsewhere", "POST", "/v2/verify", "application/json", `{}`, 404, httpserver.VerifyPath},
		{"double slash", "POST", "/" + httpserver.VerifyPath, "application/json", `{}`, 404, httpserver.VerifyPath},
		{"namespace in the path", "POST", httpserver.VerifyPath + "/namespaces/prod", "application/json", `{}`, 404, "namespaceFrom"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			d := &decider{}
			h := newServer(t, d, nil).Handler()
			status, response, _ := send(t, h, test.method, test.path, test.contentType, strings.NewReader(test.body))
			if status != test.status || !strings.Contains(response.Response.SystemError, test.want) {
				t.Errorf("%d %q, want %d with %q", status, response.Response.SystemError, test.status, test.want)
			}
			if len(response.Response.Items) != 0 || d.calls.Load() != 0 {
				t.Errorf("a refused request was worked on: %+v", response)
			}
		})
	}
}

// Keys on a registry that hangs, however many, take no place from those of
// another.
func TestHangingHostTakesNoPlace(t *testing.T) {
	t.Parallel()
	h := newServer(t, &decider{}, func(s *httpserver.Snapshot) { s.VerifyTimeout = 400 * time.Millisecond }).Handler()
	keys := make([]string, 0, 801)
	for i := range 800 {
		keys = append(keys, fmt.Sprintf("hanging.example/%d/hang", i))
	}
	_, response, _ := post(t, h, httpserver.VerifyPath, append(keys, "r.example/good")...)
	if len(response.Response.Items) != 1 || response.Response.Items[0].Key != "r.example/good" {
		t.Errorf("items %+v", response.Response.Items)
	}
	if !strings.Contains(response.Response.SystemError, "DEADLINE_EXCEEDED") {
		t.Errorf("systemError %.200q", response.Response.SystemError)
	}
}

// A chunked body has no length to refuse it by.
func TestEndlessBody(t *testing.T) {
	t.Parallel()
	h := newServer(t, &decider{}, nil).Handler()
	status, response, _ := send(t, h, http.MethodPost, httpserver.VerifyPath, "application/json", io.LimitReader(zeros{}, 1<<30))
	if status != http.StatusRequestEntityTooLarge || response.Response.SystemError == "" {
		t.Errorf("%d %+v", status, response)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func TestHostileKeys(t *testing.T) {
	t.Parallel()
	d := &decider{}
	h := newServer(t, d, nil).Handler()
	keys := []string{
		"", " ", "\x00", "r.example/good\n", "\u202egood", "r.example/good:\u0301", "[prod]r.example/good", "r.example/[x]", "a//b", "../../etc/passwd", "r.example/good@sha256:00",
		"r.example/good@sha384:" + strings.Repeat("0", 96), strings.Repeat("a", 1025), "http://r.example/good", "r.example:99999999/good", strings.Repeat("a/", 400) + "b", "%2e%2e/x", "${jndi:ldap://x}",
	}
	_, response, _ := post(t, h, httpserver.VerifyPath, keys...)
	if len(response.Response.Items) != len(keys) || response.Response.SystemError != "" {
		t.Fatalf("%d items for %d keys, systemError %q", len(response.Response.Items), len(keys), response.Response.SystemError)
	}
	for i, item := range response.Response.Items {
		value := item.Value.(map[string]any)
		message := value["verifierReports"].([]any)[0].(map[string]any)["message"].(string)
		if item.Key != keys[i] || value["isSuccess"] != false || !strings.HasPrefix(message, "INVALID_KEY: ") || len(message) > executor.MaxLineBytes {
			t.Errorf("key %q: %v", keys[i], value)
		}
		if strings.ContainsFunc(message, func(r rune) bool { return r < ' ' || r == 0x202e }) {
			t.Errorf("key %q: unescaped bytes in %q", keys[i], message)
		}
	}
	if n := d.calls.Load(); n != 0 {
		t.Errorf("%d invalid keys were worked on", n)
	}
}

func TestNamespaces(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name      string
		from      httpserver.NamespaceFrom
		path, key string
		status    int
		namespace string // of the request that reached the decider
		invalid   bool
	}{
		{"none", httpserver.NamespaceFromNone, "", "r.example/good", 200, "", false},
		{"none, forged", httpserver.NamespaceFromNone, "", "[prod]r.example/good", 200, "", true},
		{"key", httpserver.NamespaceFromKey, "", "[prod]r.example/good", 200, "prod", false},
		{"key, missing", httpserver.NamespaceFromKey, "", "r.example/good", 200, "", true},
		{"key, twice", httpserver.NamespaceFromKey, "", "[prod][dev]r.example/good", 200, "", true},
		{"key, empty", httpserver.NamespaceFromKey, "", "[]r.example/good", 200, "", true},
		{"key, unclosed", httpserver.NamespaceFromKey, "", "[prod", 200, "", true},
		{"key, not a name", httpserver.NamespaceFromKey, "", "[Prod]r.example/good", 200, "", true},
		{"key, within", httpserver.NamespaceFromKey, "", "[prod]r.example/[dev]good", 200, "", true},
		{"path", httpserver.NamespaceFromPath, "/namespaces/prod", "r.example/good", 200, "prod", false},
		{"path, without", httpserver.NamespaceFromPath, "", "r.example/good", 200, "", false},
		{"path, forged key", httpserver.NamespaceFromPath, "/namespaces/prod", "[dev]r.example/good", 200, "", true},
		{"path, not a name", httpserver.NamespaceFromPath, "/namespaces/Prod", "r.example/good", 400, "", false},
		{"path, deeper", httpserver.NamespaceFromPath, "/namespaces/a/b", "r.example/good", 400, "", false},
		{"path, empty", httpserver.NamespaceFromPath, "/namespaces/", "r.example/good", 400, "", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			seen := &recorder{}
			h := newServer(t, seen, func(s *httpserver.Snapshot) { s.NamespaceFrom = test.from }).Handler()
			status, response, _ := post(t, h, httpserver.VerifyPath+test.path, test.key)
			if status != test.status {
				t.Fatalf("status %d: %+v", status, response)
			}
			if status != 200 {
				return
			}
			if test.invalid != (len(seen.requests) == 0) {
				t.Fatalf("invalid = %v, requests %v", test.invalid, seen.requests)
			}
			if !test.invalid && seen.requests[0].Namespace != test.namespace {
				t.Errorf("namespace %q, want %q", seen.requests[0].Namespace, test.namespace)
			}
			if len(response.Response.Items) != 1 || response.Response.Items[0].Key != test.key {
				t.Errorf("items %+v", response.Response.Items)
			}
		})
	}
}

type recorder struct {
	mu       sync.Mutex
	requests []executor.Request
	pins
}

func (r *recorder) Verify(_ context.Context, req executor.Request) (executor.Result, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = append(r.requests, req)
	return executor.Result{Request: req, Decision: executor.Allowed}, nil
}

func (*recorder) Recall(executor.Request, time.Time) (executor.Result, bool) {
	return executor.Result{}, false
}

// The same image in two namespaces is two subjects.
func TestNamespaceIsPartOfTheSubject(t *testing.T) {
	t.Parallel()
	d := &decider{}
	h := newServer(t, d, func(s *httpserver.Snapshot) { s.NamespaceFrom = httpserver.NamespaceFromKey }).Handler()
	post(t, h, httpserver.VerifyPath, "[a]r.example/good", "[b]r.example/good", "[a]r.example/good")
	if n := d.calls.Load(); n != 2 {
		t.Errorf("%d subjects decided on, want 2", n)
	}
}

// What is remembered is answered without work, tells what a first answer would
// tell, and never what an earlier proof told.
func TestRemembered(t *testing.T) {
	t.Parallel()
	d := &decider{}
	h := newServer(t, d, func(s *httpserver.Snapshot) { s.AnswerBytes = 1 << 20 }).Handler()
	keys := []string{"r.example/remembered/good", "r.example/remembered/unsigned", "r.example/good"}
	for proof := range uint64(4) {
		d.proof.Store(proof)
		for range 3 {
			d.calls.Store(0)
			_, response, body := post(t, h, httpserver.VerifyPath, keys...)
			want := int32(1)
			if proof == 0 {
				want = 3
			}
			if n := d.calls.Load(); n != want {
				t.Errorf("proof %d: %d subjects took work, want %d", proof, n, want)
			}
			if len(response.Response.Items) != 3 || response.Response.SystemError != "" {
				t.Fatalf("proof %d: %s", proof, body)
			}
			if tells := fmt.Sprintf(`"proof":"%d"`, proof); proof > 0 && strings.Count(body, tells) != 1 {
				t.Errorf("proof %d: the answer tells of another one: %s", proof, body)
			}
			if n := strings.Count(body, `"isSuccess":true,"succeeded":true`); n != 2 {
				t.Errorf("proof %d: %d successes, want 2: %s", proof, n, body)
			}
		}
	}
}

func TestNotReady(t *testing.T) {
	t.Parallel()
	s := httpserver.New(httpserver.Options{Logger: slog.New(slog.DiscardHandler)})
	status, response, _ := post(t, s.Handler(), httpserver.VerifyPath, "r.example/good")
	if status != http.StatusServiceUnavailable || response.Response.SystemError == "" {
		t.Errorf("%d %+v", status, response)
	}
	w := httptest.NewRecorder()
	s.AdminHandler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
	if w.Code != http.StatusServiceUnavailable {
		t.Errorf("readyz %d before a configuration is live", w.Code)
	}
	s.Swap(&httpserver.Snapshot{Decider: &decider{}, Generation: 7, VerifyTimeout: time.Second})
	w = httptest.NewRecorder()
	s.AdminHandler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
	if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `"generation": 7`) {
		t.Errorf("readyz %d: %s", w.Code, w.Body)
	}
}

func TestAdminIsReadOnly(t *testing.T) {
	t.Parallel()
	h := newServer(t, &decider{}, nil).AdminHandler()
	for path, want := range map[string]int{"/healthz": 200, "/metrics": 200, "/readyz": 200, "/": 404} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != want {
			t.Errorf("GET %s: %d", path, w.Code)
		}
		w = httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, nil))
		if w.Code < 400 {
			t.Errorf("POST %s: %d", path, w.Code)
		}
	}
}

func BenchmarkAnswer(b *testing.B) {
	benchmarkAnswer(b, &decider{}, "r.example/a/good", "r.example/b/good", "r.example/c/good", "r.example/d/good")
}

func BenchmarkRememberedAnswer(b *testing.B) {
	d := &decider{}
	d.proof.Store(1)
	benchmarkAnswer(b, d, "r.example/remembered/a/good", "r.example/remembered/b/good", "r.example/remembered/c/good", "r.example/remembered/d/good")
}

func benchmarkAnswer(b *testing.B, d *decider, keys ...string) {
	b.Helper()
	benchmark(b, httpserver.VerifyPath, d, keys...)
}

func benchmark(b *testing.B, path string, d *decider, keys ...string) {
	b.Helper()
	h := newServer(b, d, func(s *httpserver.Snapshot) { s.AnswerBytes = 1 << 20 }).Handler()
	body, err := json.Marshal(externaldata.NewProviderRequest(keys))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, bytes.NewReader(body)))
		if w.Code != http.StatusOK {
			b.Fatal(w.Code)
		}
	}
}
