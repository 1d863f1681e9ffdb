package registry

import (
	"context"
	"net/http"
	"time"

	"cuelabs.dev/go/oci/ociregistry"
)

const tokenPath = "/token"

// serve is the way of each request: counted, delayed, intercepted, limited,
// authorised, answered.
func (r *Registry) serve(w http.ResponseWriter, req *http.Request) {
	if !r.enter() {
		panic(http.ErrAbortHandler)
	}
	defer r.handling.Done()
	kind := KindOf(req)
	refusal := r.authorize(kind, req)
	r.stats.begin(kind, refusal, req)
	defer r.stats.end()
	r.delay(req.Context())
	answer := func(w http.ResponseWriter, req *http.Request) { r.answer(w, req, kind, refusal) }
	if f := r.intercept.Load(); f != nil {
		req = withHonest(req, answer)
		if (*f)(w, req) {
			return
		}
	}
	answer(w, req)
}

// enter admits a request unless Close has begun.
func (r *Registry) enter() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.handling.Add(1)
	return true
}

// delay waits for the latency, and gives the request up if the client does.
func (r *Registry) delay(ctx context.Context) {
	if r.opts.Latency <= 0 {
		return
	}
	timer := time.NewTimer(r.opts.Latency)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		panic(http.ErrAbortHandler) // an ordinary return would be an empty answer
	}
}

// answer is what an honest registry says.
func (r *Registry) answer(w http.ResponseWriter, req *http.Request, kind Kind, refusal *refusal) {
	switch {
	case kind != Token && r.limiter != nil && !r.limiter.Allow():
		r.stats.throttled.Add(1)
		if r.opts.RetryAfter != "" {
			w.Header().Set("Retry-After", r.opts.RetryAfter)
		}
		_ = ociregistry.WriteError(w, ociregistry.ErrTooManyRequests)
	case refusal != nil:
		w.Header().Set("WWW-Authenticate", refusal.challenge)
		_ = ociregistry.WriteError(w, ociregistry.ErrUnauthorized)
	case kind == Token && r.opts.BearerAuth:
		r.serveToken(w, req)
	case r.opts.ReferrersPageSize > 0 && !r.opts.DisableReferrersAPI && isReferrersAPI(req):
		r.servePage(w, req)
	case kind == Blob:
		r.serveBlob(w, req)
	case r.opts.DisableReferrersAPI && req.Method == http.MethodPut:
		r.api.ServeHTTP(&unawareWriter{w}, req)
	default:
		r.api.ServeHTTP(w, req)
	}
}

// unawareWriter drops the header by which a registry tells whoever pushes a
// referrer that it has the referrers API; the library sends it regardless.
type unawareWriter struct{ http.ResponseWriter }

func (w *unawareWriter) WriteHeader(code int) {
	w.Header().Del("OCI-Subject")
	w.ResponseWriter.WriteHeader(code)
}

func withoutTokens(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == tokenPath {
			http.NotFound(w, req)
			return
		}
		next(w, req)
	}
}

func onlyTokens(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path != tokenPath {
			http.NotFound(w, req)
			return
		}
		next(w, req)
	}
}
