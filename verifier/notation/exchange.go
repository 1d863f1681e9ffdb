package notation

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/semaphore"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// exchange is a RoundTripper over the guarded client: bounded in size and
// number, from the cache where possible, one request for many askers. Its time
// is that of the request's context, which the checker bounds.
type exchange struct {
	kind    kind
	client  *http.Client
	cache   *responseCache
	reading *semaphore.Weighted // the kind's share, in bytes
	metrics *metrics
}

var _ http.RoundTripper = (*exchange)(nil)

func newExchange(k kind, client *http.Client, cache *responseCache, m *metrics) *exchange {
	return &exchange{kind: k, client: client, cache: cache, reading: semaphore.NewWeighted(k.share), metrics: m}
}

// RoundTrip implements [http.RoundTripper]. It must run within an inquiry.
func (e *exchange) RoundTrip(request *http.Request) (*http.Response, error) {
	ctx := request.Context()
	q, err := inquiryOf(ctx)
	if err != nil {
		return nil, err
	}
	body, err := readBody(request)
	if err != nil {
		return nil, err
	}
	key := e.key(request, body)
	asked, err := q.ask(request.URL.String())
	if err != nil {
		return nil, err
	}
	got, err := e.get(ctx, key, asked, request, body)
	if err != nil {
		return nil, err
	}
	q.received(delivery{key: key, kind: e.kind.name, url: asked.url}, got.end)
	// What is kept, or was fetched for another, answered another's question.
	if err := got.fits(asked); err != nil {
		return nil, fmt.Errorf("%s: %w", request.URL.Host, err)
	}
	return &http.Response{
		Status: "200 OK", StatusCode: http.StatusOK,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header:        make(http.Header),
		Body:          io.NopCloser(bytes.NewReader(got.body)),
		ContentLength: int64(len(got.body)),
		Request:       request,
	}, nil
}

func readBody(request *http.Request) ([]byte, error) {
	if request.Body == nil {
		return nil, nil
	}
	defer func() { _ = request.Body.Close() }() // it is in memory
	return io.ReadAll(request.Body)
}

// get looks in the cache and asks otherwise. Whoever asks for what is being
// asked waits for that answer, and asks itself if the first one gave up.
func (e *exchange) get(ctx context.Context, key string, asked question, request *http.Request, body []byte) (response, error) {
	result := "hit"
	if kept, ok := e.cache.GetIfPresent(key); ok && !time.Now().Before(kept.end) {
		e.cache.Invalidate(key)
	}
	got, err := e.cache.Get(ctx, key, otter.LoaderFunc[string, response](func(ctx context.Context, _ string) (response, error) {
		result = "fetched"
		begun := time.Now()
		defer func() { e.metrics.seconds.WithLabelValues(e.kind.name).Observe(time.Since(begun).Seconds()) }()
		return e.fetch(ctx, asked, request, body)
	}))
	if unkept, ok := errors.AsType[*passing](err); ok {
		got, err = unkept.response, nil
	}
	if err != nil {
		result = "failed"
	}
	e.metrics.lookups.WithLabelValues(e.kind.name, result).Inc()
	return got, err
}

// key is all that the answer may depend on.
func (e *exchange) key(request *http.Request, body []byte) string {
	sum := sha256.Sum256(body)
	return e.kind.name + " " + request.Method + " " + request.URL.String() + " " + hex.EncodeToString(sum[:])
}

// fetch asks, and refuses what does not answer the question before it is kept.
func (e *exchange) fetch(ctx context.Context, asked question, request *http.Request, body []byte) (response, error) {
	answer, err := e.ask(ctx, request, body)
	if err != nil {
		return response{}, err
	}
	defer func() { _ = answer.Body.Close() }() // whatever is left of it does not matter
	size := e.sizeOf(answer)
	// Memory is taken only now: whoever keeps silent holds none.
	if err := e.reading.Acquire(ctx, size); err != nil {
		return response{}, context.Cause(ctx)
	}
	defer e.reading.Release(size)
	got, err := e.read(answer.Body, size)
	if err == nil {
		err = got.fits(asked)
	}
	if err != nil {
		return response{}, fmt.Errorf("%s: %w", request.URL.Host, err)
	}
	now := time.Now()
	if got.end = earliest(got.end, now.Add(maxKept)); !now.Before(got.end) {
		// Whatever it says, nothing may rest on it beyond this moment.
		got.end = now
		return response{}, &passing{got}
	}
	return got, nil
}

// ask returns an answer as soon as its header is there.
func (e *exchange) ask(ctx context.Context, request *http.Request, body []byte) (*http.Response, error) {
	out := request.Clone(ctx)
	out.Body, out.GetBody = nil, nil
	if body != nil {
		out.Body = io.NopCloser(bytes.NewReader(body))
		out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	}
	answer, err := e.client.Do(out)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		_ = answer.Body.Close() // whatever it is does not matter
		return nil, fmt.Errorf("%s answered with status %d", request.URL.Host, answer.StatusCode)
	}
	return answer, nil
}

// sizeOf is how much of an answer is read at the most: what it announces, if
// it does, within the bound of its kind.
func (e *exchange) sizeOf(answer *http.Response) int64 {
	if n := answer.ContentLength; n > 0 && n < e.kind.most {
		return n
	}
	return e.kind.most
}

func (e *exchange) read(body io.Reader, size int64) (response, error) {
	data, err := io.ReadAll(io.LimitReader(body, size+1))
	if err != nil {
		return response{}, err
	}
	if int64(len(data)) > size {
		return response{}, fmt.Errorf("%w: at most %d bytes", referrerstore.ErrTooLarge, size)
	}
	return e.kind.read(data)
}
