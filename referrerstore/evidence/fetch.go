package evidence

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
)

// errHeldWrong says that what is held is not what its name says, or cannot be
// read. It never leaves this package: the registry is asked instead.
var errHeldWrong = errors.New("evidence: what is held is not what it should be")

// Fetch opens content that is held, or that all who want it at the same time pull
// once. All of it is hashed on its way, from the first byte on, whatever the offset
// and wherever it comes from, so the stream never ends with ErrUnverified but for
// what the inner store hands out by itself: where the cache fails, it is asked as
// if there were no cache.
//
// What is held is hashed before the first byte is handed out as well: if it is
// not what it should be, it is fetched from the registry. The stream's reads end
// with ctx.
func (s *Store) Fetch(ctx context.Context, subject referrerstore.Subject, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	switch {
	case offset < 0 || offset > desc.Size:
		return nil, fmt.Errorf("fetch %s: offset %d is outside of %d bytes", desc.Digest, offset, desc.Size)
	case ctx.Err() != nil:
		return nil, fmt.Errorf("fetch %s: %w", desc.Digest, context.Cause(ctx))
	}
	if _, err := referrerstore.ParseDigest(desc.Digest.String()); err != nil {
		return nil, fmt.Errorf("fetch %s: %w: %w", desc.Digest, referrerstore.ErrProtocol, err)
	}
	stream, err := s.fetch(ctx, subject, desc, offset)
	switch {
	case err == nil:
		return stream, nil
	case ctx.Err() != nil || fromRegistry(err):
		return nil, fmt.Errorf("fetch %s of %s: %w", desc.Digest, subject.Reference.Name(), orCause(ctx, err))
	default:
		return s.inner.Fetch(ctx, subject, desc, offset)
	}
}

// fetch goes through the cache. Errors that are not the registry's are the
// cache's.
func (s *Store) fetch(ctx context.Context, subject referrerstore.Subject, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	scope := s.scope(subject.Reference)
	want := cache.Want{Scope: scope, Digest: desc.Digest, Kind: cache.Blob, Size: desc.Size}
	if referrerstore.IsManifest(desc.MediaType) {
		want.Kind, want.MediaType = cache.Manifest, desc.MediaType
		if desc.Size > cache.MaxManifest {
			return nil, referrerstore.ErrTooLarge
		}
	}
	got, err := s.held.obtain(ctx, want, s.source(ctx, subject, desc, scope))
	if err != nil {
		return nil, err
	}
	if data, ok := got.Bytes(); ok {
		return fromMemory(got, data, desc, offset)
	}
	if got.Held() {
		if err := proof(ctx, got, desc); err != nil {
			if errors.Is(err, errHeldWrong) {
				s.held.Doubt(desc.Digest)
			}
			return nil, errors.Join(err, got.Close())
		}
	}
	return &stream{
		ctx: ctx, body: got, hash: desc.Digest.Algorithm().Hash(), desc: desc, skip: offset,
		instead: func(from int64) (io.ReadCloser, error) { return s.inner.Fetch(ctx, subject, desc, from) },
	}, nil
}

// fromMemory hands out bytes that were hashed here, as they are: nobody changes
// them.
func fromMemory(got content, data []byte, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	if int64(len(data)) != desc.Size || desc.Digest.Algorithm().FromBytes(data) != desc.Digest {
		return nil, errors.Join(errHeldWrong, got.Close())
	}
	return struct {
		io.Reader
		io.Closer
	}{bytes.NewReader(data[offset:]), got}, nil
}

// proof reads what is held whole, in pieces and without keeping any, and goes
// back to its start.
func proof(ctx context.Context, held content, desc ocispec.Descriptor) error {
	check := &stream{ctx: ctx, body: held, hash: desc.Digest.Algorithm().Hash(), desc: desc}
	_, err := io.Copy(io.Discard, check)
	if err == nil {
		_, err = held.Seek(0, io.SeekStart)
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return err
	default:
		// Not wrapped: whatever it is, it is not the registry's word.
		return fmt.Errorf("%w: %v", errHeldWrong, err) //nolint:errorlint // see above
	}
}
