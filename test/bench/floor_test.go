package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/test/registry"
)

// trips are the ways of a request whose cost is the least there can be.
type trips struct{ cold, warm time.Duration }

// floor walks the six round trips from an unknown registry to the envelope of
// one signature, one after the other, on one fresh connection. A client that
// holds a token is spared the first two.
func floor(tb testing.TB, r *registry.Registry, repo, tag string) trips {
	tb.Helper()
	transport := &http.Transport{MaxConnsPerHost: 1}
	defer transport.CloseIdleConnections()
	w := &walker{client: &http.Client{Transport: transport}, base: r.URL()}
	start := time.Now()
	if err := w.walk(tb.Context(), repo, tag); err != nil {
		tb.Fatalf("floor: %v", err)
	}
	took := trips{cold: time.Since(start), warm: time.Since(w.entitled)}
	if w.trips != floorTrips {
		tb.Fatalf("floor: %d round trips, want %d", w.trips, floorTrips)
	}
	return took
}

type walker struct {
	client *http.Client
	base   string
	token  string
	trips  int
	// entitled is when the token was there.
	entitled time.Time
}

func (w *walker) walk(ctx context.Context, repo, tag string) error {
	at := w.base + "/v2/" + repo
	if _, _, err := w.ask(ctx, http.MethodHead, at+"/manifests/"+tag, http.StatusUnauthorized); err != nil {
		return err
	}
	scope := url.Values{"scope": {"repository:" + repo + ":pull"}}
	var token struct{ Token string }
	if err := w.get(ctx, w.base+"/token?"+scope.Encode(), &token); err != nil {
		return err
	}
	w.token, w.entitled = token.Token, time.Now()
	header, _, err := w.ask(ctx, http.MethodHead, at+"/manifests/"+tag, http.StatusOK)
	if err != nil {
		return err
	}
	var list ocispec.Index
	if err := w.get(ctx, at+"/referrers/"+header.Get("Docker-Content-Digest"), &list); err != nil {
		return err
	}
	if len(list.Manifests) != signatures {
		return fmt.Errorf("%d referrers", len(list.Manifests))
	}
	var manifest ocispec.Manifest
	if err := w.get(ctx, at+"/manifests/"+list.Manifests[0].Digest.String(), &manifest); err != nil {
		return err
	}
	_, _, err = w.ask(ctx, http.MethodGet, at+"/blobs/"+manifest.Layers[0].Digest.String(), http.StatusOK)
	return err
}

func (w *walker) get(ctx context.Context, at string, into any) error {
	_, body, err := w.ask(ctx, http.MethodGet, at, http.StatusOK)
	if err != nil {
		return err
	}
	return json.Unmarshal(body, into)
}

// ask is one round trip, to the last byte.
func (w *walker) ask(ctx context.Context, method, at string, want int) (http.Header, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, at, nil)
	if err != nil {
		return nil, nil, err
	}
	if w.token != "" {
		req.Header.Set("Authorization", "Bearer "+w.token)
	}
	w.trips++
	resp, err := w.client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != want {
		err = fmt.Errorf("%s %s: status %d, want %d", method, at, resp.StatusCode, want)
	}
	return resp.Header, body, err
}
