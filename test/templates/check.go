package templates

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/frameworks/constraint/pkg/externaldata"
)

// VerifyPath is the path at which Ratify's users have their provider.
const VerifyPath = "/ratify/gatekeeper/v1/verify"

// Options of a check; the zero value is what a cluster with the samples has.
type Options struct {
	// Path of the provider's URL; empty is [VerifyPath].
	Path string
	// Parameters replace those of the sample constraint unless nil.
	Parameters map[string]any
}

// Check lets a template ask a provider about a pod, over TLS and with
// Gatekeeper's client, and fails the test unless the template decides as
// wanted, asked each key of the pod in one call, and was answered as
// [Conforms] demands. A pod without images asks nothing and is not for Check.
func Check(tb testing.TB, template string, provider http.Handler, pod Pod, want Decision) {
	tb.Helper()
	Options{}.Check(tb, template, provider, pod, want)
}

// CheckAll checks the named templates, or all of [Names] if none is named,
// each in a subtest, against what the outcome wants of them.
func CheckAll(t *testing.T, provider http.Handler, pod Pod, outcome Outcome, templates ...string) {
	t.Helper()
	Options{}.CheckAll(t, provider, pod, outcome, templates...)
}

// CheckAll is the function of that name, with options. Parameters go to every
// template; a constraint of one that declares none is refused with them.
func (o Options) CheckAll(t *testing.T, provider http.Handler, pod Pod, outcome Outcome, templates ...string) {
	t.Helper()
	if len(templates) == 0 {
		templates = Names()
	}
	for _, name := range templates {
		t.Run(name, func(t *testing.T) {
			o.Check(t, name, provider, pod, outcome.Want(name))
		})
	}
}

// Check is the function of that name, with options.
func (o Options) Check(tb testing.TB, template string, provider http.Handler, pod Pod, want Decision) {
	tb.Helper()
	violations, exchanges := o.Ask(tb, template, provider, pod)
	if got := decisionOf(violations); got != want {
		tb.Errorf("%s: pod %s, want %s; violations %q; answer %s", template, got, want, violations, answersOf(exchanges))
	}
	if len(exchanges) != 1 {
		tb.Fatalf("%s: the provider was called %d times, want once", template, len(exchanges))
	}
	if err := checkRequest(exchanges[0], pod.Keys(template)); err != nil {
		tb.Errorf("%s: request: %v", template, err)
	}
	if err := Conforms(pod.Keys(template), exchanges[0].Status, exchanges[0].Response); err != nil {
		tb.Errorf("%s: answer: %v; answer %s", template, err, answersOf(exchanges))
	}
}

// Ask lets a template ask a provider about a pod as [Check] does, and judges
// nothing: it returns the template's violations and what went over the wire.
// It is for answers that are wrong on purpose.
func (o Options) Ask(tb testing.TB, template string, provider http.Handler, pod Pod) ([]string, []Exchange) {
	tb.Helper()
	path := o.Path
	if path == "" {
		path = VerifyPath
	}
	request, err := pod.Request()
	if err != nil {
		tb.Fatal(err)
	}
	server := Serve(tb, provider, path)
	violations, err := Evaluate(tb.Context(), Question{
		Template:   template,
		Parameters: o.Parameters,
		Request:    request,
		Provider:   server.Provider,
	})
	if err != nil {
		tb.Fatal(err)
	}
	return violations, server.Stop()
}

func decisionOf(violations []string) Decision {
	if len(violations) == 0 {
		return Admitted
	}
	return Denied
}

func answersOf(exchanges []Exchange) string {
	var texts []string
	for _, e := range exchanges {
		texts = append(texts, fmt.Sprintf("%d %s", e.Status, e.Response))
	}
	return strings.Join(texts, "\n")
}

// checkRequest holds what Gatekeeper's client sent against what the handlers
// are written for, so that a new version that asks otherwise is noticed.
func checkRequest(e Exchange, keys []string) error {
	if e.Method != http.MethodPost || e.ContentType != "application/json" {
		return fmt.Errorf("it is a %s of %q", e.Method, e.ContentType)
	}
	var got externaldata.ProviderRequest
	if err := decodeStrictly(e.Request, &got); err != nil {
		return err
	}
	want := *externaldata.NewProviderRequest(keys)
	if diff := cmp.Diff(want, got); diff != "" {
		return fmt.Errorf("it differs (-want +got):\n%s", diff)
	}
	return nil
}

// decodeStrictly reads one JSON value without unknown fields into v.
func decodeStrictly(text []byte, v any) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(v); err != nil {
		return fmt.Errorf("decode %T: %w", v, err)
	}
	if decoder.More() {
		return errors.New("more than one JSON value")
	}
	return nil
}
