package notation

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/crypto/ocsp"
	"golang.org/x/sync/semaphore"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// maxExchangeBytes bounds the responses that are being read at once: two
// revocation lists, or sixty-four OCSP responses.
const maxExchangeBytes = 4 << 20

// kind is a protocol for asking about certificates.
type kind struct {
	name string
	most int64 // bytes of a response
	// end reads from a response until when it is valid, zero if that cannot
	// be told; then it is used but not kept.
	end func(response []byte) time.Time
}

//nolint:gochecknoglobals // constants
var (
	ocspKind = kind{name: "ocsp", most: 64 << 10, end: endOfOCSP}
	crlKind  = kind{name: "crl", most: 2 << 20, end: endOfCRL}
)

func endOfOCSP(response []byte) time.Time {
	parsed, err := ocsp.ParseResponse(response, nil)
	if err != nil {
		return time.Time{}
	}
	return parsed.NextUpdate
}

func endOfCRL(response []byte) time.Time {
	parsed, err := x509.ParseRevocationList(response)
	if err != nil {
		return time.Time{}
	}
	return parsed.NextUpdate
}

// response is a body, kept until its end.
type response struct {
	body []byte
	end  time.Time
}

// passing carries a response that must not be kept past the cache, which keeps
// what comes without an error.
type passing struct{ response }

func (*passing) Error() string { return "the response is not to be kept" }

type responseCache = otter.Cache[string, response]

// entryOverhead is what an entry costs beside its key and body.
const entryOverhead = 512

func newResponseCache(size int64) (*responseCache, error) {
	// Without an expiry calculator the cache has no goroutine to stop; entries
	// that have ended go when they are looked up or when others need room.
	return otter.New(&otter.Options[string, response]{
		MaximumWeight: uint64(size), //nolint:gosec // New has checked that it is positive
		Weigher: func(key string, r response) uint32 {
			return uint32(len(key) + len(r.body) + entryOverhead) //nolint:gosec // bounded by kind.most
		},
		Executor: func(task func()) { task() },
	})
}

// exchange is a RoundTripper over the guarded client: bounded in size and
// number, from the cache where possible, one request for many askers. Its time
// is that of the request's context, which the checker bounds.
type exchange struct {
	kind    kind
	client  *http.Client
	cache   *responseCache
	reading *semaphore.Weighted // shared by all kinds, in bytes
	metrics *metrics
}

var _ http.RoundTripper = (*exchange)(nil)

func newExchange(k kind, client *http.Client, cache *responseCache, reading *semaphore.Weighted, m *metrics) *exchange {
	return &exchange{kind: k, client: client, cache: cache, reading: reading, metrics: m}
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
	if err := q.ask(key); err != nil {
		return nil, err
	}
	got, err := e.get(ctx, key, request, body)
	if err != nil {
		return nil, err
	}
	q.restsOn(got.end)
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
func (e *exchange) get(ctx context.Context, key string, request *http.Request, body []byte) (response, error) {
	result := "hit"
	if kept, ok := e.cache.GetIfPresent(key); ok && !time.Now().Before(kept.end) {
		e.cache.Invalidate(key)
	}
	got, err := e.cache.Get(ctx, key, otter.LoaderFunc[string, response](func(ctx context.Context, _ string) (response, error) {
		result = "fetched"
		return e.fetch(ctx, request, body)
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

func (e *exchange) fetch(ctx context.Context, request *http.Request, body []byte) (response, error) {
	if err := e.reading.Acquire(ctx, e.kind.most); err != nil {
		return response{}, context.Cause(ctx)
	}
	defer e.reading.Release(e.kind.most)
	data, err := e.ask(ctx, request, body)
	if err != nil {
		return response{}, err
	}
	got := response{body: data, end: e.kind.end(data)}
	if now := time.Now(); !now.Before(got.end) {
		// Whatever it says, nothing may rest on it beyond this moment.
		got.end = now
		return response{}, &passing{got}
	}
	return got, nil
}

func (e *exchange) ask(ctx context.Context, request *http.Request, body []byte) ([]byte, error) {
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
	defer func() { _ = answer.Body.Close() }() // whatever is left of it does not matter
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered with status %d", request.URL.Host, answer.StatusCode)
	}
	data, err := io.ReadAll(io.LimitReader(answer.Body, e.kind.most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > e.kind.most {
		return nil, fmt.Errorf("%s: %w: at most %d bytes", request.URL.Host, referrerstore.ErrTooLarge, e.kind.most)
	}
	return data, nil
}
