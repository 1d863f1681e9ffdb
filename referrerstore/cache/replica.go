package cache

import (
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/maypok86/otter/v2"
	"github.com/opencontainers/go-digest"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// replica holds small objects in memory, hashed when they came in, within a bound
// of bytes. Reading it takes no lock.
type replica struct {
	objects *otter.Cache[digest.Digest, []byte]
}

func newReplica(bytes int64) *replica {
	const perObject = 256 // its key and what the cache itself needs, about
	return &replica{objects: otter.Must(&otter.Options[digest.Digest, []byte]{
		MaximumWeight: uint64(bytes), //nolint:gosec // Open saw that it is positive
		Weigher: func(_ digest.Digest, data []byte) uint32 {
			return uint32(len(data) + perObject) //nolint:gosec // at most MaxReplicated
		},
		Executor: func(fn func()) { fn() }, // upkeep where it arises: no goroutine without an owner
	})}
}

func (r *replica) get(d digest.Digest) ([]byte, bool) { return r.objects.GetIfPresent(d) }

// put takes bytes that have the digest; what is too large for it, it leaves.
func (r *replica) put(d digest.Digest, data []byte) {
	if len(data) <= MaxReplicated {
		r.objects.Set(d, data)
	}
}

func (r *replica) drop(d digest.Digest) { r.objects.Invalidate(d) }

func (r *replica) bytes() int64 { return int64(r.objects.WeightedSize()) } //nolint:gosec // bounded

// newHash is the hash that makes digests like d, which must be valid.
func newHash(d digest.Digest) hash.Hash {
	if d.Algorithm() == digest.SHA512 {
		return sha512.New()
	}
	return sha256.New()
}

// verify says whether the bytes have the digest.
func verify(d digest.Digest, data []byte) error {
	h := newHash(d)
	h.Write(data)
	return matches(d, h)
}

// matches says whether what was hashed has the digest.
func matches(d digest.Digest, h hash.Hash) error {
	if got := digest.NewDigest(d.Algorithm(), h); got != d {
		return fmt.Errorf("content of %s: %w: it has %s", d, referrerstore.ErrDigestMismatch, got)
	}
	return nil
}

// readExactly reads size bytes from the start of a file; one that is longer is
// not what was written.
func readExactly(f io.ReaderAt, size int64) ([]byte, error) {
	data := make([]byte, size+1)
	n, err := f.ReadAt(data, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if int64(n) != size {
		return nil, fmt.Errorf("%w: its file has another size than %d bytes", referrerstore.ErrDigestMismatch, size)
	}
	return data[:size:size], nil
}
