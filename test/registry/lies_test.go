package registry_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/test/registry"
)

const ten = "0123456789"

// What an answer to whoever pulls looks like under each fault, over HTTP/1 and 2.
func TestLies(t *testing.T) {
	t.Parallel()
	wrong := digest.FromString("something else").String()
	for _, tt := range []struct {
		name   string
		fault  registry.Fault
		rng    string
		status int
		body   string
		broken bool   // reading the body fails
		header string // its name and value, as they are
	}{
		{"honest", registry.Inspect(func(*http.Request) {}), "", 200, ten, false, "Content-Length: 10"},
		{"break off", registry.BreakOff(4), "", 200, ten[:4], true, "Content-Length: 10"},
		{"break off in a range", registry.BreakOff(4), "bytes=5-", 206, ten[5:9], true, "Content-Range: bytes 5-9/10"},
		{"break off at once", registry.BreakOff(0), "", 200, "", true, "Content-Length: 10"},
		{"short", registry.Short(3), "", 200, ten[:7], false, "Content-Length: 7"},
		{"shorter than nothing", registry.Short(30), "", 200, "", false, "Content-Length: 0"},
		{"long", registry.Long(2), "", 200, ten + "\x00\x00", false, "Content-Length: 12"},
		{"chunked", registry.Chunked(), "", 200, ten, false, "Content-Length: "},
		{"chunked range", registry.Chunked(), "bytes=8-", 206, ten[8:], false, "Content-Length: "},
		{"bent twice", registry.Bent(registry.BreakOff(9), registry.Chunked()), "bytes=0-", 206, ten[:9], true, "Content-Length: "},
		{"header", registry.Header("Docker-Content-Digest", wrong), "", 200, ten, false, "Docker-Content-Digest: " + wrong},
		{"no header", registry.Header("Docker-Content-Digest", ""), "", 200, ten, false, "Docker-Content-Digest: "},
		{"wrong range", registry.Header("Content-Range", "bytes 0-1/2"), "bytes=8-", 206, ten[8:], false, "Content-Range: bytes 0-1/2"},
		{"ignored range", registry.IgnoreRange(), "bytes=8-", 200, ten, false, "Content-Range: "},
		{"errors stay", registry.Long(2), "bytes=10-", 416, "", false, "Content-Range: bytes */10"},
	} {
		for _, secure := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s tls=%t", tt.name, secure), func(t *testing.T) {
				t.Parallel()
				r := start(t, registry.Options{TLS: secure, Intercept: tt.fault})
				desc := must(t)(r.PushBlob(t.Context(), "app", "text/plain", []byte(ten)))
				header := http.Header{}
				if tt.rng != "" {
					header.Set("Range", tt.rng)
				}
				a := do(t, client(t, r), http.MethodGet, r.URL()+"/v2/app/blobs/"+desc.Digest.String(), header)
				if a.status != tt.status || (a.err != nil) != tt.broken || (tt.status < 400 && a.body != tt.body) {
					t.Errorf("%d %q, %v", a.status, a.body, a.err)
				}
				name, value, _ := strings.Cut(tt.header, ": ")
				if got := a.header.Get(name); got != value {
					t.Errorf("%s is %q, want %q", name, got, value)
				}
			})
		}
	}
}

func TestStall(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Options{Intercept: registry.Stall(4)})
	desc := must(t)(r.PushBlob(t.Context(), "app", "text/plain", []byte(ten)))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.URL()+"/v2/app/blobs/"+desc.Digest.String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := client(t, r).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.ReadFull(res.Body, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	cancel() // nothing more would come
	if n, err := io.Copy(io.Discard, res.Body); n != 0 || err == nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func TestEndlessManifest(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Options{Intercept: registry.EndlessManifest()})
	c := client(t, r)
	must(t)(r.PushImage(t.Context(), "app", "v1", "seed"))
	res, err := c.Get(r.URL() + "/v2/app/manifests/v1")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if n, err := io.CopyN(io.Discard, res.Body, 8<<20); err != nil || res.ContentLength != -1 {
		t.Errorf("%d bytes of %d, %v", n, res.ContentLength, err)
	}
	if a := do(t, c, http.MethodHead, r.URL()+"/v2/app/manifests/v1", nil); a.status != http.StatusOK {
		t.Errorf("HEAD: %d", a.status)
	}
}

type tagAnswer struct {
	Tags []string `json:"tags"`
}

func TestTags(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Options{})
	c := client(t, r)
	for _, tag := range []string{"a", "b", "c", "d", "e"} {
		must(t)(r.PushImage(t.Context(), "app", tag, "seed"))
	}
	var fault atomic.Bool
	r.SetIntercept(func(w http.ResponseWriter, req *http.Request) bool {
		return fault.Load() && registry.TagPages(2)(w, req)
	})
	for _, tt := range []struct {
		query string
		small bool
		tags  []string
		link  string
	}{
		{"", false, []string{"a", "b", "c", "d", "e"}, ""},
		{"?n=2", false, []string{"a", "b"}, "last=b&n=2"},
		{"?n=2&last=b", false, []string{"c", "d"}, "last=d&n=2"},
		{"?n=2&last=d", false, []string{"e"}, ""},
		{"?last=e", false, nil, ""},
		{"", true, []string{"a", "b"}, "last=b&n=2"},
		{"?n=3&last=b", true, []string{"c", "d"}, "last=d&n=2"},
		{"?n=1", true, []string{"a"}, "last=a&n=1"},
	} {
		fault.Store(tt.small)
		a := get(t, c, r.URL()+"/v2/app/tags/list"+tt.query)
		if diff := cmp.Diff(tt.tags, decode[tagAnswer](t, a.body).Tags); diff != "" {
			t.Errorf("%q: %s", tt.query, diff)
		}
		if link := a.header.Get("Link"); (tt.link == "") != (link == "") || !strings.Contains(link, tt.link) {
			t.Errorf("%q: link %q, want %q", tt.query, link, tt.link)
		}
	}
}

func TestSuffixRanges(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Options{})
	c := client(t, r)
	desc := must(t)(r.PushBlob(t.Context(), "app", "text/plain", []byte(ten)))
	for rng, want := range map[string]string{
		"bytes=-3":  "206 789 bytes 7-9/10",
		"bytes=-30": "206 " + ten + " bytes 0-9/10",
		"bytes=-0":  "416  bytes */10",
		"bytes=-x":  "416  bytes */10",
		"bytes=10-": "416  bytes */10",
	} {
		a := do(t, c, http.MethodGet, r.URL()+"/v2/app/blobs/"+desc.Digest.String(), http.Header{"Range": {rng}})
		if a.status >= 400 {
			a.body = ""
		}
		if got := fmt.Sprint(a.status, " ", a.body, " ", a.header.Get("Content-Range")); got != want {
			t.Errorf("%s: %s, want %s", rng, got, want)
		}
	}
	a := do(t, c, http.MethodHead, r.URL()+"/v2/app/blobs/"+desc.Digest.String(), nil)
	if a.status != 200 || a.header.Get("Content-Length") != "10" || a.header.Get("Accept-Ranges") != "bytes" {
		t.Errorf("HEAD: %d %v", a.status, a.header)
	}
}

func TestPushLarge(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Options{})
	c := client(t, r)
	layer := r.PushLarge("app", ocispec.MediaTypeImageLayer, 3<<20, 7)
	if again := r.PushLarge("other", ocispec.MediaTypeImageLayer, 3<<20, 7); again.Digest != layer.Digest {
		t.Error("the same seed made another blob")
	}
	if other := r.PushLarge("app", ocispec.MediaTypeImageLayer, 3<<20, 8); other.Digest == layer.Digest {
		t.Error("another seed made the same blob")
	}
	image := must(t)(r.PushImageOf(t.Context(), "app", "large", layer))
	a := get(t, c, r.URL()+"/v2/app/manifests/large")
	if got := decode[ocispec.Manifest](t, a.body); digest.FromString(a.body) != image.Digest || got.Layers[0].Digest != layer.Digest {
		t.Errorf("%+v", got)
	}
	if a := get(t, c, r.URL()+"/v2/app/blobs/"+layer.Digest.String()); digest.FromString(a.body) != layer.Digest {
		t.Errorf("%d, %d bytes", a.status, len(a.body))
	}
}

func TestPathsCountWhatHadCredentials(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Options{BearerAuth: true})
	c := client(t, r)
	must(t)(r.PushImage(t.Context(), "app", "v1", "seed"))
	at := r.URL() + "/v2/app/manifests/v1?ns=x"
	get(t, c, at)
	header := bearer(t, c, r, "repository:app:pull")
	do(t, c, http.MethodGet, at, header)
	do(t, c, http.MethodHead, at, header)
	do(t, c, http.MethodGet, at, header)
	want := map[string]int64{"GET /v2/app/manifests/v1": 2, "HEAD /v2/app/manifests/v1": 1, "GET /token": 1}
	if diff := cmp.Diff(want, r.Paths()); diff != "" {
		t.Error(diff)
	}
	r.ResetStats()
	if len(r.Paths()) != 0 {
		t.Errorf("after reset: %v", r.Paths())
	}
}
