package cache

import (
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/gatehouse-project/gatehouse/referrerstore/disk/disktest"
)

// What stays all the time is met, whatever goes meanwhile.
func TestWalkMissesNothingThatStays(t *testing.T) {
	t.Parallel()
	x := newIndex()
	const all = 300 * shardCount
	parent := make([]*entry, 0, all)
	child := digest.FromString("child")
	for i := range all {
		e := &entry{digest: digest.FromString(fmt.Sprint(i)), document: document{lists: []digest.Digest{child}}}
		x.insert(e)
		e.release()
		parent = append(parent, e)
	}
	met := make(map[*entry]bool)
	gone := make(map[*entry]bool)
	i := 0
	x.each(func(e *entry) bool {
		met[e] = true
		if i++; i%7 == 0 && x.expel(e) {
			x.bury(e)
			gone[e] = true
		}
		return true
	})
	missed := 0
	for _, e := range parent {
		if !met[e] && !gone[e] {
			missed++
		}
	}
	if missed > 0 {
		t.Errorf("%d of %d objects were missed", missed, all)
	}
}

// Indexes within indexes, each level listing all of the next, are looked at once.
func TestPinnedAboveManyIndexes(t *testing.T) {
	c := openCache(t, disktest.New(), quiet())
	subject := digest.FromString("subject")
	below, all := []digest.Digest{subject}, 0
	for level := range maxDepth + 1 {
		var next []digest.Digest
		for i := range few {
			e := &entry{digest: digest.FromString(fmt.Sprint(level, i)), kind: Manifest, document: document{index: true, lists: below}}
			e.proven.Store(true)
			c.index.insert(e)
			e.release()
			next = append(next, e.digest)
			all++
		}
		below = next
	}
	if _, err := c.pins.add(Pin{Registry: "r", Repository: "a", Digest: digest.FromString("another")}); err != nil {
		t.Fatal(err)
	}
	r := c.newRun(PruneRequest{All: true}, nil)
	pinned := false
	if n := testing.AllocsPerRun(1, func() { pinned = r.pinned(subject) }); n > float64(10*all) || pinned {
		t.Errorf("%v allocations, pinned %v", n, pinned)
	}
	r.keeper.digests[digest.FromString(fmt.Sprint(0, 5))] = true
	if !r.pinned(subject) {
		t.Error("an index that lists it is pinned, and it is not")
	}
}

// A dry run takes no longer for what very many manifests list.
func TestDryRunOfManyParents(t *testing.T) {
	c := openCache(t, disktest.New(), quiet())
	config := &entry{digest: digest.FromString("{}")}
	config.proven.Store(true)
	c.index.insert(config)
	config.release()
	const all = 4000
	for i := range all {
		e := &entry{digest: digest.FromString(fmt.Sprint(i)), kind: Manifest, document: document{lists: []digest.Digest{config.digest}}}
		e.proven.Store(true)
		c.index.insert(e)
		e.release()
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	done := mustPrune(t, c, PruneRequest{All: true, DryRun: true})
	runtime.ReadMemStats(&after)
	if got := (after.TotalAlloc - before.TotalAlloc) / all; done.Objects != all+1 || got > 8000 {
		t.Errorf("%+v took %d bytes for each", done, got)
	}
}

// What was pulled ahead of now, by a clock that was wrong, goes by age too.
func TestMaxAgeOfPulledAhead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		opts := quiet()
		opts.MaxAge, opts.PruneInterval = time.Hour, time.Minute
		c := openCache(t, disktest.New(), opts)
		d := mustPut(t, c, testScope, Manifest, manifest(false, "a", ""))
		synctest.Wait()
		c.index.look(d).pulled.Store(time.Now().Add(1000 * time.Hour).Unix())
		time.Sleep(58 * time.Minute)
		if !has(c, d) {
			t.Error("gone before its time")
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if has(c, d) {
			t.Error("still held")
		}
		c.Close()
	})
}

// A prune that is under way ends with the cache: the folder is another's then.
func TestCloseEndsPrune(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		folder := disktest.New()
		c := openCache(t, folder, Options{Lease: time.Second})
		for i := range 10 {
			data := noise(100, byte(i))
			if err := c.Put(manifestWant(data), data); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		time.Sleep(time.Minute)
		on := make(chan struct{})
		met := make(chan struct{}, 100)
		go c.Prune(t.Context(), PruneRequest{All: true}, func(Item) { met <- struct{}{}; <-on })
		<-met
		closed := make(chan struct{})
		go func() { c.Close(); close(closed) }()
		synctest.Wait()
		select {
		case <-closed:
			t.Error("Close did not wait")
		default:
		}
		close(on)
		<-closed
		ops := folder.Ops()
		synctest.Wait()
		if folder.Ops() != ops {
			t.Errorf("%d operations behind Close", folder.Ops()-ops)
		}
	})
}
