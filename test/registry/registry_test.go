package registry_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/gatehouse-project/gatehouse/test/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const signatureType = "application/vnd.cncf.notary.signature"

// start runs a registry for one test.
func start(t testing.TB, opts registry.Options) *registry.Registry {
	t.Helper()
	r, err := registry.Start(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// client trusts the registry's CA, does not follow redirects, and leaves no
// connection behind.
func client(t testing.TB, r *registry.Registry) *http.Client {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(r.CAPEM())
	transport := &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: 64,
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
}

type answer struct {
	status int
	header http.Header
	body   string
	err    error // of the request or of reading its body
}

func do(t testing.TB, c *http.Client, method, url string, header http.Header) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(req.Header, header)
	res, err := c.Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, res.Header, string(body), err}
}

func get(t testing.TB, c *http.Client, url string) answer {
	t.Helper()
	return do(t, c, http.MethodGet, url, nil)
}

// must unwraps the result of a push.
func must(t testing.TB) func(ocispec.Descriptor, error) ocispec.Descriptor {
	t.Helper()
	return func(desc ocispec.Descriptor, err error) ocispec.Descriptor {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return desc
	}
}

func TestStartRefuses(t *testing.T) {
	t.Parallel()
	taken := start(t, registry.Options{})
	for name, opts := range map[string]registry.Options{
		"address in use":           {Listener: taken.Host()},
		"no address":               {Listener: "nonsense"},
		"token host without token": {SeparateTokenHost: true},
	} {
		if r, err := registry.Start(opts); err == nil {
			r.Close()
			t.Errorf("%s: started", name)
		}
	}
}

func TestPushIsDeterministic(t *testing.T) {
	t.Parallel()
	r, other := start(t, registry.Options{}), start(t, registry.Options{})
	first := must(t)(r.PushImage(t.Context(), "team/app", "v1", "seed"))
	if again := must(t)(other.PushImage(t.Context(), "else", "", "seed")); again.Digest != first.Digest {
		t.Errorf("same seed: %s and %s", first.Digest, again.Digest)
	}
	if different := must(t)(r.PushImage(t.Context(), "team/app", "v1", "other")); different.Digest == first.Digest {
		t.Error("other seed, same image")
	}
	if _, err := r.PushImage(t.Context(), "Not/Valid", "v1", "seed"); err == nil {
		t.Error("pushed to an invalid repository")
	}
}

func TestServesByTagAndDigest(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Options{})
	c := client(t, r)
	desc := must(t)(r.PushIndex(t.Context(), "team/app", "v1", "seed"))
	for _, reference := range []string{"v1", desc.Digest.String()} {
		for _, method := range []string{http.MethodHead, http.MethodGet} {
			a := do(t, c, method, r.URL()+"/v2/team/app/manifests/"+reference, nil)
			got := []string{
				fmt.Sprint(a.status), a.header.Get("Content-Type"),
				a.header.Get("Docker-Content-Digest"), a.header.Get("Content-Length"),
			}
			want := []string{"200", ocispec.MediaTypeImageIndex, desc.Digest.String(), fmt.Sprint(desc.Size)}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s %s: -want +got\n%s", method, reference, diff)
			}
			if method == http.MethodGet && digest.FromString(a.body) != desc.Digest {
				t.Errorf("%s: wrong content", reference)
			}
		}
	}
	missing := digest.FromString("missing").String()
	for _, path := range []string{
		"team/app/manifests/none", "team/app/manifests/" + missing,
		"team/app/blobs/" + missing, "nowhere/manifests/v1",
	} {
		if a := get(t, c, r.URL()+"/v2/"+path); a.status != http.StatusNotFound || !strings.Contains(a.body, `"errors"`) {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
}

func TestBlobRanges(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Options{})
	c := client(t, r)
	desc := must(t)(r.PushBlob(t.Context(), "app", "text/plain", []byte("0123456789")))
	for _, test := range []struct {
		rng    string
		status int
		body   string
		span   string
	}{
		{"", 200, "0123456789", ""},
		{"bytes=0-", 206, "0123456789", "bytes 0-9/10"},
		{"bytes=4-", 206, "456789", "bytes 4-9/10"},
		{"bytes=4-5", 206, "45", "bytes 4-5/10"},
		{"bytes=4-99", 206, "456789", "bytes 4-9/10"},
		{"bytes=10-", 416, "", "bytes */10"},
		{"bytes=11-", 416, "", "bytes */10"},
	} {
		header := http.Header{}
		if test.rng != "" {
			header.Set("Range", test.rng)
		}
		a := do(t, c, http.MethodGet, r.URL()+"/v2/app/blobs/"+desc.Digest.String(), header)
		if a.status != test.status || a.header.Get("Content-Range") != test.span {
			t.Errorf("%q: %d %q", test.rng, a.status, a.header.Get("Content-Range"))
		}
		if test.status < 400 && a.body != test.body {
			t.Errorf("%q: %q, want %q", test.rng, a.body, test.body)
		}
	}
}

func TestStatsCountByKind(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Options{})
	c := client(t, r)
	image := must(t)(r.PushImage(t.Context(), "app", "v1", "seed"))
	blob := must(t)(r.PushBlob(t.Context(), "app", "text/plain", []byte("blob")))
	if got := r.Stats(); got != (registry.Stats{}) {
		t.Errorf("pushes were counted: %+v", got)
	}
	v2 := r.URL() + "/v2/"
	for _, request := range []struct{ method, path string }{
		{"GET", ""},
		{"GET", "app/tags/list"},
		{"POST", "app/blobs/uploads/"},
		{"GET", "app/manifests/v1"},
		{"HEAD", "app/manifests/v1"},
		{"HEAD", "app/manifests/" + image.Digest.String()},
		{"GET", "app/manifests/" + image.Digest.String()},
		{"GET", "app/manifests/" + image.Digest.String()},
		{"GET", "app/blobs/" + blob.Digest.String()},
		{"HEAD", "app/blobs/" + blob.Digest.String()},
		{"GET", "app/referrers/" + image.Digest.String()},
		{"GET", "app/manifests/" + registry.ReferrersTag(image.Digest)},
		{"GET", "app/manifests/" + registry.ReferrersTag(image.Digest) + ".sig"},
	} {
		do(t, c, request.method, v2+request.path, nil)
	}
	want := registry.Stats{
		Other: 3, Resolve: 4, Manifest: 2, Blob: 2, Referrers: 2,
		Total: 13, Connections: 1, Peak: 1,
	}
	if diff := cmp.Diff(want, r.Stats()); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	r.ResetStats()
	if got := r.Stats(); got != (registry.Stats{}) {
		t.Errorf("after reset: %+v", got)
	}
}

func TestPeakCountsWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	const n = 20
	r := start(t, registry.Options{Intercept: registry.Hang()})
	c := client(t, r)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			req, _ := http.NewRequestWithContext(ctx, http.MethodGet, r.URL()+"/v2/", nil)
			if res, err := c.Do(req); err == nil {
				res.Body.Close()
				t.Error("answered")
			}
		})
	}
	for r.Stats().Peak < n {
		time.Sleep(time.Millisecond)
	}
	cancel()
	wg.Wait()
	if got := r.Stats(); got.Peak != n || got.Total != n {
		t.Errorf("%+v", got)
	}
}

func TestLatencyPassesFirst(t *testing.T) {
	t.Parallel()
	const latency = 30 * time.Millisecond
	r := start(t, registry.Options{Latency: latency, BearerAuth: true})
	c := client(t, r)
	for _, path := range []string{"/v2/", "/token"} {
		began := time.Now()
		if a := get(t, c, r.URL()+path); a.err != nil || time.Since(began) < latency {
			t.Errorf("%s: %v after %s", path, a.err, time.Since(began))
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, r.URL()+"/v2/", nil)
	if res, err := c.Do(req); err == nil {
		res.Body.Close()
		t.Error("answered before the latency")
	}
}

func TestThrottles(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Options{Rate: 0.001, Burst: 2, RetryAfter: "7", BearerAuth: true})
	c := client(t, r)
	var got []int
	for range 4 {
		got = append(got, get(t, c, r.URL()+"/v2/").status)
	}
	if diff := cmp.Diff([]int{401, 401, 429, 429}, got); diff != "" {
		t.Error(diff)
	}
	a := get(t, c, r.URL()+"/v2/")
	if a.header.Get("Retry-After") != "7" || !strings.Contains(a.body, "TOOMANYREQUESTS") {
		t.Errorf("%v %s", a.header, a.body)
	}
	if a := get(t, c, r.URL()+"/token"); a.status != http.StatusOK {
		t.Errorf("the token service is limited too: %d", a.status)
	}
	if got := r.Stats().Throttled; got != 3 {
		t.Errorf("throttled %d", got)
	}
}

func TestCloseEndsWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	for _, secure := range []bool{false, true} {
		for name, opts := range map[string]registry.Options{
			"hang":    {Intercept: registry.Hang()},
			"drip":    {Intercept: registry.SlowBytes(time.Hour)},
			"latency": {Latency: time.Hour},
		} {
			t.Run(fmt.Sprintf("%s tls=%t", name, secure), func(t *testing.T) {
				t.Parallel()
				opts.TLS = secure
				r := start(t, opts)
				c := client(t, r)
				must(t)(r.PushImage(t.Context(), "app", "v1", "seed"))
				done := make(chan answer)
				go func() { done <- get(t, c, r.URL()+"/v2/app/manifests/v1") }()
				for r.Stats().Total == 0 {
					time.Sleep(time.Millisecond)
				}
				r.Close()
				r.Close()
				if a := <-done; a.err == nil {
					t.Errorf("answered %d", a.status)
				}
				if a := get(t, c, r.URL()+"/v2/"); a.err == nil {
					t.Error("still listening")
				}
			})
		}
	}
}

func TestTLSNamesAndHTTP2(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Options{TLS: true, TLSNames: []string{"registry.example"}})
	c := client(t, r)
	res, err := c.Get(r.URL() + "/v2/")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.ProtoMajor != 2 {
		t.Errorf("HTTP/%d", res.ProtoMajor)
	}
	if err := res.TLS.PeerCertificates[0].VerifyHostname("registry.example"); err != nil {
		t.Error(err)
	}
	if _, err := (&http.Client{Transport: &http.Transport{}}).Get(r.URL() + "/v2/"); err == nil {
		t.Error("trusted without the CA")
	}
}

func TestPlantServesLies(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Options{})
	c := client(t, r)
	image := must(t)(r.PushImage(t.Context(), "app", "v1", "seed"))
	lie := ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageManifest, ArtifactType: signatureType,
		Digest: digest.FromString("something else"), Size: 3,
	}
	r.Plant("app", lie, []byte("lie"))
	r.PlantReferrer("app", image.Digest, lie)
	for _, section := range []string{"manifests", "blobs"} {
		if a := get(t, c, r.URL()+"/v2/app/"+section+"/"+lie.Digest.String()); a.body != "lie" {
			t.Errorf("%s: %d %s", section, a.status, a.body)
		}
	}
	list := get(t, c, r.URL()+"/v2/app/referrers/"+image.Digest.String())
	if !strings.Contains(list.body, lie.Digest.String()) {
		t.Errorf("not listed: %s", list.body)
	}
	lie.Size = 5
	r.Plant("app", lie, []byte("lie"))
	if a := get(t, c, r.URL()+"/v2/app/blobs/"+lie.Digest.String()); a.err == nil {
		t.Errorf("short content did not break off: %q", a.body)
	}
}

func TestAddSHA512(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Options{})
	c := client(t, r)
	image := must(t)(r.PushImage(t.Context(), "app", "v1", "seed"))
	blob := must(t)(r.PushBlob(t.Context(), "app", "text/plain", []byte("blob")))
	for section, desc := range map[string]ocispec.Descriptor{"manifests": image, "blobs": blob} {
		desc = must(t)(r.AddSHA512(t.Context(), "app", desc))
		a := get(t, c, r.URL()+"/v2/app/"+section+"/"+desc.Digest.String())
		if a.status != http.StatusOK || desc.Digest != digest.SHA512.FromString(a.body) {
			t.Errorf("%s: %d", section, a.status)
		}
	}
	if _, err := r.AddSHA512(t.Context(), "app", ocispec.Descriptor{Digest: digest.FromString("none")}); err == nil {
		t.Error("made something of nothing")
	}
}
