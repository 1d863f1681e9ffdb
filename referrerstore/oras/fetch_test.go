package oras

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/governor"
)

// A status means one thing, whatever it is the answer to.
func TestStatuses(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, registryOptions{})
	subject := r.image(t, "app", "v1")
	blob := r.blob(t, "app", "application/jose+json", []byte("envelope"))
	var status atomic.Int32
	r.setHook(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(int(status.Load()))
		_, _ = io.WriteString(w, `{"errors":[{"code":"SOME_CODE","message":"s3cret"}]}`)
		return true
	})
	for _, tt := range []struct {
		status int
		want   error
		wait   time.Duration
	}{
		{401, referrerstore.ErrAuthDenied, 0},
		{403, referrerstore.ErrAuthDenied, 0},
		{404, referrerstore.ErrNotFound, 0},
		{429, referrerstore.ErrRateLimited, 7 * time.Second},
		{500, referrerstore.ErrUnavailable, 7 * time.Second},
		{503, referrerstore.ErrUnavailable, 7 * time.Second},
		{408, referrerstore.ErrUnavailable, 0},
		{400, referrerstore.ErrProtocol, 0},
		{418, referrerstore.ErrProtocol, 0},
		{204, referrerstore.ErrProtocol, 0},
		{304, referrerstore.ErrProtocol, 0},
	} {
		status.Store(int32(tt.status))
		for what, call := range map[string]func(context.Context, *Store) error{
			"resolve": func(ctx context.Context, store *Store) error {
				_, err := store.Resolve(ctx, subject.Reference)
				return err
			},
			"fetch blob": func(ctx context.Context, store *Store) error {
				_, err := referrerstore.ReadAll(ctx, store, subject, blob, 1<<20)
				return err
			},
			"fetch manifest": func(ctx context.Context, store *Store) error {
				_, err := referrerstore.ReadAll(ctx, store, subject, subject.Descriptor, 1<<20)
				return err
			},
		} {
			// Whoever has less time than the registry asks for is told so.
			ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
			err := call(ctx, newStore(t, Options{}, Deps{}, r))
			cancel()
			if wait := referrerstore.RetryAfter(err); !errors.Is(err, tt.want) || wait > tt.wait || wait < tt.wait-time.Second {
				t.Errorf("%s, %d: %v (wait %s), want %v (%s)", what, tt.status, err, referrerstore.RetryAfter(err), tt.want, tt.wait)
			}
			if err != nil && strings.Contains(err.Error(), "s3cret") {
				t.Errorf("%s, %d: the error quotes the answer: %v", what, tt.status, err)
			}
			n := 0
			for _, sentinel := range sentinels {
				if errors.Is(err, sentinel) {
					n++
				}
			}
			if n != 1 {
				t.Errorf("%s, %d: %v is %d kinds of error", what, tt.status, err, n)
			}
		}
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"":                              0,
		"5":                             5 * time.Second,
		"-5":                            0,
		"99999999999":                   maxRetryAfter,
		"soon":                          0,
		"Fri, 02 Jan 2026 03:04:35 GMT": 30 * time.Second,
		"Fri, 02 Jan 2026 03:00:00 GMT": 0,
		"Fri, 02 Jan 2099 03:00:00 GMT": maxRetryAfter,
	} {
		if got := retryAfter(text, now); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

func TestNetworkErrors(t *testing.T) {
	t.Parallel()
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	secure := newRegistry(t, registryOptions{tls: true})
	plain := newRegistry(t, registryOptions{})
	for _, tt := range []struct {
		name, host, says string
		opts             Options
	}{
		{"closed port", closed.Listener.Addr().String(), "connection refused", Options{PlainHTTP: []string{closed.Listener.Addr().String()}}},
		{"unknown authority", secure.host(), "certificate", Options{AllowPrivate: []string{"127.0.0.1"}}},
		{"plain HTTP not named", plain.host(), fmt.Sprintf("add %q to plainHTTP of store \"registry\"", plain.host()), Options{AllowPrivate: []string{"127.0.0.1"}}},
	} {
		ref, err := referrerstore.ParseReference(tt.host + "/app:v1")
		if err != nil {
			t.Fatal(err)
		}
		_, err = newStore(t, tt.opts, Deps{}).Resolve(t.Context(), ref)
		if !errors.Is(err, referrerstore.ErrUnavailable) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want ErrUnavailable with %q", tt.name, err, tt.says)
		}
	}
}

func TestPrivateAddressesAreRefused(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, registryOptions{})
	_, port, _ := net.SplitHostPort(r.host())
	deps := Deps{Resolver: loopbackResolver(t)}
	for _, host := range []string{r.host(), "10.1.2.3", "169.254.169.254", "registry.example:" + port, "localhost:" + port} {
		ref, err := referrerstore.ParseReference(host + "/app:v1")
		if err != nil {
			t.Fatal(err)
		}
		name, _, _ := strings.Cut(host, ":")
		_, err = newStore(t, Options{}, deps).Resolve(t.Context(), ref)
		want := fmt.Sprintf("add %q to allowPrivate of store \"registry\"", name)
		if !errors.Is(err, referrerstore.ErrRefused) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want ErrRefused with %q", host, err, want)
		}
	}
	if n := r.count(""); n != 0 {
		t.Errorf("%d requests arrived", n)
	}
}

func TestHTTP2(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, registryOptions{tls: true, http2: true})
	subject := r.image(t, "app", "v1")
	var proto atomic.Int32
	r.setHook(func(_ http.ResponseWriter, req *http.Request) bool {
		proto.Store(int32(req.ProtoMajor))
		return false
	})
	store := newStore(t, Options{AllowPrivate: []string{"127.0.0.1"}, CA: map[string][]string{r.host(): {r.ca(t)}}}, Deps{})
	if _, err := store.Resolve(t.Context(), subject.Reference); err != nil {
		t.Fatal(err)
	}
	if proto.Load() != 2 {
		t.Errorf("HTTP/%d, want HTTP/2", proto.Load())
	}
}

// A private CA is for its host alone, and that host trusts no other.
func TestCAIsPerHost(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, registryOptions{tls: true})
	subject := r.image(t, "app", "v1")
	store := newStore(t, Options{AllowPrivate: []string{"127.0.0.1"}, CA: map[string][]string{"other.example": {r.ca(t)}}}, Deps{})
	if _, err := store.Resolve(t.Context(), subject.Reference); !errors.Is(err, referrerstore.ErrUnavailable) {
		t.Errorf("%v, want ErrUnavailable", err)
	}
}

func TestResolveAnswers(t *testing.T) {
	t.Parallel()
	const manifest = `{"schemaVersion":2}`
	own := digest.FromString(manifest)
	for _, tt := range []struct {
		name   string
		head   func(http.Header) int
		get    func(w http.ResponseWriter)
		pinned digest.Digest
		want   digest.Digest
		err    error
		asked  int
	}{
		{name: "no digest", asked: 2, want: own},
		{name: "digest that is none", asked: 2, want: own, head: func(h http.Header) int {
			h.Set("Docker-Content-Digest", "sha256:short")
			return 200
		}},
		{name: "sha384", asked: 2, want: own, head: func(h http.Header) int {
			h.Set("Docker-Content-Digest", digest.SHA384.FromString(manifest).String())
			return 200
		}},
		{name: "sha512", asked: 1, want: digest.SHA512.FromString(manifest), head: func(h http.Header) int {
			h.Set("Docker-Content-Digest", digest.SHA512.FromString(manifest).String())
			return 200
		}},
		{name: "no HEAD", asked: 2, want: own, head: func(http.Header) int { return 405 }},
		{name: "no media type", asked: 2, want: own, head: func(h http.Header) int {
			h.Del("Content-Type")
			return 200
		}},
		{name: "pinned", asked: 2, pinned: own, want: own, head: func(h http.Header) int {
			h.Set("Docker-Content-Digest", digest.FromString("other").String())
			return 200
		}},
		{name: "pinned to sha512", asked: 2, pinned: digest.SHA512.FromString(manifest), want: digest.SHA512.FromString(manifest), head: func(h http.Header) int {
			h.Set("Docker-Content-Digest", own.String())
			return 200
		}},
		{name: "pinned to other bytes", asked: 2, pinned: digest.FromString("what I want"), err: referrerstore.ErrDigestMismatch, head: func(h http.Header) int {
			h.Set("Docker-Content-Digest", own.String())
			return 200
		}},
		{name: "too large", asked: 2, err: referrerstore.ErrProtocol, get: func(w http.ResponseWriter) {
			_, _ = w.Write(bytes.Repeat([]byte(" "), maxManifestBytes+1))
		}},
		{name: "announced too large", asked: 2, err: referrerstore.ErrProtocol, get: func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", fmt.Sprint(int64(1)<<40))
		}},
		{name: "broken off", asked: 2, err: referrerstore.ErrUnavailable, get: func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, manifest)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRegistry(t, registryOptions{})
			r.setHook(func(w http.ResponseWriter, req *http.Request) bool {
				w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
				switch {
				case req.Method == http.MethodHead:
					w.Header().Set("Content-Length", fmt.Sprint(len(manifest)))
					if tt.head != nil {
						w.WriteHeader(tt.head(w.Header()))
					}
				case tt.get != nil:
					tt.get(w)
				default:
					_, _ = io.WriteString(w, manifest)
				}
				return true
			})
			ref := r.reference(t, "app", "v1")
			if tt.pinned != "" {
				ref = ref.Pinned(tt.pinned)
			}
			got, err := newStore(t, Options{}, Deps{}, r).Resolve(t.Context(), ref)
			if !errors.Is(err, tt.err) || got.Descriptor.Digest != tt.want {
				t.Errorf("%s, %v; want %s, %v", got.Descriptor.Digest, err, tt.want, tt.err)
			}
			if n := r.count(""); n != tt.asked {
				t.Errorf("%d requests, want %d", n, tt.asked)
			}
		})
	}
}

func TestRedirects(t *testing.T) {
	t.Parallel()
	data := []byte("the blob, kept elsewhere")
	var seen atomic.Pointer[http.Request]
	var status atomic.Int32
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		seen.Store(req)
		if strings.HasPrefix(req.URL.Path, "/loop") {
			http.Redirect(w, req, "/loop", http.StatusFound)
			return
		}
		w.WriteHeader(int(status.Load()))
		_, _ = w.Write(data)
	}))
	t.Cleanup(elsewhere.Close)
	elsewhereHost := elsewhere.Listener.Addr().String()

	r := newRegistry(t, registryOptions{bearer: true})
	secure := newRegistry(t, registryOptions{tls: true})
	var location atomic.Pointer[string]
	for _, registry := range []*fakeRegistry{r, secure} {
		registry.setHook(func(w http.ResponseWriter, req *http.Request) bool {
			if !strings.Contains(req.URL.Path, "/blobs/") || (registry.bearer && !registry.authorized(req)) {
				return false
			}
			http.Redirect(w, req, *location.Load(), http.StatusTemporaryRedirect)
			return true
		})
	}
	blob := ocispec.Descriptor{MediaType: "application/jose+json", Digest: digest.FromBytes(data), Size: int64(len(data))}
	for _, tt := range []struct {
		name, to string
		from     *fakeRegistry
		allow    []string
		status   int
		err      error
	}{
		{name: "to another host", to: elsewhere.URL + "/x?signature=s3cret", allow: []string{elsewhereHost}},
		{name: "to a private host", to: elsewhere.URL + "/x?signature=s3cret", err: referrerstore.ErrRefused},
		{name: "to a metadata address", to: "http://169.254.169.254/latest/meta-data/?s3cret", err: referrerstore.ErrRefused},
		{name: "in circles", to: elsewhere.URL + "/loop?s3cret", allow: []string{elsewhereHost}, err: referrerstore.ErrProtocol},
		{name: "to another scheme", to: "ftp://example.com/?s3cret", err: referrerstore.ErrRefused},
		{name: "from https to http", from: secure, to: elsewhere.URL + "/x?s3cret", allow: []string{elsewhereHost}, err: referrerstore.ErrRefused},
		{name: "to where it is not", status: 404, to: elsewhere.URL + "/x?s3cret", allow: []string{elsewhereHost}, err: referrerstore.ErrUnavailable},
		{name: "to where it is forbidden", status: 403, to: elsewhere.URL + "/x?s3cret", allow: []string{elsewhereHost}, err: referrerstore.ErrAuthDenied},
		{name: "to a challenge", status: 401, to: elsewhere.URL + "/x?s3cret", allow: []string{elsewhereHost}, err: referrerstore.ErrAuthDenied},
		{name: "to a teapot", status: 418, to: elsewhere.URL + "/x?s3cret", allow: []string{elsewhereHost}, err: referrerstore.ErrProtocol},
	} {
		from, opts := r, Options{PlainHTTP: []string{r.host()}, AllowPrivate: tt.allow}
		if tt.from != nil {
			from = tt.from
			opts = Options{CA: map[string][]string{from.host(): {from.ca(t)}}, AllowPrivate: append(tt.allow, from.host())}
		}
		status.Store(int32(max(tt.status, 200)))
		location.Store(&tt.to)
		seen.Store(nil)
		store := newStore(t, opts, Deps{})
		subject := referrerstore.Subject{Reference: from.reference(t, "app", "v1")}
		got, err := referrerstore.ReadAll(t.Context(), store, subject, blob, 1<<20)
		if !errors.Is(err, tt.err) || (tt.err == nil && !bytes.Equal(got, data)) {
			t.Errorf("%s: %d bytes, %v; want %v", tt.name, len(got), err, tt.err)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: the error has the signed URL: %v", tt.name, err)
		}
		if req := seen.Load(); req != nil && (req.Header.Get("Authorization") != "" || req.Header.Get("Referer") != "") {
			t.Errorf("%s: the other host saw %v", tt.name, req.Header)
		}
	}
}

// What lies: less, more and other bytes than the descriptor says, with and
// without a length announced.
func TestLyingContent(t *testing.T) {
	t.Parallel()
	data := bytes.Repeat([]byte("abcdefgh"), 10_000)
	desc := ocispec.Descriptor{MediaType: "application/jose+json", Digest: digest.FromBytes(data), Size: int64(len(data))}
	other := bytes.Clone(data)
	other[len(other)-1] = 'X'
	var delivered atomic.Pointer[[]byte]
	var flush atomic.Bool
	r := newRegistry(t, registryOptions{})
	r.setHook(func(w http.ResponseWriter, _ *http.Request) bool {
		if flush.Load() {
			_ = http.NewResponseController(w).Flush() // no length then
		}
		_, _ = w.Write(*delivered.Load())
		return true
	})
	store := newStore(t, Options{}, Deps{}, r)
	subject := referrerstore.Subject{Reference: r.reference(t, "app", "v1")}
	for name, lie := range map[string][]byte{
		"less": data[:len(data)-1], "nothing": {}, "more": append(bytes.Clone(data), 'x'), "other": other,
	} {
		for _, chunked := range []bool{false, true} {
			for _, offset := range []int64{0, 5, desc.Size} {
				delivered.Store(&lie)
				flush.Store(chunked)
				stream, err := store.Fetch(t.Context(), subject, desc, offset)
				var n int64
				if err == nil {
					n, err = io.Copy(io.Discard, stream)
					_ = stream.Close()
				}
				if !errors.Is(err, referrerstore.ErrDigestMismatch) || n > desc.Size {
					t.Errorf("%s, chunked %t, offset %d: %d bytes, %v; want ErrDigestMismatch", name, chunked, offset, n, err)
				}
			}
		}
	}
	delivered.Store(&data)
	if got, err := referrerstore.ReadAll(t.Context(), store, subject, desc, desc.Size); err != nil || !bytes.Equal(got, data) {
		t.Errorf("the truth: %d bytes, %v", len(got), err)
	}
}

// A connection that breaks is no proof of bad content.
func TestBrokenStream(t *testing.T) {
	t.Parallel()
	desc := ocispec.Descriptor{MediaType: "application/jose+json", Digest: digest.FromString("x"), Size: 1000}
	r := newRegistry(t, registryOptions{})
	r.setHook(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Length", "1000")
		_, _ = w.Write(make([]byte, 500))
		return true
	})
	subject := referrerstore.Subject{Reference: r.reference(t, "app", "v1")}
	_, err := referrerstore.ReadAll(t.Context(), newStore(t, Options{}, Deps{}, r), subject, desc, 1<<20)
	if !errors.Is(err, referrerstore.ErrUnavailable) || errors.Is(err, referrerstore.ErrDigestMismatch) {
		t.Errorf("%v, want ErrUnavailable alone", err)
	}
}

func TestMirrors(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		mirror  func(w http.ResponseWriter) bool
		err     error // of the first read
		mirrors int   // requests for content that the mirror sees in two reads
	}{
		{"has it", nil, nil, 2},
		{"lacks it", func(w http.ResponseWriter) bool { w.WriteHeader(http.StatusNotFound); return true }, nil, 2},
		{"down", func(w http.ResponseWriter) bool { w.WriteHeader(http.StatusBadGateway); return true }, nil, 1},
		{"limited", func(w http.ResponseWriter) bool { w.WriteHeader(http.StatusTooManyRequests); return true }, nil, 1},
		{"wrong size", func(w http.ResponseWriter) bool { _, _ = io.WriteString(w, "short"); return true }, nil, 1},
		{"wrong bytes", func(w http.ResponseWriter) bool { _, _ = io.WriteString(w, "wrong___"); return true }, referrerstore.ErrDigestMismatch, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			origin := newRegistry(t, registryOptions{})
			mirror := newRegistry(t, registryOptions{tls: true})
			mirror.serve = origin.serve
			subject := origin.image(t, "app", "v1")
			blob := origin.blob(t, "app", "application/jose+json", []byte("envelope"))
			var ns atomic.Pointer[string]
			mirror.setHook(func(w http.ResponseWriter, req *http.Request) bool {
				query := req.URL.Query().Get("ns")
				ns.Store(&query)
				return tt.mirror != nil && tt.mirror(w)
			})
			store := newStore(t, Options{
				Mirrors:      map[string][]string{origin.host(): {mirror.URL}},
				CA:           map[string][]string{mirror.host(): {mirror.ca(t)}},
				AllowPrivate: []string{"127.0.0.1"},
			}, Deps{}, origin)
			if _, err := store.Resolve(t.Context(), subject.Reference); err != nil {
				t.Fatal(err)
			}
			if _, err := collect(t.Context(), store, subject); err != nil {
				t.Fatal(err)
			}
			if n := mirror.count(""); n != 0 {
				t.Errorf("the mirror was asked %d times for other than content", n)
			}
			_, err := referrerstore.ReadAll(t.Context(), store, subject, blob, 100)
			if !errors.Is(err, tt.err) {
				t.Errorf("%v, want %v", err, tt.err)
			}
			if _, err := referrerstore.ReadAll(t.Context(), store, subject, blob, 100); err != nil {
				t.Errorf("second read: %v", err)
			}
			if n := mirror.count(""); n != tt.mirrors {
				t.Errorf("the mirror was asked %d times, want %d", n, tt.mirrors)
			}
			if *ns.Load() != origin.host() {
				t.Errorf("the mirror was asked on behalf of %q", *ns.Load())
			}
		})
	}
}

func TestMirrorHangs(t *testing.T) {
	t.Parallel()
	origin := newRegistry(t, registryOptions{})
	mirror := newRegistry(t, registryOptions{tls: true})
	mirror.setHook(func(_ http.ResponseWriter, req *http.Request) bool {
		<-req.Context().Done()
		return true
	})
	subject := origin.image(t, "app", "v1")
	blob := origin.blob(t, "app", "application/jose+json", []byte("envelope"))
	store := newStore(t, Options{
		Mirrors:      map[string][]string{origin.host(): {mirror.URL}},
		CA:           map[string][]string{mirror.host(): {mirror.ca(t)}},
		AllowPrivate: []string{"127.0.0.1"},
	}, Deps{}, origin)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := referrerstore.ReadAll(ctx, store, subject, blob, 100); err != nil {
		t.Errorf("%v, want the origin's", err)
	}
}

// underWay is how many requests the governor counts as under way.
func underWay(s *Store) int {
	sum := 0
	for _, host := range s.governor.Status() {
		sum += host.InFlight
	}
	return sum
}

// No request goes out without its turn; whoever waits leaves with its context.
func TestRequestsInFlight(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, registryOptions{})
	gov, err := governor.New(governor.Options{StartInFlight: 1, MaxInFlight: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer gov.Close()
	store := newStore(t, Options{}, Deps{Governor: gov}, r)
	subject := r.image(t, "app", "v1")
	c := store.client(r.host())
	permit, err := c.requests().Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.open(&answer{Response: &http.Response{StatusCode: http.StatusOK}})
	cause := errors.New("no patience")
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Millisecond, cause)
	defer cancel()
	if _, err := store.Resolve(ctx, subject.Reference); !errors.Is(err, cause) {
		t.Errorf("%v, want the cause", err)
	}
	permit.Release()
	if _, err := store.Resolve(t.Context(), subject.Reference); err != nil {
		t.Error(err)
	}
}

// The body of the very first answer of a host, which a flight asked for, ends
// with its reader's context like any other.
func TestFirstAnswerEndsWithItsReader(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, registryOptions{})
	r.setHook(func(w http.ResponseWriter, req *http.Request) bool {
		w.Header().Set("Content-Length", "1000")
		_, _ = w.Write(make([]byte, 500))
		_ = http.NewResponseController(w).Flush()
		<-req.Context().Done()
		return true
	})
	store := newStore(t, Options{}, Deps{}, r)
	subject := referrerstore.Subject{Reference: r.reference(t, "app", "v1")}
	desc := ocispec.Descriptor{MediaType: "application/jose+json", Digest: digest.FromString("x"), Size: 1000}
	cause := errors.New("the reader is gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	stream, err := store.Fetch(ctx, subject, desc, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(stream, make([]byte, 500)); err != nil {
		t.Fatal(err)
	}
	cancel(cause)
	if _, err := io.ReadAll(stream); !errors.Is(err, cause) {
		t.Errorf("%v, want the cause", err)
	}
	_ = stream.Close()
	if n := underWay(store); n != 0 {
		t.Errorf("%d requests count as under way", n)
	}
}
