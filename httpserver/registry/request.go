package registry

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
)

// Where an answer came from, for metrics and log lines.
const (
	fromNowhere = "none"
	fromHeld    = "held"
	fromPulled  = "pulled"
	fromStale   = "stale"
)

// request is one request on its way.
type request struct {
	s      *Registry
	snap   *Snapshot
	r      *http.Request
	w      *writer
	path   path
	target *target // nil until it is known
	source string
	cut    error // why the body was cut off
	begun  time.Time
}

// ServeHTTP implements http.Handler: all of it is below /v2/.
func (s *Registry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := &request{s: s, snap: s.live.Load(), r: r, w: newWriter(w, r, s.opts.Idle, &s.buffers), source: fromNowhere, begun: time.Now()}
	defer q.end()
	h := q.w.Header()
	h.Set("Docker-Distribution-Api-Version", "registry/2.0")
	h.Set("X-Content-Type-Options", "nosniff")
	if r.ContentLength != 0 { // nobody waits for a body that nobody wants
		h.Set("Connection", "close")
		q.w.limitBody()
	}
	err := q.answer()
	switch {
	case errors.Is(err, http.ErrAbortHandler):
		panic(http.ErrAbortHandler)
	case err != nil:
		q.refuse(explain(r.Context(), q.target, q.path.kind, err))
		if q.w.status == statusGone {
			panic(http.ErrAbortHandler) // or net/http would answer 200 to one that only said that it asks no more
		}
	}
}

// end is the last of a request, a handler that panicked among them.
func (q *request) end() {
	p := recover()
	if p != nil && p != http.ErrAbortHandler { //nolint:errorlint // a value of any type
		q.s.opts.Logger.Error("panic in a handler", "panic", p, "stack", string(debug.Stack()))
		if q.w.status == 0 {
			q.refuse(asFailure(errPanic()))
			p = nil
		} else {
			p = http.ErrAbortHandler
		}
	}
	q.report()
	if p != nil {
		panic(p)
	}
}

// refuse answers with a failure.
func (q *request) refuse(f *failure) {
	if f.status == statusGone {
		q.w.status = statusGone
		return
	}
	if f.status == http.StatusUnauthorized || f.status == http.StatusForbidden || f.status >= http.StatusInternalServerError {
		q.warn(f, false)
	}
	if f.status != http.StatusRequestedRangeNotSatisfiable {
		q.w.Header().Del("Content-Range")
	}
	f.write(q.w)
}

func (q *request) answer() error {
	if q.snap == nil {
		return errStarting()
	}
	var err error
	q.path, err = parsePath(q.r.URL.EscapedPath())
	if q.r.Method != http.MethodGet && q.r.Method != http.MethodHead {
		return errReadOnly(q.r.Method)
	}
	if err != nil {
		return err
	}
	if q.path.kind == kindPing {
		return q.ping()
	}
	who := clientOf(q.snap, q.r)
	t, err := targetOf(q.snap, q.path, q.r.URL.Query())
	if refused := admit(who, t); refused != nil {
		return refused
	}
	if err != nil {
		return err
	}
	q.target = t
	q.w.Header().Set("Oci-Namespace", t.namespace()) // as net/http spells it: no copy
	switch q.path.kind {
	case kindManifest:
		return q.manifest()
	case kindBlob:
		return q.blob()
	case kindTags:
		return q.listTags()
	default:
		return q.listReferrers()
	}
}

// ping says that the API is here. A client that will have to show something learns
// so now if it says where it is going. One that does not is told that it may: skopeo,
// podman and CRI-O show what they have only if this answer, of any status, asks for it.
func (q *request) ping() error {
	t, _ := targetOf(q.snap, q.path, q.r.URL.Query()) // it may be about no upstream
	if err := admit(clientOf(q.snap, q.r), t); err != nil {
		return err
	}
	if q.snap.Tokens != nil && len(q.snap.Tokens()) > 0 {
		q.w.Header().Set("WWW-Authenticate", challenge)
	}
	q.w.Header().Set("Content-Type", "application/json")
	q.w.Header().Set("Content-Length", "2")
	_, _ = q.w.Write([]byte("{}"))
	return nil
}

// open finds content: what is held, or what the upstream sends.
func (q *request) open(ctx context.Context, want cache.Want) (*cache.Content, error) {
	var content *cache.Content
	var err error
	if q.snap.AirGapped {
		content, err = q.held(want)
	} else {
		content, err = q.s.cache.Obtain(ctx, want, source{q.target})
	}
	if err != nil {
		return nil, err
	}
	if q.source == fromNowhere {
		q.source = fromPulled
		if content.Held() {
			q.source = fromHeld
		}
	}
	return content, nil
}

// held finds content without asking anybody. What was loaded beside the registry
// is known under no identity: whoever loaded it may hand it out.
func (q *request) held(want cache.Want) (*cache.Content, error) {
	content, err := q.s.cache.Get(want)
	if err != nil && q.snap.AirGapped && want.Scope.Identity != "" {
		want.Scope.Identity = ""
		content, err = q.s.cache.Get(want)
	}
	return content, q.notHeld(err)
}

// notHeld explains a lack that nobody can do anything about from here.
func (q *request) notHeld(err error) error {
	if err == nil || !q.snap.AirGapped || errors.Is(err, cache.ErrKind) {
		return err
	}
	return asFailure(errNotHeld(q.path.kind)).because(err)
}

// report counts the request and writes its line.
func (q *request) report() {
	upstream := ""
	if q.target != nil {
		upstream = q.target.host
	}
	q.s.metrics.answered(q, upstream)
	if !q.s.opts.Logger.Enabled(q.r.Context(), slog.LevelDebug) {
		return
	}
	attrs := []slog.Attr{
		slog.String("method", q.r.Method), slog.String("kind", q.path.kind.String()),
		slog.String("upstream", upstream), slog.String("name", q.path.name),
		slog.String("reference", q.path.tag+q.path.digest.String()),
		slog.Int("status", q.w.status), slog.String("source", q.source),
		slog.Int64("bytes", q.w.bytes), slog.Duration("took", time.Since(q.begun)),
	}
	if q.cut != nil {
		attrs = append(attrs, slog.String("cut_off", q.cut.Error()))
	}
	q.s.opts.Logger.LogAttrs(q.r.Context(), slog.LevelDebug, "registry request", attrs...)
}

// warn writes a line about a refusal, unless there were many of late.
func (q *request) warn(f *failure, served bool) {
	attrs := []slog.Attr{
		slog.String("kind", q.path.kind.String()), slog.String("name", q.path.name),
		slog.String("reference", q.path.tag+q.path.digest.String()),
		slog.Int("status", f.status), slog.String("code", f.code), slog.String("message", f.message),
	}
	if q.target != nil {
		attrs = append(attrs, slog.String("upstream", q.target.host))
	}
	if f.cause != nil {
		attrs = append(attrs, slog.String("error", strings.ToValidUTF8(f.cause.Error(), "?")))
	}
	q.s.warn.log(q.r.Context(), served, attrs)
}
