package oras

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

const (
	// A mirror that failed is not asked for a while, and one that is asked
	// must answer within half of the time that is left, or this.
	mirrorPenalty  = time.Minute
	mirrorPatience = 2 * time.Second
)

var errMirrorSlow = errors.New("the mirror did not answer in time")

// Fetch streams content by digest, from a mirror if the host has one that
// delivers, else from the host. All bytes from the first on are hashed, those
// before the offset too, so a stream never ends with ErrUnverified.
func (s *Store) Fetch(ctx context.Context, subject referrerstore.Subject, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	if offset < 0 || offset > desc.Size {
		return nil, fmt.Errorf("fetch %s: offset %d is outside of %d bytes", desc.Digest, offset, desc.Size)
	}
	stream, err := s.fetch(ctx, subject.Reference, desc, offset)
	if err != nil {
		return nil, fmt.Errorf("fetch %s of %s: %w", desc.Digest, subject.Reference.Name(), classify(ctx, err))
	}
	return stream, nil
}

func (s *Store) fetch(ctx context.Context, ref referrerstore.Reference, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if _, err := referrerstore.ParseDigest(desc.Digest.String()); err != nil {
		return nil, fmt.Errorf("%w: %w", referrerstore.ErrProtocol, err)
	}
	for _, m := range s.set.mirrors[ref.Registry] {
		if stream := s.fromMirror(ctx, m, func(ctx context.Context) (io.ReadCloser, error) {
			return s.open(ctx, m.host, ref, desc, offset)
		}); stream != nil {
			return stream, nil
		}
	}
	return s.open(ctx, ref.Registry, ref, desc, offset)
}

// open asks a host, the image's own or a mirror of it.
func (s *Store) open(ctx context.Context, host string, ref referrerstore.Reference, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	of := &call{kind: kindBlob, repository: ref.Repository, size: desc.Size}
	if host != ref.Registry {
		of.mirrorOf = ref.Registry
	}
	repository := s.client(host).repository(ref.Repository)
	fetch := repository.Blobs().Fetch
	if referrerstore.IsManifest(desc.MediaType) {
		of.kind = kindManifest
		fetch = repository.Manifests().Fetch
	}
	body, err := fetch(withCall(ctx, of), desc)
	if err != nil {
		return nil, err
	}
	return &stream{body: body, hash: desc.Digest.Algorithm().Hash(), desc: desc, skip: offset}, nil
}

// fromMirror is what open brings from the mirror, nil if it does not deliver, for
// whatever reason.
func (s *Store) fromMirror(ctx context.Context, m *mirror, open func(context.Context) (io.ReadCloser, error)) io.ReadCloser {
	if time.Now().UnixNano() < m.downUntil.Load() {
		return nil
	}
	own, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(patience(ctx), func() { cancel(errMirrorSlow) })
	body, err := open(own)
	if !timer.Stop() && err == nil {
		err = errors.Join(errMirrorSlow, body.Close())
	}
	if err == nil {
		return &mirrorStream{ReadCloser: body, ctx: ctx, cancel: cancel, fail: func(err error) { s.mirrorFailed(m, err) }}
	}
	if ctx.Err() == nil {
		s.mirrorFailed(m, classify(own, err))
	}
	cancel(nil)
	return nil
}

func patience(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return mirrorPatience
	}
	return min(mirrorPatience, time.Until(deadline)/2)
}

// mirrorFailed takes a mirror out for a while, unless it only lacks something.
func (s *Store) mirrorFailed(m *mirror, err error) {
	if errors.Is(err, referrerstore.ErrNotFound) {
		return
	}
	m.downUntil.Store(time.Now().Add(mirrorPenalty).UnixNano())
	s.logger.Warn("mirror failed", slog.String("store", s.name), slog.String("mirror", m.host),
		slog.Duration("pause", mirrorPenalty), slog.Any("error", err))
}

// mirrorStream takes note if what a mirror delivers is broken or wrong, so that
// the next attempt goes to the host itself.
type mirrorStream struct {
	io.ReadCloser
	ctx    context.Context //nolint:containedctx // tells the reader's end from the mirror's failure
	cancel context.CancelCauseFunc
	fail   func(error)
}

func (m *mirrorStream) Read(p []byte) (int, error) {
	n, err := m.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) && m.ctx.Err() == nil {
		m.fail(err)
	}
	return n, err
}

func (m *mirrorStream) Close() error {
	defer m.cancel(nil)
	return m.ReadCloser.Close()
}

// stream hashes content while it is read. It never delivers more than the
// announced size, and io.EOF only behind the bytes that have the digest.
type stream struct {
	body io.ReadCloser
	hash hash.Hash
	desc ocispec.Descriptor
	read int64 // bytes hashed
	skip int64 // bytes to hash before the first is delivered
	err  error // the end, once reached
}

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
	left := s.desc.Size - s.read
	if left == 0 {
		return 0, s.end()
	}
	n, err := s.body.Read(p[:min(int64(len(p)), left)])
	s.hash.Write(p[:n])
	s.read += int64(n)
	if errors.Is(err, io.EOF) {
		if s.read < s.desc.Size {
			return n, s.mismatch("ended early")
		}
		err = nil // the end is judged at the next Read
	}
	if err != nil {
		err = fmt.Errorf("read %s: %w", s.desc.Digest, err)
	}
	return n, err
}

// end is asked behind the last announced byte.
func (s *stream) end() error {
	var one [1]byte
	n, err := io.ReadFull(s.body, one[:])
	switch {
	case n > 0:
		return s.mismatch("goes on")
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("read %s: %w", s.desc.Digest, err)
	case digest.NewDigest(s.desc.Digest.Algorithm(), s.hash) != s.desc.Digest:
		return s.mismatch("has other bytes")
	default:
		return io.EOF
	}
}

func (s *stream) mismatch(how string) error {
	return fmt.Errorf("read %s: %w: it %s", s.desc.Digest, referrerstore.ErrDigestMismatch, how)
}

func (s *stream) Close() error { return s.body.Close() }

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
