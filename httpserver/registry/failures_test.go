package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/httpserver/registry"
	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
	"github.com/gatehouse-project/gatehouse/referrerstore/storetest"
)

// Each way for an upstream to fail has its answer, the same on every path to it,
// and is asked again the next time.
func TestUpstreamErrors(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err    error
		status int
		code   string // of a manifest; empty is that of all
		retry  string
		text   string
	}{
		{referrerstore.ErrNotFound, 404, "", "", "check the name"},
		{referrerstore.ErrAuthDenied, 403, "DENIED", "", "stores[].credentials"},
		{&referrerstore.RetryAfterError{After: 17 * time.Second, Err: referrerstore.ErrRateLimited}, 429, "TOOMANYREQUESTS", "17", "limits the rate"},
		{referrerstore.ErrRateLimited, 429, "TOOMANYREQUESTS", "5", "limits the rate"},
		{referrerstore.ErrUnavailable, 503, "UNAVAILABLE", "5", "is unavailable"},
		{referrerstore.ErrBrokenOff, 502, "UNAVAILABLE", "", "broke off"},
		{fmt.Errorf("%w: %w", referrerstore.ErrUnavailable, context.DeadlineExceeded), 504, "UNAVAILABLE", "", "in time"},
		{referrerstore.ErrBusy, 503, "UNAVAILABLE", "5", "too much"},
		{&referrerstore.RefusedError{What: "the realm is elsewhere", Add: "name it"}, 403, "DENIED", "", "the realm is elsewhere; if that is meant, name it"},
		{referrerstore.ErrProtocol, 502, "", "", "distribution specification"},
		{referrerstore.ErrTooLarge, 502, "", "", "larger"},
		{referrerstore.ErrDigestMismatch, 502, "DIGEST_INVALID", "", "do not match their digest"},
		{errors.New("what nobody thought of"), 500, "UNKNOWN", "", "see the log"},
		{cache.ErrClosed, 503, "UNAVAILABLE", "5", "shutting down"},
	} {
		w := newWorld(t, nil)
		image := w.image(t, "v1", []byte("layer"))
		var calls atomic.Int64
		var well atomic.Bool
		w.store.PullFault = func(context.Context, storetest.Pull) error {
			calls.Add(1)
			if well.Load() {
				return nil
			}
			return tt.err
		}
		for _, path := range []string{manifests("v1"), manifests(image.Descriptor.Digest), blobs(digest.FromString("layer")), "/v2/" + repo + "/tags/list"} {
			for _, method := range []string{http.MethodHead, http.MethodGet} {
				before := calls.Load()
				a := w.do(t, method, path)
				if a.status != tt.status || a.header.Get("Retry-After") != tt.retry || calls.Load() == before {
					t.Errorf("%v: %s %s: %d %v", tt.err, method, path, a.status, a.header)
					continue
				}
				if method == http.MethodHead {
					continue
				}
				code, message := a.error(t)
				if tt.code != "" && code != tt.code {
					t.Errorf("%v: %s: %s", tt.err, path, code)
				}
				has(t, message, tt.text)
				if strings.Contains(message, "nobody thought") {
					t.Errorf("an inner error is shown: %s", message)
				}
			}
		}
		well.Store(true)
		if a := w.get(t, manifests("v1")); a.status != 200 {
			t.Errorf("%v is remembered: %d", tt.err, a.status)
		}
	}
}

func TestReferrersErrors(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	image := w.image(t, "v1")
	w.store.AddReferrer(image, "application/x")
	path := "/v2/" + repo + "/referrers/" + image.Descriptor.Digest.String()
	var fault error
	w.store.ReferrersFault = func(_ context.Context, _ referrerstore.Subject, yielded int) error {
		if yielded == 1 {
			return fault // a list that breaks off is no list
		}
		return nil
	}
	for err, status := range map[error]int{referrerstore.ErrUnavailable: 503, referrerstore.ErrTooManyReferrers: 502, referrerstore.ErrAuthDenied: 403} {
		fault = err
		if a := w.get(t, path); a.status != status {
			t.Errorf("%v: %d", err, a.status)
		}
	}
	fault = nil
	w.get(t, path)
	fault = referrerstore.ErrUnavailable
	if a := w.get(t, path); a.status != 503 {
		t.Errorf("a stale list is served unasked: %d", a.status)
	}
	w.tags(registry.TagPolicy{StaleIfError: time.Hour})
	if a := w.get(t, path); a.status != 200 || !strings.HasPrefix(a.header.Get("Warning"), "110 ") || !strings.Contains(string(a.body), "application/x") {
		t.Errorf("%d %v", a.status, a.header)
	}
}

func TestTagPolicies(t *testing.T) {
	t.Parallel()
	const asked, held, stale = "asked", "held", "stale"
	for _, tt := range []struct {
		name   string
		policy registry.TagPolicy
		age    time.Duration
		fault  error
		want   string // or a status
	}{
		{"always", registry.TagPolicy{}, time.Second, nil, asked},
		{"always, away", registry.TagPolicy{}, time.Second, referrerstore.ErrUnavailable, "503"},
		{"always, away, stale", registry.TagPolicy{StaleIfError: time.Hour}, 59 * time.Minute, referrerstore.ErrUnavailable, stale},
		{"always, away, too old", registry.TagPolicy{StaleIfError: time.Hour}, 61 * time.Minute, referrerstore.ErrUnavailable, "503"},
		{"rate limited", registry.TagPolicy{StaleIfError: time.Hour}, time.Minute, referrerstore.ErrRateLimited, stale},
		{"late", registry.TagPolicy{StaleIfError: time.Hour}, time.Minute, context.DeadlineExceeded, stale},
		{"broken off", registry.TagPolicy{StaleIfError: time.Hour}, time.Minute, referrerstore.ErrBrokenOff, stale},
		{"says no", registry.TagPolicy{StaleIfError: time.Hour}, time.Minute, referrerstore.ErrNotFound, "404"},
		{"denied", registry.TagPolicy{StaleIfError: time.Hour}, time.Minute, referrerstore.ErrAuthDenied, "403"},
		{"lies", registry.TagPolicy{StaleIfError: time.Hour}, time.Minute, referrerstore.ErrProtocol, "502"},
		{"interval, young", registry.TagPolicy{Mode: registry.TagInterval, Interval: time.Hour}, 59 * time.Minute, nil, held},
		{"interval, old", registry.TagPolicy{Mode: registry.TagInterval, Interval: time.Hour}, 61 * time.Minute, nil, asked},
		{"interval, from the future", registry.TagPolicy{Mode: registry.TagInterval, Interval: time.Hour}, -time.Hour, nil, asked},
		{"interval, old and away", registry.TagPolicy{Mode: registry.TagInterval, Interval: time.Hour}, 61 * time.Minute, referrerstore.ErrUnavailable, "503"},
		{"if absent", registry.TagPolicy{Mode: registry.TagIfAbsent}, 9999 * time.Hour, referrerstore.ErrUnavailable, held},
	} {
		w := newWorld(t, nil)
		before := w.image(t, "v1", []byte("before"))
		w.get(t, manifests(before.Descriptor.Digest))
		w.cache.SetTag(w.scope(""), "v1", cache.Tag{Descriptor: before.Descriptor, At: time.Now().Add(-tt.age)})
		after := w.store.AddManifest(ref(t, upstream+"/"+repo+":v1"), ocispec.MediaTypeImageManifest, []byte(`{"config":{},"layers":[]}`))
		w.store.Tag(ref(t, upstream+"/"+repo+":v1"), after)
		w.tags(tt.policy)
		w.store.ResolveFault = func(context.Context, referrerstore.Reference) error { return tt.fault }
		a := w.get(t, manifests("v1"))
		got := fmt.Sprint(a.status)
		switch a.header.Get("Docker-Content-Digest") {
		case after.Digest.String():
			got = asked
		case before.Descriptor.Digest.String():
			if got = held; strings.HasPrefix(a.header.Get("Warning"), "110 ") {
				got = stale
			}
		}
		if got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
		_, known := w.cache.Tag(w.scope(""), "v1")
		if known == errors.Is(tt.fault, referrerstore.ErrNotFound) {
			t.Errorf("%s: the tag is known: %t", tt.name, known)
		}
	}
}

// Many at once are one at the upstream, each.
func TestOnePull(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	layer := noise(4, 100_000)
	image := w.image(t, "v1", layer)
	w.store.PullFault = func(context.Context, storetest.Pull) error { time.Sleep(20 * time.Millisecond); return nil }
	var clients sync.WaitGroup
	for i := range 200 {
		clients.Go(func() {
			if i%2 == 0 {
				if a := w.do(t, http.MethodHead, manifests("v1")); a.status != 200 {
					t.Errorf("head: %d", a.status)
				}
			}
			if a := w.get(t, manifests("v1")); a.status != 200 || digest.FromBytes(a.body) != image.Descriptor.Digest {
				t.Errorf("tag: %d", a.status)
			}
			if a := w.get(t, manifests(image.Descriptor.Digest)); a.status != 200 {
				t.Errorf("digest: %d", a.status)
			}
			if a := w.get(t, blobs(digest.FromBytes(layer))); a.status != 200 || !bytes.Equal(a.body, layer) {
				t.Errorf("blob: %d, %d bytes, %v", a.status, len(a.body), a.cut)
			}
		})
	}
	clients.Wait()
	if n := w.store.Counts(); n.PullManifest != 1 || n.PullBlob != 1 {
		t.Errorf("%+v", n)
	}
}

// Nobody gets all of a blob that is not what its name says.
func TestLies(t *testing.T) {
	t.Parallel()
	data := noise(5, 300_000)
	for name, bend := range map[string]func([]byte) []byte{
		"wrong bytes": func(b []byte) []byte { b = bytes.Clone(b); b[len(b)-1] ^= 1; return b },
		"wrong start": func(b []byte) []byte { b = bytes.Clone(b); b[0] ^= 1; return b },
		"short":       func(b []byte) []byte { return b[:len(b)-1000] },
		"long":        func(b []byte) []byte { return append(bytes.Clone(b), 'x') },
	} {
		w := newWorld(t, nil)
		desc := w.blob(t, "x", data)
		w.store.Alter = func(d ocispec.Descriptor, b []byte) []byte {
			if d.Digest == desc.Digest {
				return bend(b)
			}
			return b
		}
		for _, part := range []string{"", "bytes=100-"} {
			a := w.get(t, blobs(desc.Digest), "Range", part)
			if a.cut == nil && a.status < 300 {
				t.Errorf("%s: %d bytes and status %d came as whole", name, len(a.body), a.status)
			}
		}
		if _, err := w.cache.Get(cache.Want{Scope: w.scope(""), Digest: desc.Digest, Size: -1}); err == nil {
			t.Errorf("%s: it is held", name)
		}
		if a := w.get(t, manifests(w.image(t, "v1").Descriptor.Digest)); a.status != 200 {
			t.Errorf("%s: %d", name, a.status)
		}
	}
}

func TestLyingManifests(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		bend   func(p storetest.Pull, pulled *referrerstore.Pulled)
		status int
	}{
		"too large":      {func(_ storetest.Pull, p *referrerstore.Pulled) { p.Size = 5 << 20 }, 502},
		"endless":        {func(_ storetest.Pull, p *referrerstore.Pulled) { p.Size, p.Body = -1, io.NopCloser(endless{}) }, 502},
		"another digest": {func(_ storetest.Pull, p *referrerstore.Pulled) { p.Digest = digest.FromString("x") }, 502},
		"no digest":      {func(_ storetest.Pull, p *referrerstore.Pulled) { p.Digest = "sha256:\r\n" }, 502},
		"short":          {func(_ storetest.Pull, p *referrerstore.Pulled) { p.Size++ }, 502},
		"no type":        {func(_ storetest.Pull, p *referrerstore.Pulled) { p.MediaType = "" }, 200},
		"wild type":      {func(_ storetest.Pull, p *referrerstore.Pulled) { p.MediaType = "text/html\r\nX: y" }, 200},
		"no size":        {func(_ storetest.Pull, p *referrerstore.Pulled) { p.Size = -1 }, 200},
	} {
		w := newWorld(t, nil)
		w.image(t, "v1")
		w.store.BendPull = tt.bend
		a := w.get(t, manifests("v1"))
		if a.status != tt.status || a.header.Get("X") != "" {
			t.Errorf("%s: %d %v", name, a.status, a.header)
		}
		if a.status == 200 && a.header.Get("Content-Type") != ocispec.MediaTypeImageManifest {
			t.Errorf("%s: %s", name, a.header.Get("Content-Type"))
		}
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// The header goes out when the upstream's is there, and the body as it comes; a
// part is sent while the rest is still on its way.
func TestArriving(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	data := noise(6, 500_000)
	desc := w.blob(t, "x", data)
	on := make(chan struct{})
	w.store.PullReadFault = func(ctx context.Context, _ storetest.Pull, delivered int64) error {
		if delivered < 250_000 {
			return nil
		}
		select {
		case <-on:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.url+blobs(desc.Digest), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 || resp.ContentLength != int64(len(data)) {
		t.Errorf("%d %d", resp.StatusCode, resp.ContentLength)
	}
	first := make([]byte, 150_000)
	if _, err := io.ReadFull(resp.Body, first); err != nil || !bytes.Equal(first, data[:len(first)]) {
		t.Error(err)
	}
	if a := w.get(t, blobs(desc.Digest), "Range", "bytes=1000-1999"); a.status != 206 || !bytes.Equal(a.body, data[1000:2000]) {
		t.Errorf("%d, %v", a.status, a.cut)
	}
	close(on)
	rest, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Equal(rest, data[len(first):]) {
		t.Errorf("%d bytes, %v", len(rest), err)
	}
	if n := w.store.Counts().PullBlob; n != 1 {
		t.Errorf("%d pulls", n)
	}
}

// inPieces reads little at a time.
type inPieces struct{ io.ReadCloser }

func (r inPieces) Read(p []byte) (int, error) { return r.ReadCloser.Read(p[:min(len(p), 1000)]) }

// The header goes out before there is anything of the body, and of the body all
// that there is, however little it is.
func TestFlushed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	data := noise(6, 500_000)
	desc := w.blob(t, "x", data)
	const some, more = 200_000, 201_000
	header, body, end := make(chan struct{}), make(chan struct{}), make(chan struct{})
	w.store.BendPull = func(_ storetest.Pull, pulled *referrerstore.Pulled) { pulled.Body = inPieces{pulled.Body} }
	w.store.PullReadFault = func(ctx context.Context, _ storetest.Pull, delivered int64) error {
		on := map[int64]chan struct{}{0: header, some: body, more: end}[delivered]
		if on == nil {
			return nil
		}
		select {
		case <-on:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // only if it is not flushed
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url+blobs(desc.Digest), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	close(header)
	if err != nil {
		t.Fatalf("the header: %v", err)
	}
	defer resp.Body.Close()
	first := make([]byte, more)
	if _, err := io.ReadFull(resp.Body, first[:some]); err != nil {
		t.Errorf("what is there: %v", err)
	}
	close(body)
	if _, err := io.ReadFull(resp.Body, first[some:]); err != nil || !bytes.Equal(first, data[:more]) {
		t.Errorf("a little more: %v", err)
	}
	close(end)
	if rest, err := io.ReadAll(resp.Body); err != nil || !bytes.Equal(rest, data[more:]) {
		t.Errorf("the rest: %d bytes, %v", len(rest), err)
	}
}

// A manifest that lies about a blob's size keeps nobody from pulling it by way of
// another.
func TestSizesDisagree(t *testing.T) {
	t.Parallel()
	data := noise(7, 1000)
	for _, sizes := range [][]int64{{7}, {1000, 7}, {7, 1000}, {7, 1000, 1000}, {1000, -1}, slices.Repeat([]int64{7}, 9)} {
		w := newWorld(t, nil)
		layer := w.blob(t, ocispec.MediaTypeImageLayer, data)
		config := w.blob(t, ocispec.MediaTypeImageConfig, []byte("{}"))
		for i, size := range sizes {
			layer.Size = size
			tag := fmt.Sprint("v", i)
			w.manifest(t, tag, ocispec.MediaTypeImageManifest, ocispec.Manifest{
				MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{layer}, Annotations: map[string]string{"is": tag},
			})
			w.get(t, manifests(tag))
		}
		a := w.get(t, blobs(layer.Digest))
		if lie := len(sizes) == 1; (a.status == 502) != lie || !lie && !bytes.Equal(a.body, data) {
			t.Errorf("%v: %d %.100q", sizes, a.status, a.body)
		}
	}
}

// A cache that keeps nothing does not keep anybody from pulling.
func TestCacheFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	image := w.image(t, "v1")
	reg := registry.New(t.Context(), full{w.cache}, registry.Options{})
	defer reg.Close()
	reg.Swap(&w.snap)
	w.reg = reg
	server := serveHandler(t, reg)
	a := ask(t, http.DefaultClient, http.MethodGet, server+manifests("v1"))
	if a.status != 200 || digest.FromBytes(a.body) != image.Descriptor.Digest {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// full is a cache on a full disk.
type full struct{ *cache.Cache }

func (full) Put(cache.Want, []byte) error { return errors.New("no space left on device") }
