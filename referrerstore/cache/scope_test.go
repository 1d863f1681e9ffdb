package cache

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/disk/disktest"
)

// What one registry says of a manifest's type is not answered as another's word.
func TestMediaTypeOfAnotherScope(t *testing.T) {
	t.Parallel()
	data := []byte(`{"layers":[]}`)
	c := openCache(t, disktest.New(), Options{})
	evil := manifestWant(data)
	evil.Scope.Repository, evil.MediaType = "evil", ""
	lying := newUpstream(data)
	lying.serve = func(context.Context, Want, int64, int) (referrerstore.Pulled, error) {
		said := answer(bytes.NewReader(data), 0, int64(len(data)))
		said.MediaType = "application/evil"
		return said, nil
	}
	mustObtain(t, c, evil, data, lying)
	want := manifestWant(data)
	want.MediaType = ""
	content, err := c.Obtain(t.Context(), want, newUpstream(data))
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	if content.MediaType() != testMediaType {
		t.Errorf("media type %q", content.MediaType())
	}
}

// What is granted while it is taken out is not granted for ever.
func TestGrantOfWhatGoes(t *testing.T) {
	t.Parallel()
	c := openCache(t, disktest.New(), Options{})
	data := noise(100, 1)
	e := c.newEntry(digest.FromBytes(data), int64(len(data)), Blob)
	c.index.insert(e)
	c.index.expel(e)
	c.index.grant(testScope, e, "")
	c.index.bury(e)
	c.index.grant(testScope, e, "")
	if _, granted := c.index.scope(testScope).grants(e.digest); granted {
		t.Error("granted, and not held")
	}
}

// A scope in which nothing is known takes no memory, and comes back.
func TestEmptyScopesAreForgotten(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string]Options{"writing": {}, "read-only": {ReadOnly: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := openCache(t, disktest.New(), opts)
				old := Tag{Descriptor: descriptorOf("x"), At: time.Now().Add(-maxEvidenceAge)}
				for i := range 100 {
					c.SetTag(appScope(fmt.Sprint(i)), "v1", old)
				}
				c.SetTag(testScope, "v1", Tag{Descriptor: descriptorOf("x"), At: time.Now()})
				before := c.index.scopeFor(appScope("0"))
				time.Sleep(2 * c.opts.PruneInterval)
				synctest.Wait()
				if n := len(c.index.all()); n != 1 {
					t.Errorf("%d scopes are known, want 1", n)
				}
				c.SetTag(appScope("0"), "v2", Tag{Descriptor: descriptorOf("x"), At: time.Now()})
				if _, known := c.Tag(appScope("0"), "v2"); !known || c.index.scope(appScope("0")) == before {
					t.Errorf("known %v", known)
				}
				if before.change(func(*scope) {}) {
					t.Error("a scope that is forgotten was changed")
				}
				c.Close()
			})
		})
	}
}

// Whoever has a manifest's bytes for a blob first, in whichever scope, does not keep
// it from being a manifest.
func TestManifestThatWasABlob(t *testing.T) {
	t.Parallel()
	child := digest.FromString("layer")
	data := manifest(false, "a", "", child)
	for _, repository := range []string{"evil", testScope.Repository} {
		for _, put := range []bool{false, true} {
			t.Run(fmt.Sprint(repository, put), func(t *testing.T) {
				t.Parallel()
				folder := disktest.New()
				c := openCache(t, folder, Options{})
				blob := blobWant(data)
				blob.Scope.Repository = repository
				mustObtain(t, c, blob, data, newUpstream(data))
				settle(t, c)
				from := newUpstream(data)
				if put {
					if err := c.Put(manifestWant(data), data); err != nil {
						t.Fatal(err)
					}
				} else {
					mustObtain(t, c, manifestWant(data), data, from)
				}
				check := func(c *Cache) {
					t.Helper()
					mustHold(t, c, manifestWant(data), data)
					if len(c.Parents(testScope, child)) != 1 {
						t.Error("it has no children")
					}
					if _, err := c.Get(blob); err == nil {
						t.Error("it is a blob as well")
					}
				}
				check(c)
				settle(t, c)
				if n := c.index.bytes.Load(); n != int64(len(data)) {
					t.Errorf("%d bytes are held, of %d", n, len(data))
				}
				c.Close()
				check(openCache(t, folder, Options{}))
			})
		}
	}
}
