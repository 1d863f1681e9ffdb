package httpserver

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/gorilla/mux"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// AdminHandler is the read-only side: /healthz (the process answers), /readyz
// (a configuration and its trust material are live, and we are not draining),
// /metrics, and /status (what is held and done at this moment, for people).
func (s *Server) AdminHandler() http.Handler {
	r := mux.NewRouter()
	// Whoever does not read or write holds one of few connections.
	r.Use(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(15 * time.Second)) // best effort
			if r.ContentLength != 0 {
				w.Header().Set("Connection", "close") // nobody waits for a body that nobody wants
			}
			next.ServeHTTP(w, r)
		})
	})
	read := r.Methods(http.MethodGet, http.MethodHead).Subrouter()
	read.Path("/healthz").HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]any{"status": "ok"})
	})
	read.Path("/readyz").HandlerFunc(s.readyz)
	read.Path("/metrics").Handler(promhttp.HandlerFor(s.opts.Gatherer, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second}))
	if s.opts.Status != nil {
		read.Path("/status").HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Cache-Control", "no-store")
			writeJSON(w, http.StatusOK, s.opts.Status())
		})
	}
	return r
}

func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	detail := map[string]any{}
	if s.opts.Detail != nil {
		detail = s.opts.Detail()
	}
	live := s.live.Load()
	switch {
	case s.draining.Load():
		detail["status"] = "draining"
	case live == nil:
		detail["status"] = "starting"
	default:
		detail["status"], detail["generation"] = "ready", live.Generation
		writeJSON(w, http.StatusOK, detail)
		return
	}
	writeJSON(w, http.StatusServiceUnavailable, detail)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // a client that has gone is not our error
}
