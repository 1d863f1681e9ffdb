package cache

import (
	"context"
	"fmt"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"pgregory.net/rapid"

	"github.com/gatehouse-project/gatehouse/referrerstore/disk/disktest"
)

// model knows of a cache only what was put in, asked for and pinned.
type model struct {
	ctx    context.Context
	folder *disktest.Folder
	cache  *Cache
	serial int
	put    []digest.Digest           // all that ever was
	kinds  map[digest.Digest]Kind    // of them
	scopes map[digest.Digest][]Scope // that they were put for
	lists  map[digest.Digest][]digest.Digest
	used   map[digest.Digest]time.Time
	open   []*Content
}

func (m *model) remember(t *rapid.T, scope Scope, kind Kind, data []byte, lists ...digest.Digest) digest.Digest {
	held := has(m.cache, digest.FromBytes(data))
	d := mustPut(t, m.cache, scope, kind, data)
	if !slices.Contains(m.put, d) {
		m.put = append(m.put, d)
	}
	m.kinds[d], m.lists[d] = kind, lists
	m.scopes[d] = append(m.scopes[d], scope)
	if !held {
		m.used[d] = time.Now()
	}
	return d
}

func (m *model) scope(t *rapid.T) Scope {
	return Scope{Registry: "r.io", Repository: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "repository"), Identity: rapid.SampledFrom([]string{"", "me"}).Draw(t, "identity")}
}

func (m *model) any(t *rapid.T, kind Kind) digest.Digest {
	all := slices.DeleteFunc(slices.Clone(m.put), func(d digest.Digest) bool { return m.kinds[d] != kind })
	if len(all) == 0 {
		t.Skip("there is none")
	}
	return rapid.SampledFrom(all).Draw(t, "digest")
}

func (m *model) image(t *rapid.T) {
	m.serial++
	scope := m.scope(t)
	lists := []digest.Digest{
		m.remember(t, scope, Blob, fmt.Appendf(nil, "base %d", rapid.IntRange(0, 2).Draw(t, "base"))),
		m.remember(t, scope, Blob, fmt.Appendf(nil, "own %d", m.serial)),
	}
	if rapid.Bool().Draw(t, "artifact") && len(m.put) > 10 {
		m.remember(t, scope, Manifest, manifest(false, fmt.Sprint(m.serial), m.any(t, Manifest), lists...), lists...)
		return
	}
	m.remember(t, scope, Manifest, manifest(false, fmt.Sprint(m.serial), "", lists...), lists...)
}

func (m *model) index(t *rapid.T) {
	m.serial++
	lists := []digest.Digest{m.any(t, Manifest), m.any(t, Manifest)}
	m.remember(t, m.scope(t), Manifest, manifest(true, fmt.Sprint(m.serial), "", lists...), lists...)
}

func (m *model) tag(t *rapid.T) {
	d := m.any(t, Manifest)
	m.cache.SetTag(m.scopes[d][0], rapid.SampledFrom([]string{"v1", "v2", "v3"}).Draw(t, "tag"), tagTo(d))
}

func (m *model) pin(t *rapid.T) {
	pin := Pin{Registry: "r.io", Repository: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "repository")}
	if rapid.Bool().Draw(t, "by tag") {
		pin.Tag = "v1"
	} else {
		pin.Digest = m.any(t, Manifest)
	}
	if err := m.cache.Pin(m.ctx, pin); err != nil {
		t.Fatal(err)
	}
}

func (m *model) unpin(t *rapid.T) {
	pins := m.cache.Pins()
	if len(pins) == 0 {
		t.Skip("there is none")
	}
	if removed, err := m.cache.Unpin(m.ctx, rapid.SampledFrom(pins).Draw(t, "pin")); !removed || err != nil {
		t.Fatal(removed, err)
	}
}

func (m *model) get(t *rapid.T) {
	d := m.any(t, rapid.SampledFrom([]Kind{Blob, Manifest}).Draw(t, "kind"))
	content, err := m.cache.Get(Want{Scope: m.scopes[d][0], Digest: d, Kind: m.kinds[d], Size: -1})
	if err != nil {
		return
	}
	m.used[d] = time.Now()
	if rapid.Bool().Draw(t, "stay") {
		m.open = append(m.open, content)
		return
	}
	content.Close()
}

func (m *model) finish(t *rapid.T) {
	for _, content := range m.open {
		data, err := io.ReadAll(content)
		if err != nil || digest.FromBytes(data) != content.Digest() || !has(m.cache, content.Digest()) {
			t.Fatalf("what was being read: %d bytes, %v, held %v", len(data), err, has(m.cache, content.Digest()))
		}
		content.Close()
	}
	m.open = nil
}

// pinned are those that pins name now, with what is below them.
func (m *model) pinned() map[digest.Digest]bool {
	all := make(map[digest.Digest]bool)
	var add func(digest.Digest)
	add = func(d digest.Digest) {
		all[d] = true
		if !has(m.cache, d) {
			return // what it lists is not known then
		}
		for _, child := range m.lists[d] {
			add(child)
		}
	}
	for _, pin := range m.cache.Pins() {
		if pin.Digest != "" {
			add(pin.Digest)
		}
		for _, identity := range []string{"", "me"} {
			if is, known := m.cache.Tag(Scope{Registry: pin.Registry, Repository: pin.Repository, Identity: identity}, pin.Tag); known {
				add(is.Descriptor.Digest)
			}
		}
	}
	return all
}

func (m *model) request(t *rapid.T) PruneRequest {
	now := time.Now()
	switch rapid.IntRange(0, 4).Draw(t, "request") {
	case 0:
		return PruneRequest{PulledBefore: now.Add(-time.Duration(rapid.IntRange(0, 240).Draw(t, "minutes")) * time.Minute)}
	case 1:
		return PruneRequest{CreatedBefore: now.Add(-time.Duration(rapid.IntRange(0, 240).Draw(t, "minutes")) * time.Minute)}
	case 2:
		return PruneRequest{ToBytes: rapid.Int64Range(1, max(1, m.cache.index.bytes.Load())).Draw(t, "bytes")}
	case 3:
		match, err := ParseMatch(rapid.SampledFrom([]string{"r.io/a:v1", "r.io/a", "r.io/**", "r.io/b:v*"}).Draw(t, "match"))
		if err != nil {
			t.Fatal(err)
		}
		return PruneRequest{Match: match}
	default:
		return PruneRequest{All: true}
	}
}

func (m *model) prune(t *rapid.T) {
	synctest.Wait()
	before := make(map[digest.Digest]bool)
	for _, d := range m.put {
		before[d] = has(m.cache, d)
	}
	pinned := m.pinned()
	req := m.request(t)
	req.DryRun = true
	dry := mustPrune(t, m.cache, req)
	for d, held := range before {
		if has(m.cache, d) != held {
			t.Fatal("a dry run dropped something")
		}
	}
	req.DryRun, dry.DryRun = false, false
	if diff := cmp.Diff(dry, mustPrune(t, m.cache, req)); diff != "" {
		t.Fatalf("the dry run said otherwise (-dry +real): %s", diff)
	}
	for d, held := range before {
		if !held || has(m.cache, d) {
			continue
		}
		if pinned[d] {
			t.Fatalf("%s was pinned", d)
		}
		if time.Since(m.used[d]) < m.cache.opts.Lease-time.Minute {
			t.Fatalf("%s was used %s ago", d, time.Since(m.used[d]))
		}
		for _, parent := range m.put {
			if slices.Contains(m.lists[parent], d) && has(m.cache, parent) {
				t.Fatalf("%s was dropped though %s lists it", d, parent)
			}
		}
	}
}

func (m *model) restart(t *rapid.T) {
	m.finish(t)
	synctest.Wait()
	before := make(map[digest.Digest]int64)
	m.cache.index.each(func(e *entry) bool {
		if _, listed := m.cache.index.listed(e.digest); !listed {
			before[e.digest] = e.pulled.Load()
		}
		return true
	})
	bytes, pins := m.cache.index.bytes.Load(), m.cache.Pins()
	if err := m.cache.Close(); err != nil {
		t.Fatal(err)
	}
	m.cache = mustOpen(t, m.ctx, m.folder, m.cache.opts)
	if got := m.cache.index.bytes.Load(); got != bytes {
		t.Fatalf("%d bytes after a restart, want %d", got, bytes)
	}
	if diff := cmp.Diff(pins, m.cache.Pins()); diff != "" {
		t.Fatalf("pins after a restart: %s", diff)
	}
	for d, pulled := range before {
		if e := m.cache.index.look(d); e == nil || e.pulled.Load() != pulled {
			t.Fatalf("%s is not held as before", d)
		}
	}
}

// TestPruneModel holds, after any history, that the index says what recomputing it
// says, and that nothing went that must not.
func TestPruneModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		var failure any // is told on the goroutine that package rapid listens on
		inBubble(t, func(_ *testing.T, ctx context.Context) {
			defer func() { failure = recover() }()
			checkModel(r, ctx)
		})
		switch {
		case failure == nil:
		case fmt.Sprintf("%T", failure) == "rapid.invalidData":
			panic(failure) // the case is none
		default:
			r.Fatalf("%v", failure)
		}
	})
}

func checkModel(t *rapid.T, ctx context.Context) {
	folder := disktest.New()
	m := &model{
		ctx: ctx, folder: folder, cache: mustOpen(t, ctx, folder, quiet()), kinds: make(map[digest.Digest]Kind), scopes: make(map[digest.Digest][]Scope),
		lists: make(map[digest.Digest][]digest.Digest), used: make(map[digest.Digest]time.Time),
	}
	defer func() {
		if err := m.cache.Close(); err != nil {
			t.Fatal(err)
		}
	}()
	t.Repeat(map[string]func(*rapid.T){
		"image": m.image, "another": m.image, "index": m.index, "tag": m.tag, "pin": m.pin, "unpin": m.unpin,
		"get": m.get, "finish": m.finish, "prune": m.prune, "again": m.prune, "restart": m.restart,
		"wait": func(t *rapid.T) { time.Sleep(time.Duration(rapid.IntRange(1, 100).Draw(t, "minutes")) * time.Minute) },
		"flush": func(t *rapid.T) {
			if err := m.cache.flush(ctx, staleRecency); err != nil {
				t.Fatal(err)
			}
		},
		"": func(t *rapid.T) {
			synctest.Wait()
			checkIndex(t, m.cache, folder.Names())
		},
	})
	m.finish(t)
}
