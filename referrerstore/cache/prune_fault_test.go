package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/disk"
	"github.com/gatehouse-project/gatehouse/referrerstore/disk/disktest"
)

// filled is a cache with three images, of which one is pinned and two are old, and
// the digests of the first.
func filled(t *testing.T, ctx context.Context, folder *disktest.Folder) (c *Cache, pinned, old []digest.Digest) {
	t.Helper()
	opts := quiet()
	opts.ReplicaBytes = 1 // so that files are read
	c = mustOpen(t, ctx, folder, opts)
	app := appScope("app")
	base := mustPut(t, c, app, Blob, []byte("base"))
	for i := range 3 {
		own := mustPut(t, c, app, Blob, bytes.Repeat([]byte{byte(i)}, 100+i))
		image := mustPut(t, c, app, Manifest, manifest(false, fmt.Sprint(i), "", own, base))
		if i == 0 {
			pinned = []digest.Digest{image, own, base}
		} else {
			old = append(old, image, own)
		}
	}
	if err := c.Pin(ctx, Pin{Registry: "r.io", Repository: "app", Digest: pinned[0]}); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	time.Sleep(2 * time.Hour)
	c.index.touch(c.index.look(pinned[0]), time.Now().Unix())
	return c, pinned, old
}

// work is what the tests let fail at each of its operations.
func work(ctx context.Context, c *Cache) error {
	_, err := c.Prune(ctx, PruneRequest{All: true}, nil)
	err = errors.Join(err, c.flush(ctx, staleRecency))
	synctest.Wait()
	return err
}

func operations(t *testing.T) (n int) {
	t.Helper()
	inBubble(t, func(t *testing.T, ctx context.Context) {
		folder := disktest.New()
		c, _, old := filled(t, ctx, folder)
		before := folder.Ops()
		if err := work(ctx, c); err != nil {
			t.Error(err)
		}
		n = folder.Ops() - before
		if has(c, old[0]) {
			t.Error("nothing was pruned")
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// TestDiskFailsAtEveryOperation of pruning and flushing: what is pinned can be read,
// nothing is left half dropped, and the next run ends what this one began.
func TestDiskFailsAtEveryOperation(t *testing.T) {
	t.Parallel()
	n := operations(t)
	if n < 5 {
		t.Fatalf("only %d operations", n)
	}
	for _, failure := range []error{syscall.EIO, syscall.ENOSPC} {
		failures := 0
		defer func() {
			if failures < 2 {
				t.Errorf("%v: only %d of %d operations made it fail", failure, failures, n)
			}
		}()
		for k := 1; k <= n; k++ {
			inBubble(t, func(t *testing.T, ctx context.Context) {
				folder := disktest.New()
				c, pinned, old := filled(t, ctx, folder)
				folder.FailAt(folder.Ops()+k, failure)
				failed := work(ctx, c)
				if failed != nil {
					failures++
				}
				folder.Heal()
				time.Sleep(time.Minute) // until the disk is tried again
				if err := work(ctx, c); err != nil {
					t.Errorf("operation %d of %d, %v: once it was mended: %v", k, n, failure, err)
				}
				for _, d := range old {
					if has(c, d) {
						t.Errorf("operation %d of %d, %v: %s is still held (%v)", k, n, failure, d, failed)
					}
				}
				if err := c.sweep(); err != nil {
					t.Error(err)
				}
				checkIndex(t, c, folder.Names())
				if err := c.Close(); err != nil {
					t.Error(err)
				}
				c = mustOpen(t, ctx, folder, c.opts)
				checkHeld(t, c, pinned)
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// TestCrashAtEveryOperation of pruning and flushing: what is pinned is there, and
// what is there is right.
func TestCrashAtEveryOperation(t *testing.T) {
	t.Parallel()
	n := operations(t)
	for _, mode := range []disktest.Mode{disktest.Kill(), disktest.PowerCut(0), disktest.PowerCut(1), disktest.PowerCut(2)} {
		for k := 1; k <= n; k++ {
			inBubble(t, func(t *testing.T, ctx context.Context) {
				folder := disktest.New()
				c, pinned, old := filled(t, ctx, folder)
				folder.FailFrom(folder.Ops()+k, disktest.ErrCrashed)
				work(ctx, c)
				after := folder.Crash(mode)
				c.Close()
				c = mustOpen(t, ctx, after, c.opts)
				checkHeld(t, c, pinned)
				for _, d := range old {
					if e := c.index.look(d); e != nil && len(e.in) > 0 {
						readAll(t, c, appScope("app"), e.kind, d)
					}
				}
				synctest.Wait()
				checkIndex(t, c, after.Names())
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func checkHeld(t *testing.T, c *Cache, pinned []digest.Digest) {
	t.Helper()
	if len(c.Pins()) != 1 {
		t.Errorf("%d pins", len(c.Pins()))
	}
	for _, d := range pinned {
		e := c.index.look(d)
		if e == nil {
			t.Fatalf("%s was pinned and has gone", d)
		}
		readAll(t, c, appScope("app"), e.kind, d)
	}
}

// TestNothingIsWrittenOnHits, and what is flushed is there after a restart.
func TestFlush(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, ctx context.Context) {
		folder := disktest.New()
		opts := quiet()
		opts.FlushInterval = time.Minute
		c := mustOpen(t, ctx, folder, opts)
		app := appScope("app")
		layer := mustPut(t, c, app, Blob, []byte("layer"))
		image := mustPut(t, c, app, Manifest, manifest(false, "image", "", layer))
		time.Sleep(30 * time.Minute)
		before := folder.Ops()
		readAll(t, c, app, Manifest, image)
		time.Sleep(10 * time.Minute)
		if got := folder.Ops(); got != before {
			t.Errorf("%d operations for a hit half an hour later", got-before)
		}
		time.Sleep(30 * time.Minute)
		readAll(t, c, app, Blob, layer)
		pulled := c.index.look(image).pulled.Load()
		time.Sleep(2 * time.Minute)
		if got := folder.Ops(); got == before {
			t.Error("nothing was flushed")
		}
		crashed := folder.Crash(disktest.Kill())
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		c = mustOpen(t, ctx, crashed, opts)
		defer c.Close()
		if got := c.index.look(image).pulled.Load(); got != pulled {
			t.Errorf("pulled at %d after a crash, want %d", got, pulled)
		}
	})
}

// shelf is a registry of the contents that it has.
type shelf struct {
	contents map[digest.Digest][]byte
	pulls    atomic.Int64
}

func (s *shelf) Pull(_ context.Context, want Want, _ int64) (referrerstore.Pulled, error) {
	s.pulls.Add(1)
	data := s.contents[want.Digest]
	return referrerstore.Pulled{Body: io.NopCloser(bytes.NewReader(data)), Size: int64(len(data)), MediaType: want.MediaType, Digest: want.Digest}, nil
}

func (s *shelf) Confirm(context.Context, Want) error { return nil }

// TestPruneWhilePulling drops all that may be, again and again, without any lease,
// while the same images are pulled: no pull fails, and no byte is wrong.
func TestPruneWhilePulling(t *testing.T) {
	t.Parallel()
	folder, err := disk.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	opts := quiet()
	opts.Lease, opts.Durability = time.Nanosecond, Fast
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	c := mustOpen(t, t.Context(), folder, opts)
	from := &shelf{contents: make(map[digest.Digest][]byte)}
	wants := stock(from)
	var group sync.WaitGroup
	var read, dropped atomic.Int64
	for range 4 {
		group.Go(func() {
			for ctx.Err() == nil {
				if err := pullOne(c, wants[rand.IntN(len(wants))], from); err != nil {
					t.Error(err)
					return
				}
				read.Add(1)
			}
		})
	}
	group.Go(func() {
		for ctx.Err() == nil {
			done, err := c.Prune(t.Context(), PruneRequest{All: true}, nil)
			if err != nil {
				t.Errorf("prune: %v", err)
				return
			}
			dropped.Add(int64(done.Objects))
		}
	})
	group.Wait()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if read.Load() == 0 || dropped.Load() == 0 {
		t.Errorf("%d pulled, %d dropped", read.Load(), dropped.Load())
	}
	t.Logf("%d pulled, %d from the registry, %d dropped", read.Load(), from.pulls.Load(), dropped.Load())
}

// stock puts images with a common base on a shelf.
func stock(s *shelf) (wants []Want) {
	add := func(kind Kind, data []byte) digest.Digest {
		d := digest.FromBytes(data)
		s.contents[d] = data
		wants = append(wants, Want{Scope: appScope("app"), Digest: d, Kind: kind, Size: -1})
		return d
	}
	base := add(Blob, bytes.Repeat([]byte("base"), 50_000))
	for i := range 4 {
		own := add(Blob, bytes.Repeat([]byte{byte(i)}, 1000))
		add(Manifest, manifest(false, fmt.Sprint(i), "", own, base))
	}
	return wants
}

func pullOne(c *Cache, want Want, from *shelf) error {
	content, err := c.Obtain(context.Background(), want, from)
	if err != nil {
		return fmt.Errorf("obtain: %w", err)
	}
	defer content.Close()
	data, err := io.ReadAll(content)
	if err != nil || !bytes.Equal(data, from.contents[want.Digest]) {
		return fmt.Errorf("read %s: %d bytes: %w", want.Digest, len(data), err)
	}
	return nil
}
