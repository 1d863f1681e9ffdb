package templates_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/open-policy-agent/frameworks/constraint/pkg/externaldata"
	admissionv1 "k8s.io/api/admission/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/gatehouse-project/gatehouse/test/templates"
)

// most is how many containers and volumes the rule reads of an object.
const most = 1000

// crowd is a list of elements, each made of its number.
func crowd(n int, element string) string {
	all := make([]string, n)
	for i := range all {
		all[i] = strings.ReplaceAll(element, "#", fmt.Sprint(i))
	}
	return "[" + strings.Join(all, ",") + "]"
}

// TestShippedCrowds is about objects that take longer to read than Gatekeeper's
// webhook has, which lets pass what is late: they are denied unread.
func TestShippedCrowds(t *testing.T) {
	t.Parallel()
	const (
		container = `{"name":"c#","image":"i#"}`
		same      = `{"name":"c#","image":"i"}`
		scratch   = `{"name":"v#","emptyDir":{}}`
	)
	deployment := func(spec string) string {
		return `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d"},"spec":{"template":{"spec":` + spec + `}}}`
	}
	over := podText(`{"containers":` + crowd(most+1, container) + `}`)
	for name, tc := range map[string]struct {
		operation admissionv1.Operation
		old, new  string
		denied    bool
		asked     int
	}{
		"as many as there may be":            {"CREATE", "", podText(`{"containers":` + crowd(most, container) + `}`), false, most},
		"as many, of which half are volumes": {"CREATE", "", podText(`{"containers":` + crowd(most/2, container) + `,"volumes":` + crowd(most/2, scratch) + `}`), false, most / 2},
		"one more":                           {"CREATE", "", over, true, 0},
		"one more, of one image":             {"CREATE", "", podText(`{"containers":` + crowd(most+1, same) + `}`), true, 0},
		"one more, in all lists": {"CREATE", "", podText(`{"containers":` + crowd(most-2, container) +
			`,"initContainers":[{"image":"a"}],"ephemeralContainers":[{"image":"b"}],"volumes":` + crowd(1, scratch) + `}`), true, 0},
		"one more, in a controller":         {"CREATE", "", deployment(`{"initContainers":` + crowd(most+1, container) + `}`), true, 0},
		"one more, audited":                 {"", "", over, true, 0},
		"one more, in the old object":       {"UPDATE", over, podText(`{"containers":` + crowd(1, container) + `}`), false, 1},
		"one more, in both":                 {"UPDATE", over, over, true, 0},
		"one more, deleted":                 {"DELETE", over, "", false, 0},
		"many more, which take a long time": {"CREATE", "", podText(`{"containers":` + crowd(20*most, container) + `}`), true, 0},
	} {
		of := request(t, podText(`{}`))
		if strings.Contains(tc.new, `"Deployment"`) {
			of = request(t, tc.new)
		}
		of.Operation = tc.operation
		of.Object, of.OldObject = extension(tc.new), extension(tc.old)
		for _, alter := range []func(string) string{nil, wordless(t)} {
			got := scene{request: of, alter: alter}.play(t)
			asked := 0
			for _, calls := range got.asked {
				for _, keys := range calls {
					asked += len(keys)
				}
			}
			if (len(got.violations) > 0) != tc.denied || asked != tc.asked {
				t.Errorf("%s: denied: %t, want %t: %q; asked about %d, want %d", name, len(got.violations) > 0, tc.denied, got.messages(), asked, tc.asked)
			}
			if text := strings.Join(got.messages(), "\n"); alter == nil && tc.denied && (len(got.violations) != 1 || !strings.HasPrefix(text, "TOO_MANY_IMAGES: ")) {
				t.Errorf("%s: %q", name, text)
			}
		}
	}
}

// none is a provider without a verdict for any key, which names them all.
func none() http.Handler {
	return provider(http.StatusOK, func(keys []string) externaldata.Response {
		return externaldata.Response{SystemError: "BUSY: too much [no verdict for: " + strings.Join(keys, ", ") + "] trace " + traceID}
	})
}

// longPod has as many images as there may be, as long as fit into an object.
func longPod() string {
	return podText(`{"containers":` + crowd(most, `{"name":"c#","image":"registry.example.com/`+strings.Repeat("x", 800)+`/#:v1"}`) + `}`)
}

// TestShippedLongText has a system error as long as a pod can make it, and finds
// in it what it says of each image. BenchmarkShipped tells how long that takes.
func TestShippedLongText(t *testing.T) {
	t.Parallel()
	got := scene{request: request(t, longPod()), providers: map[string]http.Handler{podsProvider: none()}}.play(t)
	if len(got.violations) != 21 {
		t.Fatalf("%d violations, want 20 and the number of the others", len(got.violations))
	}
	for _, text := range got.messages() {
		if !strings.HasPrefix(text, "BUSY: too much (image ") && text != "MORE: 980 more reasons are not told" {
			t.Errorf("%q", text)
		}
	}
}

// TestShippedLongProvider has Providers with names as long as can be.
func TestShippedLongProvider(t *testing.T) {
	t.Parallel()
	name := strings.Repeat("p", 253)
	for about, providers := range map[string]map[string]http.Handler{
		"a status":         {name: raw(http.StatusInternalServerError, items("["+item(`{"isSuccess":true}`)+"]"))},
		"no such Provider": {},
	} {
		got := scene{
			request:    request(t, podText(`{"containers":[{"image":"a"}]}`)),
			parameters: map[string]any{"provider": name},
			providers:  providers,
		}.play(t) // which looks at the messages
		if len(got.violations) != 1 {
			t.Errorf("%s: %q", about, got.messages())
		}
	}
}

// TestShippedUndefined makes terms undefined that the question and the proof rest
// on, as an error within them does: what is not proven is still denied.
func TestShippedUndefined(t *testing.T) {
	t.Parallel()
	for _, rule := range []struct{ defined, undefined string }{
		{`"provider", "gatehouse-verify")`, `"provider", input.nothing)`},
		{`named(current) - named(old)`, `named(current) - input.nothing`},
		{`current := bounded(object.get(input.review, "object", null))`, `current := bounded(input.nothing)`},
		{`current_found := found(current)`, `current_found := found(input.nothing)`},
		{`statuses := {0, 200}`, `statuses := {0, input.nothing}`},
		{`external_data({"provider": provider, "keys"`, `external_data({"provider": input.nothing, "keys"`},
		{`operation := object.get(input.review, "operation", "")`, `operation := input.nothing`},
		{`elements_most := 1000`, `elements_most := input.nothing`},
	} {
		got := ask(t, raw(http.StatusOK, items("["+item(`{"isSuccess":false}`)+"]")), replacing(t, rule.defined, rule.undefined))
		if len(got.violations) == 0 {
			t.Errorf("admitted with %s", rule.undefined)
		}
	}
}

// BenchmarkShipped is one review of the most that is read, and of more.
func BenchmarkShipped(b *testing.B) {
	for name, tc := range map[string]struct {
		pod      string
		provider http.Handler
	}{
		"proven":     {podText(`{"containers":` + crowd(most, `{"name":"c#","image":"registry.example.com/#:v1"}`) + `}`), proving()},
		"no verdict": {longPod(), none()},
		"crowded":    {podText(`{"containers":` + crowd(20*most, `{"name":"c#","image":"i#"}`) + `}`), proving()},
	} {
		b.Run(name, func(b *testing.B) {
			constraint, err := templates.ShippedConstraint("gatehouse-pods")
			if err != nil {
				b.Fatal(err)
			}
			review := templates.Review{
				Constraints: []*unstructured.Unstructured{constraint},
				Request:     request(b, tc.pod),
				Point:       templates.WebhookPoint,
				Providers:   map[string]templates.Provider{podsProvider: templates.Serve(b, tc.provider, templates.VerifyPath).Provider},
			}
			for b.Loop() {
				if _, err := review.Evaluate(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
