package registry_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
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

// warm brings in team/app at a tag or digest.
func (w *world) warm(t testing.TB, at string, chosen func(ocispec.Platform) bool) (registry.Warmed, error) {
	t.Helper()
	sep := ":"
	if strings.Contains(at, ":") {
		sep = "@"
	}
	return w.reg.Warm(t.Context(), ref(t, upstream+"/"+repo+sep+at), chosen)
}

func (w *world) holds(d digest.Digest, kind cache.Kind) bool {
	content, err := w.cache.Get(cache.Want{Scope: w.scope(""), Digest: d, Kind: kind, Size: -1})
	return err == nil && content.Close() == nil
}

func (w *world) holdsBlob(data string) bool {
	return w.holds(digest.FromString(data), cache.Blob)
}

func onPlatform(desc ocispec.Descriptor, architecture string) ocispec.Descriptor {
	desc.Platform = &ocispec.Platform{OS: "linux", Architecture: architecture}
	return desc
}

func signature(data string) storetest.Blob {
	return storetest.Blob{MediaType: "application/jose+json", Data: []byte(data)}
}

// All that belongs to an image is there afterwards, so that nothing is asked for
// any more; another time nothing is pulled.
func TestWarm(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	large := string(noise(1, 300_000))
	image := w.image(t, "v1", []byte(large), []byte("second"))
	signed := w.store.AddReferrer(image, "application/sig", signature("sig"))
	w.store.AddReferrer(referrerstore.Subject{Reference: image.Reference, Descriptor: signed}, "application/countersig", signature("countersig"))
	got, err := w.warm(t, "v1", nil)
	if err != nil {
		t.Fatal(err)
	}
	// The image, its config and layers; two artifacts, a blob each, and the empty config.
	if got.Objects != 9 || got.Bytes < 300_000 || got.Bytes > 302_000 {
		t.Errorf("%+v", got)
	}
	for _, data := range []string{large, "second", "sig", "countersig", "{}"} {
		if !w.holdsBlob(data) {
			t.Errorf("%.12q is not held", data)
		}
	}
	for _, subject := range []ocispec.Descriptor{image.Descriptor, signed} {
		if listed, _, known := w.cache.Referrers(w.scope(""), subject.Digest); !known || len(listed) != 1 {
			t.Errorf("%s: %v, %t", subject.Digest, listed, known)
		}
	}
	if tag, known := w.cache.Tag(w.scope(""), "v1"); !known || tag.Descriptor.Digest != image.Descriptor.Digest {
		t.Errorf("%+v", tag)
	}
	if about, known := w.cache.About(w.scope(""), signed.Digest); !known || about.MediaType != ocispec.MediaTypeImageManifest {
		t.Errorf("%+v", about)
	}
	before := w.store.Counts()
	again, err := w.warm(t, "v1", nil)
	after := w.store.Counts()
	if err != nil || again != got {
		t.Errorf("another time: %+v, %v", again, err)
	}
	if after.PullManifest != before.PullManifest || after.PullBlob != before.PullBlob || after.Bytes != before.Bytes || after.HasBlob != 0 {
		t.Errorf("another time it pulls: %+v, %+v", before, after)
	}
	byDigest, err := w.warm(t, image.Descriptor.Digest.String(), nil)
	if err != nil || byDigest != got || w.store.Counts().PullBlob != after.PullBlob {
		t.Errorf("by digest: %+v, %v", byDigest, err)
	}
}

// Of an index come the children that are chosen; it stays whole.
func TestWarmPlatforms(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	one, two, plain := w.image(t, "one", []byte("amd64")), w.image(t, "two", []byte("arm64")), w.image(t, "plain", []byte("no platform"))
	attest, other := w.image(t, "a1", []byte("about amd64")), w.image(t, "a2", []byte("about arm64"))
	about := func(desc ocispec.Descriptor, of referrerstore.Subject) ocispec.Descriptor {
		desc = onPlatform(desc, "unknown")
		desc.Annotations = map[string]string{"vnd.docker.reference.digest": of.Descriptor.Digest.String()}
		return desc
	}
	w.store.AddReferrer(one, "application/sig", signature("sig of amd64"))
	inner := w.index(t, "inner", onPlatform(two.Descriptor, "arm64"), plain.Descriptor)
	foreign := onPlatform(w.blob(t, "application/x", []byte("no manifest")), "amd64")
	outer := w.index(t, "multi", onPlatform(one.Descriptor, "amd64"), onPlatform(two.Descriptor, "arm64"), about(attest.Descriptor, one), about(other.Descriptor, two), inner, foreign)
	w.store.AddReferrer(referrerstore.Subject{Reference: one.Reference, Descriptor: outer}, "application/sig", signature("sig of index"))
	only := func(p ocispec.Platform) bool { return p.OS == "linux" && p.Architecture == "amd64" }
	if _, err := w.warm(t, "multi", only); err != nil {
		t.Fatal(err)
	}
	for data, want := range map[string]bool{"amd64": true, "arm64": false, "no platform": true, "about amd64": true, "about arm64": false, "sig of amd64": true, "sig of index": true, "no manifest": false} {
		if w.holdsBlob(data) != want {
			t.Errorf("%s: held %t", data, !want)
		}
	}
	if w.holds(two.Descriptor.Digest, cache.Manifest) || !w.holds(outer.Digest, cache.Manifest) || !w.holds(inner.Digest, cache.Manifest) {
		t.Error("manifests")
	}
	none := func(p ocispec.Platform) bool { return p.OS == "plan9" }
	w.index(t, "both", onPlatform(one.Descriptor, "amd64"), onPlatform(two.Descriptor, "arm64"))
	if _, err := w.warm(t, "both", none); !errors.Is(err, registry.ErrNoPlatform) {
		t.Error(err)
	}
	if _, err := w.warm(t, "two", none); err != nil || !w.holdsBlob("arm64") {
		t.Errorf("an image that is no index: %v", err)
	}
}

// What can be attached to an image does not keep it from coming.
func TestWarmDangling(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	image := w.image(t, "v1", []byte("layer"))
	gone := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("gone"), Size: 7}
	w.store.List(image, gone, ocispec.Descriptor{MediaType: "application/x", Digest: digest.FromString("no manifest"), Size: 7})
	w.store.AddReferrer(image, "application/sig", signature("sig"))
	missing := w.manifest(t, "artifact", ocispec.MediaTypeImageManifest, ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest, Config: ocispec.DescriptorEmptyJSON, Subject: &image.Descriptor,
		Layers: []ocispec.Descriptor{{MediaType: "text/plain", Digest: digest.FromString("missing"), Size: 7}},
	})
	w.store.List(image, missing)
	got, err := w.warm(t, "v1", nil)
	if err != nil || got.Objects != 7 || !w.holdsBlob("sig") {
		t.Errorf("%+v, %v", got, err)
	}
	// A layer that nobody need have.
	config := w.blob(t, ocispec.MediaTypeImageConfig, []byte(`{"os":"windows"}`))
	base := ocispec.Descriptor{MediaType: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Digest: digest.FromString("base"), Size: 7}
	for tag, layer := range map[string]ocispec.Descriptor{"foreign": base, "incomplete": {MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString("lost"), Size: 7}} {
		w.manifest(t, tag, ocispec.MediaTypeImageManifest, ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{layer}})
		if _, err := w.warm(t, tag, nil); (err == nil) != (tag == "foreign") || err != nil && !errors.Is(err, referrerstore.ErrNotFound) {
			t.Errorf("%s: %v", tag, err)
		}
	}
}

// Under enforcement nothing comes that the policy does not allow, nor what refers
// to an allowed image and could be run.
func TestWarmEnforced(t *testing.T) {
	t.Parallel()
	w, d := newVerified(t)
	good, bad, doubtful := w.image(t, "good", []byte("good layer")), w.image(t, "bad", []byte("bad layer")), w.image(t, "doubtful", []byte("doubtful layer"))
	index := w.index(t, "multi", good.Descriptor)
	d.allow(index)
	d.doubt(doubtful.Descriptor.Digest)
	w.store.AddReferrer(referrerstore.Subject{Reference: good.Reference, Descriptor: index}, "application/sig", signature("sig"))
	config := w.blob(t, ocispec.MediaTypeImageConfig, []byte(`{"rootfs":{}}`))
	evil := w.blob(t, ocispec.MediaTypeImageLayer, []byte("evil layer"))
	w.store.List(referrerstore.Subject{Reference: good.Reference, Descriptor: index}, w.manifest(t, "artifact", ocispec.MediaTypeImageManifest, ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{evil}, Subject: &index,
	}))
	if _, err := w.warm(t, "multi", nil); err != nil || !w.holdsBlob("good layer") || !w.holdsBlob("sig") || w.holdsBlob("evil layer") {
		t.Errorf("allowed: %v", err)
	}
	_, err := w.warm(t, "bad", nil)
	if !errors.Is(err, registry.ErrNotAllowed) || !strings.Contains(fmt.Sprint(err), "SIGNATURE_NOT_FOUND") || w.holdsBlob("bad layer") {
		t.Errorf("denied: %v", err)
	}
	_, err = w.warm(t, "doubtful", nil)
	if errors.Is(err, registry.ErrNotAllowed) || !errors.Is(err, referrerstore.ErrUnavailable) || w.holdsBlob("doubtful layer") {
		t.Errorf("doubtful: %v", err)
	}
	w.swap(func(s *registry.Snapshot) { s.Enforce = registry.EnforceWarn })
	if _, err := w.warm(t, bad.Descriptor.Digest.String(), nil); err != nil || !w.holdsBlob("bad layer") {
		t.Errorf("warned of: %v", err)
	}
	has(t, w.logs.String(), "a pull would be refused")
	if !slices.ContainsFunc(d.asked, func(r executor.Request) bool { return r.Namespace == "prod" }) {
		t.Error("the policy is asked for another namespace")
	}
}

// Why nothing comes, and that nobody is asked who must not be.
func TestWarmRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.image(t, "v1", []byte("layer"))
	w.manifest(t, "both", ocispec.MediaTypeImageIndex, []byte(`{"manifests":[],"layers":[]}`))
	inner := w.index(t, "i0")
	for i := range 6 {
		inner = w.index(t, fmt.Sprint("i", i+1), inner)
	}
	for at, want := range map[string]error{
		"none": referrerstore.ErrNotFound, digest.FromString("none").String(): referrerstore.ErrNotFound, "i4": nil, "i5": registry.ErrTooMuch, "both": nil,
	} {
		_, err := w.warm(t, at, nil)
		if want != nil && !errors.Is(err, want) || (err == nil) != (at == "i4") {
			t.Errorf("%s: %v", at, err)
		}
		if err != nil && !strings.HasPrefix(err.Error(), "warm "+upstream+"/"+repo) {
			t.Errorf("%s: %v", at, err)
		}
	}
	before := w.store.Counts()
	if _, err := w.reg.Warm(t.Context(), ref(t, "other.example/team/app:v1"), nil); err == nil || !strings.Contains(err.Error(), "registry.upstreams") {
		t.Errorf("a host that is not listed: %v", err)
	}
	w.swap(func(s *registry.Snapshot) { s.AirGapped = true })
	if _, err := w.warm(t, "v1", nil); !errors.Is(err, registry.ErrAirGapped) {
		t.Errorf("air-gapped: %v", err)
	}
	w.reg.Swap(nil)
	if _, err := w.warm(t, "v1", nil); err == nil {
		t.Error("without a configuration")
	}
	if after := w.store.Counts(); after != before {
		t.Errorf("%+v, %+v", before, after)
	}
}

// An image may have only so many objects.
func TestWarmObjects(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	var layers []ocispec.Descriptor
	for i := range 10_000 {
		layers = append(layers, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString(fmt.Sprint(i)), Size: 1})
	}
	w.manifest(t, "v1", ocispec.MediaTypeImageManifest, ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Layers: layers, Config: layers[0]})
	if got, err := w.warm(t, "v1", nil); !errors.Is(err, registry.ErrTooMuch) || got.Objects != 1 || w.store.Counts().PullBlob != 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

// Bytes that are not what is listed, and a cache that keeps nothing, are told.
func TestWarmLies(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	config := w.blob(t, ocispec.MediaTypeImageConfig, []byte("{}"))
	wrong, short := w.blob(t, ocispec.MediaTypeImageLayer, noise(1, 200_000)), w.blob(t, ocispec.MediaTypeImageLayer, noise(2, 200_000))
	short.Size--
	huge := w.blob(t, ocispec.MediaTypeImageLayer, noise(3, 1000))
	huge.Size = 1<<63 - 1
	w.store.Alter = func(desc ocispec.Descriptor, data []byte) []byte {
		if desc.Digest == wrong.Digest {
			return noise(4, len(data))
		}
		return data
	}
	for tag, layer := range map[string]ocispec.Descriptor{"wrong": wrong, "short": short, "huge": huge} {
		w.manifest(t, tag, ocispec.MediaTypeImageManifest, ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{layer}})
		if _, err := w.warm(t, tag, nil); !errors.Is(err, referrerstore.ErrDigestMismatch) {
			t.Errorf("%s: %v", tag, err)
		}
	}
	// Held already, of another size than listed.
	other := w.blob(t, ocispec.MediaTypeImageLayer, noise(5, 1000))
	w.get(t, blobs(other.Digest))
	other.Size++
	w.manifest(t, "other", ocispec.MediaTypeImageManifest, ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{other}})
	if _, err := w.warm(t, "other", nil); !errors.Is(err, referrerstore.ErrDigestMismatch) {
		t.Errorf("other size: %v", err)
	}
	// Of manifests that disagree the one is told that lies.
	shared := w.blob(t, ocispec.MediaTypeImageLayer, noise(6, 1000))
	for _, tag := range []string{"true", "false"} {
		w.manifest(t, tag, ocispec.MediaTypeImageManifest, ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{shared}})
		w.get(t, manifests(tag))
		shared.Size--
	}
	for tag, want := range map[string]error{"true": nil, "false": referrerstore.ErrDigestMismatch} {
		if _, err := w.warm(t, tag, nil); !errors.Is(err, want) {
			t.Errorf("%s: %v", tag, err)
		}
	}
	w.image(t, "v1")
	reg := registry.New(t.Context(), full{w.cache}, registry.Options{})
	defer reg.Close()
	reg.Swap(&w.snap)
	if _, err := reg.Warm(t.Context(), ref(t, upstream+"/"+repo+":v1"), nil); !errors.Is(err, registry.ErrNotKept) {
		t.Errorf("full: %v", err)
	}
	reg = registry.New(t.Context(), openCacheWith(t, cache.Options{MaxBytes: 100_000}), registry.Options{})
	defer reg.Close()
	reg.Swap(&w.snap)
	w.image(t, "v2", noise(6, 300_000))
	if _, err := reg.Warm(t.Context(), ref(t, upstream+"/"+repo+":v2"), nil); !errors.Is(err, registry.ErrNotKept) {
		t.Errorf("larger than the cache: %v", err)
	}
}

// It ends with its context, while it waits for anything; at most three blobs come
// at once; clients share what it pulls.
func TestWarmEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	layers := [][]byte{noise(1, 100_000), noise(2, 100_000), noise(3, 100_000), noise(4, 100_000), noise(5, 100_000), noise(6, 100_000)}
	image := w.image(t, "v1", layers...)
	begun, on := make(chan struct{}, 10), make(chan struct{})
	w.store.PullFault = func(ctx context.Context, p storetest.Pull) error {
		if p.Call != "PullBlob" {
			return nil
		}
		begun <- struct{}{}
		select {
		case <-on:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("the process ends")
	ended := make(chan error, 1)
	warm := func() {
		_, err := w.reg.Warm(ctx, image.Reference, nil)
		ended <- err
	}
	go warm()
	for range 3 {
		<-begun
	}
	select {
	case <-begun:
		t.Error("more than three at once")
	case <-time.After(30 * time.Millisecond): // if there is one to come, it is likely to
	}
	cancel(gone)
	if err := <-ended; !errors.Is(err, gone) {
		t.Errorf("%v", err)
	}
	ctx, cancel = context.WithCancelCause(t.Context())
	defer cancel(nil)
	go warm()
	client := make(chan answer, 1)
	go func() { client <- w.get(t, blobs(digest.FromBytes(layers[0]))) }()
	close(on)
	if err := <-ended; err != nil {
		t.Errorf("%v", err)
	}
	if a := <-client; a.status != 200 || a.cut != nil {
		t.Errorf("client: %d, %v", a.status, a.cut)
	}
	if n := w.store.Counts(); n.PullBlob != len(layers)+1 {
		t.Errorf("%d pulls of %d blobs", n.PullBlob, len(layers)+1)
	}
	ended2, cancel2 := context.WithCancelCause(t.Context())
	cancel2(gone)
	for _, at := range []referrerstore.Reference{image.Reference, image.Reference.Pinned(image.Descriptor.Digest), ref(t, upstream+"/"+repo+":other")} {
		if _, err := w.reg.Warm(ended2, at, nil); !errors.Is(err, gone) {
			t.Errorf("%s: %v", at, err)
		}
	}
}
