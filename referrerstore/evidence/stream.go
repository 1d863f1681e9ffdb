package evidence

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// stream hashes content while it is read. It never delivers more than the
// announced size, and io.EOF only behind the bytes that have the digest.
type stream struct {
	ctx  context.Context //nolint:containedctx // of Fetch: reads end with it
	body io.ReadCloser
	hash hash.Hash
	desc ocispec.Descriptor
	read int64 // bytes hashed
	skip int64 // bytes to hash before the first is delivered
	err  error // the end, once reached

	// instead opens the rest of the content if the cache cannot go on; nil if
	// nobody can.
	instead func(from int64) (io.ReadCloser, error)
}

// Read implements io.Reader.
func (s *stream) Read(p []byte) (int, error) {
	if s.err == nil && s.read < s.skip {
		_, s.err = io.CopyN(io.Discard, readerFunc(s.next), s.skip-s.read)
	}
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.next(p)
	s.err = err
	return n, err
}

func (s *stream) next(p []byte) (int, error) {
	if s.ctx.Err() != nil {
		return 0, fmt.Errorf("read %s: %w", s.desc.Digest, context.Cause(s.ctx))
	}
	left := s.desc.Size - s.read
	if left == 0 {
		return 0, s.end()
	}
	n, err := s.body.Read(p[:min(int64(len(p)), left)])
	s.hash.Write(p[:n])
	s.read += int64(n)
	switch {
	case err == nil:
		return n, nil
	case atEnd(err) && s.read < s.desc.Size:
		return n, s.mismatch("ended early")
	case atEnd(err):
		return n, nil // the end is judged at the next Read
	default:
		return n, s.goOn(err)
	}
}

// end is asked behind the last announced byte.
func (s *stream) end() error {
	var one [1]byte
	n, err := io.ReadFull(s.body, one[:])
	if n == 0 && !atEnd(err) {
		if err = s.goOn(err); err != nil {
			return err
		}
		return s.end()
	}
	switch {
	case n > 0:
		return s.mismatch("goes on")
	case digest.NewDigest(s.desc.Digest.Algorithm(), s.hash) != s.desc.Digest:
		return s.mismatch("has other bytes")
	default:
		return io.EOF
	}
}

// atEnd says that there are no more bytes. An inner store that was asked for the
// rest cannot prove it; here all of it was hashed. io.EOF is itself only: an error
// that wraps it is a broken stream.
func atEnd(err error) bool {
	return err == io.EOF || errors.Is(err, referrerstore.ErrUnverified) //nolint:errorlint // see above
}

// goOn lets the inner store deliver the rest, once, if it was the cache that
// failed. It returns the error that the stream ends with, nil if it goes on.
func (s *stream) goOn(err error) error {
	instead := s.instead
	if instead == nil || s.ctx.Err() != nil || fromRegistry(err) {
		return fmt.Errorf("read %s: %w", s.desc.Digest, orCause(s.ctx, err))
	}
	s.instead = nil
	body, failed := instead(s.read)
	if failed != nil {
		return fmt.Errorf("read %s: %w", s.desc.Digest, orCause(s.ctx, failed))
	}
	_ = s.body.Close() // the cache's, which has failed already
	s.body = body
	return nil
}

func (s *stream) mismatch(how string) error {
	return fmt.Errorf("read %s: %w: it %s", s.desc.Digest, referrerstore.ErrDigestMismatch, how)
}

// Close lets go of the content.
func (s *stream) Close() error { return s.body.Close() }

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
