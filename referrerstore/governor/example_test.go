package governor_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/governor"
)

func Example() {
	registry := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "60")
		w.WriteHeader(http.StatusTooManyRequests)
	}))
	defer registry.Close()
	g, err := governor.New(governor.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer g.Close()

	get := func(ctx context.Context) error {
		permit, err := g.Host(governor.Key{Host: "registry.example.com"}).Acquire(ctx)
		if err != nil {
			return err
		}
		defer permit.Release() // when the body is closed
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, registry.URL+"/v2/", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			permit.Answered(governor.Outcome{Err: err})
			return err
		}
		permit.Answered(governor.Outcome{Status: resp.StatusCode, RetryAfter: time.Minute})
		_, err = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		fmt.Println(resp.Status)
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	fmt.Println(get(ctx))
	err = get(ctx) // at once: the pause outlasts the deadline
	fmt.Println(referrerstore.RetryAfter(err) > 50*time.Second)
	http.DefaultClient.CloseIdleConnections()
	// Output:
	// 429 Too Many Requests
	// <nil>
	// true
}
