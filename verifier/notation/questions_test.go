package notation

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/notaryproject/notation-core-go/revocation/result"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

type answers func(*http.Request) (*http.Response, error)

func (f answers) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Requests with a body, which large OCSP requests are, arrive with it and are
// told apart by it.
func TestExchangeWithBodies(t *testing.T) {
	t.Parallel()
	client := &http.Client{Transport: answers(func(r *http.Request) (*http.Response, error) {
		body, err := io.ReadAll(r.Body)
		return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(append([]byte("re: "), body...)))}, err
	})}
	e := newTestExchange(t, client)
	ctx := newInquiry(nil).in(t.Context())
	for _, text := range []string{"one", "two"} {
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://ocsp.example.com/", strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := e.RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		if err != nil || string(body) != "re: "+text || answer.Body.Close() != nil {
			t.Errorf("body %q, error %v", body, err)
		}
	}
}

func newTestExchange(t *testing.T, client *http.Client) *exchange {
	t.Helper()
	cache, err := newResponseCache(minCacheBytes)
	if err != nil {
		t.Fatal(err)
	}
	m, err := newMetrics("test", prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	return newExchange(kind{name: "x", most: 100, share: 100, read: hourly}, client, cache, m)
}

// However many places certificates name, few are asked, and none without a
// verification behind it.
func TestQuestionsAreBounded(t *testing.T) {
	t.Parallel()
	asked := 0
	e := newTestExchange(t, &http.Client{Transport: answers(func(*http.Request) (*http.Response, error) {
		asked++
		return nil, errors.New("down")
	})})
	ask := func(ctx context.Context, n int) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://ocsp.example.com/%d", n), nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := e.RoundTrip(request)
		if err == nil {
			_ = answer.Body.Close() // it is in memory
		}
		return err
	}
	if ask(t.Context(), 0) == nil || asked > 0 {
		t.Error("asked outside of a verification")
	}
	ctx := newInquiry(nil).in(t.Context())
	var err error
	for n := range maxQuestions + 5 {
		err = ask(ctx, n)
	}
	if !errors.Is(err, errTooManyQuestions) || asked != maxQuestions {
		t.Errorf("asked %d, error %v", asked, err)
	}
}

// A response of exactly the bound is used, one byte more is refused.
func TestExchangeIsBoundedInBytes(t *testing.T) {
	t.Parallel()
	for size, want := range map[int]error{100: nil, 101: referrerstore.ErrTooLarge} {
		e := newTestExchange(t, &http.Client{Transport: answers(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(make([]byte, size)))}, nil
		})})
		request, err := http.NewRequestWithContext(newInquiry(nil).in(t.Context()), http.MethodGet, "http://ocsp.example.com/", nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := e.RoundTrip(request)
		if !errors.Is(err, want) {
			t.Errorf("%d bytes: error %v, want %v", size, err, want)
		}
		if err == nil {
			_ = answer.Body.Close() // it is in memory
		}
	}
}

// However many lists hang, before their first byte or after it, responders are
// asked all the same; and lists that hang before it do not hold up lists.
func TestHangingListsHoldUpNobodyElse(t *testing.T) {
	t.Parallel()
	for name, inBody := range map[string]bool{"before the header": false, "in the body": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				client := &http.Client{Transport: answers(func(r *http.Request) (*http.Response, error) {
					switch body := io.Reader(strings.NewReader("answer")); {
					case r.URL.Host != "hanging.example.com":
						return &http.Response{StatusCode: http.StatusOK, ContentLength: 6, Body: io.NopCloser(body)}, nil
					case inBody:
						body = readerFunc(func([]byte) (int, error) { <-r.Context().Done(); return 0, context.Cause(r.Context()) })
						return &http.Response{StatusCode: http.StatusOK, ContentLength: -1, Body: io.NopCloser(body)}, nil
					default:
						<-r.Context().Done()
						return nil, context.Cause(r.Context())
					}
				})}
				responders, lists := newTestExchanges(t, client)
				ctx, cancel := context.WithCancel(t.Context())
				var group sync.WaitGroup
				for n := range 10 {
					group.Go(func() { _ = askFor(ctx, lists, fmt.Sprintf("http://hanging.example.com/%d", n)) })
				}
				synctest.Wait()
				limited, stop := context.WithTimeout(t.Context(), time.Second)
				defer stop()
				if err := askFor(limited, responders, "http://ocsp.example.com/"); err != nil {
					t.Error(err)
				}
				if err := askFor(limited, lists, "http://crl.example.com/"); err != nil && !inBody {
					t.Error(err)
				}
				cancel()
				group.Wait()
			})
		})
	}
}

// What is being read at once is bounded, by what the answers announce.
func TestReadingIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const announced = 1 << 20
		var reading, most atomic.Int64
		client := &http.Client{Transport: answers(func(r *http.Request) (*http.Response, error) {
			once := true
			body := readerFunc(func(p []byte) (int, error) {
				if !once {
					reading.Add(-announced)
					return 0, io.EOF
				}
				once = false
				if now := reading.Add(announced); now > most.Load() {
					most.Store(now)
				}
				time.Sleep(time.Second)
				return copy(p, "x"), nil
			})
			return &http.Response{StatusCode: http.StatusOK, ContentLength: announced, Body: io.NopCloser(body)}, nil
		})}
		_, lists := newTestExchanges(t, client)
		var group sync.WaitGroup
		for n := range 20 {
			group.Go(func() {
				if err := askFor(t.Context(), lists, fmt.Sprintf("http://crl.example.com/%d", n)); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		if got := most.Load(); got != maxExchangeBytes-maxOCSPBytes {
			t.Errorf("%d bytes read at once", got)
		}
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// newTestExchanges are exchanges with the bounds of the real ones, for any
// content.
func newTestExchanges(t *testing.T, client *http.Client) (responders, lists *exchange) {
	t.Helper()
	cache, err := newResponseCache(minCacheBytes)
	if err != nil {
		t.Fatal(err)
	}
	m, err := newMetrics("test", prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	o, l := ocspKind, crlKind
	o.read, l.read = hourly, hourly
	return newExchange(o, client, cache, m), newExchange(l, client, cache, m)
}

// hourly takes anything for a response about anything.
func hourly(body []byte) (response, error) {
	return response{body: body, end: time.Now().Add(time.Hour), fits: func(question) error { return nil }}, nil
}

func askFor(ctx context.Context, e *exchange, url string) error {
	request, err := http.NewRequestWithContext(newInquiry(nil).in(ctx), http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	answer, err := e.RoundTrip(request)
	if err != nil {
		return err
	}
	return answer.Body.Close()
}

// Only what is unknown is tolerated: a chain that breaks the rules is not.
func TestInvalidChainsAreNotTolerated(t *testing.T) {
	t.Parallel()
	c := &checker{opts: RevocationOptions{Mode: RevocationLog}}
	want := result.InvalidChainError{Err: errors.New("no chain")}
	q := newInquiry(nil)
	results, err := c.tolerate(q, &finding{chain: make([]*x509.Certificate, 2), err: want})
	if !errors.Is(err, error(want)) || results != nil || q.accepted != "" {
		t.Errorf("results %v, error %v, accepted %q", results, err, q.accepted)
	}
}
