package registry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/httpserver/registry"
	"github.com/gatehouse-project/gatehouse/referrerstore/oras"
	upstreamtest "github.com/gatehouse-project/gatehouse/test/registry"
)

// Before a real registry, by way of the real store: an image and its referrer are
// pulled with no more requests than there are objects, and a client's own
// credentials go no further.
func TestRealUpstream(t *testing.T) {
	t.Parallel()
	up, err := upstreamtest.Start(upstreamtest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer up.Close()
	var leaked atomic.Bool
	up.SetIntercept(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") != "" {
			leaked.Store(true)
		}
		return false
	})
	index, err := up.PushIndex(t.Context(), "deep/er/than/four/levels/app", "v1", "seed")
	if err != nil {
		t.Fatal(err)
	}
	artifact, err := up.PushReferrer(t.Context(), "deep/er/than/four/levels/app", index, "application/x", "text/plain", []byte("blob"), map[string]string{"k": "v"})
	if err != nil {
		t.Fatal(err)
	}
	store, err := oras.New(context.Background(), "up", oras.Options{PlainHTTP: []string{up.Host()}}, oras.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	w := newWorld(t, func(s *registry.Snapshot) {
		s.Upstreams = map[string]registry.Upstream{up.Host(): {Store: store}}
		s.Default = ""
	})
	at := "/v2/deep/er/than/four/levels/app/"
	get := func(path, ns string) []byte {
		t.Helper()
		a := w.get(t, at+path+ns, "Authorization", "Bearer the-clients-own")
		if a.status != 200 || a.cut != nil {
			t.Fatalf("%s: %d %s", path, a.status, a.body)
		}
		return a.body
	}
	pull := func(ns string) {
		t.Helper()
		var listed ocispec.Index
		if err := json.Unmarshal(get("manifests/v1", ns), &listed); err != nil || len(listed.Manifests) != 2 {
			t.Fatal(err)
		}
		for _, desc := range append(listed.Manifests, artifact) {
			var m ocispec.Manifest
			if err := json.Unmarshal(get("manifests/"+desc.Digest.String(), ns), &m); err != nil {
				t.Fatal(err)
			}
			for _, blob := range append(m.Layers, m.Config) {
				if data := get("blobs/"+blob.Digest.String(), ns); blob.Digest.Algorithm().FromBytes(data) != blob.Digest {
					t.Errorf("%s: other bytes", blob.Digest)
				}
			}
		}
		if all := get("referrers/"+index.Digest.String(), ns); !bytes.Contains(all, []byte(artifact.Digest)) || !bytes.Contains(all, []byte(`"k":"v"`)) {
			t.Errorf("%s", all)
		}
		if tags := get("tags/list", ns); !bytes.Contains(tags, []byte(`"v1"`)) {
			t.Errorf("%s", tags)
		}
	}
	pull("?ns=" + up.Host())
	before := up.Stats()
	at = "/v2/" + up.Host() + "/deep/er/than/four/levels/app/"
	pull("")
	after := up.Stats()
	if before.Manifest == 0 || after.Blob != before.Blob {
		t.Errorf("%+v, %+v", before, after)
	}
	for path, n := range up.Paths() {
		if strings.Contains(path, "sha256:") && !strings.Contains(path, "referrers") && n > 1 {
			t.Errorf("%s was asked for %d times", path, n)
		}
	}
	if leaked.Load() {
		t.Error("the client's credentials reached the upstream")
	}
}
