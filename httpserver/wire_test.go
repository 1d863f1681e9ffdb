package httpserver

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/frameworks/constraint/pkg/externaldata"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/verifier"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	var indented bytes.Buffer
	if err := json.Indent(&indented, got, "", "  "); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, indented.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), indented.String()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

// outcomes is one answer of each kind that goes over the wire.
func outcomes(t *testing.T) ([]keyed, []answer) {
	t.Helper()
	ref, err := referrerstore.ParseReference("r.example/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	result := executor.Result{
		Request: executor.Request{Reference: ref}, Rule: "production",
		Subject: referrerstore.Subject{Reference: ref, Descriptor: ocispec.Descriptor{Digest: digest.FromString("app")}},
	}
	passed := verifier.Report{
		Verifier: "notation", Type: "notation", Outcome: verifier.Passed,
		Artifact:   ocispec.Descriptor{Digest: digest.FromString("good"), ArtifactType: "application/vnd.cncf.notary.signature"},
		Reason:     verifier.Reason{Code: verifier.CodeVerified, What: "signed by CN=acme"},
		Warnings:   []string{"the signature expired on 2026-01-01"},
		Extensions: map[string]string{"Issuer": "CN=acme root", "SN": "42"},
	}
	failed := verifier.Report{
		Verifier: "notation", Type: "notation", Outcome: verifier.Failed,
		Artifact: ocispec.Descriptor{Digest: digest.FromString("bad"), ArtifactType: "application/vnd.cncf.notary.signature"},
		Reason:   verifier.Reason{Code: verifier.CodeSignerUntrusted, What: "signed by \"CN=a\x1b[31mstranger\u202e\"\n", Do: "trust the signer or sign again"},
	}
	allowed, denied, unsigned, exempt, absent := result, result, result, result, result
	allowed.Decision, allowed.Reports = executor.Allowed, []verifier.Report{passed}
	denied.Decision, denied.Denial, denied.Reports = executor.Denied, executor.ErrRequirement, []verifier.Report{failed}
	unsigned.Decision, unsigned.Denial = executor.Denied, executor.ErrNoArtifacts
	exempt.Decision, exempt.Exemption = executor.Allowed, &executor.Exemption{Reason: "TICKET-1", Until: time.Date(2027, 2, 1, 0, 0, 0, 0, time.UTC)}
	absent.Decision, absent.Denial, absent.Subject = executor.Denied, referrerstore.ErrNotFound, referrerstore.Subject{}
	_, invalid := referrerstore.ParseReference("not a key")

	var keys []keyed
	var answers []answer
	add := func(key string, a answer) {
		if !a.invalid {
			a.explanation = executor.Explain(a.result, a.err)
		}
		keys = append(keys, newKeyed(key, len(answers)))
		answers = append(answers, a)
	}
	add("r.example/app:v1", answer{result: allowed})
	add("r.example/app:stranger", answer{result: denied})
	denied.Reports = []verifier.Report{passed, failed}
	add("r.example/app:half", answer{result: denied})
	add("r.example/app:unsigned", answer{result: unsigned})
	add("r.example/app:exempt", answer{result: exempt})
	add("r.example/app:absent", answer{result: absent})
	add("not a key", answer{explanation: executor.ExplainInvalidKey(invalid), invalid: true})
	add("r.example/app:late", answer{result: result, err: context.DeadlineExceeded})
	add("r.example/app:throttled", answer{result: result, err: &referrerstore.RetryAfterError{After: 5 * time.Second, Err: referrerstore.ErrRateLimited}})
	return keys, answers
}

var someTime = time.Date(2026, 11, 21, 12, 0, 0, 123456789, time.UTC)

func encoded(keys []keyed, from []answer, mode OnFailure) []*answer {
	answers := make([]*answer, len(from))
	for i, a := range from {
		answers[i] = &a
	}
	for _, k := range keys {
		if a := answers[k.slot]; a.err == nil || mode == FailureIsValue {
			a.encoded, _ = encodeValue(a, k.key, maxAnswerBytes)
		}
	}
	return answers
}

const someTrace = "00112233445566778899aabbccddeeff"

// isWrittenAsJSONWould compares what was written by hand with what encoding/json
// makes of the frameworks' own types.
func isWrittenAsJSONWould(t *testing.T, body []byte) {
	t.Helper()
	type value struct {
		Version   string `json:"version"`
		IsSuccess bool   `json:"isSuccess"`
		Succeeded bool   `json:"succeeded"`
		Held      *struct {
			Since      string `json:"since"`
			AgeSeconds int64  `json:"ageSeconds"`
			Reason     string `json:"reason"`
		} `json:"held,omitempty"`
		Unpinned        bool     `json:"unpinned,omitempty"`
		TraceID         string   `json:"traceID"`
		Timestamp       string   `json:"timestamp"`
		VerifierReports []report `json:"verifierReports"`
	}
	var response externaldata.ProviderResponse
	if err := json.Unmarshal(body, &response); err != nil {
		t.Fatal(err)
	}
	for i, item := range response.Response.Items {
		raw, err := json.Marshal(item.Value)
		if err != nil {
			t.Fatal(err)
		}
		var v value
		if err := json.Unmarshal(raw, &v); err != nil {
			t.Fatal(err)
		}
		response.Response.Items[i].Value = v
	}
	want, err := json.Marshal(response)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), strings.TrimSuffix(string(body), "\n")); diff != "" {
		t.Errorf("encoding/json writes otherwise (-want +got):\n%s", diff)
	}
}

func FuzzAppendString(f *testing.F) {
	for _, seed := range []string{"", "r.example/app:v1", "<&>", "a\"b\\c", "\x00\n", "\xff", "grüße \u2028"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		want, err := json.Marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := appendString(nil, text); string(got) != string(want) {
			t.Errorf("%s, want %s", got, want)
		}
	})
}

func TestGoldenResponses(t *testing.T) {
	t.Parallel()
	keys, answers := outcomes(t)
	for name, mode := range map[string]OnFailure{"systemerror.json": FailureIsSystemError, "value.json": FailureIsValue} {
		body := appendResponse(nil, keys, encoded(keys, answers, mode), someTrace, someTime)
		golden(t, name, body)
		isWrittenAsJSONWould(t, body)
	}
	golden(t, "refused.json", encodeSystemError("the body is not UTF-8"))
}

// What was decided without the registry says so, in a field of its own.
func TestGoldenHeld(t *testing.T) {
	t.Parallel()
	keys, answers := outcomes(t)
	held := answers[:1]
	held[0].result.Held = &executor.Held{Since: someTime.Add(-65 * time.Minute), Age: 65*time.Minute + 999*time.Millisecond, Why: referrerstore.ErrUnavailable}
	body := appendResponse(nil, keys[:1], encoded(keys[:1], held, FailureIsSystemError), someTrace, someTime)
	golden(t, "held.json", body)
	isWrittenAsJSONWould(t, body)
}

// That an image has only a tag is in a field of its own, be it denied for that or
// not.
func TestGoldenUnpinned(t *testing.T) {
	t.Parallel()
	keys, answers := outcomes(t)
	warned := answers[:2]
	warned[0].result.Request.Unpinned = executor.UnpinnedWarn
	warned[1].result = executor.Result{Request: warned[0].result.Request, Rule: "production", Decision: executor.Denied, Denial: executor.ErrUnpinned}
	warned[1].result.Request.Unpinned = executor.UnpinnedDeny
	warned[1].explanation = executor.Explain(warned[1].result, nil)
	body := appendResponse(nil, keys[:2], encoded(keys[:2], warned, FailureIsSystemError), someTrace, someTime)
	golden(t, "unpinned.json", body)
	isWrittenAsJSONWould(t, body)
}

func TestGoldenMutation(t *testing.T) {
	t.Parallel()
	req := executor.Request{Reference: referrerstore.Reference{Registry: "docker.io", Repository: "library/nginx", Tag: "latest"}}
	echo := &answer{echo: true}
	pinned := &answer{encoded: appendString(nil, req.Reference.Pinned(digest.FromString("nginx")).String())}
	late := pinning{}.failed(nil, job{req: req}, context.DeadlineExceeded)
	absent := pinning{}.failed(nil, job{req: req}, referrerstore.ErrNotFound)
	l := newSnapshot(&Snapshot{Limits: Limits{KeyBytes: 100}, NamespaceFrom: NamespaceFromKey})
	_, forged := l.subject("[prod]nginx", terms{to: routeMutate}, maxAnswerBytes)
	answers := []*answer{pinned, echo, late, absent, forged}
	keys := []keyed{newKeyed("nginx", 0), newKeyed("", 1), newKeyed("<&>\u2028@x", 1), newKeyed("nginx:latest", 0), newKeyed("late", 2), newKeyed("absent", 3), newKeyed("[prod]nginx", 4)}
	body := appendMutation(nil, keys, answers, someTrace)
	golden(t, "mutate.json", body)
	isAsGatekeepers(t, body)
	golden(t, "mutate_nothing.json", appendMutation(nil, nil, nil, someTrace))
}

// isAsGatekeepers compares what was written by hand with what encoding/json makes
// of the frameworks' own types, which leave out a key that is empty.
func isAsGatekeepers(t *testing.T, body []byte) {
	t.Helper()
	var response externaldata.ProviderResponse
	if err := json.Unmarshal(body, &response); err != nil {
		t.Fatal(err)
	}
	want, err := json.Marshal(response)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want)+"\n", strings.ReplaceAll(string(body), `"key":"",`, "")); diff != "" {
		t.Errorf("written by hand (-encoding/json +ours):\n%s", diff)
	}
}

// No value and no report has a null or lacks a field: templates that meet one
// are undefined, and what is undefined admits.
func TestNothingIsNullOrMissing(t *testing.T) {
	t.Parallel()
	keys, answers := outcomes(t)
	body := appendResponse(nil, keys, encoded(keys, answers, FailureIsValue), someTrace, someTime)
	var response externaldata.ProviderResponse
	if err := json.Unmarshal(body, &response); err != nil {
		t.Fatal(err)
	}
	if len(response.Response.Items) != len(keys) {
		t.Fatalf("%d items for %d keys", len(response.Response.Items), len(keys))
	}
	for _, item := range response.Response.Items {
		value, ok := item.Value.(map[string]any)
		if !ok {
			t.Fatalf("%s: value is %T", item.Key, item.Value)
		}
		present(t, item.Key, value, "version", "isSuccess", "succeeded", "traceID", "timestamp", "verifierReports")
		for _, r := range value["verifierReports"].([]any) {
			present(t, item.Key, r.(map[string]any), "subject", "isSuccess", "name", "verifierName", "type", "verifierType",
				"referenceDigest", "artifactType", "message", "errorReason", "remediation", "extensions")
			if nested, ok := r.(map[string]any)["nestedResults"]; ok {
				t.Errorf("%s: nestedResults is %v", item.Key, nested)
			}
		}
	}
}

func present(t *testing.T, key string, object map[string]any, fields ...string) {
	t.Helper()
	for _, field := range fields {
		if v, ok := object[field]; !ok || v == nil {
			t.Errorf("%s: field %s is %v", key, field, v)
		}
	}
}

// However many artifacts and however long their texts, a value has a bound,
// and one report of each kind of judgement is in it.
func TestValuesAreBounded(t *testing.T) {
	t.Parallel()
	_, answers := outcomes(t)
	a := answers[0]
	long := strings.Repeat("x", 10_000)
	of := a.result.Reports[0]
	of.Reason = verifier.Reason{Code: "C", What: long, Do: long}
	of.Extensions = map[string]string{"Issuer": long, "SN": long}
	of.Warnings = []string{long, long, long, long, long, long}
	of.Artifact.ArtifactType = long
	a.result.Reports = nil
	for i := range 100 {
		r := of
		r.Outcome = verifier.Failed
		if i == 97 {
			r.Outcome = verifier.Passed
		}
		if i == 98 {
			r.Outcome = verifier.Inconclusive
		}
		a.result.Reports = append(a.result.Reports, r)
	}
	for most, reports := range map[int]int{maxAnswerBytes: maxReports, 1000: 3} {
		raw, whole := encodeValue(&a, "key", most)
		if whole != (most == maxAnswerBytes) {
			t.Errorf("at most %d bytes: whole is %t", most, whole)
		}
		if len(raw) > maxReports*12*maxFactBytes+1000 {
			t.Errorf("%d bytes", len(raw))
		}
		var told []report
		if err := json.Unmarshal(raw, &told); err != nil {
			t.Fatal(err)
		}
		kinds := map[string]int{}
		for _, r := range told {
			kinds[r.Extensions["outcome"]]++
		}
		if len(told) != reports || kinds["passed"] != 1 || kinds["failed"] == 0 || kinds["inconclusive"] != 1 {
			t.Errorf("at most %d bytes: %d reports, %v", most, len(told), kinds)
		}
	}
}

// What was left out is named within a bound, and nothing is left out unsaid.
func TestSystemErrorIsBounded(t *testing.T) {
	t.Parallel()
	left := &leftOut{}
	x := executor.Explanation{Code: executor.CodeDeadline, What: "late"}
	for range 1000 {
		left.add(x, string(bytes.Repeat([]byte("k"), 1000)))
	}
	if text := left.String(); len(text) > maxSystemError+1100 || !bytes.Contains([]byte(text), []byte("more keys")) {
		t.Errorf("%d bytes: ...%s", len(text), text[len(text)-50:])
	}
	if text := (&leftOut{}).String(); text != "" {
		t.Errorf("nothing left out says %q", text)
	}
}

func FuzzParseRequest(f *testing.F) {
	limits := Limits{BodyBytes: 1 << 20, Keys: 100, KeyBytes: 1024}
	f.Add([]byte(`{"apiVersion":"externaldata.gatekeeper.sh/v1beta1","kind":"ProviderRequest","request":{"keys":["a"]}}`))
	f.Add([]byte(`{"request":{"keys":[null]}}`))
	f.Add([]byte(`{"request":[]}`))
	f.Add([]byte("\xff"))
	f.Fuzz(func(t *testing.T, body []byte) {
		keys, err := parseRequest(body, limits)
		if err == nil && len(keys) > limits.Keys {
			t.Fatalf("%d keys", len(keys))
		}
		var req externaldata.ProviderRequest
		if plain := json.Unmarshal(body, &req); err == nil && (plain != nil || !slices.Equal(req.Request.Keys, keys)) {
			t.Fatalf("Gatekeeper's own type reads %q, %v; we read %q", req.Request.Keys, plain, keys)
		}
	})
}

func FuzzParseKey(f *testing.F) {
	limits := Limits{KeyBytes: 1024}
	for _, key := range []string{"", "nginx", "[prod]nginx", "[a][b]c", "[", "]", "r.example:443/a@sha256:00", "\x00", "[x]"} {
		f.Add(key, 0)
		f.Add(key, 1)
		f.Add(key, 2)
	}
	f.Fuzz(func(t *testing.T, key string, from int) {
		source := NamespaceFrom(from)
		req, err := parseKey(key, source, "", limits)
		if err != nil {
			return
		}
		if req.Reference.IsZero() {
			t.Fatalf("%q is valid and names nothing", key)
		}
		if (source == NamespaceFromKey) != (req.Namespace != "") {
			t.Fatalf("%q from %d: namespace %q", key, from, req.Namespace)
		}
		again, err := referrerstore.ParseReference(req.Reference.String())
		if err != nil || again != req.Reference {
			t.Fatalf("%q: %q reads back as %q, %v", key, req.Reference, again, err)
		}
	})
}
