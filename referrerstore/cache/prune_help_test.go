package cache

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore/disk"
)

// fataler is what helpers need of a test, be it one of package rapid.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// quiet are options whose background does nothing while a test runs.
func quiet() Options {
	return Options{PruneInterval: 1000 * time.Hour, FlushInterval: 1000 * time.Hour, Lease: 10 * time.Minute}
}

func mustOpen(t fataler, ctx context.Context, folder disk.Folder, opts Options) *Cache {
	t.Helper()
	c, err := Open(ctx, folder, opts)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return c
}

func appScope(repository string) Scope { return Scope{Registry: "r.io", Repository: repository} }

// mustPut puts content and waits until the disk has it, in a bubble of synctest.
func mustPut(t fataler, c *Cache, scope Scope, kind Kind, data []byte) digest.Digest {
	t.Helper()
	d := digest.FromBytes(data)
	want := Want{Scope: scope, Digest: d, Kind: kind, Size: int64(len(data))}
	if kind == Manifest {
		want.MediaType = ocispec.MediaTypeImageManifest
	}
	if err := c.Put(want, data); err != nil {
		t.Fatalf("put: %v", err)
	}
	return d
}

// manifest is one that lists layers, or manifests if it is an index.
func manifest(index bool, name string, subject digest.Digest, lists ...digest.Digest) []byte {
	type desc struct {
		Digest digest.Digest `json:"digest"`
	}
	descs := make([]desc, len(lists))
	for i, d := range lists {
		descs[i].Digest = d
	}
	doc := map[string]any{"schemaVersion": 2, "annotations": map[string]string{"name": name}}
	if index {
		doc["manifests"] = descs
	} else {
		doc["layers"] = descs
	}
	if subject != "" {
		doc["subject"] = desc{subject}
	}
	data, err := json.Marshal(doc)
	if err != nil {
		panic(err)
	}
	return data
}

func tagTo(d digest.Digest) Tag {
	return Tag{Descriptor: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: 1}, At: time.Now()}
}

func has(c *Cache, d digest.Digest) bool { return c.index.look(d) != nil }

func mustPrune(t fataler, c *Cache, req PruneRequest) Pruned {
	t.Helper()
	done, err := c.Prune(context.Background(), req, nil)
	if err != nil {
		t.Fatalf("prune: %v", err)
	}
	return done
}

func readAll(t fataler, c *Cache, scope Scope, kind Kind, d digest.Digest) []byte {
	t.Helper()
	content, err := c.Get(Want{Scope: scope, Digest: d, Kind: kind, Size: -1})
	if err != nil {
		t.Fatalf("get %s: %v", d, err)
	}
	defer content.Close()
	data, err := io.ReadAll(content)
	if err != nil || digest.FromBytes(data) != d {
		t.Fatalf("read %s: %d bytes, %v", d, len(data), err)
	}
	return data
}

// checkIndex recomputes from the objects what the index says of them, and compares
// the files with it. Nobody may use the cache meanwhile.
func checkIndex(t fataler, c *Cache, files []string) {
	t.Helper()
	var bytes int64
	var objects [kinds]int64
	edges := [2]map[digest.Digest]map[*entry]bool{{}, {}}
	edge := func(by int, d digest.Digest, e *entry) {
		if edges[by][d] == nil {
			edges[by][d] = make(map[*entry]bool)
		}
		edges[by][d][e] = true
	}
	held := make(map[digest.Digest]*entry)
	c.index.each(func(e *entry) bool {
		if e.dying != nil || held[e.digest] != nil {
			t.Fatalf("%s is dying, or met twice", e.digest)
		}
		held[e.digest] = e
		bytes += e.size
		objects[e.kind]++
		for _, d := range e.lists {
			edge(0, d, e)
		}
		if e.subject != "" {
			edge(1, e.subject, e)
		}
		for _, s := range e.in {
			if _, granted := s.grants(e.digest); !granted {
				t.Fatalf("%s has a scope that does not grant it", e.digest)
			}
		}
		return true
	})
	if got := c.index.bytes.Load(); got != bytes {
		t.Fatalf("%d bytes counted, %d held", got, bytes)
	}
	for kind := range objects {
		if got := c.index.objects[kind].Load(); got != objects[kind] {
			t.Fatalf("%d objects of kind %d counted, %d held", got, kind, objects[kind])
		}
	}
	for by, relation := range []relation{byList, bySubject} {
		got := make(map[digest.Digest]map[*entry]bool)
		for i := range c.index.shards {
			for d, k := range relation(&c.index.shards[i]) {
				got[d] = make(map[*entry]bool)
				for _, e := range k.all {
					got[d][e] = true
				}
			}
		}
		if !maps.EqualFunc(got, edges[by], maps.Equal) {
			t.Fatalf("edges of relation %d are not those of what is held: %d, want %d", by, len(got), len(edges[by]))
		}
	}
	for _, s := range c.index.all() {
		for d := range s.granted {
			if e := held[d]; e == nil || !slices.Contains(e.in, s) {
				t.Fatalf("%s is granted and not held, or does not know of it", d)
			}
		}
	}
	checkFiles(t, held, files)
}

func checkFiles(t fataler, held map[digest.Digest]*entry, files []string) {
	t.Helper()
	there := make(map[digest.Digest]bool)
	for _, name := range files {
		if strings.HasPrefix(name, ingestDir+"/") {
			t.Fatalf("%s was left", name)
		}
		if parts := strings.Split(name, "/"); parts[0] == blobsDir {
			d := digest.NewDigestFromEncoded(digest.Algorithm(parts[1]), parts[2])
			there[d] = true
			if held[d] == nil {
				t.Fatalf("%s is there, and not known", name)
			}
		}
	}
	for d, e := range held {
		if !there[d] && !e.loose.Load() && e.unwritten.Load() == nil {
			t.Fatalf("%s is held, and has no file", d)
		}
	}
}

// inBubble runs a test on a clock of its own.
func inBubble(t *testing.T, test func(t *testing.T, ctx context.Context)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		test(t, ctx)
	})
}
