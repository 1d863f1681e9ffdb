package registry_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/test/registry"
)

func TestResetCutsTheConnection(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Options{Intercept: registry.First(1, registry.Reset())})
	transport := &http.Transport{DisableKeepAlives: true}
	c := &http.Client{Transport: transport}
	if a := get(t, c, r.URL()+"/v2/"); !errors.Is(a.err, syscall.ECONNRESET) && !errors.Is(a.err, io.EOF) {
		t.Errorf("%d %v", a.status, a.err)
	}
	if a := get(t, c, r.URL()+"/v2/"); a.status != http.StatusOK {
		t.Errorf("the second: %d %v", a.status, a.err)
	}
	secure := start(t, registry.Options{TLS: true, Intercept: registry.Reset()})
	if a := get(t, client(t, secure), secure.URL()+"/v2/"); a.err == nil {
		t.Errorf("over HTTP/2: %d", a.status)
	}
}

func TestSlowBytesComeOneByOne(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Options{})
	c := client(t, r)
	desc := must(t)(r.PushBlob(t.Context(), "app", "text/plain", []byte("slowly")))
	url := r.URL() + "/v2/app/blobs/" + desc.Digest.String()
	r.SetIntercept(registry.On(registry.SlowBytes(time.Microsecond), registry.Blob))
	if a := get(t, c, url); a.err != nil || a.body != "slowly" {
		t.Errorf("%v %q", a.err, a.body)
	}
	r.SetIntercept(registry.SlowBytes(time.Hour))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if res, err := c.Do(req); err == nil {
		_, err = io.ReadAll(res.Body)
		res.Body.Close()
		if err == nil {
			t.Error("not slow")
		}
	}
}

func TestStatusHitsItsShare(t *testing.T) {
	t.Parallel()
	const n, share = 400, 0.25
	header := http.Header{"Retry-After": {"3"}}
	sequence := func() (codes []int) {
		r := start(t, registry.Options{Intercept: registry.Status(503, header, share, 42)})
		c := client(t, r)
		for range n {
			a := get(t, c, r.URL()+"/v2/")
			if a.status == 503 && a.header.Get("Retry-After") != "3" {
				t.Error("header is missing")
			}
			codes = append(codes, a.status)
		}
		return codes
	}
	first, second := sequence(), sequence()
	hits := 0
	for i, code := range first {
		if code != second[i] {
			t.Fatal("the same seed chose others")
		}
		if code == 503 {
			hits++
		}
	}
	if hits < n*share/2 || hits > n*share*2 {
		t.Errorf("%d of %d", hits, n)
	}
}

func TestWrongDigest(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Options{})
	c := client(t, r)
	image := must(t)(r.PushImage(t.Context(), "app", "v1", "seed"))
	blob := must(t)(r.PushBlob(t.Context(), "app", "text/plain", []byte("blob")))
	for path, want := range map[string]ocispec.Descriptor{
		"manifests/v1": image, "manifests/" + image.Digest.String(): image, "blobs/" + blob.Digest.String(): blob,
	} {
		r.SetIntercept(registry.WrongDigest())
		a := get(t, c, r.URL()+"/v2/app/"+path)
		if a.err != nil || int64(len(a.body)) != want.Size || digest.FromString(a.body) == want.Digest {
			t.Errorf("%s: %v, %d bytes, want %d altered", path, a.err, len(a.body), want.Size)
		}
		if want.Digest == image.Digest && !json.Valid([]byte(a.body)) {
			t.Errorf("%s: not JSON: %s", path, a.body)
		}
		r.SetIntercept(nil)
		if a := get(t, c, r.URL()+"/v2/app/"+path); digest.FromString(a.body) != want.Digest {
			t.Errorf("%s: the store itself was altered", path)
		}
	}
}

func TestEndlessReferrers(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Options{Intercept: registry.EndlessReferrers()})
	c := client(t, r)
	image := must(t)(r.PushImage(t.Context(), "app", "v1", "seed"))
	seen := map[digest.Digest]bool{}
	next := "/v2/app/referrers/" + image.Digest.String()
	for range 50 {
		a := get(t, c, r.URL()+next)
		for _, desc := range decode[ocispec.Index](t, a.body).Manifests {
			seen[desc.Digest] = true
		}
		link := a.header.Get("Link")
		if len(link) < len(`<>; rel="next"`) {
			t.Fatalf("no next page: %q", link)
		}
		next = link[1 : len(link)-len(`>; rel="next"`)]
	}
	if len(seen) != 50 {
		t.Errorf("%d distinct referrers in 50 pages", len(seen))
	}
	if a := get(t, c, r.URL()+"/v2/app/manifests/v1"); a.status != http.StatusOK {
		t.Errorf("the rest is not honest: %d", a.status)
	}
}

func TestHugeReferrers(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Options{Intercept: registry.HugeReferrers(100, 1000)})
	a := get(t, client(t, r), r.URL()+"/v2/app/referrers/"+digest.FromString("x").String())
	list := decode[ocispec.Index](t, a.body)
	if len(list.Manifests) != 100 || len(a.body) < 100*1000 {
		t.Errorf("%d entries in %d bytes", len(list.Manifests), len(a.body))
	}
	for _, desc := range list.Manifests {
		if desc.ArtifactType != registry.FakeArtifactType || desc.Digest.Validate() != nil {
			t.Fatalf("%+v", desc)
		}
	}
}

func TestForeignRealm(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Options{Intercept: registry.ForeignRealm("http://192.0.2.1/token")})
	c := client(t, r)
	a := get(t, c, r.URL()+"/v2/app/manifests/v1")
	want := `Bearer realm="http://192.0.2.1/token",service="registry",scope="repository:app:pull"`
	if got := a.header.Get("WWW-Authenticate"); a.status != 401 || got != want {
		t.Errorf("%d %s", a.status, got)
	}
	shown := http.Header{"Authorization": {"Bearer anything"}}
	if a := do(t, c, http.MethodGet, r.URL()+"/v2/", shown); a.status != http.StatusOK {
		t.Errorf("with credentials: %d", a.status)
	}
}

func TestRedirectTo(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Options{Intercept: registry.Each(
		registry.On(registry.RedirectTo("http://192.0.2.1:5000"), registry.Blob),
		registry.On(registry.RedirectTo("http://192.0.2.2"), registry.Other),
	)})
	c := client(t, r)
	d := digest.FromString("x").String()
	for path, want := range map[string]string{
		"/v2/app/blobs/" + d + "?q=1": "http://192.0.2.1:5000/v2/app/blobs/" + d + "?q=1",
		"/v2/":                        "http://192.0.2.2/v2/",
		"/v2/app/manifests/v1":        "",
	} {
		if a := get(t, c, r.URL()+path); a.header.Get("Location") != want {
			t.Errorf("%s: %d %s", path, a.status, a.header.Get("Location"))
		}
	}
}
