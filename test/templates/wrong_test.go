package templates_test

import (
	"errors"
	"net/http"
	"slices"
	"testing"

	"github.com/open-policy-agent/frameworks/constraint/pkg/externaldata"

	"github.com/gatehouse-project/gatehouse/test/templates"
)

// wrong is an answer that no provider of ours may give, and what the templates
// then do. It shows that these tests can fail, and why the format is as it is.
type wrong struct {
	// verdict names the value under testdata that is spoilt.
	verdict string
	// spoil changes the value, or the item around it.
	spoil func(item *externaldata.Item, value map[string]any)
	// drop leaves the item out instead.
	drop bool
	// status is 200 if zero.
	status int
	// admits are the templates that admit.
	admits []string
}

func without(field string) func(*externaldata.Item, map[string]any) {
	return with(field, nil, true)
}

func set(field string, to any) func(*externaldata.Item, map[string]any) {
	return with(field, to, false)
}

func with(field string, to any, remove bool) func(*externaldata.Item, map[string]any) {
	return func(_ *externaldata.Item, value map[string]any) {
		value[field] = to
		if remove {
			delete(value, field)
		}
	}
}

// inReports changes a field of every report; nil removes it.
func inReports(field string, to any) func(*externaldata.Item, map[string]any) {
	return func(_ *externaldata.Item, value map[string]any) {
		for _, r := range value["verifierReports"].([]any) {
			with(field, to, to == nil)(nil, r.(map[string]any))
		}
	}
}

func wrongAnswers() map[string]wrong {
	all := templates.Names()
	return map[string]wrong{
		// These open a template.
		"isSuccess is missing":        {verdict: "failed", spoil: without("isSuccess"), admits: byVerdict()},
		"isSuccess is null":           {verdict: "failed", spoil: set("isSuccess", nil), admits: byVerdict()},
		"isSuccess is a text":         {verdict: "failed", spoil: set("isSuccess", "false"), admits: byVerdict()},
		"timestamp is missing":        {verdict: "failed", spoil: without("timestamp"), admits: byVerdict()},
		"traceID is missing":          {verdict: "failed", spoil: without("traceID"), admits: byVerdict()},
		"verifierReports are missing": {verdict: "no-signature", spoil: without("verifierReports"), admits: []string{templates.NotationNested}},
		"no value": {
			verdict: "failed",
			spoil:   func(item *externaldata.Item, _ map[string]any) { item.Value = nil },
			admits:  append(byVerdict(), templates.NotationNested),
		},
		"an item's error": {
			verdict: "failed",
			spoil: func(item *externaldata.Item, _ map[string]any) {
				item.Value, item.Error = nil, "signature invalid"
			},
			admits: []string{templates.Notation},
		},
		"the key is left out and no system error set": {verdict: "failed", drop: true, admits: all},
		"the answer is about another key": {
			verdict: "attached",
			spoil:   func(item *externaldata.Item, _ map[string]any) { item.Key += "-other" },
			admits:  all,
		},
		"a good answer with an error's status": {verdict: "attached", status: http.StatusInternalServerError, admits: all},
		"a failed report of the issuer has no message": {
			verdict: "beside-failed-issuer",
			spoil:   inReports("message", nil),
			admits:  slices.Concat(byVerdict(), bySignature(), []string{templates.NotationIssuer}),
		},

		// These close a template to what was proven.
		"verifierReports are null": {verdict: "verified", spoil: set("verifierReports", nil), admits: byVerdict()},
		"nestedResults are empty": {
			verdict: "verified",
			spoil:   inReports("nestedResults", []any{}),
			admits:  slices.Concat(byVerdict(), []string{templates.Notation, templates.NotationIssuer}),
		},
		"type is missing": {
			verdict: "verified",
			spoil:   inReports("type", nil),
			admits:  slices.Concat(byVerdict(), []string{templates.NotationNested}),
		},
		"subject is missing": {
			verdict: "verified",
			spoil:   inReports("subject", nil),
			admits:  slices.Concat(byVerdict(), []string{templates.Notation, templates.NotationIssuer}),
		},
		"artifactType is missing": {
			verdict: "verified",
			spoil:   inReports("artifactType", nil),
			admits:  slices.Concat(byVerdict(), []string{templates.Notation, templates.NotationIssuer}),
		},
	}
}

func TestWrongAnswers(t *testing.T) {
	t.Parallel()
	for name, w := range wrongAnswers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pod := templates.PodOf(image(w.verdict))
			for _, template := range templates.Names() {
				violations, exchanges := templates.Options{}.Ask(t, template, w.handler(t), pod)
				if got, want := len(violations) == 0, slices.Contains(w.admits, template); got != want {
					t.Errorf("%s admits: %t, want %t; violations %q", template, got, want, violations)
				}
				if len(exchanges) != 1 {
					t.Fatalf("%d calls", len(exchanges))
				}
				err := templates.Conforms(pod.Keys(template), exchanges[0].Status, exchanges[0].Response)
				if !errors.Is(err, templates.ErrNotConforming) {
					t.Errorf("Conforms: %v, want ErrNotConforming", err)
				}
			}
		})
	}
}

func (w wrong) handler(tb testing.TB) http.Handler {
	tb.Helper()
	values := readValues(tb) // of this handler's own, to be changed
	status := w.status
	if status == 0 {
		status = http.StatusOK
	}
	return provider(status, func(keys []string) externaldata.Response {
		if w.drop {
			return externaldata.Response{}
		}
		item := externaldata.Item{Key: keys[0], Value: values[w.verdict]}
		if w.spoil != nil {
			w.spoil(&item, values[w.verdict])
		}
		return externaldata.Response{Items: []externaldata.Item{item}}
	})
}

// TestCheckFails hands Check what it must refuse, and a test that counts.
func TestCheckFails(t *testing.T) {
	t.Parallel()
	w := wrongAnswers()["isSuccess is missing"]
	pod := templates.PodOf(image(w.verdict))
	counting := &counter{TB: t}
	templates.Check(counting, templates.RatifyVerification, w.handler(t), pod, templates.Denied)
	if counting.errors != 2 { // the decision, and the answer's form
		t.Errorf("Check raised %d errors, want 2", counting.errors)
	}
	counting = &counter{TB: t}
	templates.Check(counting, templates.RatifyVerification, golden(t), templates.PodOf(image("failed")), templates.Admitted)
	if counting.errors != 1 {
		t.Errorf("Check raised %d errors, want 1", counting.errors)
	}
}

// counter takes a test's errors for itself.
type counter struct {
	testing.TB

	errors int
}

func (c *counter) Errorf(string, ...any) { c.errors++ }
