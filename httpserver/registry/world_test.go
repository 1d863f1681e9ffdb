package registry_test

import (
	"bytes"
	"context"
	"crypto/sha512"
	"encoding/json"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/httpserver/registry"
	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
	"github.com/gatehouse-project/gatehouse/referrerstore/disk"
	"github.com/gatehouse-project/gatehouse/referrerstore/storetest"
)

const (
	upstream = "up.example"
	repo     = "team/app"
)

// world is a registry before an upstream in memory.
type world struct {
	store *storetest.Memory
	cache *cache.Cache
	reg   *registry.Registry
	snap  registry.Snapshot
	url   string
	logs  *logs
}

func newWorld(t testing.TB, change func(*registry.Snapshot)) *world {
	t.Helper()
	w := &world{store: storetest.New("up"), logs: &logs{}}
	w.cache = openCache(t)
	w.reg = registry.New(context.Background(), w.cache, registry.Options{Logger: slog.New(slog.NewJSONHandler(w.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	t.Cleanup(w.reg.Close)
	w.snap = registry.Snapshot{Upstreams: map[string]registry.Upstream{upstream: {Store: w.store}}, Default: upstream}
	if change != nil {
		change(&w.snap)
	}
	w.swap(nil)
	server := httptest.NewServer(w.reg)
	t.Cleanup(server.Close)
	w.url = server.URL
	return w
}

// swap makes a changed configuration live.
func (w *world) swap(change func(*registry.Snapshot)) {
	if change != nil {
		change(&w.snap)
	}
	next := w.snap
	w.reg.Swap(&next)
}

// tags sets the upstream's tag policy.
func (w *world) tags(p registry.TagPolicy) {
	w.swap(func(s *registry.Snapshot) {
		s.Upstreams = map[string]registry.Upstream{upstream: {Store: w.store, Tags: p}}
	})
}

func openCache(t testing.TB) *cache.Cache {
	t.Helper()
	return openCacheWith(t, cache.Options{})
}

func openCacheWith(t testing.TB, opts cache.Options) *cache.Cache {
	t.Helper()
	folder, err := disk.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c, err := cache.Open(context.Background(), folder, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		_ = folder.Close()
	})
	return c
}

// logs is where log lines go.
type logs struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// answer is what a client gets. cut says that the body broke off.
type answer struct {
	status int
	header http.Header
	body   []byte
	cut    error
}

// code is the code of the distribution specification, and the message.
func (a answer) error(t testing.TB) (code, message string) {
	t.Helper()
	var body struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.Unmarshal(a.body, &body); err != nil || len(body.Errors) != 1 || a.header.Get("Content-Type") != "application/json" {
		t.Fatalf("%d %v: no error of the specification in %q", a.status, a.header, a.body)
	}
	return body.Errors[0].Code, body.Errors[0].Message
}

// do asks; headers are pairs of name and value.
func (w *world) do(t testing.TB, method, path string, headers ...string) answer {
	t.Helper()
	return ask(t, http.DefaultClient, method, w.url+path, headers...)
}

func ask(t testing.TB, client *http.Client, method, url string, headers ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	req.Close = true // goleak counts idle connections
	resp, err := client.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, body, err}
}

func (w *world) get(t testing.TB, path string, headers ...string) answer {
	t.Helper()
	return w.do(t, http.MethodGet, path, headers...)
}

// noise is data that is the same for the same seed.
func noise(seed uint64, n int) []byte {
	var key [32]byte
	key[0] = byte(seed)
	data := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(data)
	return data
}

func ref(t testing.TB, text string) referrerstore.Reference {
	t.Helper()
	r, err := referrerstore.ParseReference(text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (w *world) image(t testing.TB, tag string, layers ...[]byte) referrerstore.Subject {
	t.Helper()
	return w.store.AddImage(upstream+"/"+repo+":"+tag, layers...)
}

// index adds an index of images.
func (w *world) index(t testing.TB, tag string, of ...ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	return w.manifest(t, tag, ocispec.MediaTypeImageIndex, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: of})
}

func (w *world) manifest(t testing.TB, tag, mediaType string, v any) ocispec.Descriptor {
	t.Helper()
	data, ok := v.([]byte)
	if !ok {
		var err error
		if data, err = json.Marshal(v); err != nil {
			t.Fatal(err)
		}
	}
	at := ref(t, upstream+"/"+repo+":"+tag)
	desc := w.store.AddManifest(at, mediaType, data)
	w.store.Tag(at, desc)
	return desc
}

func (w *world) blob(t testing.TB, mediaType string, data []byte) ocispec.Descriptor {
	t.Helper()
	return w.store.AddBlob(ref(t, upstream+"/"+repo), storetest.Blob{MediaType: mediaType, Data: data})
}

func manifests[T ~string](of T) string { return "/v2/" + repo + "/manifests/" + string(of) }
func blobs(of digest.Digest) string    { return "/v2/" + repo + "/blobs/" + of.String() }

func (w *world) scope(identity string) cache.Scope {
	return cache.Scope{Registry: upstream, Repository: repo, Identity: identity}
}

func sum512(data []byte) digest.Digest {
	sum := sha512.Sum512(data)
	return digest.NewDigestFromBytes(digest.SHA512, sum[:])
}

// decider decides by the digest that is asked about.
type decider struct {
	mu    sync.Mutex
	by    map[digest.Digest]func() (executor.Result, error)
	asked []executor.Request
	wait  bool
}

func (d *decider) Verify(ctx context.Context, req executor.Request) (executor.Result, error) {
	d.mu.Lock()
	d.asked = append(d.asked, req)
	answer, known := d.by[req.Reference.Digest]
	wait := d.wait
	d.mu.Unlock()
	if wait {
		<-ctx.Done()
		return executor.Result{Request: req}, context.Cause(ctx)
	}
	if !known {
		return executor.Result{Request: req, Decision: executor.Denied, Rule: "r", Denial: executor.ErrNoArtifacts}, nil
	}
	result, err := answer()
	result.Request = req
	return result, err
}

func (d *decider) set(of digest.Digest, answer func() (executor.Result, error)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.by == nil {
		d.by = make(map[digest.Digest]func() (executor.Result, error))
	}
	d.by[of] = answer
}

func (d *decider) allow(desc ocispec.Descriptor) {
	d.set(desc.Digest, func() (executor.Result, error) {
		return executor.Result{Decision: executor.Allowed, Subject: referrerstore.Subject{Descriptor: desc}}, nil
	})
}

func (d *decider) doubt(of digest.Digest) {
	d.set(of, func() (executor.Result, error) { return executor.Result{}, referrerstore.ErrUnavailable })
}

func (d *decider) forget(of digest.Digest) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.by, of)
}

func has(t testing.TB, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q lacks %q", text, part)
		}
	}
}
