package templates_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/open-policy-agent/frameworks/constraint/pkg/externaldata"

	"github.com/gatehouse-project/gatehouse/test/templates"
)

// raw answers every request with the same bytes.
func raw(status int, body string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	})
}

// items is a provider's answer with these items as JSON.
func items(list string) string { return `{"response":{"items":` + list + `}}` }

// item is one with this value as JSON, for the pod of ask.
func item(value string) string { return `{"key":"a","value":` + value + `}` }

// ask reviews a pod with the one image a.
func ask(t *testing.T, handler http.Handler, alter ...func(string) string) seen {
	t.Helper()
	var altered func(string) string
	if len(alter) > 0 {
		altered = alter[0]
	}
	pod := podText(`{"containers":[{"name":"a","image":"a"}]}`)
	return scene{request: request(t, pod), providers: map[string]http.Handler{podsProvider: handler}, alter: altered}.play(t)
}

// noProofs is what an item's value can be and proves nothing: only what is
// literally true does.
func noProofs() []string {
	return []string{
		`null`, `true`, `1`, `""`, `"true"`, `"isSuccess"`, `[]`, `[true]`, `["isSuccess",true]`, `{}`,
		`{"isSuccess":false}`, `{"isSuccess":null}`, `{"isSuccess":"true"}`, `{"isSuccess":1}`, `{"isSuccess":[true]}`,
		`{"isSuccess":{"isSuccess":true}}`, `{"issuccess":true}`, `{"succeeded":true}`, `{"value":{"isSuccess":true}}`,
		`[{"isSuccess":true}]`, `{"isSuccess":false,"isSuccess":"x"}`, `1e400`,
		`{"isSuccess":false,"verifierReports":null,"traceID":null}`,
		`{"isSuccess":false,"verifierReports":"x","traceID":7}`,
		`{"isSuccess":false,"verifierReports":[null,1,"x",[],{}]}`,
		`{"isSuccess":false,"verifierReports":[{"type":"policy"}],"traceID":""}`,
		`{"isSuccess":false,"verifierReports":[{"type":"policy","message":1}],"traceID":{}}`,
		`{"isSuccess":false,"verifierReports":{"type":"policy","message":"x"},"traceID":"\n"}`,
	}
}

func TestShippedValues(t *testing.T) {
	t.Parallel()
	for _, value := range noProofs() {
		got := ask(t, raw(http.StatusOK, items("["+item(value)+"]")))
		if len(got.violations) != 1 {
			t.Errorf("%s: %d violations %q, want 1", value, len(got.violations), got.messages())
		}
	}
	if got := ask(t, raw(http.StatusOK, items(`[`+item(`{"isSuccess":true}`)+`]`))); len(got.violations) > 0 {
		t.Errorf("a proof: %q", got.messages())
	}
}

// wholeAnswer is an answer to the question about a, and what comes of it.
type wholeAnswer struct {
	status int
	body   string
	admits bool
}

func wholeAnswers() map[string]wholeAnswer {
	good, bad := item(`{"isSuccess":true}`), item(`{"isSuccess":false}`)
	return map[string]wholeAnswer{
		"a proof":                        {200, items("[" + good + "]"), true},
		"a proof twice":                  {200, items("[" + good + "," + good + "]"), true},
		"a proof beside another's proof": {200, items(`[` + good + `,{"key":"z","value":{"isSuccess":true}}]`), true},

		"a proof beside another's failure": {200, items(`[` + good + `,{"key":"z","value":{"isSuccess":false}}]`), false},
		"a proof beside another's error":   {200, items(`[` + good + `,{"key":"z","error":"X: y"}]`), false},
		"a proof and a failure":            {200, items("[" + good + "," + bad + "]"), false},
		"a failure and a proof":            {200, items("[" + bad + "," + good + "]"), false},
		"a proof and an error":             {200, items(`[` + good + `,{"key":"a","error":"X: y"}]`), false},
		"a proof with an error":            {200, items(`[{"key":"a","value":{"isSuccess":true},"error":"X: y"}]`), false},
		"a proof and a system error":       {200, `{"response":{"items":[` + good + `],"systemError":"X: y"}}`, false},
		"a proof and an error's status":    {500, items("[" + good + "]"), false},
		"a proof and a refusal":            {403, items("[" + good + "]"), false},
		"a proof and a strange success":    {203, items("[" + good + "]"), false},
		"a key of another case":            {200, items(`[{"key":"A","value":{"isSuccess":true}}]`), false},
		"a longer key":                     {200, items(`[{"key":"a ","value":{"isSuccess":true}}]`), false},
		"no key":                           {200, items(`[{"value":{"isSuccess":true}}]`), false},
		"a key that is a number":           {200, items(`[{"key":1,"value":{"isSuccess":true}}]`), false},
		"an item that is null":             {200, items(`[null]`), false},
		"an item that is a list":           {200, items(`[["a",{"isSuccess":true}]]`), false},
		"items that are an object":         {200, items(`{"a":{"isSuccess":true}}`), false},
		"items that are null":              {200, items(`null`), false},
		"no items":                         {200, items(`[]`), false},
		"a system error only":              {200, `{"response":{"systemError":"X: y"}}`, false},
		"a system error that is a number":  {200, `{"response":{"items":[` + good + `],"systemError":1}}`, false},
		"a blank system error":             {200, `{"response":{"items":[` + good + `],"systemError":" "}}`, false},
		"an error that is a number":        {200, items(`[{"key":"a","error":1}]`), false},
		"an empty object":                  {200, `{}`, false},
		"null":                             {200, `null`, false},
		"nothing":                          {200, ``, false},
		"a page":                           {502, `<html>bad gateway</html>`, false},
	}
}

func TestShippedAnswers(t *testing.T) {
	t.Parallel()
	for name, tc := range wholeAnswers() {
		got := ask(t, raw(tc.status, tc.body))
		if admits := len(got.violations) == 0; admits != tc.admits {
			t.Errorf("%s: admits %t, want %t: %q", name, admits, tc.admits, got.messages())
		}
	}
}

// TestShippedLayers takes out either of the rule's two layers, the words for
// what is wrong and the proof that nothing is: the other decides alone.
func TestShippedLayers(t *testing.T) {
	t.Parallel()
	answers := wholeAnswers()
	for _, value := range noProofs() {
		answers[value] = wholeAnswer{http.StatusOK, items("[" + item(value) + "]"), false}
	}
	for layer, alter := range map[string]func(string) string{
		"proof": wordless(t),
		"words": replacing(t, "not proven\n", "false\n"),
	} {
		for name, tc := range answers {
			got := ask(t, raw(tc.status, tc.body), alter)
			if admits := len(got.violations) == 0; admits != tc.admits {
				t.Errorf("%s alone, %s: admits %t, want %t: %q", layer, name, admits, tc.admits, got.messages())
			}
			if layer == "proof" && !tc.admits && !strings.HasPrefix(got.violations[0].Message, "NO_ANSWER: the images could not be asked about") {
				t.Errorf("%s: the layer of words is there: %q", name, got.messages())
			}
		}
	}
}

// wordless is the rule without the layer of words.
func wordless(t *testing.T) func(string) string {
	return replacing(t, "told := array.concat(", "told := []\n\n              untold := array.concat(")
}

// replacing is an alteration of the template that has to find its place.
func replacing(t *testing.T, old, by string) func(string) string {
	return func(text string) string {
		if strings.Count(text, old) != 1 {
			t.Errorf("the template has %q %d times, want once", old, strings.Count(text, old))
		}
		return strings.Replace(text, old, by, 1)
	}
}

// TestShippedUnreachable has no provider of the name, and one that is down.
func TestShippedUnreachable(t *testing.T) {
	t.Parallel()
	pod := podText(`{"containers":[{"name":"a","image":"a"},{"name":"b","image":"b"}]}`)
	got := scene{request: request(t, pod), providers: map[string]http.Handler{}}.play(t)
	if len(got.violations) != 2 {
		t.Errorf("no such provider: %q", got.messages())
	}
	down := templates.Serve(t, proving(), templates.VerifyPath)
	down.Stop()
	violations, err := templates.Review{
		Constraints: scene{}.inForce(t),
		Request:     request(t, pod),
		Point:       templates.WebhookPoint,
		Providers:   map[string]templates.Provider{podsProvider: down.Provider},
	}.Evaluate(t.Context())
	if err != nil || len(violations) != 2 {
		t.Errorf("a provider that is down: %q, %v", violations, err)
	}
	for _, v := range append(violations, got.violations...) {
		checkMessage(t, v)
	}
}

// FuzzShippedAnswer admits only what Gatekeeper's own types read as a proof.
func FuzzShippedAnswer(f *testing.F) {
	for _, v := range readValues(f) {
		f.Add(encode(f, externaldata.Response{Items: []externaldata.Item{{Key: "a", Value: v}}}))
	}
	f.Add([]byte(items("[" + item(`{"isSuccess":true}`) + "]")))
	f.Add([]byte(`{"response":{"items":[` + item(`{"isSuccess":true}`) + `],"systemError":"X [no verdict for: a] | Y trace 0"}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		got := ask(t, raw(http.StatusOK, string(body)))
		if proven := proves(body); proven != (len(got.violations) == 0) {
			t.Errorf("proven: %t, violations %q", proven, got.messages())
		}
	})
}

// proves is the rule again, in Go.
func proves(body []byte) bool {
	var answer externaldata.ProviderResponse
	if json.Unmarshal(body, &answer) != nil || answer.Response.SystemError != "" {
		return false
	}
	proven := false
	for _, item := range answer.Response.Items {
		value, _ := item.Value.(map[string]any)
		if item.Error != "" || value["isSuccess"] != true {
			return false
		}
		proven = proven || item.Key == "a"
	}
	return proven
}

// TestShippedMany is about objects with more denials than anybody reads.
func TestShippedMany(t *testing.T) {
	t.Parallel()
	var containers []string
	for i := range 500 {
		containers = append(containers, fmt.Sprintf(`{"name":"c%d","image":"i%d"}`, i, i))
	}
	pod := podText(`{"containers":[` + strings.Join(containers, ",") + `]}`)
	got := scene{request: request(t, pod), providers: map[string]http.Handler{podsProvider: raw(413, `{"response":{"systemError":"REQUEST_TOO_LARGE: x"}}`)}}.play(t)
	if n := len(got.violations); n != 21 {
		t.Errorf("%d violations, want 20 and the number of the others", n)
	}
	if calls := got.asked[podsProvider]; len(calls) != 1 || len(calls[0]) != 500 {
		t.Errorf("%d calls, want one with 500 keys", len(calls))
	}
}
