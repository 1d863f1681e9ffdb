package registry_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/httpserver/registry"
	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
	"github.com/gatehouse-project/gatehouse/referrerstore/storetest"
)

func newVerified(t testing.TB) (*world, *decider) {
	t.Helper()
	d := &decider{}
	return newWorld(t, func(s *registry.Snapshot) {
		s.Enforce, s.EnforceAs, s.Decider = registry.EnforceOn, "prod", d
	}), d
}

// expect asks with GET and HEAD.
func (w *world) expect(t *testing.T, what, path string, status int) answer {
	t.Helper()
	head, got := w.do(t, http.MethodHead, path), w.get(t, path)
	if head.status != status || got.status != status {
		t.Errorf("%s: HEAD %d, GET %d, want %d: %s", what, head.status, got.status, status, got.body)
	}
	if status == 503 && (head.header.Get("Retry-After") == "" || got.header.Get("Retry-After") == "") {
		t.Errorf("%s: no Retry-After", what)
	}
	return got
}

func layerOf(seed string) digest.Digest { return digest.FromString(seed) }

func TestVerifiedImage(t *testing.T) {
	t.Parallel()
	w, d := newVerified(t)
	good, bad := w.image(t, "good", []byte("good layer")), w.image(t, "bad", []byte("bad layer"))
	d.allow(good.Descriptor)
	w.expect(t, "blob of an image that nobody pulled", blobs(layerOf("good layer")), 403)
	w.expect(t, "allowed by tag", manifests("good"), 200)
	w.expect(t, "allowed by digest", manifests(good.Descriptor.Digest), 200)
	w.expect(t, "its layer", blobs(layerOf("good layer")), 200)
	a := w.expect(t, "denied by tag", manifests("bad"), 403)
	code, message := a.error(t)
	result, _ := d.Verify(t.Context(), executor.Request{Reference: ref(t, upstream+"/"+repo).Pinned(bad.Descriptor.Digest), Namespace: "prod"})
	if want := executor.Explain(result, nil).Line(); code != "DENIED" || message != want {
		t.Errorf("%s %s, want %s", code, message, want)
	}
	w.expect(t, "denied by digest", manifests(bad.Descriptor.Digest), 403)
	a = w.expect(t, "its layer", blobs(layerOf("bad layer")), 403)
	if _, message := a.error(t); !strings.HasPrefix(message, "SIGNATURE_NOT_FOUND") {
		t.Error(message)
	}
	w.expect(t, "a tag that does not exist", manifests("none"), 404)
	for _, req := range d.asked {
		if req.Namespace != "prod" || req.Reference.Digest == "" || req.Reference.Tag != "" || req.Reference.Name() != upstream+"/"+repo {
			t.Fatalf("asked for %+v", req)
		}
	}

	// Verdicts are asked for each time: nothing stays allowed.
	d.doubt(good.Descriptor.Digest)
	for _, path := range []string{manifests("good"), manifests(good.Descriptor.Digest), blobs(layerOf("good layer"))} {
		a := w.expect(t, "doubtful", path, 503)
		if code, message := a.error(t); code != "UNAVAILABLE" || !strings.HasPrefix(message, "REGISTRY_UNAVAILABLE") {
			t.Errorf("%s %s", code, message)
		}
	}
	d.forget(good.Descriptor.Digest)
	w.expect(t, "denied since", manifests("good"), 403)
	w.expect(t, "its layer", blobs(layerOf("good layer")), 403)
	has(t, w.logs.String(), "a pull is refused")
}

// A blob is served in the repository in which a manifest lists it.
func TestVerifiedRepositories(t *testing.T) {
	t.Parallel()
	w, d := newVerified(t)
	good := w.image(t, "good", []byte("good layer"))
	d.allow(good.Descriptor)
	other := w.store.AddImage(upstream+"/team/other:v1", []byte("good layer"))
	w.expect(t, "allowed", manifests("good"), 200)
	w.expect(t, "the same layer elsewhere", "/v2/team/other/blobs/"+layerOf("good layer").String(), 403)
	w.expect(t, "an image of elsewhere", "/v2/team/other/manifests/"+other.Descriptor.Digest.String(), 403)
	w.expect(t, "a manifest as a blob", blobs(good.Descriptor.Digest), 403)
}

func TestVerifiedIndex(t *testing.T) {
	t.Parallel()
	w, d := newVerified(t)
	one, two := w.image(t, "one", []byte("layer one")), w.image(t, "two", []byte("layer two"))
	inner := w.index(t, "inner", one.Descriptor)
	outer := w.index(t, "outer", inner)
	stray := w.index(t, "stray", two.Descriptor)
	d.allow(outer)
	w.expect(t, "child of what nobody pulled", manifests(one.Descriptor.Digest), 403)
	w.expect(t, "outer", manifests("outer"), 200)
	w.expect(t, "inner", manifests(inner.Digest), 200)
	w.expect(t, "child", manifests(one.Descriptor.Digest), 200)
	w.expect(t, "layer of the child", blobs(layerOf("layer one")), 200)
	w.expect(t, "stray index", manifests(stray.Digest), 403)
	w.expect(t, "its child", manifests(two.Descriptor.Digest), 403)
	w.expect(t, "its layer", blobs(layerOf("layer two")), 403)
	d.doubt(outer.Digest)
	w.expect(t, "doubtful child", manifests(one.Descriptor.Digest), 503)
	w.expect(t, "doubtful layer", blobs(layerOf("layer one")), 503)
}

func TestVerifiedReferrers(t *testing.T) {
	t.Parallel()
	w, d := newVerified(t)
	good, bad := w.image(t, "good"), w.image(t, "bad")
	d.allow(good.Descriptor)
	sbom := w.store.AddReferrer(good, "application/sbom", storetest.Blob{MediaType: "application/json", Data: []byte("sbom")})
	signed := w.store.AddReferrer(referrerstore.Subject{Reference: good.Reference, Descriptor: sbom}, "application/sig", storetest.Blob{MediaType: "application/jose+json", Data: []byte("sig of sbom")})
	files := w.store.AddReferrer(good, "application/files", storetest.Blob{MediaType: ocispec.MediaTypeImageLayer, Data: []byte("files")})
	stray := w.store.AddReferrer(bad, "application/sbom", storetest.Blob{MediaType: "application/json", Data: []byte("stray sbom")})
	for _, tt := range []struct {
		what   string
		desc   ocispec.Descriptor
		blob   string
		status int
	}{
		{"referrer of an allowed image", sbom, "sbom", 200},
		{"referrer of a referrer", signed, "sig of sbom", 200},
		{"referrer with files and nothing to run", files, "files", 200},
		{"referrer of a denied image", stray, "stray sbom", 403},
	} {
		w.expect(t, tt.what, manifests(tt.desc.Digest), tt.status)
		w.expect(t, tt.what+", its blob", blobs(layerOf(tt.blob)), tt.status)
	}

	// Whoever can push can let anything refer to an allowed image. What could be
	// run is not served for that.
	config := w.blob(t, ocispec.MediaTypeImageConfig, []byte(`{"rootfs":{}}`))
	disguised := config
	disguised.MediaType = "application/vnd.example.config+json"
	for name, config := range map[string]ocispec.Descriptor{"image": config, "disguised image": disguised} {
		seed := name + " evil"
		layer := w.blob(t, ocispec.MediaTypeImageLayerGzip, []byte(seed))
		evil := w.manifest(t, "evil", ocispec.MediaTypeImageManifest, ocispec.Manifest{
			MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{layer}, Subject: &good.Descriptor,
		})
		a := w.expect(t, name, manifests(evil.Digest), 403)
		_, message := a.error(t)
		has(t, message, "could itself be run")
		w.expect(t, name+", its layer", blobs(layer.Digest), 403)
		// Nor by way of an index that refers to it.
		index := w.manifest(t, "evil-index", ocispec.MediaTypeImageIndex, ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{evil}, Subject: &good.Descriptor})
		w.expect(t, name+", index", manifests(index.Digest), 200)
		w.expect(t, name+", child", manifests(evil.Digest), 403)
		w.expect(t, name+", its layer", blobs(layer.Digest), 403)
	}
}

// The list of referrers under a tag is served as far as its subject is allowed, and
// allows nothing that it lists.
func TestVerifiedFallbackTag(t *testing.T) {
	t.Parallel()
	w, d := newVerified(t)
	good, bad := w.image(t, "good"), w.image(t, "bad", []byte("bad layer"))
	d.allow(good.Descriptor)
	tagOf := func(d digest.Digest) string { return strings.Replace(d.String(), ":", "-", 1) }
	sbom := w.store.AddReferrer(good, "application/sbom")
	w.index(t, tagOf(good.Descriptor.Digest), sbom, bad.Descriptor)
	w.index(t, tagOf(bad.Descriptor.Digest), sbom)
	w.expect(t, "list of an allowed image", manifests(tagOf(good.Descriptor.Digest)), 200)
	w.expect(t, "what it lists", manifests(sbom.Digest), 200)
	w.expect(t, "an image that it lists", manifests(bad.Descriptor.Digest), 403)
	w.expect(t, "its layer", blobs(layerOf("bad layer")), 403)
	w.expect(t, "list of a denied image", manifests(tagOf(bad.Descriptor.Digest)), 403)
	w.expect(t, "list that is not there", manifests(tagOf(digest.FromString("none"))), 404)
	// A tag of that form that leads to an image.
	evil := w.image(t, "evil")
	w.store.Tag(ref(t, upstream+"/"+repo+":"+tagOf(good.Descriptor.Digest)), evil.Descriptor)
	w.expect(t, "an image under the list's tag", manifests(tagOf(good.Descriptor.Digest)), 403)
}

// Documents that could be read as something else than what was verified are
// refused though the policy allows them.
func TestVerifiedDocuments(t *testing.T) {
	t.Parallel()
	const image, index = ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex
	w, d := newVerified(t)
	layer := w.blob(t, ocispec.MediaTypeImageLayer, []byte("ambiguous layer"))
	child := w.image(t, "child")
	list := func(descs ...ocispec.Descriptor) string {
		data, err := json.Marshal(descs)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	for name, tt := range map[string]struct{ data, mediaType, verified string }{
		"both":                {fmt.Sprintf(`{"manifests":%s,"layers":%s}`, list(child.Descriptor), list(layer)), index, index},
		"both as image":       {fmt.Sprintf(`{"config":{},"manifests":%s,"layers":%s}`, list(child.Descriptor), list(layer)), image, image},
		"says another":        {fmt.Sprintf(`{"mediaType":%q,"layers":%s}`, index, list(layer)), image, image},
		"verified as another": {fmt.Sprintf(`{"config":{},"layers":%s}`, list(layer)), image, "application/vnd.docker.distribution.manifest.v2+json"},
		"image as index":      {fmt.Sprintf(`{"layers":%s}`, list(layer)), index, index},
		"field twice":         {fmt.Sprintf(`{"layers":[],"layers":%s}`, list(layer)), image, image},
	} {
		desc := w.manifest(t, "v1", tt.mediaType, []byte(tt.data))
		verified := desc
		verified.MediaType = tt.verified
		d.allow(verified)
		a := w.expect(t, name, manifests(desc.Digest), 403)
		if _, message := a.error(t); !strings.HasPrefix(message, "the manifest is refused: ") {
			t.Errorf("%s: %s", name, message)
		}
		w.expect(t, name+", its layer", blobs(layer.Digest), 403)
		w.expect(t, name+", its child", manifests(child.Descriptor.Digest), 403)
		d.forget(desc.Digest)
	}
}

func TestVerifiedWarnOnly(t *testing.T) {
	t.Parallel()
	w, d := newVerified(t)
	w.swap(func(s *registry.Snapshot) { s.Enforce = registry.EnforceWarn })
	bad := w.image(t, "bad", []byte("bad layer"))
	w.expect(t, "denied", manifests("bad"), 200)
	w.expect(t, "its layer", blobs(layerOf("bad layer")), 200)
	d.doubt(bad.Descriptor.Digest)
	w.expect(t, "doubtful", manifests("bad"), 200)
	has(t, w.logs.String(), "a pull would be refused", "SIGNATURE_NOT_FOUND", "REGISTRY_UNAVAILABLE")
}

func TestVerifiedUndecided(t *testing.T) {
	t.Parallel()
	w, d := newVerified(t)
	good := w.image(t, "good")
	d.set(good.Descriptor.Digest, func() (executor.Result, error) { return executor.Result{}, nil })
	w.expect(t, "undecided", manifests("good"), 503)
	other := good.Descriptor
	other.Digest = digest.FromString("other")
	d.set(good.Descriptor.Digest, func() (executor.Result, error) {
		return executor.Result{Decision: executor.Allowed, Subject: referrerstore.Subject{Descriptor: other}}, nil
	})
	w.expect(t, "a verdict on something else", manifests("good"), 503)
	d.set(good.Descriptor.Digest, func() (executor.Result, error) { // an exemption resolves nothing
		return executor.Result{Decision: executor.Allowed, Exemption: &executor.Exemption{}}, nil
	})
	w.expect(t, "exempted", manifests("good"), 200)
	w.swap(func(s *registry.Snapshot) { s.Decider = nil })
	w.expect(t, "no policy", manifests("good"), 503)
}

// The wait for a verdict is bounded, and a policy that panics allows nothing.
func TestVerdictTimeout(t *testing.T) {
	t.Parallel()
	w, d := newVerified(t)
	good := w.image(t, "good")
	d.allow(good.Descriptor)
	d.wait = true
	reg := with(t, w, registry.Options{VerdictTimeout: 10 * time.Millisecond})
	a := ask(t, http.DefaultClient, http.MethodGet, serveHandler(t, reg)+manifests("good"))
	if _, message := a.error(t); a.status != 503 || !strings.HasPrefix(message, "DEADLINE_EXCEEDED") {
		t.Errorf("%d %s", a.status, a.body)
	}
	d.wait = false
	d.set(good.Descriptor.Digest, func() (executor.Result, error) { panic("in the policy") })
	if a := w.get(t, manifests("good")); a.status != 500 {
		t.Errorf("%d", a.status)
	}
}

// Of thousands of manifests that list a blob only some are tried, but first the
// one that was just pulled.
func TestManyParents(t *testing.T) {
	t.Parallel()
	w, d := newVerified(t)
	for i := range 80 {
		w.image(t, fmt.Sprint("bad", i), []byte("shared layer"))
		w.get(t, manifests(fmt.Sprint("bad", i)))
	}
	d.asked = nil
	w.expect(t, "too many", blobs(layerOf("shared layer")), 503)
	if n := len(d.asked); n != 2*64 {
		t.Errorf("%d verdicts for two requests", n)
	}
	good := w.image(t, "good", []byte("shared layer"))
	d.allow(good.Descriptor)
	w.expect(t, "pulled", manifests("good"), 200)
	d.asked = nil
	w.expect(t, "its layer", blobs(layerOf("shared layer")), 200)
	if n := len(d.asked); n != 2 {
		t.Errorf("%d verdicts for two requests", n)
	}
}

// That a manifest would allow a blob, but for what it is, is told before the
// verdict on another.
func TestVerifiedProblemFirst(t *testing.T) {
	t.Parallel()
	w, d := newVerified(t)
	bad := w.image(t, "bad", []byte("shared layer"))
	layer := w.blob(t, ocispec.MediaTypeImageLayer, []byte("shared layer"))
	data, err := json.Marshal([]ocispec.Descriptor{layer})
	if err != nil {
		t.Fatal(err)
	}
	both := w.manifest(t, "both", ocispec.MediaTypeImageManifest, fmt.Appendf(nil, `{"manifests":[],"layers":%s}`, data))
	d.allow(both)
	w.expect(t, "denied", manifests(bad.Descriptor.Digest), 403)
	w.expect(t, "both", manifests(both.Digest), 403)
	_, message := w.expect(t, "blob", blobs(layer.Digest), 403).error(t)
	has(t, message, "the manifest is refused")
}

// searches counts how often a cache is searched for relatives.
type searches struct {
	*cache.Cache
	n *atomic.Int64
}

func (s searches) Parents(scope cache.Scope, of digest.Digest) []cache.Parent {
	s.n.Add(1)
	return s.Cache.Parents(scope, of)
}

func (s searches) About(scope cache.Scope, of digest.Digest) (cache.Parent, bool) {
	s.n.Add(1)
	return s.Cache.About(scope, of)
}

// However many manifests list a blob, and indexes those, the search ends with the
// verdicts.
func TestManyAncestors(t *testing.T) {
	t.Parallel()
	w, _ := newVerified(t)
	w.swap(func(s *registry.Snapshot) { s.Enforce = registry.EnforceWarn })
	for i := range 70 {
		image := w.image(t, fmt.Sprint("bad", i), []byte("shared layer"))
		w.get(t, manifests(fmt.Sprint("bad", i)))
		for j := range 5 {
			w.index(t, fmt.Sprint("index", i, "-", j), image.Descriptor, onPlatform(image.Descriptor, fmt.Sprint(j)))
			w.get(t, manifests(fmt.Sprint("index", i, "-", j)))
		}
	}
	var n atomic.Int64
	w.swap(func(s *registry.Snapshot) { s.Enforce = registry.EnforceOn })
	reg := registry.New(t.Context(), searches{w.cache, &n}, registry.Options{})
	defer reg.Close()
	reg.Swap(&w.snap)
	a := ask(t, http.DefaultClient, http.MethodGet, serveHandler(t, reg)+blobs(layerOf("shared layer")))
	if a.status != 503 || n.Load() > 2*64+1 {
		t.Errorf("%d, %d searches", a.status, n.Load())
	}
}
