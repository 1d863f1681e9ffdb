package notation

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"

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
	return newExchange(kind{name: "x", most: 100, end: func([]byte) time.Time { return time.Now().Add(time.Hour) }}, client, cache, semaphore.NewWeighted(maxExchangeBytes), m)
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
