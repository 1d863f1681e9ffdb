package cache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/disk/disktest"
)

// endless never ends.
type endless struct{}

func (endless) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// breaking is data that breaks off.
func breaking(data []byte) io.Reader {
	return io.MultiReader(bytes.NewReader(data), failing{referrerstore.ErrBrokenOff})
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// Whatever a registry sends, nobody reads content to its end that does not have
// the digest; and what it sends properly then is taken.
func TestHostileSources(t *testing.T) {
	t.Parallel()
	type serve = func(data []byte, offset int64, n int) (referrerstore.Pulled, error)
	flipped := func(data []byte, at int) []byte {
		data = bytes.Clone(data)
		data[at] ^= 1
		return data
	}
	for name, tt := range map[string]struct {
		serve serve
		err   error
		// whatever the size, the answer may be repaired
		fine bool
	}{
		"short": {func(data []byte, offset int64, _ int) (referrerstore.Pulled, error) {
			return answer(bytes.NewReader(data[min(offset, int64(len(data)/2)):len(data)/2]), min(offset, int64(len(data)/2)), int64(len(data))), nil
		}, referrerstore.ErrBrokenOff, false},
		"shorter, as its header says": {func(data []byte, _ int64, _ int) (referrerstore.Pulled, error) {
			return answer(bytes.NewReader(data[:len(data)-1]), 0, int64(len(data)-1)), nil
		}, referrerstore.ErrDigestMismatch, false},
		"long": {func(data []byte, _ int64, _ int) (referrerstore.Pulled, error) {
			return answer(io.MultiReader(bytes.NewReader(data), endless{}), 0, int64(len(data))), nil
		}, referrerstore.ErrDigestMismatch, false},
		"longer, as its header says": {func(data []byte, _ int64, _ int) (referrerstore.Pulled, error) {
			return answer(io.MultiReader(bytes.NewReader(data), bytes.NewReader([]byte{1})), 0, int64(len(data)+1)), nil
		}, referrerstore.ErrDigestMismatch, false},
		"endless, of no size": {func([]byte, int64, int) (referrerstore.Pulled, error) {
			return answer(endless{}, 0, -1), nil
		}, referrerstore.ErrDigestMismatch, false},
		"first byte wrong": {func(data []byte, _ int64, _ int) (referrerstore.Pulled, error) {
			return answer(bytes.NewReader(flipped(data, 0)), 0, int64(len(data))), nil
		}, referrerstore.ErrDigestMismatch, false},
		"last byte wrong": {func(data []byte, _ int64, _ int) (referrerstore.Pulled, error) {
			return answer(bytes.NewReader(flipped(data, len(data)-1)), 0, int64(len(data))), nil
		}, referrerstore.ErrDigestMismatch, false},
		"begins in the middle": {func(data []byte, _ int64, _ int) (referrerstore.Pulled, error) {
			return answer(bytes.NewReader(data[1:]), 1, int64(len(data))), nil
		}, referrerstore.ErrProtocol, false},
		"of no size": {func(data []byte, _ int64, _ int) (referrerstore.Pulled, error) {
			return answer(bytes.NewReader(data), 0, -1), nil
		}, nil, true},
		"breaks off for ever": {func(data []byte, offset int64, _ int) (referrerstore.Pulled, error) {
			return answer(breaking(nil), offset, int64(len(data))), nil
		}, referrerstore.ErrBrokenOff, false},
		"breaks off, and is not there again": {func(data []byte, offset int64, n int) (referrerstore.Pulled, error) {
			if n > 1 {
				return referrerstore.Pulled{}, referrerstore.ErrNotFound
			}
			return answer(breaking(data[:10]), offset, int64(len(data))), nil
		}, referrerstore.ErrNotFound, false},
		"breaks off and goes on": {func(data []byte, offset int64, n int) (referrerstore.Pulled, error) {
			if n < 3 {
				return answer(breaking(data[offset:offset+30]), offset, int64(len(data))), nil
			}
			return answer(bytes.NewReader(data[offset:]), offset, int64(len(data))), nil
		}, nil, true},
		"breaks off and begins anew": {func(data []byte, _ int64, n int) (referrerstore.Pulled, error) {
			if n == 1 {
				return answer(breaking(data[:30]), 0, int64(len(data))), nil
			}
			return answer(bytes.NewReader(data), 0, int64(len(data))), nil
		}, nil, true},
		"breaks off and lies about where it goes on": {func(data []byte, offset int64, n int) (referrerstore.Pulled, error) {
			if n == 1 {
				return answer(breaking(data[:30]), 0, int64(len(data))), nil
			}
			return answer(bytes.NewReader(data[offset-1:len(data)-1]), offset, int64(len(data))), nil
		}, referrerstore.ErrDigestMismatch, false},
		"breaks off and goes on elsewhere": {func(data []byte, offset int64, n int) (referrerstore.Pulled, error) {
			if n == 1 {
				return answer(breaking(data[:30]), 0, int64(len(data))), nil
			}
			return answer(bytes.NewReader(data[offset+1:]), offset+1, int64(len(data))), nil
		}, referrerstore.ErrProtocol, false},
		"breaks off and has another size then": {func(data []byte, offset int64, n int) (referrerstore.Pulled, error) {
			if n == 1 {
				return answer(breaking(data[:30]), 0, int64(len(data))), nil
			}
			return answer(bytes.NewReader(data[offset:]), offset, int64(len(data)+1)), nil
		}, referrerstore.ErrProtocol, false},
	} {
		for _, kind := range []Kind{Blob, Manifest} {
			for _, size := range []int{500, 300 << 10} {
				t.Run(name+", "+kind.name(), func(t *testing.T) {
					bubble(t, func(t *testing.T, kept *Cache) {
						full := openCache(t, disktest.New(), Options{MaxBytes: 1}) // where nothing is kept
						for _, c := range []*Cache{kept, full} {
							data := noise(size, 1)
							want := blobWant(data)
							want.Kind = kind
							from := newUpstream(data)
							from.serve = func(_ context.Context, _ Want, offset int64, n int) (referrerstore.Pulled, error) {
								return tt.serve(data, offset, n)
							}
							got, err := read(c.Obtain(t.Context(), want, from))
							switch {
							case tt.fine && (err != nil || !bytes.Equal(got, data)):
								t.Errorf("%d bytes, %v", len(got), err)
							case !tt.fine && err == nil:
								t.Errorf("%d bytes were read to their end", len(got))
							case !tt.fine && !errors.Is(err, tt.err) && !errors.Is(err, referrerstore.ErrDigestMismatch):
								t.Errorf("error %v, want %v", err, tt.err)
							case !tt.fine && len(got) > max(len(data)-holdBack, 0):
								t.Errorf("%d of %d bytes were read before they were proven", len(got), len(data))
							}
							synctest.Wait() // or one would join a pull that is still under way
							from.serve = nil
							mustObtain(t, c, want, data, from)
						}
						full.Close()
					})
				})
			}
		}
	}
}

func TestUnboundedManifest(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cache) {
		data := noise(100, 1)
		want := manifestWant(data)
		want.Size = -1
		from := newUpstream()
		for _, size := range []int64{-1, MaxManifest + 1} {
			from.serve = func(context.Context, Want, int64, int) (referrerstore.Pulled, error) {
				return answer(endless{}, 0, size), nil
			}
			if _, err := read(c.Obtain(t.Context(), want, from)); !errors.Is(err, referrerstore.ErrTooLarge) {
				t.Errorf("announced as %d bytes: %v", size, err)
			}
		}
	})
}

// A caller who was told another size than the registry has is wrong alone.
func TestWrongSizeIsOnesOwn(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cache) {
		for _, size := range []int{500, 300 << 10} {
			data := noise(size, 1)
			from := newUpstream(data)
			gates := slowly(from, data)
			right := make(chan error)
			wrong := blobWant(data)
			wrong.Size--
			first := make(chan error)
			go func() {
				_, err := read(c.Obtain(t.Context(), wrong, from))
				first <- err
			}()
			gate := <-gates
			go func() {
				_, err := read(c.Obtain(t.Context(), blobWant(data), from))
				right <- err
			}()
			gate.more <- size
			if err := <-first; !errors.Is(err, referrerstore.ErrDigestMismatch) {
				t.Errorf("wrong size: %v", err)
			}
			if err := <-right; err != nil {
				t.Errorf("right size: %v", err)
			}
		}
	})
}
