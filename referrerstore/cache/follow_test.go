package cache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/disk/disktest"
)

// Whoever has read what was not proven before the disk was full gets the end of
// another pull only if it begins with the same.
func TestAnotherPullBeginsOtherwise(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{500 << 10, -1} {
		synctest.Test(t, func(t *testing.T) {
			folder := disktest.New()
			c := openCache(t, folder, Options{})
			data := noise(500<<10, 1)
			lie := bytes.Clone(data)
			lie[0] ^= 1
			from := newUpstream(data)
			gates := make(chan *gated, 2)
			from.serve = func(ctx context.Context, _ Want, offset int64, n int) (referrerstore.Pulled, error) {
				if n > 1 {
					return answer(bytes.NewReader(data[offset:]), offset, size), nil
				}
				g := newGate(ctx, lie)
				gates <- g
				return answer(g, 0, size), nil
			}
			want := blobWant(data)
			want.Size = size
			content, err := c.Obtain(t.Context(), want, from)
			if err != nil {
				t.Fatal(err)
			}
			gate := <-gates
			gate.more <- 300 << 10
			got := make([]byte, 200<<10)
			if _, err := io.ReadFull(content, got); err != nil {
				t.Fatal(err)
			}
			folder.Capacity(350 << 10)
			gate.more <- len(data)
			rest, err := read(content, nil)
			if err == nil {
				t.Errorf("wrong bytes were read to their end: %v", bytes.Equal(append(got, rest...), data))
			}
			c.Close()
		})
	}
}

// If the registry does not say how large content is, a caller who was told wrong is
// wrong alone.
func TestWrongSizeWhereNobodySays(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cache) {
		for _, size := range []int{500, 300 << 10} {
			data := noise(size, 1)
			from := newUpstream(data)
			gates := make(chan *gated, 4)
			from.serve = func(ctx context.Context, _ Want, offset int64, _ int) (referrerstore.Pulled, error) {
				g := newGate(ctx, data[offset:])
				gates <- g
				return answer(g, offset, -1), nil
			}
			obtain := func(of int) <-chan error {
				want, done := blobWant(data), make(chan error, 1)
				want.Size = int64(of)
				go func() {
					got, err := read(c.Obtain(t.Context(), want, from))
					if err == nil && !bytes.Equal(got, data) {
						err = errors.New("wrong bytes")
					}
					done <- err
				}()
				synctest.Wait()
				return done
			}
			wrong, right, asked := obtain(size-1), obtain(size), obtain(-1)
			gate := <-gates
			gate.more <- size
			go func() {
				for gate := range gates {
					gate.more <- size
				}
			}()
			if err := <-wrong; !errors.Is(err, referrerstore.ErrDigestMismatch) {
				t.Errorf("told wrong: %v", err)
			}
			for _, err := range []error{<-right, <-asked} {
				if err != nil {
					t.Errorf("not told wrong: %v", err)
				}
			}
			close(gates)
		}
	})
}

// Room that an object took on its way is not counted beside the object.
func TestRoomIsCountedOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		folder := disktest.New()
		c := openCache(t, folder, Options{MaxBytes: 1 << 20})
		data := noise(200<<10, 1)
		looked := false
		folder.Before(func(op disktest.Op) error {
			if strings.HasPrefix(op.Name, journalDir) && op.Kind == "write" {
				looked = true
				if n := c.index.bytes.Load() + c.arriving.Load(); n != int64(len(data)) {
					t.Errorf("%d bytes are counted, of %d", n, len(data))
				}
			}
			return nil
		})
		mustObtain(t, c, blobWant(data), data, newUpstream(data))
		synctest.Wait()
		folder.Before(nil)
		if !looked {
			t.Error("nothing was written")
		}
		c.Close()
	})
}

// A disk that was full is full until there is room.
func TestFullUntilThereIsRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		folder := disktest.New()
		c := openCache(t, folder, Options{})
		folder.Put("other", noise(1<<20, 1))
		folder.Capacity(1<<20 + 20<<10)
		c.failed("test", syscall.ENOSPC)
		for range 6 {
			time.Sleep(probeInterval)
			synctest.Wait()
			if state, problem := c.health.state(); state != stateFull {
				t.Fatalf("state %s: %s", state, problem)
			}
		}
		folder.Capacity(1 << 30)
		time.Sleep(3 * probeInterval)
		synctest.Wait()
		if state, problem := c.health.state(); state != stateOK {
			t.Fatalf("state %s: %s", state, problem)
		}
		c.Close()
	})
}

// A pull that is given up while the disk takes it in says nothing of the disk, and
// what it brought is there after a kill.
func TestGivenUpWhileItIsCommitted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		folder := disktest.New()
		c := openCache(t, folder, Options{})
		c.pullsUnderWay.lingering = maxLingering
		data := noise(200<<10, 1)
		on := make(chan struct{})
		folder.Before(func(op disktest.Op) error {
			if strings.HasPrefix(op.Name, journalDir) && op.Kind == "sync" {
				<-on
			}
			return nil
		})
		mustObtain(t, c, blobWant(data), data, newUpstream(data)) // and leaves
		synctest.Wait()
		close(on)
		synctest.Wait()
		if state, problem := c.health.state(); state != stateOK {
			t.Errorf("state %s: %s", state, problem)
		}
		mustHold(t, c, blobWant(data), data)
		again := openCache(t, folder.Crash(disktest.Kill()), Options{})
		mustHold(t, again, blobWant(data), data)
		again.Close()
		c.pullsUnderWay.lingering = 0
		c.Close()
	})
}

// Nobody hashes for a reader who has gone.
func TestProvingEndsWithItsReader(t *testing.T) {
	t.Parallel()
	data := noise(5<<20, 1)
	folder := disktest.New()
	fill(t, folder, Options{}, data)
	folder.Remove(cleanFile)
	c := openCache(t, folder, Options{ReadOnly: true})
	ctx, cancel := context.WithCancel(t.Context())
	content, err := c.Obtain(ctx, blobWant(data), newUpstream(data))
	if err != nil {
		t.Fatal(err)
	}
	content.Seek(100, io.SeekStart)
	read := 0
	folder.Before(func(op disktest.Op) error {
		if op.Kind == "readat" {
			read += op.Bytes
			cancel()
		}
		return nil
	})
	if n, err := content.Read(make([]byte, 10)); n > 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("%d bytes, %v", n, err)
	}
	folder.Before(nil)
	if read > 1<<20 {
		t.Errorf("%d bytes were hashed", read)
	}
	content.Close()
	if state, problem := c.health.state(); state != stateReadOnly || strings.Contains(problem, "read "+blobsDir) {
		t.Errorf("state %s: %s", state, problem)
	}
	mustHold(t, c, blobWant(data), data)
}
