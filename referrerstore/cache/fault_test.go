package cache

import (
	"bytes"
	"context"
	"io"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/disk/disktest"
)

// item is content, what asks for it, and where it comes from.
type item struct {
	want Want
	data []byte
	from *upstream
}

func served(data []byte, kind Kind) item {
	want := blobWant(data)
	want.Kind = kind
	return item{want, data, newUpstream(data)}
}

// I8: whichever operation of the disk fails, all that is asked for is answered,
// and rightly, and what was held is still served.
func TestDiskFailsAtEachOperation(t *testing.T) {
	t.Parallel()
	held := served(noise(80<<10, 9), Blob)
	all := []item{served(noise(1000, 1), Blob), served(noise(140<<10, 2), Blob), served(noise(5000, 3), Manifest), served(noise(70<<10, 4), Blob)}
	run := func(t *testing.T, k int, fault error) (ops int) {
		t.Helper()
		folder := disktest.New()
		c, err := Open(t.Context(), folder, Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		mustObtain(t, c, held.want, held.data, held.from)
		synctest.Wait()
		before := folder.Ops()
		if k > 0 {
			folder.FailAt(before+k, fault)
		}
		for _, it := range all {
			mustObtain(t, c, it.want, it.data, it.from)
			synctest.Wait()
			mustObtain(t, c, it.want, it.data, it.from)
			mustObtain(t, c, held.want, held.data, held.from)
		}
		ops = folder.Ops() - before
		// After a while all is as it should be, whatever it was.
		time.Sleep(5 * probeInterval)
		synctest.Wait()
		if state, problem := c.health.state(); state != stateOK {
			t.Errorf("it is %s for ever: %s", state, problem)
		}
		for _, it := range all {
			mustObtain(t, c, it.want, it.data, it.from)
			synctest.Wait()
			mustHold(t, c, it.want, it.data)
		}
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		again := openCache(t, folder, Options{})
		for _, it := range all {
			mustHold(t, again, it.want, it.data)
		}
		again.Close()
		return ops
	}
	var ops int
	synctest.Test(t, func(t *testing.T) { ops = run(t, 0, nil) })
	if ops < 30 {
		t.Fatalf("only %d operations: this tests nothing", ops)
	}
	for _, fault := range []syscall.Errno{syscall.ENOSPC, syscall.EIO} {
		for k := 1; k <= ops; k++ {
			synctest.Test(t, func(t *testing.T) {
				defer func() {
					if t.Failed() {
						t.Logf("%v at operation %d", fault, k)
					}
				}()
				run(t, k, fault)
			})
			if t.Failed() {
				return
			}
		}
	}
}

// A disk that is full while a blob arrives: who follows it gets it all the same,
// each by a pull of his own, and so does who comes after him; once there is room
// again it is kept again.
func TestDiskFullInMidIngest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		folder := disktest.New()
		registry := prometheus.NewRegistry()
		c := openCache(t, folder, Options{Registerer: registry})
		data := noise(500<<10, 1)
		held := noise(1000, 2)
		mustObtain(t, c, blobWant(held), held, newUpstream(held))
		synctest.Wait()
		from := newUpstream(data)
		gates := slowly(from, data)
		content, err := c.Obtain(t.Context(), blobWant(data), from)
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
		from.mu.Lock()
		from.serve = nil
		from.mu.Unlock()
		gate.more <- len(data)
		rest, err := read(content, nil)
		if err != nil || !bytes.Equal(append(got, rest...), data) {
			t.Fatalf("%d bytes behind those that were read, %v", len(rest), err)
		}
		if n := from.count(content.Digest()); n != 2 {
			t.Errorf("%d pulls, want the shared one and one's own", n)
		}
		if state, _ := c.health.state(); state != stateFull {
			t.Errorf("state %s", state)
		}
		mustHold(t, c, blobWant(held), held)
		mustObtain(t, c, blobWant(data), data, from)
		mustMiss(t, c, blobWant(data))
		small := noise(1000, 3)
		mustObtain(t, c, blobWant(small), small, newUpstream(small))
		mustHold(t, c, blobWant(small), small)
		folder.List(ingestDir, func(name string, _ bool) error {
			t.Errorf("%s is left", name)
			return nil
		})
		want := "# HELP gatehouse_cache_state 1 for the state that the disk is in.\n# TYPE gatehouse_cache_state gauge\n" +
			"gatehouse_cache_state{state=\"failing\"} 0\ngatehouse_cache_state{state=\"full\"} 1\ngatehouse_cache_state{state=\"ok\"} 0\ngatehouse_cache_state{state=\"read-only\"} 0\n"
		if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "gatehouse_cache_state"); err != nil {
			t.Error(err)
		}

		folder.Capacity(1 << 30)
		time.Sleep(3 * probeInterval)
		synctest.Wait()
		mustObtain(t, c, blobWant(data), data, from)
		synctest.Wait()
		mustHold(t, c, blobWant(data), data)
		if state, problem := c.health.state(); state != stateOK {
			t.Errorf("state %s: %s", state, problem)
		}
		c.Close()
		again := openCache(t, folder, Options{})
		mustHold(t, again, blobWant(small), small) // it was only in memory, and is written now
		again.Close()
	})
}

// Of what the disk does not take, only so much stays as the replica holds.
func TestReadOnlyDiskIsPassedBy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		folder := disktest.New()
		c := openCache(t, folder, Options{ReplicaBytes: 64 << 10})
		folder.ReadOnly(true)
		var all [][]byte
		for i := range 100 {
			data := noise(5000, byte(i))
			all = append(all, data)
			mustObtain(t, c, blobWant(data), data, newUpstream(data))
		}
		synctest.Wait()
		if state, _ := c.health.state(); state != stateReadOnly {
			t.Errorf("state %s", state)
		}
		for _, data := range all {
			mustObtain(t, c, blobWant(data), data, newUpstream(data))
		}
		time.Sleep(2 * probeInterval)
		synctest.Wait()
		n := 0
		c.index.each(func(*entry) bool { n++; return true })
		if n > 20 || c.replica.bytes() > 64<<10 {
			t.Errorf("%d objects and %d bytes are in memory", n, c.replica.bytes())
		}
		c.Close()
	})
}

// More than the queue to the disk takes is answered as well.
func TestSlowDiskIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		folder := disktest.New()
		c := openCache(t, folder, Options{})
		on := make(chan struct{})
		folder.Before(func(op disktest.Op) error {
			if op.Kind == "create" {
				<-on
			}
			return nil
		})
		for i := range 12 { // 48 MiB
			data := noise(MaxManifest, byte(i))
			mustObtain(t, c, manifestWant(data), data, newUpstream(data))
		}
		if n := c.unwritten(); n == 0 || n > maxUnwritten {
			t.Errorf("%d bytes wait for the disk", n)
		}
		close(on)
		synctest.Wait()
		if n := c.unwritten(); n != 0 {
			t.Errorf("%d bytes still wait for the disk", n)
		}
		c.Close()
	})
}

// What is larger than all that the cache may hold is passed on, also if nobody
// knew before that it is.
func TestLargerThanTheCache(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		folder := disktest.New()
		c := openCache(t, folder, Options{MaxBytes: 200 << 10})
		data := noise(300<<10, 1)
		from := newUpstream(data)
		unsized := blobWant(data)
		unsized.Size = -1
		for _, want := range []Want{blobWant(data), unsized} {
			content, err := c.Obtain(t.Context(), want, from)
			if err != nil {
				t.Fatal(err)
			}
			if end, err := content.Seek(-100, io.SeekEnd); err != nil || end != int64(len(data)-100) {
				t.Fatalf("seek: %d, %v", end, err)
			}
			if got, err := io.ReadAll(content); err != nil || !bytes.Equal(got, data[len(data)-100:]) {
				t.Errorf("end: %d bytes, %v", len(got), err)
			}
			content.Seek(0, io.SeekStart) // which takes another pull
			if got, err := read(content, nil); err != nil || !bytes.Equal(got, data) {
				t.Errorf("all: %d bytes, %v", len(got), err)
			}
			mustMiss(t, c, want)
		}
		from.serve = func(_ context.Context, _ Want, offset int64, _ int) (referrerstore.Pulled, error) {
			return answer(bytes.NewReader(data[offset:]), offset, -1), nil
		}
		mustObtain(t, c, unsized, data, from)
		c.Close()
	})
}
