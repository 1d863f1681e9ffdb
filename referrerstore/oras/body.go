package oras

import (
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// promised is a body that delivers no byte more than was promised. It is used
// by one goroutine at a time.
type promised struct {
	io.ReadCloser
	left  int64 // that it may deliver
	exact bool  // it has to deliver them all
	over  error // what a byte more than that is
	err   error // the end, once reached
}

// promise bounds a body of so many bytes, or of most at most if that is -1.
func promise(body io.ReadCloser, size, most int64, over error) *promised {
	if size >= 0 {
		return &promised{ReadCloser: body, left: size, exact: true, over: errGoesOn}
	}
	return &promised{ReadCloser: body, left: most, over: over}
}

var (
	errGoesOn    = fmt.Errorf("%w: there are more bytes than it announced", referrerstore.ErrProtocol)
	errEndsEarly = fmt.Errorf("%w: there are fewer bytes than it announced", referrerstore.ErrBrokenOff)
	errManifest  = fmt.Errorf("%w: a manifest of more than %d bytes", referrerstore.ErrTooLarge, maxManifestBytes)
)

func (b *promised) Read(p []byte) (int, error) {
	if b.err != nil || len(p) == 0 {
		return 0, b.err
	}
	if b.left == 0 {
		b.err = b.end()
		return 0, b.err
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	if errors.Is(err, io.EOF) && b.exact && b.left > 0 {
		err = errEndsEarly
	}
	b.err = err
	return n, err
}

// end is asked behind the last byte that it may deliver.
func (b *promised) end() error {
	var one [1]byte
	n, err := io.ReadFull(b.ReadCloser, one[:])
	if n > 0 {
		return b.over
	}
	return err
}

// hashed is a body of a mirror, whole, whose bytes are those of a digest or do
// not end well: nobody else could tell the mirror's lie from the host's. It is
// used by one goroutine at a time.
type hashed struct {
	io.ReadCloser
	want digest.Digest
	hash hash.Hash
}

func newHashed(body io.ReadCloser, want digest.Digest) *hashed {
	return &hashed{ReadCloser: body, want: want, hash: want.Algorithm().Hash()}
}

func (h *hashed) Read(p []byte) (int, error) {
	n, err := h.ReadCloser.Read(p)
	h.hash.Write(p[:n])
	if errors.Is(err, io.EOF) && digest.NewDigest(h.want.Algorithm(), h.hash) != h.want {
		err = fmt.Errorf("%w: the mirror has other bytes", referrerstore.ErrDigestMismatch)
	}
	return n, err
}
