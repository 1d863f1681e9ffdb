package registry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/httpserver/registry"
	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
)

func TestPing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	for _, path := range []string{"/v2/", "/v2", "/v2/?ns=" + upstream} {
		if a := w.get(t, path); a.status != 200 || string(a.body) != "{}" || a.header.Get("Docker-Distribution-Api-Version") != "registry/2.0" {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
}

// Manifests by tag and by digest, with GET and HEAD, cold and held.
func TestManifests(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	image := w.image(t, "V1.x", noise(1, 100))
	index := w.index(t, "multi", image.Descriptor)
	empty := w.index(t, "empty")
	large := w.manifest(t, "large", ocispec.MediaTypeImageManifest, ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Annotations: map[string]string{"x": strings.Repeat("A", 3_900_000)}})
	for tag, desc := range map[string]ocispec.Descriptor{"V1.x": image.Descriptor, "multi": index, "empty": empty, "large": large} {
		for range 2 {
			for _, at := range []string{tag, desc.Digest.String()} {
				head, got := w.do(t, http.MethodHead, manifests(at)), w.get(t, manifests(at))
				for _, a := range []answer{head, got} {
					if a.status != 200 || a.header.Get("Content-Type") != desc.MediaType || a.header.Get("Content-Length") != strconv.FormatInt(desc.Size, 10) ||
						a.header.Get("Docker-Content-Digest") != desc.Digest.String() || a.header.Get("Etag") != `"`+desc.Digest.String()+`"` || a.header.Get("Oci-Namespace") != upstream {
						t.Fatalf("%s: %d %v", at, a.status, a.header)
					}
					if immutable := strings.Contains(a.header.Get("Cache-Control"), "immutable"); immutable != (at != tag) {
						t.Errorf("%s: %s", at, a.header.Get("Cache-Control"))
					}
				}
				if len(head.body) != 0 || digest.FromBytes(got.body) != desc.Digest {
					t.Errorf("%s: %d bytes", at, len(got.body))
				}
			}
		}
	}
	if n := w.store.Counts().PullManifest; n != 4 {
		t.Errorf("%d pulls of 4 manifests", n)
	}
	if a := w.get(t, manifests("v1.X")); a.status != 404 {
		t.Errorf("tags have two cases: %d", a.status)
	}
}

func TestBlobs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	for name, data := range map[string][]byte{"empty": {}, "small": []byte("{}"), "replicated": noise(1, 2048), "large": noise(2, 300_000)} {
		desc := w.blob(t, "application/x", data)
		before := w.store.Counts()
		head := w.do(t, http.MethodHead, blobs(desc.Digest))
		if n := w.store.Counts().PullBlob - before.PullBlob; n != 0 {
			t.Errorf("%s: %d pulls for a header", name, n)
		}
		for _, a := range []answer{head, w.get(t, blobs(desc.Digest)), w.get(t, blobs(desc.Digest)), w.do(t, http.MethodHead, blobs(desc.Digest))} {
			if a.status != 200 || a.header.Get("Content-Length") != strconv.Itoa(len(data)) || a.header.Get("Content-Type") != "application/octet-stream" ||
				a.header.Get("Docker-Content-Digest") != desc.Digest.String() || a.header.Get("Accept-Ranges") != "bytes" || a.cut != nil {
				t.Fatalf("%s: %d %v %v", name, a.status, a.header, a.cut)
			}
			if len(a.body) > 0 && !bytes.Equal(a.body, data) {
				t.Errorf("%s: other bytes", name)
			}
		}
		if n := w.store.Counts().PullBlob - before.PullBlob; n != 1 {
			t.Errorf("%s: %d pulls", name, n)
		}
		if a := w.get(t, blobs(desc.Digest), "If-None-Match", `"`+desc.Digest.String()+`"`); a.status != 304 || len(a.body) != 0 {
			t.Errorf("%s, which the client has: %d", name, a.status)
		}
	}
}

func TestRanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	for _, size := range []int{2048, 200_000} {
		data := noise(uint64(size), size)
		desc := w.blob(t, "x", data)
		etag := `"` + desc.Digest.String() + `"`
		for range 2 { // arriving, held
			for _, tt := range []struct {
				header   string
				from, to int
				status   int
			}{
				{"bytes=500-1499", 500, 1500, 206},
				{"bytes=500-", 500, size, 206},
				{"bytes=-500", size - 500, size, 206},
				{"bytes=2000-" + strconv.Itoa(10*size), 2000, size, 206},
				{"bytes=0-0", 0, 1, 206},
				{"bytes=0-1,5-9", 0, size, 200},
				{"lines=0-1", 0, size, 200},
				{"bytes=500-0", 0, 0, 416},
				{"bytes=" + strconv.Itoa(size) + "-", 0, 0, 416},
				{"bytes=x", 0, 0, 416},
			} {
				a := w.get(t, blobs(desc.Digest), "Range", tt.header)
				if a.status != tt.status {
					t.Fatalf("%s of %d: %d", tt.header, size, a.status)
				}
				switch tt.status {
				case 416:
					if code, _ := a.error(t); code != "UNSUPPORTED" || a.header.Get("Content-Range") != "bytes */"+strconv.Itoa(size) {
						t.Errorf("%s: %s %v", tt.header, code, a.header)
					}
					continue
				case 206:
					if want := "bytes " + strconv.Itoa(tt.from) + "-" + strconv.Itoa(tt.to-1) + "/" + strconv.Itoa(size); a.header.Get("Content-Range") != want {
						t.Errorf("%s: %s, want %s", tt.header, a.header.Get("Content-Range"), want)
					}
				}
				if !bytes.Equal(a.body, data[tt.from:tt.to]) || a.header.Get("Content-Length") != strconv.Itoa(tt.to-tt.from) {
					t.Errorf("%s: %d bytes", tt.header, len(a.body))
				}
			}
			if a := w.get(t, blobs(desc.Digest), "Range", "bytes=1-2", "If-Range", `"other"`); a.status != 200 || len(a.body) != size {
				t.Errorf("a part of something else: %d", a.status)
			}
			if a := w.get(t, blobs(desc.Digest), "Range", "bytes=1-2", "If-Range", etag); a.status != 206 || len(a.body) != 2 {
				t.Errorf("a part of the same: %d", a.status)
			}
		}
	}
}

// renamed serves blobs under other digests too.
type renamed struct {
	referrerstore.Puller
	names map[digest.Digest]digest.Digest
}

func (r renamed) PullBlob(ctx context.Context, ref referrerstore.Reference, blob digest.Digest, offset int64) (referrerstore.Pulled, error) {
	return r.Puller.PullBlob(ctx, ref, r.names[blob], offset)
}

func TestSHA512(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	data := noise(9, 70_000)
	// The store in memory knows sha256 alone: it serves the blob under both.
	desc := w.blob(t, "x", data)
	w.swap(func(s *registry.Snapshot) {
		s.Upstreams = map[string]registry.Upstream{upstream: {Store: renamed{w.store, map[digest.Digest]digest.Digest{sum512(data): desc.Digest}}}}
	})
	for range 2 {
		a := w.get(t, blobs(sum512(data)))
		if a.status != 200 || !bytes.Equal(a.body, data) || a.header.Get("Docker-Content-Digest") != sum512(data).String() {
			t.Errorf("%d, %d bytes", a.status, len(a.body))
		}
	}
}

// What is not there, or cannot be.
func TestUnknown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.image(t, "v1")
	none := digest.FromString("none").String()
	for path, want := range map[string]struct {
		status int
		code   string
	}{
		manifests("missing"):                         {404, "MANIFEST_UNKNOWN"},
		manifests(none):                              {404, "MANIFEST_UNKNOWN"},
		manifests("sha256:baddigeststring"):          {400, "DIGEST_INVALID"},
		manifests(".INVALID_MANIFEST_NAME"):          {404, "MANIFEST_UNKNOWN"},
		blobs(digest.Digest(none)):                   {404, "BLOB_UNKNOWN"},
		blobs("sha256:1"):                            {400, "DIGEST_INVALID"},
		"/v2/none/tags/list":                         {404, "NAME_UNKNOWN"},
		"/v2/" + repo + "/tags/list?n=x":             {400, "UNSUPPORTED"},
		"/v2/" + repo + "/tags/list?n=-1":            {400, "UNSUPPORTED"},
		"/v2/" + repo + "/tags/list?last=%0a":        {400, "UNSUPPORTED"},
		"/v2/" + repo + "/referrers/sha256:1":        {400, "DIGEST_INVALID"},
		"/v2/_catalog":                               {404, "UNSUPPORTED"},
		"/v2/App/manifests/v1":                       {400, "NAME_INVALID"},
		"/v2/a%2fb/manifests/v1":                     {400, "NAME_INVALID"},
		"/v2/a/../../etc/manifests/v1":               {400, "NAME_INVALID"},
		"/v2/" + repo + "/manifests/v1?ns=evil.test": {403, "DENIED"},
		"/v2/" + repo + "/manifests/v1?ns=%0d%0a":    {400, "NAME_INVALID"},
		"/": {404, "UNSUPPORTED"},
	} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			a := w.do(t, method, path)
			if a.status != want.status {
				t.Errorf("%s %s: %d, want %d", method, path, a.status, want.status)
			}
			if method == http.MethodGet {
				if code, message := a.error(t); code != want.code || message == "" {
					t.Errorf("%s: %s %s, want %s", path, code, message, want.code)
				}
			}
		}
	}
	_, message := w.get(t, "/v2/"+repo+"/manifests/v1?ns=evil.test").error(t)
	has(t, message, "evil.test", "registry.upstreams")
}

func TestReadOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions, http.MethodTrace} {
		for _, path := range []string{"/v2/", manifests("v1"), blobs(digest.FromString("x")), "/v2/" + repo + "/blobs/uploads/", "/v2/" + repo + "/blobs/uploads/some-id"} {
			a := w.do(t, method, path)
			if a.status != 405 || a.header.Get("Allow") != "GET, HEAD" {
				t.Errorf("%s %s: %d %v", method, path, a.status, a.header)
				continue
			}
			if code, _ := a.error(t); code != "UNSUPPORTED" {
				t.Errorf("%s %s: %s", method, path, code)
			}
		}
	}
}

// A manifest is no blob, and the other way round.
func TestKinds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	image := w.image(t, "v1", []byte("layer"))
	w.get(t, manifests("v1"))
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		if a := w.do(t, method, blobs(image.Descriptor.Digest)); a.status != 404 {
			t.Errorf("%s of a manifest as a blob: %d", method, a.status)
		}
	}
	layer := digest.FromString("layer")
	w.get(t, blobs(layer))
	if a := w.get(t, manifests(layer)); a.status != 404 {
		t.Errorf("a blob as a manifest: %d", a.status)
	} else if code, _ := a.error(t); code != "MANIFEST_UNKNOWN" {
		t.Error(code)
	}
}

func TestTagList(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	for _, tag := range []string{"a", "b", "c", "D"} {
		w.image(t, tag)
	}
	list := func(query string) (tags []string, name, link string) {
		t.Helper()
		a := w.get(t, "/v2/"+upstream+"/"+repo+"/tags/list"+query)
		var body struct {
			Name string
			Tags []string
		}
		if err := json.Unmarshal(a.body, &body); err != nil || a.status != 200 || body.Tags == nil {
			t.Fatalf("%s: %d %s", query, a.status, a.body)
		}
		return body.Tags, body.Name, a.header.Get("Link")
	}
	for query, want := range map[string]struct{ tags, link string }{
		"":              {"D a b c", ""},
		"?n=0":          {"", ""},
		"?n=2":          {"D a", `</v2/up.example/team/app/tags/list?last=a&n=2>; rel="next"`},
		"?n=2&last=a":   {"b c", ""},
		"?last=a":       {"b c", ""},
		"?n=1&last=a":   {"b", `</v2/up.example/team/app/tags/list?last=b&n=1>; rel="next"`},
		"?n=4":          {"D a b c", ""},
		"?n=2147483647": {"D a b c", ""},
		"?last=c":       {"", ""},
	} {
		tags, name, link := list(query)
		if strings.Join(tags, " ") != want.tags || link != want.link || name != upstream+"/"+repo {
			t.Errorf("%s: %q %s %s", query, tags, name, link)
		}
	}
	a := w.get(t, "/v2/"+repo+"/tags/list?n=1&ns="+upstream)
	if link := a.header.Get("Link"); link != `</v2/team/app/tags/list?last=D&n=1&ns=up.example>; rel="next"` {
		t.Error(link)
	}
}

func TestReferrers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	image := w.image(t, "v1")
	one := w.store.AddReferrer(image, "application/x.one")
	two := w.store.AddReferrer(image, "application/x.two")
	list := func(of digest.Digest, query string) (all []ocispec.Descriptor, filters string) {
		t.Helper()
		a := w.get(t, "/v2/"+repo+"/referrers/"+of.String()+query)
		var index ocispec.Index
		if err := json.Unmarshal(a.body, &index); err != nil || a.status != 200 || a.header.Get("Content-Type") != ocispec.MediaTypeImageIndex ||
			index.MediaType != ocispec.MediaTypeImageIndex || index.SchemaVersion != 2 || index.Manifests == nil {
			t.Fatalf("%d %v %s", a.status, a.header, a.body)
		}
		return index.Manifests, a.header.Get("Oci-Filters-Applied")
	}
	if all, filters := list(image.Descriptor.Digest, ""); len(all) != 2 || all[0].Digest != one.Digest || all[1].ArtifactType != two.ArtifactType || filters != "" {
		t.Errorf("%+v %s", all, filters)
	}
	if all, filters := list(image.Descriptor.Digest, "?artifactType=application/x.two"); len(all) != 1 || all[0].Digest != two.Digest || filters != "artifactType" {
		t.Errorf("%+v %s", all, filters)
	}
	if all, _ := list(image.Descriptor.Digest, "?artifactType=none"); len(all) != 0 {
		t.Errorf("%+v", all)
	}
	none := digest.FromString("a subject that does not exist")
	if all, _ := list(none, ""); len(all) != 0 {
		t.Errorf("%+v", all)
	}
	if _, _, known := w.cache.Referrers(w.scope(""), none); known {
		t.Error("lists of what does not exist are remembered")
	}
	if held, _, known := w.cache.Referrers(w.scope(""), image.Descriptor.Digest); !known || len(held) != 2 {
		t.Error("a whole list is not remembered")
	}
	// Where the registry has no API for it the list is under a tag.
	tag := strings.Replace(image.Descriptor.Digest.String(), ":", "-", 1)
	w.index(t, tag, one, two)
	if a := w.get(t, manifests(tag)); a.status != 200 {
		t.Errorf("fallback tag: %d", a.status)
	}
}

func TestAirGapped(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	image := w.image(t, "v1", []byte("layer"))
	w.image(t, "v2")
	w.store.AddReferrer(image, "application/x")
	w.get(t, manifests("v1"))
	w.get(t, manifests("v2"))
	w.get(t, blobs(digest.FromString("layer")))
	w.get(t, "/v2/"+repo+"/referrers/"+image.Descriptor.Digest.String())
	w.image(t, "v3")
	before := w.store.Counts()
	w.swap(func(s *registry.Snapshot) {
		s.AirGapped = true
		// What was loaded under no identity is there for one too.
		s.Upstreams = map[string]registry.Upstream{upstream: {Identity: func() string { return "who" }, AnyClient: true}}
	})
	for path, status := range map[string]int{
		manifests("v1"): 200, manifests(image.Descriptor.Digest): 200, blobs(digest.FromString("layer")): 200,
		manifests("v3"): 404, blobs(digest.FromString("other")): 404, blobs(image.Descriptor.Digest): 404,
		"/v2/" + repo + "/referrers/" + image.Descriptor.Digest.String(): 200, "/v2/none/tags/list": 404,
	} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			if a := w.do(t, method, path); a.status != status {
				t.Errorf("%s %s: %d %s", method, path, a.status, a.body)
			}
		}
	}
	a := w.get(t, "/v2/"+repo+"/tags/list?n=1&last=v1")
	if !strings.Contains(string(a.body), `"tags":["v2"]`) || a.header.Get("Link") != "" {
		t.Errorf("%s %v", a.body, a.header)
	}
	_, message := w.get(t, manifests("v3")).error(t)
	has(t, message, "registry.airGapped", "gatehouse cache load")
	if after := w.store.Counts(); after != before {
		t.Errorf("the upstream was asked: %+v, %+v", before, after)
	}
}

// What came by one identity is not handed to another before the upstream says so.
func TestIdentities(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	identity := "alice"
	w.swap(func(s *registry.Snapshot) {
		s.Upstreams = map[string]registry.Upstream{upstream: {Store: w.store, AnyClient: true, Identity: func() string { return identity }}}
	})
	data := noise(3, 1000)
	desc := w.blob(t, "x", data)
	a := w.get(t, blobs(desc.Digest))
	has(t, a.header.Get("Cache-Control"), "private")
	if _, err := w.cache.Get(cache.Want{Scope: w.scope("alice"), Digest: desc.Digest, Size: -1}); err != nil {
		t.Error(err)
	}
	identity = "bob"
	before := w.store.Counts()
	if a := w.get(t, blobs(desc.Digest)); a.status != 200 {
		t.Errorf("%d", a.status)
	}
	if after := w.store.Counts(); after.HasBlob != before.HasBlob+1 || after.PullBlob != before.PullBlob {
		t.Errorf("%+v, %+v", before, after)
	}
}
