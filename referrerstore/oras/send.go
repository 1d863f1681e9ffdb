package oras

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

const (
	userAgent    = "gatehouse"
	maxRedirects = 5
	// maxDrainBytes is how much of a body that nobody wants is read so that
	// its connection can be used again.
	maxDrainBytes = 4 << 10
)

// answer is a response of a registry. Elsewhere says that a redirect led to
// another origin, whose word on credentials and existence is not the host's.
type answer struct {
	*http.Response
	elsewhere bool
}

// discard closes an answer that is not wanted; a nil one is none.
func (a *answer) discard() {
	if a == nil {
		return
	}
	_, _ = io.CopyN(io.Discard, a.Body, maxDrainBytes)
	_ = a.Body.Close()
}

// keep reads what matters of an answer's body and closes it, so that whoever
// holds the answer holds none of the host's slots.
func (a *answer) keep() error {
	data, err := io.ReadAll(io.LimitReader(a.Body, maxErrorBytes))
	_ = a.Body.Close() // what was wanted of it is read
	a.Body = io.NopCloser(bytes.NewReader(data))
	return err
}

// send sends one request when the governor says so; it counts as under way
// until its body is closed. Errors are classified, and so are those of the body.
func (c *client) send(req *http.Request, authorization string) (*answer, error) {
	of := callOf(req.Context())
	ctx, span := c.store.tracer.request(req.Context(), req.Method, req.URL, of.kind)
	work := referrerstore.WorkOf(ctx)
	turns := c.turns(of.kind.turns())
	permit, err := turns.Acquire(ctx)
	if err != nil {
		work.SetHold(referrerstore.Hold{}) // of one that waits no longer
		finish(span, err)
		return nil, unsent(ctx, err)
	}
	ended := work.Started()
	watched, watch := c.store.watch(ctx, of, turns.Usual())
	free := func() { watch.end(); ended(); permit.Release() }
	span.AddEvent(eventSent)
	out := req.Clone(withTrail(watched, &trail{}))
	out.Header.Set("User-Agent", userAgent)
	if authorization != "" {
		out.Header.Set("Authorization", authorization)
	}
	begun := time.Now()
	resp, err := c.store.ways[of.purpose()].http.Do(out) //nolint:bodyclose // whoever receives the answer closes it
	err = watch.explain(err)
	watch.rest()
	took := time.Since(begun)
	is := kindOf(req, resp, authorization)
	c.store.metrics.observe(is, resp, took)
	permit.Answered(outcome(ctx, resp, err, took))
	if err != nil {
		free()
		err = c.explain(networkError(ctx, err))
		finish(span, err)
		return nil, err
	}
	answered(span, req.Method, is, resp)
	a := &answer{Response: resp, elsewhere: !sameOrigin(resp.Request.URL, req.URL)}
	resp.Body = &body{ReadCloser: resp.Body, ctx: ctx, watch: watch, free: free, span: span}
	// What oras-go prints and resolves links against is the request it made:
	// the URL of a redirect may be a signed one.
	resp.Request = req
	return a, nil
}

func kindOf(req *http.Request, resp *http.Response, authorization string) kind {
	if resp != nil && resp.StatusCode == http.StatusUnauthorized && authorization == "" {
		return kindChallenge
	}
	return callOf(req.Context()).kind
}

// explain adds what the configuration could do about an error.
func (c *client) explain(err error) error {
	if errors.Is(err, http.ErrSchemeMismatch) {
		return fmt.Errorf("%w; if that is meant, add %q to plainHTTP of store %q", err, c.key.host, c.store.name)
	}
	return err
}

// body classifies the errors of reading, and frees the request's slot and ends
// its span when it is closed.
type body struct {
	io.ReadCloser
	ctx   context.Context //nolint:containedctx // a reader has no other way to see its call's end
	watch *watch
	free  func()
	span  trace.Span
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.watch.read(b.ReadCloser, p)
	if err != nil && !errors.Is(err, io.EOF) {
		if err = networkError(b.ctx, b.watch.explain(err)); b.ctx.Err() == nil && errors.Is(err, referrerstore.ErrUnavailable) {
			err = fmt.Errorf("%w: %w", referrerstore.ErrBrokenOff, err)
		}
		fault(b.span, err)
	}
	// io.ErrUnexpectedEOF, an answer cut short, is not io.EOF.
	return n, err
}

func (b *body) Close() error {
	defer b.span.End()
	defer b.free()
	return b.ReadCloser.Close()
}

// checkRedirect lets a registry redirect to other hosts, as many do for blobs,
// but never with credentials and never from https to http.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("%w: more than %d redirects", referrerstore.ErrProtocol, maxRedirects)
	}
	for _, step := range via {
		if req.URL.Scheme != "https" && (req.URL.Scheme != "http" || step.URL.Scheme == "https") {
			return fmt.Errorf("%w: %s redirects from %s to %s", referrerstore.ErrRefused, step.URL.Host, step.URL.Scheme, req.URL.Scheme)
		}
	}
	req.Header.Del("Referer")
	if leftOrigin(req, via) {
		req.Header.Del("Authorization")
	}
	return nil
}

// checkTokenRedirect lets a token service redirect too, but nothing that
// proves who asks goes to another origin.
func checkTokenRedirect(req *http.Request, via []*http.Request) error {
	if err := checkRedirect(req, via); err != nil {
		return err
	}
	if leftOrigin(req, via) && req.Body != nil && req.Body != http.NoBody {
		return fmt.Errorf("%w: the token service redirects a request with credentials to %q", referrerstore.ErrRefused, req.URL.Host)
	}
	return nil
}

// leftOrigin says whether any step of a chain of redirects left the place of
// its first request. That it came back does not count: net/http builds each
// step's headers from those of the first.
func leftOrigin(req *http.Request, via []*http.Request) bool {
	first := via[0].URL
	for _, step := range via[1:] {
		if !sameOrigin(first, step.URL) {
			return true
		}
	}
	return !sameOrigin(first, req.URL)
}
