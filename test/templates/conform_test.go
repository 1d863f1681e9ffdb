package templates_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/frameworks/constraint/pkg/externaldata"

	"github.com/gatehouse-project/gatehouse/test/templates"
)

func TestConforms(t *testing.T) {
	t.Parallel()
	value := readValues(t)["attached"]
	item := func(key string) externaldata.Item { return externaldata.Item{Key: key, Value: value} }
	type response = externaldata.Response
	type items = []externaldata.Item
	for name, tc := range map[string]struct {
		asked    []string
		response response
		good     bool
	}{
		"nothing asked":              {nil, response{}, true},
		"all answered":               {[]string{"a", "b", "a"}, response{Items: items{item("a"), item("b"), item("a")}}, true},
		"one left out, with reason":  {[]string{"a", "b"}, response{Items: items{item("b")}, SystemError: "b"}, true},
		"all left out, with reason":  {[]string{"a", "b"}, response{SystemError: "b"}, true},
		"one left out":               {[]string{"a", "b"}, response{Items: items{item("b")}}, false},
		"a double left out":          {[]string{"a", "a"}, response{Items: items{item("a")}}, false},
		"another order":              {[]string{"a", "b"}, response{Items: items{item("b"), item("a")}}, false},
		"another order, with reason": {[]string{"a", "b"}, response{Items: items{item("b"), item("a")}, SystemError: "c"}, false},
		"one too many":               {[]string{"a"}, response{Items: items{item("a"), item("a")}}, false},
		"key of another case":        {[]string{"a"}, response{Items: items{item("A")}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := templates.Conforms(tc.asked, http.StatusOK, encode(t, tc.response))
			if tc.good != (err == nil) {
				t.Errorf("Conforms: %v, want good: %t", err, tc.good)
			}
			if err != nil && !errors.Is(err, templates.ErrNotConforming) {
				t.Errorf("%v is not ErrNotConforming", err)
			}
		})
	}
}

// TestConformsNested shows that reports are looked at in depth.
func TestConformsNested(t *testing.T) {
	t.Parallel()
	for name, to := range map[string]any{
		"null":         nil,
		"not a list":   "x",
		"not a report": []any{map[string]any{}},
	} {
		value := readValues(t)["attached"]
		value["verifierReports"].([]any)[1].(map[string]any)["nestedResults"] = to
		body := encode(t, externaldata.Response{Items: []externaldata.Item{{Key: "a", Value: value}}})
		if err := templates.Conforms([]string{"a"}, http.StatusOK, body); !errors.Is(err, templates.ErrNotConforming) {
			t.Errorf("nestedResults %s: %v", name, err)
		}
	}
}

// TestConformsFields goes through what no template reads today but all
// consumers are promised.
func TestConformsFields(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*externaldata.Item, map[string]any){
		"version missing":       without("version"),
		"another version":       set("version", "1.1.0"),
		"traceID empty":         set("traceID", ""),
		"timestamp no RFC 3339": set("timestamp", "yesterday"),
		"report's isSuccess":    inReports("isSuccess", nil),
		"name":                  inReports("name", nil),
		"two names":             inReports("verifierName", "other"),
		"two types":             inReports("verifierType", "other"),
		"message":               inReports("message", ""),
		"issuer no text":        inReports("extensions", map[string]any{"Issuer": 1}),
	} {
		item := externaldata.Item{Key: "a", Value: readValues(t)["verified"]}
		body := encode(t, externaldata.Response{Items: []externaldata.Item{item}})
		if err := templates.Conforms([]string{"a"}, http.StatusOK, body); err != nil {
			t.Fatalf("before it is spoilt: %v", err)
		}
		spoil(&item, item.Value.(map[string]any))
		body = encode(t, externaldata.Response{Items: []externaldata.Item{item}})
		if err := templates.Conforms([]string{"a"}, http.StatusOK, body); !errors.Is(err, templates.ErrNotConforming) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzConforms(f *testing.F) {
	for _, v := range readValues(f) {
		f.Add(encode(f, externaldata.Response{Items: []externaldata.Item{{Key: "a", Value: v}}}))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if templates.Conforms([]string{"a"}, http.StatusOK, body) != nil {
			return
		}
		var got externaldata.ProviderResponse
		if err := json.Unmarshal(body, &got); err != nil {
			t.Fatalf("conforms, but: %v", err)
		}
		if len(got.Response.Items) == 0 {
			if got.Response.SystemError == "" {
				t.Fatal("conforms without an answer")
			}
			return
		}
		if diff := cmp.Diff("a", got.Response.Items[0].Key); diff != "" {
			t.Fatal(diff)
		}
	})
}

func encode(tb testing.TB, response externaldata.Response) []byte {
	tb.Helper()
	body, err := json.Marshal(externaldata.ProviderResponse{
		APIVersion: "externaldata.gatekeeper.sh/v1beta1",
		Kind:       externaldata.ProviderResponseKind,
		Response:   response,
	})
	if err != nil {
		tb.Fatal(err)
	}
	return body
}
