package registry_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
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

func dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

// Whoever announces a body and never sends it has its answer, and then no place
// among the connections any more.
func TestBodyThatNeverComes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.image(t, "v1")
	addr, _ := serve(t, with(t, w, registry.Options{Idle: 50 * time.Millisecond, Connections: 1}), nil)
	for _, announced := range []string{"Content-Length: 5", "Transfer-Encoding: chunked", "Content-Length: 5\r\nExpect: 100-continue"} {
		conn := dial(t, addr)
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n", manifests("v1"), announced)
		answer, err := io.ReadAll(conn) // to its end, which only the server can make
		if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 200 ") {
			t.Errorf("%s: %v %.40q", announced, err, answer)
		}
	}
}

// A client that closes its half is told nothing, rather than that there is an
// empty manifest.
func TestHalfClosed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	image := w.image(t, "v1")
	w.store.PullFault = func(ctx context.Context, _ storetest.Pull) error {
		select {
		case <-time.After(100 * time.Millisecond): // until the server has seen the end
		case <-ctx.Done():
		}
		return nil
	}
	addr, _ := serve(t, with(t, w, registry.Options{}), nil)
	conn := dial(t, addr)
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", manifests(image.Descriptor.Digest))
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != 200 || len(body) == 0 {
		t.Errorf("%s with %d bytes", resp.Status, len(body))
	}
}

// Registries that do not know what a manifest is say something vague. That is no
// reason to refuse it: it is what it is by its bytes.
func TestVerifiedVague(t *testing.T) {
	t.Parallel()
	for _, said := range []string{"application/octet-stream", "application/json", "text/plain", "text/plain; charset=utf-8", "text/html"} {
		for _, verified := range []string{said, ocispec.MediaTypeImageManifest} {
			w, d := newVerified(t)
			config := w.blob(t, ocispec.MediaTypeImageConfig, []byte(`{"rootfs":{}}`))
			layer := w.blob(t, ocispec.MediaTypeImageLayerGzip, []byte("a layer"))
			desc := w.manifest(t, "v1", said, ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{layer}})
			desc.MediaType = verified
			d.allow(desc)
			a := w.expect(t, said+" manifest", manifests(desc.Digest), 200)
			if is := a.header.Get("Content-Type"); is != ocispec.MediaTypeImageManifest {
				t.Errorf("%s goes out as %s", said, is)
			}
			w.expect(t, said+" layer", blobs(layer.Digest), 200)
		}
	}
	w, d := newVerified(t)
	layer := w.blob(t, ocispec.MediaTypeImageLayerGzip, []byte("a layer"))
	desc := w.manifest(t, "v1", "application/json", ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Layers: []ocispec.Descriptor{layer}})
	desc.MediaType = ocispec.MediaTypeImageIndex
	d.allow(desc)
	w.expect(t, "verified as something else", manifests(desc.Digest), 403)
	w.expect(t, "its layer", blobs(layer.Digest), 403)
}

// What Docker would run is not served for what it refers to, however little its
// types say.
func TestVerifiedDockerImages(t *testing.T) {
	t.Parallel()
	w, d := newVerified(t)
	good := w.image(t, "good")
	d.allow(good.Descriptor)
	for _, config := range []string{"", "application/octet-stream", "application/json", "Text/HTML", "application/vnd.docker.x", "APPLICATION/vnd.oci.image.config.v1+json"} {
		for _, layer := range []string{"", "application/octet-stream", "application/vnd.docker.x", "application/vnd.oci.image.LAYER.v1.tar", "text/csv"} {
			is := w.blob(t, config, []byte(`{"rootfs":{},"for":"`+config+`"}`))
			holds := w.blob(t, layer, []byte("evil "+config+layer))
			is.MediaType, holds.MediaType = config, layer
			evil := w.manifest(t, "evil", ocispec.MediaTypeImageManifest, ocispec.Manifest{
				MediaType: ocispec.MediaTypeImageManifest, Config: is, Layers: []ocispec.Descriptor{holds}, Subject: &good.Descriptor,
			})
			status := 403
			if layer == "text/csv" && !strings.Contains(config, "vnd") { // which Docker does not take
				status = 200
			}
			w.expect(t, fmt.Sprintf("%q with %q", config, layer), manifests(evil.Digest), status)
			w.expect(t, fmt.Sprintf("%q with %q, its layer", config, layer), blobs(holds.Digest), status)
		}
	}
}

// An answer that came while the credentials changed is nobody's: it may be to
// those that the client was not let in for, and is neither served nor kept.
func TestIdentityChanges(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"manifest", "tag", "blob", "tags", "referrers"} {
		for _, method := range []string{http.MethodHead, http.MethodGet} {
			w := newWorld(t, nil)
			var private atomic.Bool
			w.swap(func(s *registry.Snapshot) {
				s.Upstreams = map[string]registry.Upstream{upstream: {Store: w.store, Identity: func() string {
					if private.Load() {
						return "robot"
					}
					return ""
				}}}
			})
			image := w.image(t, "v1", []byte("secret"))
			w.store.AddReferrer(image, "application/x")
			d := image.Descriptor.Digest
			at := map[string]string{
				"manifest": manifests(d), "tag": manifests("v1"), "blob": blobs(layerOf("secret")),
				"tags": "/v2/" + repo + "/tags/list", "referrers": "/v2/" + repo + "/referrers/" + d.String(),
			}[path]
			w.store.PullFault = func(context.Context, storetest.Pull) error { private.Store(true); return nil }
			w.store.ReferrersFault = func(context.Context, referrerstore.Subject, int) error { private.Store(true); return nil }
			if a := w.do(t, method, at); a.status != 503 || a.header.Get("Retry-After") == "" {
				t.Errorf("%s %s: %d", method, path, a.status)
			}
			for _, want := range []cache.Want{{Digest: d, Kind: cache.Manifest, Size: -1}, {Digest: layerOf("secret"), Size: -1}} {
				want.Scope = w.scope("")
				if _, err := w.cache.Get(want); !errors.Is(err, referrerstore.ErrNotFound) {
					t.Errorf("%s %s: %s is kept for anybody: %v", method, path, want.Digest, err)
				}
			}
			if _, known := w.cache.Tag(w.scope(""), "v1"); known {
				t.Errorf("%s %s: where the tag leads is known to anybody", method, path)
			}
			if _, _, known := w.cache.Referrers(w.scope(""), d); known {
				t.Errorf("%s %s: what refers to it is known to anybody", method, path)
			}
		}
	}
}

// blobsToo serves manifests as blobs as well, as some registries do.
type blobsToo struct{ *storetest.Memory }

func (b blobsToo) PullBlob(ctx context.Context, ref referrerstore.Reference, blob digest.Digest, offset int64) (referrerstore.Pulled, error) {
	pulled, err := b.PullManifest(ctx, ref.Pinned(blob))
	if err != nil {
		return b.Memory.PullBlob(ctx, ref, blob, offset)
	}
	pulled.MediaType, pulled.Digest = "", ""
	return pulled, nil
}

// Whoever asks for a manifest as a blob, before anybody else asks for it, keeps
// nobody from it.
func TestManifestAskedForAsBlob(t *testing.T) {
	t.Parallel()
	for _, next := range []string{"digest", "tag"} {
		w := newWorld(t, nil)
		w.swap(func(s *registry.Snapshot) {
			s.Upstreams = map[string]registry.Upstream{upstream: {Store: blobsToo{w.store}}}
		})
		image := w.image(t, "v1", []byte("layer"))
		index := w.index(t, "v2", image.Descriptor)
		w.get(t, blobs(image.Descriptor.Digest))
		w.get(t, blobs(index.Digest))
		for tag, d := range map[string]digest.Digest{"v1": image.Descriptor.Digest, "v2": index.Digest} {
			at := manifests(d)
			if next == "tag" {
				at = manifests(tag)
			}
			if a := w.get(t, at); a.status != 200 {
				t.Errorf("%s by %s: %d %s", tag, next, a.status, a.body)
			}
		}
		d := &decider{}
		d.allow(index)
		w.swap(func(s *registry.Snapshot) { s.Enforce, s.Decider = registry.EnforceOn, d })
		w.expect(t, "child of an allowed index", manifests(image.Descriptor.Digest), 200)
		w.expect(t, "its layer", blobs(layerOf("layer")), 200)
		w.expect(t, "the manifest as a blob", blobs(image.Descriptor.Digest), 403)
	}
}

// Some clients show what they have only if they were asked for it when they looked
// whether the API is there, and then show nothing by an empty name and password.
func TestPingAsksForToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(s *registry.Snapshot) {
		s.Upstreams = map[string]registry.Upstream{upstream: s.Upstreams[upstream], "private.example": {Identity: func() string { return "robot" }}}
		s.Default, s.AirGapped = "", true // nobody is asked for anything
	})
	if a := w.get(t, "/v2/"); a.status != 200 || a.header.Get("WWW-Authenticate") != "" {
		t.Errorf("without tokens: %d %v", a.status, a.header)
	}
	w.swap(func(s *registry.Snapshot) {
		s.Tokens = func() []registry.TokenHash { return []registry.TokenHash{registry.HashToken("right")} }
	})
	if a := w.get(t, "/v2/"); a.status != 200 || a.header.Get("WWW-Authenticate") != `Basic realm="gatehouse"` {
		t.Errorf("with tokens: %d %v", a.status, a.header)
	}
	const nothing, named = "Basic Og==", "Basic eDo=" // ":" and "x:"
	for _, tt := range []struct {
		host, shown string
		status      int
	}{
		{upstream, nothing, 404}, {upstream, named, 401}, {"private.example", nothing, 401},
	} {
		a := w.get(t, "/v2/"+tt.host+"/"+repo+"/manifests/v1", "Authorization", tt.shown)
		if a.status != tt.status {
			t.Errorf("%s with %s: %d", tt.host, tt.shown, a.status)
		}
	}
}

// skopeo and podman, and CRI-O, which pulls as they do, reach private upstreams.
func TestSkopeoShowsToken(t *testing.T) {
	t.Parallel()
	path, err := exec.LookPath("skopeo")
	if err != nil {
		t.Skip("skopeo, an outside tool, is not installed here")
	}
	for _, private := range []bool{true, false} {
		w := newWorld(t, func(s *registry.Snapshot) {
			up := s.Upstreams[upstream]
			if private {
				up.Identity = func() string { return "robot" }
			}
			s.Upstreams, s.Default = map[string]registry.Upstream{upstream: up}, ""
			s.Tokens = func() []registry.TokenHash { return []registry.TokenHash{registry.HashToken("right")} }
		})
		image := w.image(t, "v1")
		from := "docker://" + strings.TrimPrefix(w.url, "http://") + "/" + upstream + "/" + repo + ":v1"
		for shown, fine := range map[string]bool{"--creds=node:right": true, "--creds=node:wrong": false, "--no-creds": !private} {
			out, err := exec.CommandContext(t.Context(), path, "inspect", "--raw", "--tls-verify=false", shown, from).Output()
			if (err == nil) != fine || fine && digest.FromBytes(out) != image.Descriptor.Digest {
				t.Errorf("private %t, %s: %v", private, shown, err)
			}
		}
	}
}
