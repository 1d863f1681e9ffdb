package cache

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/gatehouse-project/gatehouse/referrerstore/disk/disktest"
)

// BenchmarkPrune100k drops 100,000 images with a blob of their own each, and a base
// that all share, from a folder in memory. It reports how long a lock was held at
// most 99.9 times of 100, beside the whole time.
func BenchmarkPrune100k(b *testing.B) {
	const number = 100_000
	for b.Loop() {
		b.StopTimer()
		opts := quiet()
		opts.Durability = Fast
		c := mustOpen(b, b.Context(), disktest.New(), opts)
		crowd(c, number)
		r := c.newRun(PruneRequest{All: true}, nil)
		held := make([]time.Duration, 0, 8*number)
		r.held = func(since time.Time) { held = append(held, time.Since(since)) }
		b.StartTimer()
		done, err := r.do(context.WithoutCancel(b.Context()))
		b.StopTimer()
		if err != nil || done.Objects != 2*number+1 {
			b.Fatalf("%+v, %v", done, err)
		}
		slices.Sort(held)
		b.ReportMetric(float64(held[len(held)*999/1000].Nanoseconds()), "p99.9-lock-ns")
		b.ReportMetric(float64(held[len(held)-1].Nanoseconds()), "max-lock-ns")
		b.ReportMetric(float64(done.Objects)/b.Elapsed().Seconds(), "objects/s")
		if err := c.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkPlan100k looks for what to drop among 100,000 images.
func BenchmarkPlan100k(b *testing.B) {
	c := mustOpen(b, b.Context(), disktest.New(), quiet())
	crowd(c, 100_000)
	b.ReportAllocs()
	for b.Loop() {
		if got := len(c.newRun(PruneRequest{All: true}, nil).plan()); got != chunk {
			b.Fatal(got)
		}
	}
	if err := c.Close(); err != nil {
		b.Fatal(err)
	}
}

// crowd makes images known that were pulled days ago.
func crowd(c *Cache, number int) {
	at := time.Now().Add(-100 * 24 * time.Hour).Unix()
	add := func(kind Kind, name string, lists ...digest.Digest) digest.Digest {
		e := &entry{digest: digest.FromString(name), size: 1000, kind: kind, created: at, document: document{lists: lists}}
		e.pulled.Store(at)
		e.proven.Store(true) // or the background would look for its file
		at++
		c.index.insert(e)
		c.index.grant(appScope("app"), e, "")
		e.release()
		return e.digest
	}
	base := add(Blob, "base")
	for i := range number {
		add(Manifest, fmt.Sprint("image ", i), add(Blob, fmt.Sprint("own ", i)), base)
	}
}
