package cache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/disk/disktest"
	"github.com/gatehouse-project/gatehouse/referrerstore/flight"
)

// bubble runs a test whose time is its own.
func bubble(t *testing.T, test func(t *testing.T, c *Cache)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := openCache(t, disktest.New(), Options{})
		test(t, c)
		c.Close()
	})
}

// slowly serves a blob as far as the gate that it hands out allows, once for each
// pull.
func slowly(from *upstream, data []byte) <-chan *gated {
	gates := make(chan *gated, 16)
	from.serve = func(ctx context.Context, _ Want, offset int64, _ int) (referrerstore.Pulled, error) {
		g := newGate(ctx, data[offset:])
		gates <- g
		return answer(g, offset, int64(len(data))), nil
	}
	return gates
}

// I4: all who want the same at the same time share one pull, and other keys are
// not held up by it.
func TestOnePullForAll(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cache) {
		for _, size := range []int{1000, 500 << 10} {
			data, other := noise(size, 1), noise(size, 2)
			from := newUpstream(data, other)
			gates := slowly(from, data)
			var all sync.WaitGroup
			for range 200 {
				all.Go(func() {
					got, err := read(c.Obtain(t.Context(), blobWant(data), from))
					if err != nil || !bytes.Equal(got, data) {
						t.Errorf("%d bytes, %v", len(got), err)
					}
				})
			}
			synctest.Wait()
			mustObtain(t, c, blobWant(other), other, newUpstream(other))
			gate := <-gates
			for range 10 {
				gate.more <- size/10 + 1
				synctest.Wait()
			}
			all.Wait()
			if n := from.count(blobWant(data).Digest); n != 1 {
				t.Errorf("%d pulls, want 1", n)
			}
		}
	})
}

// The header is answered before a byte of a large blob has come, and bytes as
// they come, but for the last.
func TestFollowing(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cache) {
		data := noise(300<<10, 1)
		from := newUpstream(data)
		gates := slowly(from, data)
		content, err := c.Obtain(t.Context(), blobWant(data), from)
		if err != nil || content.Size() != int64(len(data)) {
			t.Fatal(err)
		}
		defer content.Close()
		gate := <-gates
		gate.more <- 100 << 10
		got := make([]byte, len(data))
		if n, err := io.ReadFull(content, got[:100<<10]); err != nil {
			t.Fatalf("%d bytes, %v", n, err)
		}
		if _, err := content.Seek(-10, io.SeekEnd); err != nil {
			t.Fatal(err)
		}
		end := make(chan []byte)
		go func() {
			rest, _ := io.ReadAll(content)
			end <- rest
		}()
		gate.more <- len(data) - 100<<10 - 1
		synctest.Wait()
		select {
		case rest := <-end:
			t.Fatalf("the end was handed out before it was proven: %d bytes", len(rest))
		default:
		}
		gate.more <- 1
		if rest := <-end; !bytes.Equal(rest, data[len(data)-10:]) {
			t.Fatalf("the end has %d bytes", len(rest))
		}
	})
}

// I5: who leaves disturbs nobody.
func TestFirstLeaves(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cache) {
		for _, size := range []int{1000, 500 << 10} {
			data := noise(size, 1)
			from := newUpstream(data)
			gates := slowly(from, data)
			ctx, cancel := context.WithCancelCause(t.Context())
			left := make(chan error)
			go func() {
				_, err := read(c.Obtain(ctx, blobWant(data), from))
				left <- err
			}()
			gate := <-gates
			stayed := make(chan error)
			go func() {
				got, err := read(c.Obtain(t.Context(), blobWant(data), from))
				if err == nil && !bytes.Equal(got, data) {
					err = errors.New("other bytes")
				}
				stayed <- err
			}()
			synctest.Wait()
			why := errors.New("no more interest")
			cancel(why)
			if err := <-left; !errors.Is(err, why) {
				t.Errorf("who left got %v", err)
			}
			gate.more <- size
			if err := <-stayed; err != nil {
				t.Errorf("who stayed got %v", err)
			}
		}
	})
}

// abandoned starts a pull, lets so much of it come, and leaves it.
func abandoned(t *testing.T, c *Cache, data []byte, come int) (*upstream, *gated) {
	t.Helper()
	from := newUpstream(data)
	gates := slowly(from, data)
	content, err := c.Obtain(t.Context(), blobWant(data), from)
	if err != nil {
		t.Fatal(err)
	}
	gate := <-gates
	gate.more <- come
	synctest.Wait()
	content.Close()
	return from, gate
}

func TestNobodyFollows(t *testing.T) {
	data := noise(500<<10, 1)
	files := func(c *Cache) (n int) {
		c.folder.List(ingestDir, func(string, bool) error { n++; return nil })
		return n
	}
	t.Run("cancelled after the grace", func(t *testing.T) {
		bubble(t, func(t *testing.T, c *Cache) {
			abandoned(t, c, data, 1000)
			time.Sleep(grace - time.Second)
			synctest.Wait()
			if c.pulls() != 1 {
				t.Fatal("ended before its grace did")
			}
			time.Sleep(2 * time.Second)
			synctest.Wait()
			if c.pulls() != 0 || files(c) != 0 {
				t.Fatalf("%d pulls and %d files are left", c.pulls(), files(c))
			}
		})
	})
	t.Run("goes on if most has come and it moves", func(t *testing.T) {
		bubble(t, func(t *testing.T, c *Cache) {
			_, gate := abandoned(t, c, data, 300<<10)
			time.Sleep(grace + time.Second)
			gate.more <- len(data)
			synctest.Wait()
			mustHold(t, c, blobWant(data), data)
		})
	})
	t.Run("is cancelled if it does not move", func(t *testing.T) {
		bubble(t, func(t *testing.T, c *Cache) {
			abandoned(t, c, data, 300<<10)
			time.Sleep(2*grace + time.Second)
			synctest.Wait()
			if c.pulls() != 0 {
				t.Fatal("it goes on for ever")
			}
		})
	})
	t.Run("newcomer within the grace joins", func(t *testing.T) {
		bubble(t, func(t *testing.T, c *Cache) {
			from, gate := abandoned(t, c, data, 1000)
			time.Sleep(grace / 2)
			content, err := c.Obtain(t.Context(), blobWant(data), from)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * grace)
			gate.more <- len(data)
			got, err := read(content, nil)
			if err != nil || !bytes.Equal(got, data) || from.count(content.Digest()) != 1 {
				t.Fatalf("%d bytes, %v, %d pulls", len(got), err, from.count(content.Digest()))
			}
		})
	})
	t.Run("newcomer after it starts anew", func(t *testing.T) {
		bubble(t, func(t *testing.T, c *Cache) {
			abandoned(t, c, data, 1000)
			time.Sleep(grace + time.Second)
			mustObtain(t, c, blobWant(data), data, newUpstream(data))
		})
	})
	t.Run("too many are cancelled at once", func(t *testing.T) {
		bubble(t, func(t *testing.T, c *Cache) {
			for i := range maxLingering + 3 {
				abandoned(t, c, noise(100<<10, byte(i)), 10)
			}
			synctest.Wait()
			if c.pulls() != maxLingering {
				t.Errorf("%d pulls, want %d", c.pulls(), maxLingering)
			}
		})
	})
}

// A source that panics, or ends its goroutine, is an error to those who wait.
func TestSourcePanics(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cache) {
		data := noise(1000, 1)
		from := newUpstream(data)
		from.serve = func(context.Context, Want, int64, int) (referrerstore.Pulled, error) { panic("at the disco") }
		_, err := c.Obtain(t.Context(), blobWant(data), from)
		if caught, ok := errors.AsType[*flight.PanicError](err); !ok || !strings.Contains(caught.Error(), "disco") {
			t.Errorf("panic: %v", err)
		}
		from.serve = func(context.Context, Want, int64, int) (referrerstore.Pulled, error) {
			runtime.Goexit()
			return referrerstore.Pulled{}, nil
		}
		if _, err := c.Obtain(t.Context(), blobWant(data), from); !errors.Is(err, flight.ErrExited) {
			t.Errorf("goexit: %v", err)
		}
		from.serve = nil
		mustObtain(t, c, blobWant(data), data, from)
	})
}

// Errors reach all who wait, as they are, and are forgotten then.
func TestErrorsReachAll(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cache) {
		data := noise(1000, 1)
		from := newUpstream(data)
		go_ := make(chan struct{})
		from.serve = func(context.Context, Want, int64, int) (referrerstore.Pulled, error) {
			<-go_
			return referrerstore.Pulled{}, &referrerstore.RetryAfterError{After: time.Minute, Err: referrerstore.ErrRateLimited}
		}
		var all sync.WaitGroup
		for range 1000 {
			all.Go(func() {
				_, err := c.Obtain(t.Context(), blobWant(data), from)
				if !errors.Is(err, referrerstore.ErrRateLimited) || referrerstore.RetryAfter(err) != time.Minute {
					t.Errorf("got %v", err)
				}
			})
		}
		synctest.Wait()
		close(go_)
		all.Wait()
		if n := from.count(blobWant(data).Digest); n != 1 {
			t.Errorf("%d pulls for an error, want 1", n)
		}
		from.serve = nil
		mustObtain(t, c, blobWant(data), data, from)
	})
}

// A reader that does not read holds up nobody, and his context ends his wait.
func TestSlowFollower(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cache) {
		data := noise(500<<10, 1)
		from := newUpstream(data)
		gates := slowly(from, data)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		slow, err := c.Obtain(ctx, blobWant(data), from)
		if err != nil {
			t.Fatal(err)
		}
		defer slow.Close()
		gate := <-gates
		if _, err := slow.Read(make([]byte, 10)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the wait ended with %v", err)
		}
		gate.more <- len(data)
		mustObtain(t, c, blobWant(data), data, from)
	})
}

// Close ends pulls, and those who follow them know why.
func TestCloseEndsPulls(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cache) {
		data := noise(500<<10, 1)
		from := newUpstream(data)
		slowly(from, data)
		content, err := c.Obtain(t.Context(), blobWant(data), from)
		if err != nil {
			t.Fatal(err)
		}
		defer content.Close()
		c.Close()
		if _, err := content.Read(make([]byte, 10)); !errors.Is(err, ErrClosed) {
			t.Errorf("read: %v", err)
		}
		if _, err := c.Obtain(t.Context(), blobWant(data), from); !errors.Is(err, ErrClosed) {
			t.Errorf("obtain: %v", err)
		}
		if err := c.Put(blobWant(data), data); !errors.Is(err, ErrClosed) {
			t.Errorf("put: %v", err)
		}
	})
}

// Work that waits in a registry's queue is as pressing as who waits for it.
func TestWorkIsFollowed(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cache) {
		data := noise(500<<10, 1)
		from := newUpstream(data)
		var work *referrerstore.Work
		serve := slowly(from, data)
		inner := from.serve
		from.serve = func(ctx context.Context, want Want, offset int64, n int) (referrerstore.Pulled, error) {
			work = referrerstore.WorkOf(ctx)
			return inner(ctx, want, offset, n)
		}
		background := referrerstore.WithWork(t.Context(), referrerstore.NewWork(time.Now(), referrerstore.LaneBackground))
		first, err := c.Obtain(background, blobWant(data), from)
		if err != nil {
			t.Fatal(err)
		}
		<-serve
		if work.Lane() != referrerstore.LaneBackground {
			t.Errorf("lane %v for who is in no hurry", work.Lane())
		}
		pressing := referrerstore.WithWork(t.Context(), referrerstore.NewWork(time.Now(), referrerstore.LaneAdmission))
		second, err := c.Obtain(pressing, blobWant(data), from)
		if err != nil {
			t.Fatal(err)
		}
		if work.Lane() != referrerstore.LaneAdmission {
			t.Errorf("lane %v while somebody waits", work.Lane())
		}
		second.Close()
		if work.Lane() != referrerstore.LaneBackground {
			t.Errorf("lane %v after he left", work.Lane())
		}
		first.Close()
	})
}
