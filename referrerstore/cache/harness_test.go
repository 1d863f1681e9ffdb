package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/disk"
)

// upstream is a registry's repository in memory that counts what it is asked for
// and can be made to misbehave.
type upstream struct {
	mu       sync.Mutex
	content  map[digest.Digest][]byte
	pulls    map[digest.Digest]int
	offsets  []int64
	confirms int
	denied   error
	// serve answers a pull instead, if it is set; n counts from 1.
	serve func(ctx context.Context, want Want, offset int64, n int) (referrerstore.Pulled, error)
}

func newUpstream(all ...[]byte) *upstream {
	u := &upstream{content: make(map[digest.Digest][]byte), pulls: make(map[digest.Digest]int)}
	for _, data := range all {
		u.content[digest.FromBytes(data)] = data
	}
	return u
}

func (u *upstream) Pull(ctx context.Context, want Want, offset int64) (referrerstore.Pulled, error) {
	u.mu.Lock()
	u.pulls[want.Digest]++
	n := u.pulls[want.Digest]
	u.offsets = append(u.offsets, offset)
	data, known := u.content[want.Digest]
	denied, serve := u.denied, u.serve
	u.mu.Unlock()
	switch {
	case denied != nil:
		return referrerstore.Pulled{}, denied
	case serve != nil:
		return serve(ctx, want, offset, n)
	case !known:
		return referrerstore.Pulled{}, fmt.Errorf("pull: %w", referrerstore.ErrNotFound)
	}
	return answer(bytes.NewReader(data[offset:]), offset, int64(len(data))), nil
}

func (u *upstream) Confirm(_ context.Context, want Want) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.confirms++
	if u.denied != nil {
		return u.denied
	}
	if _, known := u.content[want.Digest]; !known {
		return referrerstore.ErrNotFound
	}
	return nil
}

func (u *upstream) count(d digest.Digest) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.pulls[d]
}

func (u *upstream) confirmed() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.confirms
}

const testMediaType = "application/vnd.oci.image.manifest.v1+json"

func answer(body io.Reader, offset, size int64) referrerstore.Pulled {
	return referrerstore.Pulled{Body: io.NopCloser(body), Offset: offset, Size: size, MediaType: testMediaType}
}

// gated delivers its bytes only as far as it was allowed to.
type gated struct {
	data []byte
	ctx  context.Context
	more chan int // how many bytes more
	left int
	err  error // at the end instead of io.EOF
}

func newGate(ctx context.Context, data []byte) *gated {
	return &gated{data: data, ctx: ctx, more: make(chan int, 16)}
}

func (g *gated) Read(p []byte) (int, error) {
	for g.left == 0 && len(g.data) > 0 {
		select {
		case g.left = <-g.more:
		case <-g.ctx.Done():
			return 0, context.Cause(g.ctx)
		}
	}
	if len(g.data) == 0 {
		if g.err != nil {
			return 0, g.err
		}
		return 0, io.EOF
	}
	n := copy(p, g.data[:min(g.left, len(g.data))])
	g.data, g.left = g.data[n:], g.left-n
	return n, nil
}

func (g *gated) Close() error { return nil }

// noise is content that no two sizes or seeds have in common.
func noise(size int, seed byte) []byte {
	var key [32]byte
	key[0], key[1], key[2], key[3] = seed, byte(size), byte(size>>8), byte(size>>16)
	data := make([]byte, size)
	rand.NewChaCha8(key).Read(data)
	return data
}

var testScope = Scope{Registry: "registry.example.com", Repository: "app"}

func blobWant(data []byte) Want {
	return Want{Scope: testScope, Digest: digest.FromBytes(data), Size: int64(len(data))}
}

func manifestWant(data []byte) Want {
	want := blobWant(data)
	want.Kind, want.MediaType = Manifest, testMediaType
	return want
}

func openCache(t testing.TB, folder disk.Folder, opts Options) *Cache {
	t.Helper()
	c, err := Open(t.Context(), folder, opts)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// read reads content to its end and closes it.
func read(content *Content, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	defer content.Close()
	return io.ReadAll(content)
}

func mustHold(t *testing.T, c *Cache, want Want, data []byte) {
	t.Helper()
	got, err := read(c.Get(want))
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("get %s: %d bytes, %v; want %d bytes", want.Digest, len(got), err, len(data))
	}
}

func mustObtain(t *testing.T, c *Cache, want Want, data []byte, from Source) {
	t.Helper()
	got, err := read(c.Obtain(t.Context(), want, from))
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("obtain %s: %d bytes, %v; want %d bytes", want.Digest, len(got), err, len(data))
	}
}

func mustMiss(t *testing.T, c *Cache, want Want) {
	t.Helper()
	content, err := c.Get(want)
	if err == nil {
		content.Close()
	}
	if !errors.Is(err, referrerstore.ErrNotFound) {
		t.Fatalf("get %s: %v, want %v", want.Digest, err, referrerstore.ErrNotFound)
	}
}

// settle waits until all is on the disk that is to be.
func settle(t *testing.T, c *Cache) {
	t.Helper()
	for range 5000 {
		busy := c.pulls() > 0
		c.index.each(func(e *entry) bool {
			busy = busy || e.unwritten.Load() != nil || e.users.Load() != 0
			return !busy
		})
		if !busy {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("the cache does not come to rest")
}
