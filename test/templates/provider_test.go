package templates_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/open-policy-agent/frameworks/constraint/pkg/externaldata"
)

// golden is a provider that answers from testdata/values, leaves images named
// "missing" out, and then sets a system error.
func golden(tb testing.TB) http.Handler {
	tb.Helper()
	values := readValues(tb)
	return provider(http.StatusOK, func(keys []string) externaldata.Response {
		var response externaldata.Response
		for _, key := range keys {
			verdict := verdictOf(key)
			if verdict == "missing" {
				response.SystemError = "REGISTRY_UNAVAILABLE: 1 key has no verdict; try again"
				continue
			}
			if values[verdict] == nil {
				tb.Errorf("no value %q for key %q", verdict, key)
			}
			response.Items = append(response.Items, externaldata.Item{Key: key, Value: values[verdict]})
		}
		return response
	})
}

// provider speaks the external data protocol with Gatekeeper's own types.
func provider(status int, answer func(keys []string) externaldata.Response) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var request externaldata.ProviderRequest
		if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(externaldata.ProviderResponse{
			APIVersion: "externaldata.gatekeeper.sh/v1beta1",
			Kind:       externaldata.ProviderResponseKind,
			Response:   answer(request.Request.Keys),
		})
	})
}

// verdictOf undoes image, with or without a namespace before it.
func verdictOf(key string) string {
	path := key[strings.LastIndexByte(key, '/')+1:]
	return strings.TrimSuffix(path, ":v1")
}

func readValues(tb testing.TB) map[string]map[string]any {
	tb.Helper()
	paths, err := filepath.Glob("testdata/values/*.json")
	if err != nil || len(paths) == 0 {
		tb.Fatalf("no values: %v", err)
	}
	values := make(map[string]map[string]any)
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			tb.Fatal(err)
		}
		var v map[string]any
		if err := json.Unmarshal(text, &v); err != nil {
			tb.Fatalf("%s: %v", path, err)
		}
		values[strings.TrimSuffix(filepath.Base(path), ".json")] = v
	}
	return values
}
