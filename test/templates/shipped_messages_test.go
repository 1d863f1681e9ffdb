package templates_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const traceID = "4bf92f3577b34da6a3ce929d0e0e4736"

// told reviews a pod of these images over a fixed answer and returns the
// messages, sorted.
func told(t *testing.T, answer string, images ...string) []string {
	t.Helper()
	var containers []map[string]any
	for _, image := range images {
		containers = append(containers, map[string]any{"name": "c", "image": image})
	}
	spec := rawOf(t, map[string]any{"containers": containers})
	got := scene{
		request:   request(t, podText(string(spec))),
		providers: map[string]http.Handler{podsProvider: raw(http.StatusOK, answer)},
	}.play(t)
	return slices.Sorted(slices.Values(got.messages()))
}

// denial is an item with a denial in the provider's form.
func denial(t *testing.T, key, message string) map[string]any {
	t.Helper()
	return map[string]any{"key": key, "value": map[string]any{
		"isSuccess": false, "traceID": traceID,
		"verifierReports": []any{
			map[string]any{"type": "policy", "isSuccess": false, "message": message},
			map[string]any{"type": "notation", "isSuccess": false, "message": "OTHER: this is not what counts"},
		},
	}}
}

func answer(t *testing.T, systemError string, items ...map[string]any) string {
	t.Helper()
	return string(rawOf(t, map[string]any{"response": map[string]any{"items": items, "systemError": systemError}}))
}

func TestShippedMessages(t *testing.T) {
	t.Parallel()
	const a, b, c = "registry.example.com/a:v1", "registry.example.com/b:v1", "registry.example.com/c:v1"
	value := func(key, value string) map[string]any {
		return map[string]any{"key": key, "value": json.RawMessage(value)}
	}
	for name, tc := range map[string]struct {
		images []string
		answer string
		want   []string
	}{
		"a denial": {
			[]string{a},
			answer(t, "", denial(t, a, "SIGNATURE_NOT_FOUND: it has no signature; sign it")),
			[]string{"SIGNATURE_NOT_FOUND: it has no signature; sign it (image " + a + ", trace " + traceID + ")"},
		},
		"two denials and a proof": {
			[]string{a, b, c},
			answer(t, "", denial(t, a, "X: one"), value(b, `{"isSuccess":true}`), denial(t, c, "Y: two")),
			[]string{"X: one (image " + a + ", trace " + traceID + ")", "Y: two (image " + c + ", trace " + traceID + ")"},
		},
		"an artifact's report alone": {
			[]string{a},
			answer(t, "", value(a, `{"isSuccess":false,"verifierReports":[{"isSuccess":true,"message":"GOOD: no"},{"isSuccess":false,"message":"BAD: yes"}]}`)),
			[]string{"BAD: yes (image " + a + ")"},
		},
		"no reason": {
			[]string{a},
			answer(t, "", value(a, `{"isSuccess":false,"traceID":"not one\n"}`)),
			[]string{"NOT_VERIFIED: the provider's verdict is no success and gives no reason; read the provider's log (image " + a + ")"},
		},
		"an item's error": {
			[]string{a},
			answer(t, "", map[string]any{"key": a, "error": "invalid reference, trace " + traceID}),
			[]string{"PROVIDER_FAILED: Provider " + podsProvider + ": invalid reference, trace " + traceID + " (image " + a + ", trace " + traceID + ")"},
		},
		"no verdict, for reasons of their own": {
			[]string{a, b, c},
			answer(t, "REGISTRY_UNAVAILABLE: it is down; try again [no verdict for: "+a+", "+c+"] | BUSY: too much; try again [no verdict for: "+b+"] trace "+traceID),
			[]string{
				"BUSY: too much; try again (image " + b + ", trace " + traceID + ")",
				"REGISTRY_UNAVAILABLE: it is down; try again (image " + a + ", trace " + traceID + ")",
				"REGISTRY_UNAVAILABLE: it is down; try again (image " + c + ", trace " + traceID + ")",
			},
		},
		"no verdict, one reason, trace in parentheses": {
			[]string{a},
			answer(t, "BUSY: too much [no verdict for: "+a+"] (trace ID "+traceID+")"),
			[]string{"BUSY: too much (image " + a + ", trace " + traceID + ")"},
		},
		"refused as a whole": {
			[]string{a},
			answer(t, "NOT_READY: it starts; wait"),
			[]string{"NOT_READY: it starts; wait (image " + a + ")"},
		},
		"a system error though all is proven": {
			[]string{a},
			answer(t, "X: y, trace "+traceID, value(a, `{"isSuccess":true}`)),
			[]string{"X: y (trace " + traceID + ")"},
		},
		"left out without a word": {
			[]string{a, b},
			answer(t, "", value(a, `{"isSuccess":true}`)),
			[]string{"NO_ANSWER: the provider left the image out and gives no reason; check that its URL is a Gatehouse's (image " + b + ")"},
		},
		"what is not ASCII": {
			[]string{"exämple/a\u202e\n"},
			answer(t, "", denial(t, "exämple/a\u202e\n", "X: “quoted”\nand more")),
			[]string{"X: ?quoted?and more (image ex?mple/a?, trace " + traceID + ")"},
		},
	} {
		if diff := cmp.Diff(tc.want, told(t, tc.answer, tc.images...)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestShippedLongMessages has long images and long reasons: the reason stays
// first, both ends of the image are told, and the trace id is whole.
func TestShippedLongMessages(t *testing.T) {
	t.Parallel()
	digest := "@sha256:" + strings.Repeat("d", 64)
	long := "registry.example.com/" + strings.Repeat("x", 1024-21-len(digest)) + digest
	reason := "SIGNER_UNTRUSTED: " + strings.Repeat("why ", 300)
	for name, message := range map[string]string{"short": "X: y", "one more": "X: yz", "middling": reason[:120], "long": reason} {
		system := "[no verdict for: " + long + "] trace " + traceID
		for form, answer := range map[string]string{
			"a denial":     answer(t, "", denial(t, long, message)),
			"no verdict":   answer(t, message+" "+system),
			"item's error": answer(t, "", map[string]any{"key": long, "error": message + " trace " + traceID}),
		} {
			texts := told(t, answer, long)
			if len(texts) != 1 {
				t.Fatalf("%s reason, %s: %q", name, form, texts)
			}
			text := texts[0]
			switch {
			case len(text) > 256,
				!strings.HasPrefix(text, message[:min(len(message), 95)]),
				!strings.Contains(text, "(image registry.example.com/x"),
				!strings.HasSuffix(text, "ddd, trace "+traceID+")"):
				t.Errorf("%s reason, %s: %d bytes: %s", name, form, len(text), text)
			}
		}
	}
}
