package cache

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/gatehouse-project/gatehouse/referrerstore/disk"
)

func benchCache(b *testing.B) (*Cache, *disk.Dir) {
	b.Helper()
	dir, err := disk.Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { dir.Close() })
	return openCache(b, dir, Options{Durability: Fast}), dir
}

func BenchmarkGet(b *testing.B) {
	for name, size := range map[string]int{"replica": 2 << 10, "file": 1 << 20} {
		b.Run(name, func(b *testing.B) {
			c, _ := benchCache(b)
			data := noise(size, 1)
			content, err := c.Obtain(b.Context(), blobWant(data), newUpstream(data))
			if err != nil {
				b.Fatal(err)
			}
			io.Copy(io.Discard, content)
			content.Close()
			for c.index.look(blobWant(data).Digest) == nil {
				runtime.Gosched()
			}
			want := blobWant(data)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					content, err := c.Get(want)
					if err != nil {
						b.Error(err)
						return
					}
					content.Close()
				}
			})
		})
	}
}

// manifests puts n manifests of five layers of their own each.
func manifests(b *testing.B, c *Cache, n int) []Want {
	b.Helper()
	wants := make([]Want, n)
	for i := range wants {
		text := fmt.Appendf(nil, `{"mediaType":%q,"config":{"digest":%q},"layers":[`, testMediaType, digest.FromString(fmt.Sprint(i)))
		for l := range 5 {
			text = fmt.Appendf(text, `{"digest":%q},`, digest.FromString(fmt.Sprint(i, l)))
		}
		text = append(text[:len(text)-1], "]}"...)
		wants[i] = manifestWant(text)
		if err := c.Put(wants[i], text); err != nil {
			b.Fatal(err)
		}
		for c.unwritten() > maxUnwritten/64 {
			runtime.Gosched()
		}
	}
	return wants
}

// BenchmarkOpen100k is from Open until the first and the last of 100,000 manifests
// are served.
func BenchmarkOpen100k(b *testing.B) {
	c, dir := benchCache(b)
	wants := manifests(b, c, 100_000)
	if err := c.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		c, err := Open(b.Context(), dir, Options{Durability: Fast})
		if err != nil {
			b.Fatal(err)
		}
		if n := c.index.objects[Manifest].Load(); n != int64(len(wants)) {
			b.Fatalf("%d manifests of %d are held", n, len(wants))
		}
		for _, want := range []Want{wants[0], wants[len(wants)-1]} {
			content, err := c.Get(want)
			if err != nil {
				b.Fatal(err)
			}
			content.Close()
		}
		b.StopTimer()
		c.Close()
		b.StartTimer()
	}
}

// BenchmarkMemoryPerEntry is what an object takes in memory without its bytes: a
// layer, and a manifest of a config and five layers of its own.
func BenchmarkMemoryPerEntry(b *testing.B) {
	const n = 100_000
	for b.Loop() {
		for name, lists := range map[string]int{"blob": 0, "manifest": 6} {
			c := newCache(b.Context(), nil, Options{}.withDefaults(), "")
			before := heapBytes()
			for i := range n {
				r := record{Kind: recordPut, Digest: digest.FromString(fmt.Sprint(i))}
				for l := range lists {
					r.Lists = append(r.Lists, digest.FromString(fmt.Sprint(i, l)))
				}
				c.apply(r)
				c.apply(record{Kind: recordGrant, Scope: testScope, Digest: r.Digest, MediaType: testMediaType})
			}
			b.ReportMetric(float64(heapBytes()-before)/n, "B/"+name)
			c.cancel(nil)
			runtime.KeepAlive(c)
		}
	}
}

func heapBytes() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkJournalPerEntry is what a manifest of six takes in the journal.
func BenchmarkJournalPerEntry(b *testing.B) {
	e := &entry{digest: digest.FromString("x"), size: 2000, kind: Manifest, created: 1_800_000_000}
	for l := range 6 {
		e.lists = append(e.lists, digest.FromString(fmt.Sprint(l)))
	}
	n := 0
	for b.Loop() {
		line, err := json.Marshal(putRecord(e))
		if err != nil {
			b.Fatal(err)
		}
		n = len(line)
	}
	b.ReportMetric(float64(n), "B/manifest")
}
