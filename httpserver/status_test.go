package httpserver_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gatehouse-project/gatehouse/httpserver"
)

func TestStatusIsShown(t *testing.T) {
	t.Parallel()
	asked := 0
	s := httpserver.New(httpserver.Options{Logger: slog.New(slog.DiscardHandler), Status: func() any {
		asked++
		return map[string]int{"asked": asked}
	}})
	for _, test := range []struct {
		method string
		status int
		body   string
	}{
		{http.MethodGet, http.StatusOK, `"asked": 1`},
		{http.MethodGet, http.StatusOK, `"asked": 2`},
		{http.MethodPost, http.StatusMethodNotAllowed, ""},
	} {
		w := httptest.NewRecorder()
		s.AdminHandler().ServeHTTP(w, httptest.NewRequest(test.method, "/status", nil))
		if w.Code != test.status || !strings.Contains(w.Body.String(), test.body) {
			t.Errorf("%s: %d %s", test.method, w.Code, w.Body)
		}
		if w.Code == http.StatusOK && (w.Header().Get("Cache-Control") != "no-store" || w.Header().Get("Content-Type") != "application/json") {
			t.Errorf("%v", w.Header())
		}
	}
	w := httptest.NewRecorder()
	httpserver.New(httpserver.Options{Logger: slog.New(slog.DiscardHandler)}).AdminHandler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/status", nil))
	if w.Code != http.StatusNotFound {
		t.Errorf("without a status: %d", w.Code)
	}
}
