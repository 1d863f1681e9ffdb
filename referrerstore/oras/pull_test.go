package oras

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/credential"
	"github.com/gatehouse-project/gatehouse/referrerstore/governor"
	"github.com/gatehouse-project/gatehouse/referrerstore/storetest"
	"github.com/gatehouse-project/gatehouse/test/registry"
)

// upstream is a registry to pull from, with one repository, app.
type upstream struct {
	*registry.Registry
	image ocispec.Descriptor
	blob  ocispec.Descriptor
	data  []byte
}

func newUpstream(t testing.TB, opts registry.Options) *upstream {
	t.Helper()
	r, err := registry.Start(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	u := &upstream{Registry: r, data: bytes.Repeat([]byte("0123456789"), 10_000)}
	if u.image, err = r.PushImage(t.Context(), "app", "v1", "seed"); err != nil {
		t.Fatal(err)
	}
	if u.blob, err = r.PushBlob(t.Context(), "app", "text/plain", u.data); err != nil {
		t.Fatal(err)
	}
	return u
}

func (u *upstream) ref(t testing.TB) referrerstore.Reference {
	t.Helper()
	ref, err := referrerstore.ParseReference(u.Host() + "/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// pullFrom makes a store that may talk to the upstreams.
func pullFrom(t testing.TB, opts Options, deps Deps, from ...*upstream) *Store {
	t.Helper()
	for _, u := range from {
		if u.CAPEM() == nil {
			opts.PlainHTTP = append(opts.PlainHTTP, u.Host())
			continue
		}
		if opts.CA == nil {
			opts.CA = make(map[string][]string)
		}
		opts.CA[u.Host()] = []string{writeFile(t, "ca.crt", string(u.CAPEM()), 0o600)}
		opts.AllowPrivate = append(opts.AllowPrivate, "127.0.0.1")
	}
	return newStore(t, opts, deps)
}

// read reads a pull to its end, and is what it delivered.
func read(t testing.TB, pulled referrerstore.Pulled, err error) ([]byte, error) {
	t.Helper()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err := pulled.Body.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}()
	return io.ReadAll(pulled.Body)
}

func status(code int) registry.Fault { return registry.Status(code, nil, 1, 0) }

// headless answers no HEAD of a blob.
func headless(code int) registry.Fault {
	return func(w http.ResponseWriter, req *http.Request) bool {
		if req.Method == http.MethodHead && registry.KindOf(req) == registry.Blob {
			w.WriteHeader(code)
			return true
		}
		return false
	}
}

func TestPullerConformance(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		opts  registry.Options
		fault registry.Fault
	}{
		"open":        {},
		"bearer":      {opts: registry.Options{BearerAuth: true}},
		"tls, bearer": {opts: registry.Options{BearerAuth: true, TLS: true}},
		"token host":  {opts: registry.Options{BearerAuth: true, SeparateTokenHost: true}},
		"chunked":     {fault: registry.Chunked()},
		"no ranges":   {fault: registry.IgnoreRange()},
		"no HEAD":     {fault: headless(http.StatusMethodNotAllowed)},
		"small pages": {fault: registry.TagPages(1)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storetest.RunPuller(t, func(t *testing.T) (referrerstore.Puller, storetest.Seed) {
				u := newUpstream(t, tt.opts)
				opts := Options{Realms: map[string][]string{u.Host(): {u.TokenHost()}}}
				if u.TokenHost() != u.Host() && !tt.opts.TLS {
					opts.PlainHTTP = []string{u.TokenHost()}
				}
				return pullFrom(t, opts, Deps{}, u), u.seed(t, tt.fault)
			})
		})
	}
}

// seed is for the conformance suite, with a fault of the upstream's.
func (u *upstream) seed(t *testing.T, fault registry.Fault) storetest.Seed {
	t.Helper()
	s := storetest.Seed{
		Subject: referrerstore.Subject{Reference: u.ref(t), Descriptor: u.image},
		Blob:    u.blob, Data: u.data, Tags: []string{"v1", "v2", "v3", "v4", "v5"},
	}
	for _, tag := range s.Tags[1:] {
		if _, err := u.PushImage(t.Context(), "app", tag, tag); err != nil {
			t.Fatal(err)
		}
	}
	referrer, err := u.PushReferrer(t.Context(), "app", u.image, "example/a", "text/plain", []byte("a"), nil)
	if err != nil {
		t.Fatal(err)
	}
	s.Referrers = []ocispec.Descriptor{referrer}
	s.Altered = ocispec.Descriptor{MediaType: "text/plain", Digest: digest.FromString("what was promised"), Size: 17}
	u.Plant("app", s.Altered, []byte("what is delivered"))
	var stalled atomic.Bool
	s.Stall = func() { stalled.Store(true) }
	u.SetIntercept(func(w http.ResponseWriter, req *http.Request) bool {
		if stalled.Load() {
			return registry.Hang()(w, req)
		}
		return fault != nil && fault(w, req)
	})
	return s
}

// Content comes from the mirror, which wants tokens; tags and questions do not.
func TestPullerConformanceMirror(t *testing.T) {
	t.Parallel()
	storetest.RunPuller(t, func(t *testing.T) (referrerstore.Puller, storetest.Seed) {
		origin, mirror := newUpstream(t, registry.Options{}), newUpstream(t, registry.Options{TLS: true, BearerAuth: true})
		s := origin.seed(t, nil)
		stalled, stall := mirror.seed(t, nil), s.Stall
		s.Stall = func() { stall(); stalled.Stall() }
		return pullFrom(t, Options{Mirrors: map[string][]string{origin.Host(): {mirror.URL()}}}, Deps{}, origin, mirror), s
	})
}

// An upstream that lies about a blob, or breaks.
func TestPullLyingBlob(t *testing.T) {
	t.Parallel()
	const size, at = 100_000, 70_000
	lie := digest.FromString("something else").String()
	for _, tt := range []struct {
		name   string
		fault  registry.Fault
		offset int64
		begins int64 // -2 if it is refused
		size   int64
		bytes  int // delivered
		end    error
	}{
		{"the truth", nil, at, at, size, size - at, nil},
		{"break off", registry.BreakOff(1000), 0, 0, size, 1000, referrerstore.ErrBrokenOff},
		{"break off in a part", registry.BreakOff(1000), at, at, size, 1000, referrerstore.ErrBrokenOff},
		{"break off, chunked", registry.Bent(registry.BreakOff(1000), registry.Chunked()), at, at, size, 1000, referrerstore.ErrBrokenOff},
		{"short", registry.Short(10), 0, 0, size - 10, size - 10, nil}, // whoever hashes sees it
		{"short part", registry.Short(10), at, -2, 0, 0, referrerstore.ErrProtocol},
		{"long", registry.Long(10), 0, 0, size + 10, size + 10, nil},
		{"long part", registry.Long(10), at, -2, 0, 0, referrerstore.ErrProtocol},
		{"wrong bytes", registry.WrongDigest(), 0, 0, size, size, nil},
		{"chunked", registry.Chunked(), 0, 0, -1, size, nil},
		{"chunked part", registry.Chunked(), at, at, size, size - at, nil},
		{"ignored range", registry.IgnoreRange(), at, 0, size, size, nil},
		{"wrong digest", registry.Header("Docker-Content-Digest", lie), 0, 0, size, size, nil},
		{"no start", registry.Header("Content-Range", ""), at, -2, 0, 0, referrerstore.ErrProtocol},
		{"wrong start", registry.Header("Content-Range", "bytes 69999-99999/100000"), at, -2, 0, 0, referrerstore.ErrProtocol},
		{"wrong end", registry.Header("Content-Range", "bytes 70000-99998/100000"), at, -2, 0, 0, referrerstore.ErrProtocol},
		{"wrong total", registry.Header("Content-Range", "bytes 70000-99999/99999"), at, -2, 0, 0, referrerstore.ErrProtocol},
		{"no total", registry.Header("Content-Range", "bytes 70000-99999/*"), at, at, -1, size - at, nil},
		{"larger total", registry.Header("Content-Range", "bytes 70000-99999/100001"), at, at, size + 1, size - at, referrerstore.ErrBrokenOff},
		{"behind the end", nil, size + 1, 0, size, size, nil},
		{"at the end", nil, size, size, size, 0, nil},
		{"at an end that is none", fakeEnd(at), at, at, at, 0, nil}, // whoever hashes sees it
		{"ranges refused", registry.First(1, status(http.StatusRequestedRangeNotSatisfiable)), at, 0, size, size, nil},
		{"gone", status(http.StatusNotFound), at, -2, 0, 0, referrerstore.ErrNotFound},
		{"part unasked", registry.Status(http.StatusPartialContent, nil, 1, 0), 0, -2, 0, 0, referrerstore.ErrProtocol},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			u := newUpstream(t, registry.Options{BearerAuth: true})
			if tt.fault != nil {
				u.SetIntercept(registry.On(tt.fault, registry.Blob))
				if tt.begins == -2 || tt.name == "ranges refused" || strings.HasPrefix(tt.name, "at an end") {
					u.SetIntercept(registry.On(shown(tt.fault), registry.Blob))
				}
			}
			store := pullFrom(t, Options{}, Deps{}, u)
			pulled, err := store.PullBlob(t.Context(), u.ref(t), u.blob.Digest, tt.offset)
			if tt.begins == -2 {
				if !errors.Is(err, tt.end) {
					t.Errorf("%v, want %v", err, tt.end)
				}
				return
			}
			got, err := read(t, pulled, err)
			if pulled.Offset != tt.begins || pulled.Size != tt.size || len(got) != tt.bytes || !errors.Is(err, tt.end) {
				t.Errorf("%d bytes from %d on of %d, %v", len(got), pulled.Offset, pulled.Size, err)
			}
			if n := underWay(store); n != 0 {
				t.Errorf("%d requests count as under way", n)
			}
		})
	}
}

// shown limits a fault to requests that show credentials.
func shown(f registry.Fault) registry.Fault {
	return func(w http.ResponseWriter, r *http.Request) bool {
		return r.Header.Get("Authorization") != "" && f(w, r)
	}
}

func fakeEnd(size int) registry.Fault {
	return registry.Status(http.StatusRequestedRangeNotSatisfiable, http.Header{"Content-Range": {fmt.Sprintf("bytes */%d", size)}}, 1, 0)
}

// More than a part promised is an error behind its last byte, with a connection
// that does not say how long the answer is.
func TestPullBodyGoesOn(t *testing.T) {
	t.Parallel()
	u := newUpstream(t, registry.Options{})
	u.SetIntercept(func(w http.ResponseWriter, req *http.Request) bool {
		if req.Header.Get("Range") == "" {
			return false
		}
		w.Header().Set("Content-Range", "bytes 5-9/10")
		w.WriteHeader(http.StatusPartialContent)
		_ = http.NewResponseController(w).Flush()
		_, _ = w.Write([]byte("567890"))
		return true
	})
	store := pullFrom(t, Options{}, Deps{}, u)
	pulled, err := store.PullBlob(t.Context(), u.ref(t), u.blob.Digest, 5)
	got, err := read(t, pulled, err)
	if string(got) != "56789" || !errors.Is(err, referrerstore.ErrProtocol) {
		t.Errorf("%q, %v; want ErrProtocol", got, err)
	}
}

func TestPullLyingManifest(t *testing.T) {
	t.Parallel()
	lie := digest.FromString("something else")
	for _, tt := range []struct {
		name      string
		fault     registry.Fault
		mediaType string
		says      digest.Digest // "-" stands for its own
		err       error
		end       error
	}{
		{"the truth", nil, ocispec.MediaTypeImageManifest, "-", nil, nil},
		{"wrong digest", registry.Header("Docker-Content-Digest", lie.String()), ocispec.MediaTypeImageManifest, lie, nil, nil},
		{"no digest", registry.Header("Docker-Content-Digest", ""), ocispec.MediaTypeImageManifest, "", nil, nil},
		{"digest that is none", registry.Header("Docker-Content-Digest", "sha256:x"), ocispec.MediaTypeImageManifest, "", nil, nil},
		{"wrong bytes", registry.WrongDigest(), ocispec.MediaTypeImageManifest, "-", nil, nil},
		{"media type with parameters", registry.Header("Content-Type", "Application/X; charset=utf-8"), "application/x", "-", nil, nil},
		{"no media type", registry.Header("Content-Type", ""), "", "", referrerstore.ErrProtocol, nil},
		{"long media type", registry.Header("Content-Type", "a/"+strings.Repeat("b", 300)), "", "", referrerstore.ErrProtocol, nil},
		{"endless", registry.EndlessManifest(), ocispec.MediaTypeImageManifest, "", nil, referrerstore.ErrTooLarge},
		{"announced too large", registry.Long(maxManifestBytes), "", "", referrerstore.ErrTooLarge, nil},
		{"break off", registry.BreakOff(10), ocispec.MediaTypeImageManifest, "-", nil, referrerstore.ErrBrokenOff},
		{"server error", status(http.StatusBadGateway), "", "", referrerstore.ErrUnavailable, nil},
		{"denied", status(http.StatusForbidden), "", "", referrerstore.ErrAuthDenied, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			u := newUpstream(t, registry.Options{BearerAuth: true})
			store := pullFrom(t, Options{}, Deps{}, u)
			if tt.fault != nil {
				u.SetIntercept(registry.On(shown(tt.fault), registry.Resolve, registry.Manifest))
			}
			for _, ref := range []referrerstore.Reference{u.ref(t), u.ref(t).Pinned(u.image.Digest)} {
				pulled, err := store.PullManifest(t.Context(), ref)
				if tt.err != nil || err != nil {
					if !errors.Is(err, tt.err) {
						t.Errorf("%s: %v, want %v", ref, err, tt.err)
					}
					continue
				}
				want := tt.says
				if want == "-" {
					want = u.image.Digest
				}
				got, err := read(t, pulled, err)
				if pulled.MediaType != tt.mediaType || pulled.Digest != want || !errors.Is(err, tt.end) || len(got) > maxManifestBytes {
					t.Errorf("%s: %+v, %d bytes, %v", ref, pulled, len(got), err)
				}
			}
			if n := underWay(store); n != 0 {
				t.Errorf("%d requests count as under way", n)
			}
		})
	}
}

// A pull that broke off goes on where it was, and each byte is sent once.
func TestPullResumes(t *testing.T) {
	t.Parallel()
	for _, secure := range []bool{false, true} {
		u := newUpstream(t, registry.Options{BearerAuth: true, TLS: secure})
		u.SetIntercept(registry.First(3, registry.On(shown(registry.BreakOff(30_000)), registry.Blob)))
		store := pullFrom(t, Options{}, Deps{}, u)
		if _, err := store.PullManifest(t.Context(), u.ref(t)); err != nil {
			t.Fatal(err)
		}
		u.SetIntercept(registry.First(3, registry.On(registry.BreakOff(30_000), registry.Blob)))
		var got []byte
		for range 10 {
			pulled, err := store.PullBlob(t.Context(), u.ref(t), u.blob.Digest, int64(len(got)))
			if err != nil {
				t.Fatal(err)
			}
			if pulled.Offset != int64(len(got)) {
				t.Fatalf("it begins at %d", pulled.Offset)
			}
			part, err := read(t, pulled, err)
			if got = append(got, part...); err == nil {
				break
			}
			if !errors.Is(err, referrerstore.ErrBrokenOff) {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got, u.data) {
			t.Errorf("%d bytes, want %d", len(got), len(u.data))
		}
		if n := u.Paths()["GET /v2/app/blobs/"+u.blob.Digest.String()]; n != 4 {
			t.Errorf("%d requests, want 4", n)
		}
	}
}

// A registry that says nothing is given up, before the header and behind it; one
// whose caller has a deadline is not waited for longer.
func TestPullSilence(t *testing.T) {
	t.Parallel()
	u := newUpstream(t, registry.Options{})
	store := pullFrom(t, Options{}, Deps{}, u)
	store.silence = silence{header: 10 * time.Millisecond, body: 10 * time.Millisecond}
	ref := u.ref(t)
	u.SetIntercept(registry.Hang())
	_, err := store.PullBlob(t.Context(), ref, u.blob.Digest, 0)
	if !errors.Is(err, referrerstore.ErrUnavailable) || errors.Is(err, context.Canceled) {
		t.Errorf("no header: %v, want ErrUnavailable", err)
	}
	store.silence.header = time.Minute
	u.SetIntercept(registry.Stall(1000))
	// The governor has seen three failures in a row.
	waitFor(t, func() bool { return underWay(store) == 0 })
	pulled, err := store.PullBlob(t.Context(), ref, u.blob.Digest, 5)
	got, err := read(t, pulled, err)
	if len(got) != 1000 || !errors.Is(err, referrerstore.ErrBrokenOff) || errors.Is(err, context.Canceled) {
		t.Errorf("stalled body: %d bytes, %v; want ErrBrokenOff", len(got), err)
	}

	store.silence.body = time.Minute
	cause := errors.New("the puller is gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	pulled, err = store.PullBlob(ctx, ref, u.blob.Digest, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(pulled.Body, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	cancel(cause)
	if _, err := read(t, pulled, nil); !errors.Is(err, cause) || errors.Is(err, referrerstore.ErrBrokenOff) {
		t.Errorf("%v, want the cause", err)
	}
	if n := underWay(store); n != 0 {
		t.Errorf("%d requests count as under way", n)
	}
}

// What follows a redirect: the range does, credentials do not.
func TestPullRedirects(t *testing.T) {
	t.Parallel()
	for _, bearer := range []bool{false, true} {
		u, other := newUpstream(t, registry.Options{BearerAuth: bearer, Basic: &registry.Credentials{User: "robot", Password: "s3cret"}}), newUpstream(t, registry.Options{})
		var mu sync.Mutex
		var seen []string
		other.SetIntercept(registry.Inspect(func(req *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, fmt.Sprint(req.Method, " ", req.Header.Get("Range")))
			for _, header := range []string{"Authorization", "Cookie", "Referer"} {
				if value := req.Header.Get(header); value != "" {
					t.Errorf("%s goes along: %s", header, value)
				}
			}
		}))
		u.SetIntercept(registry.On(shown(registry.RedirectTo(other.URL())), registry.Blob))
		pair := base64.StdEncoding.EncodeToString([]byte("robot:s3cret"))
		path := writeFile(t, "config.json", fmt.Sprintf(dockerAuths, u.Host(), pair), 0o600)
		store := pullFrom(t, Options{
			Credentials: []credential.Entry{{Hosts: []string{"*"}, Type: "dockerConfig", Path: path}},
		}, Deps{}, u, other)
		pulled, err := store.PullBlob(t.Context(), u.ref(t), u.blob.Digest, 99_990)
		got, err := read(t, pulled, err)
		if string(got) != "0123456789" || pulled.Offset != 99_990 || err != nil {
			t.Errorf("bearer %t: %q from %d on, %v", bearer, got, pulled.Offset, err)
		}
		if size, err := store.HasBlob(t.Context(), u.ref(t), u.blob.Digest); err != nil || size != u.blob.Size {
			t.Errorf("bearer %t: %d, %v", bearer, size, err)
		}
		if diff := cmp.Diff([]string{"GET bytes=99990-", "HEAD "}, seen); diff != "" {
			t.Error(diff)
		}
		// A signed URL lets in the method that it was signed for.
		other.SetIntercept(headless(http.StatusForbidden))
		if size, err := store.HasBlob(t.Context(), u.ref(t), u.blob.Digest); err != nil || size != u.blob.Size {
			t.Errorf("bearer %t, HEAD is not let in: %d, %v", bearer, size, err)
		}
		other.SetIntercept(status(http.StatusNotFound))
		if _, err := store.HasBlob(t.Context(), u.ref(t), u.blob.Digest); !errors.Is(err, referrerstore.ErrUnavailable) {
			t.Errorf("bearer %t, gone there: %v, want ErrUnavailable", bearer, err)
		}
	}
}

func TestHasBlob(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		fault registry.Fault
		size  int64
		err   error
		asked []string
	}{
		{"HEAD", nil, 100_000, nil, []string{"HEAD"}},
		{"400", headless(http.StatusBadRequest), 100_000, nil, []string{"HEAD", "GET"}},
		{"405", headless(http.StatusMethodNotAllowed), 100_000, nil, []string{"HEAD", "GET"}},
		{"no size", registry.Each(headless(http.StatusMethodNotAllowed), registry.Chunked()), -1, nil, []string{"HEAD", "GET"}},
		{"404", status(http.StatusNotFound), 0, referrerstore.ErrNotFound, []string{"HEAD"}},
		{"403", status(http.StatusForbidden), 0, referrerstore.ErrAuthDenied, []string{"HEAD"}},
		{"GET 404", registry.Each(headless(http.StatusMethodNotAllowed), status(http.StatusNotFound)), 0, referrerstore.ErrNotFound, []string{"HEAD", "GET"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			u := newUpstream(t, registry.Options{})
			u.SetIntercept(tt.fault)
			store := pullFrom(t, Options{}, Deps{}, u)
			size, err := store.HasBlob(t.Context(), u.ref(t), u.blob.Digest)
			if size != tt.size || !errors.Is(err, tt.err) {
				t.Errorf("%d, %v; want %d, %v", size, err, tt.size, tt.err)
			}
			want := make(map[string]int64)
			for _, method := range tt.asked {
				want[method+" /v2/app/blobs/"+u.blob.Digest.String()] = 1
			}
			if diff := cmp.Diff(want, u.Paths()); diff != "" {
				t.Error(diff)
			}
			if n := underWay(store); n != 0 {
				t.Errorf("%d requests count as under way", n)
			}
		})
	}
}

// Mirrors are asked for what has a digest, and left alone once they lied.
func TestPullMirrors(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		fault registry.Fault
		err   error
		asked int64 // requests for the blob that the mirror sees in two pulls
	}{
		{"has it", nil, nil, 2},
		{"lacks it", status(http.StatusNotFound), nil, 2},
		{"down", status(http.StatusBadGateway), nil, 1},
		{"wrong bytes", registry.WrongDigest(), referrerstore.ErrDigestMismatch, 1},
		{"short", registry.Short(1), referrerstore.ErrDigestMismatch, 1},
		{"breaks off", registry.BreakOff(10), referrerstore.ErrBrokenOff, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			origin, mirror := newUpstream(t, registry.Options{}), newUpstream(t, registry.Options{TLS: true})
			store := pullFrom(t, Options{Mirrors: map[string][]string{origin.Host(): {mirror.URL()}}}, Deps{}, origin, mirror)
			ref := origin.ref(t)
			for _, what := range []func() error{
				func() error { _, _, err := store.Tags(t.Context(), ref, 0, ""); return err },
				func() error { _, err := store.HasBlob(t.Context(), ref, origin.blob.Digest); return err },
				func() error {
					pulled, err := store.PullManifest(t.Context(), ref)
					_, err = read(t, pulled, err)
					return err
				},
			} {
				if err := what(); err != nil {
					t.Fatal(err)
				}
			}
			if n := mirror.Stats().Total; n != 0 {
				t.Errorf("the mirror was asked %d times for what has no digest", n)
			}
			pulled, err := store.PullManifest(t.Context(), ref.Pinned(origin.image.Digest))
			if _, err := read(t, pulled, err); err != nil || mirror.Stats().Manifest != 1 {
				t.Errorf("manifest: %v; %+v", err, mirror.Stats())
			}
			mirror.SetIntercept(tt.fault)
			pulled, err = store.PullBlob(t.Context(), ref, origin.blob.Digest, 0)
			if _, err := read(t, pulled, err); !errors.Is(err, tt.err) {
				t.Errorf("%v, want %v", err, tt.err)
			}
			pulled, err = store.PullBlob(t.Context(), ref, origin.blob.Digest, 0)
			if got, err := read(t, pulled, err); err != nil || !bytes.Equal(got, origin.data) {
				t.Errorf("again: %d bytes, %v", len(got), err)
			}
			if n := mirror.Stats().Blob; n != tt.asked {
				t.Errorf("the mirror was asked %d times, want %d", n, tt.asked)
			}
		})
	}
}

// However many layers stream, or wait to, whatever is judged and looked up has
// its turn.
func TestPullsDoNotHoldUpJudgements(t *testing.T) {
	t.Parallel()
	gov, err := governor.New(governor.Options{StartInFlight: 1, MaxInFlight: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer gov.Close()
	u := newUpstream(t, registry.Options{BearerAuth: true})
	store := pullFrom(t, Options{}, Deps{Governor: gov}, u)
	ref := u.ref(t)
	streaming, err := store.PullBlob(t.Context(), ref, u.blob.Digest, 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	waiting := make(chan error, 1)
	go func() {
		_, err := store.PullBlob(ctx, ref, u.blob.Digest, 0)
		waiting <- err
	}()
	key := governor.Key{Host: u.Host(), Kind: turnsPull}
	waitFor(t, func() bool {
		for _, host := range gov.Status() {
			if host.Host == key.Host && host.Kind == key.Kind && host.Waiting.Admission == 1 {
				return true
			}
		}
		return false
	})
	if _, err := store.Resolve(t.Context(), ref); err != nil {
		t.Errorf("resolve: %v", err)
	}
	pulled, err := store.PullManifest(t.Context(), ref)
	if _, err := read(t, pulled, err); err != nil {
		t.Errorf("manifest: %v", err)
	}
	cancel()
	if err := <-waiting; !errors.Is(err, context.Canceled) {
		t.Errorf("waiting: %v", err)
	}
	_ = streaming.Body.Close()
	pulled, err = store.PullBlob(t.Context(), ref, u.blob.Digest, 0)
	if _, err := read(t, pulled, err); err != nil {
		t.Error(err)
	}
}

// Layers have connections of their own: those to a host are bounded, and with
// HTTP/2 they would share one with what is judged.
func TestPullsHaveTheirConnections(t *testing.T) {
	t.Parallel()
	u := newUpstream(t, registry.Options{TLS: true, BearerAuth: true})
	store := pullFrom(t, Options{}, Deps{}, u)
	for range 3 {
		if _, err := store.Resolve(t.Context(), u.ref(t)); err != nil {
			t.Fatal(err)
		}
		pulled, err := store.PullManifest(t.Context(), u.ref(t))
		if _, err := read(t, pulled, err); err != nil {
			t.Fatal(err)
		}
	}
	if n := u.Stats().Connections; n != 2 {
		t.Errorf("%d connections, want one for each purpose", n)
	}
}

// A 429 to a pull makes pulls wait, and nothing else.
func TestPullThrottled(t *testing.T) {
	t.Parallel()
	u := newUpstream(t, registry.Options{})
	store := pullFrom(t, Options{}, Deps{}, u)
	if _, err := store.HasBlob(t.Context(), u.ref(t), u.blob.Digest); err != nil { // it is known from then on
		t.Fatal(err)
	}
	u.ResetStats()
	u.SetIntercept(registry.On(registry.Status(http.StatusTooManyRequests, http.Header{"Retry-After": {"50"}}, 1, 0), registry.Blob))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for range 3 { // the second and the third are not even sent
		_, err := store.PullBlob(ctx, u.ref(t), u.blob.Digest, 0)
		if wait := referrerstore.RetryAfter(err); !errors.Is(err, referrerstore.ErrRateLimited) || wait < 20*time.Second {
			t.Errorf("%v, %s; want ErrRateLimited and the wait", err, wait)
		}
	}
	if n := u.Stats().Blob; n != 1 {
		t.Errorf("%d requests for the blob, want 1", n)
	}
	if _, err := store.Resolve(ctx, u.ref(t)); err != nil {
		t.Errorf("resolve: %v", err)
	}
	if about := store.About(u.Host()); about.Throttled {
		t.Errorf("judgements are held back: %+v", about)
	}
}

// The queues for tokens are two, and what one of them got is for both.
func TestPullTokens(t *testing.T) {
	t.Parallel()
	u := newUpstream(t, registry.Options{BearerAuth: true})
	store := pullFrom(t, Options{}, Deps{}, u)
	queue := &store.client(u.Host()).tokens[pulling]
	queue.wanted.Store(maxTokensWanted)
	if _, err := store.PullManifest(t.Context(), u.ref(t)); !errors.Is(err, referrerstore.ErrBusy) {
		t.Errorf("%v, want ErrBusy", err)
	}
	if _, err := store.Resolve(t.Context(), u.ref(t)); err != nil {
		t.Errorf("resolve: %v", err)
	}
	pulled, err := store.PullManifest(t.Context(), u.ref(t))
	if _, err := read(t, pulled, err); err != nil {
		t.Error(err)
	}
	if n := u.Stats().Token; n != 1 {
		t.Errorf("%d tokens, want 1", n)
	}
}

func TestPullForeignRealm(t *testing.T) {
	t.Parallel()
	var shown atomic.Int32
	thief := newUpstream(t, registry.Options{})
	thief.SetIntercept(registry.Inspect(func(*http.Request) { shown.Add(1) }))
	u := newUpstream(t, registry.Options{})
	u.SetIntercept(registry.ForeignRealm("http://localhost:" + strings.Split(thief.Host(), ":")[1] + "/token"))
	store := pullFrom(t, Options{}, Deps{}, u)
	for name, pull := range map[string]func() error{
		"manifest": func() error { _, err := store.PullManifest(t.Context(), u.ref(t)); return err },
		"blob":     func() error { _, err := store.PullBlob(t.Context(), u.ref(t), u.blob.Digest, 5); return err },
		"has blob": func() error { _, err := store.HasBlob(t.Context(), u.ref(t), u.blob.Digest); return err },
		"tags":     func() error { _, _, err := store.Tags(t.Context(), u.ref(t), 0, ""); return err },
	} {
		if err := pull(); !errors.Is(err, referrerstore.ErrRefused) {
			t.Errorf("%s: %v, want ErrRefused", name, err)
		}
	}
	if shown.Load() != 0 {
		t.Errorf("the foreign token service was asked %d times", shown.Load())
	}
	// It was wrong, and is not any more: what it said is not held against it.
	u.SetIntercept(nil)
	pulled, err := store.PullManifest(t.Context(), u.ref(t))
	if _, err := read(t, pulled, err); err != nil {
		t.Error(err)
	}
}

func TestPullRefusesNonsense(t *testing.T) {
	t.Parallel()
	u := newUpstream(t, registry.Options{})
	store := pullFrom(t, Options{}, Deps{}, u)
	ref := u.ref(t)
	for name, pull := range map[string]func() error{
		"no reference": func() error { _, err := store.PullManifest(t.Context(), referrerstore.Reference{}); return err },
		"no digest":    func() error { _, err := store.PullBlob(t.Context(), ref, "", 0); return err },
		"control character": func() error {
			_, err := store.HasBlob(t.Context(), ref, digest.Digest("sha256:"+strings.Repeat("0", 63)+"\n"))
			return err
		},
		"weak digest": func() error {
			_, err := store.PullBlob(t.Context(), ref, "md5:d41d8cd98f00b204e9800998ecf8427e", 0)
			return err
		},
		"no tag": func() error { _, _, err := store.Tags(t.Context(), ref, 0, "a b"); return err },
	} {
		if err := pull(); !errors.Is(err, referrerstore.ErrInvalidReference) || errors.Is(err, referrerstore.ErrProtocol) {
			t.Errorf("%s: %v, want ErrInvalidReference", name, err)
		}
	}
	if n := u.Stats().Total; n != 0 {
		t.Errorf("%d requests were sent", n)
	}
}

func TestPullMetrics(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	u := newUpstream(t, registry.Options{})
	store := pullFrom(t, Options{}, Deps{Registerer: reg}, u)
	pulled, err := store.PullManifest(t.Context(), u.ref(t))
	if _, err := read(t, pulled, err); err != nil {
		t.Fatal(err)
	}
	for _, offset := range []int64{0, 5} {
		pulled, err = store.PullBlob(t.Context(), u.ref(t), u.blob.Digest, offset)
		if _, err := read(t, pulled, err); err != nil {
			t.Fatal(err)
		}
	}
	_, _ = store.HasBlob(t.Context(), u.ref(t), digest.FromString("none"))
	_, _, _ = store.Tags(t.Context(), u.ref(t), 0, "")
	for labels, want := range map[[2]string]float64{
		{"pull_manifest", "2xx"}: 1, {"pull_blob", "2xx"}: 2, {"has_blob", "404"}: 1, {"tags", "2xx"}: 1,
	} {
		if got := testutil.ToFloat64(store.metrics.requests.WithLabelValues(labels[:]...)); got != want {
			t.Errorf("%v: %v, want %v", labels, got, want)
		}
	}
}

// BenchmarkPullBlob is what a layer costs on its way through the store.
func BenchmarkPullBlob(b *testing.B) {
	u := newUpstream(b, registry.Options{BearerAuth: true})
	layer := u.PushLarge("app", ocispec.MediaTypeImageLayer, 64<<20, 1)
	store := pullFrom(b, Options{}, Deps{}, u)
	b.SetBytes(layer.Size)
	b.ReportAllocs()
	buffer := make([]byte, 64<<10)
	for b.Loop() {
		pulled, err := store.PullBlob(b.Context(), u.ref(b), layer.Digest, 0)
		if err != nil {
			b.Fatal(err)
		}
		n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, pulled.Body, buffer)
		if err != nil || n != layer.Size {
			b.Fatal(n, err)
		}
		_ = pulled.Body.Close()
	}
}

// What a mirror with credentials hands out is not public because the host itself is
// asked without any.
func TestAboutMirrors(t *testing.T) {
	t.Parallel()
	path := writeFile(t, "config.json", fmt.Sprintf(dockerAuths, "mirror.example.com", base64.StdEncoding.EncodeToString([]byte("robot:secret"))), 0o600)
	store, err := New(t.Context(), "registry", Options{
		Mirrors:     map[string][]string{"registry.example.com": {"https://open.example.com", "https://mirror.example.com"}},
		Credentials: []credential.Entry{{Hosts: []string{"*"}, Type: "dockerConfig", Path: path}},
	}, Deps{Credentials: kinds()})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	for host, want := range map[string]string{
		"registry.example.com": "mirror mirror.example.com/" + store.About("mirror.example.com").Identity,
		"other.example.com":    "",
	} {
		if got := store.About(host).Identity; got != want {
			t.Errorf("%s: %q, want %q", host, got, want)
		}
	}
	if store.About("mirror.example.com").Identity == "" {
		t.Error("the mirror is shown nothing")
	}
}
