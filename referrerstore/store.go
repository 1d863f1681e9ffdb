// Package referrerstore names what is judged and where it is kept.
//
// A [Reference] is the parsed, canonical name of an image. A [Store] resolves
// it to a [Subject], lists the referrers of that subject (signatures, SBOMs,
// attestations) and hands out content by digest. Everything that comes out of
// a store is hostile until hashed: [Store].Fetch streams are verified at their
// end, [ReadAll] returns only bytes that have the digest asked for.
//
// Folders below hold one store each; storetest is the conformance suite that
// every store passes. This package knows no registry and no network.
package referrerstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Subject is the artifact under judgement: a reference that was resolved, once,
// to the descriptor that alone counts from then on.
type Subject struct {
	Reference  Reference
	Descriptor ocispec.Descriptor
}

// String is the reference pinned to the subject's digest.
func (s Subject) String() string {
	return s.Reference.Pinned(s.Descriptor.Digest).String()
}

// Store is a place where images and what refers to them are kept. All methods
// are safe for concurrent use, return promptly once their context ends, and
// report failures with the sentinels of this package.
type Store interface {
	// Name is the configured name, unique in a configuration.
	Name() string
	// Serves reports, without I/O, whether this store answers for the
	// canonical host.
	Serves(host string) bool
	// Resolve finds the descriptor that the reference names. A pinned
	// reference resolves to its digest or not at all.
	Resolve(ctx context.Context, ref Reference) (Subject, error)
	// Referrers lists the descriptors of the manifests that name the subject,
	// each digest at most once. An error is the last thing yielded; a list
	// that ends without one is complete. ErrTooManyReferrers says that a
	// bound cut it.
	Referrers(ctx context.Context, subject Subject) iter.Seq2[ocispec.Descriptor, error]
	Fetcher
}

// Fetcher hands out content by digest.
type Fetcher interface {
	// Fetch opens content of the subject's repository at a byte offset in
	// [0, Size]. The last Read returns io.EOF only if all bytes from 0 to
	// Size have the descriptor's digest; with an offset the bytes before it
	// are hashed too, or the stream ends with ErrUnverified instead of io.EOF
	// if the store could not see them. The caller closes the stream.
	Fetch(ctx context.Context, subject Subject, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error)
}

// Informed is a [Store] that knows more of its hosts than their content.
type Informed interface {
	// About tells, without I/O, what is known of a canonical host.
	About(host string) HostState
}

// HostState is what a store knows of a registry host at one moment. The zero
// value is what is known of one that nobody has asked.
type HostState struct {
	// Identity names whose credentials the host gets to see, empty for none.
	Identity string
	// Unnamed says that the configuration does not name the host: it was
	// brought up by whoever can create a pod, and gets no background work.
	Unnamed bool
	// Usual is the usual time from a request to its answer's header; zero if
	// it is not known.
	Usual time.Duration
	// Throttled says that the host limits the rate of requests, or is spared.
	Throttled bool
	// Wait is about how long a new request would wait for its turn.
	Wait time.Duration
}

// About is what the store knows of the host, as far as it is [Informed].
func About(s Store, host string) HostState {
	if informed, ok := s.(Informed); ok {
		return informed.About(host)
	}
	return HostState{}
}

// ReadAll reads content of at most limit bytes whole. The bytes returned have
// the size and digest of the descriptor; a descriptor that announces more than
// limit is refused with ErrTooLarge before anything is asked for.
func ReadAll(ctx context.Context, from Fetcher, subject Subject, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	if desc.Size < 0 || desc.Size > limit {
		return nil, fmt.Errorf("%s: %w: %d bytes, at most %d", desc.Digest, ErrTooLarge, desc.Size, limit)
	}
	stream, err := from.Fetch(ctx, subject, desc, 0)
	if err != nil {
		return nil, err
	}
	data := make([]byte, desc.Size)
	_, err = io.ReadFull(stream, data)
	if err == nil {
		err = expectEnd(stream)
	}
	if err = errors.Join(eofMeansShort(err), stream.Close()); err != nil {
		return nil, fmt.Errorf("read %s: %w", desc.Digest, err)
	}
	return data, nil
}

// expectEnd reads the one byte past the announced size that lets a stream
// prove its digest, or show that there is more.
func expectEnd(stream io.Reader) error {
	var one [1]byte
	n, err := io.ReadFull(stream, one[:])
	switch {
	case n > 0:
		return ErrDigestMismatch
	case err == io.EOF: // itself: an error that wraps it is a broken stream
		return nil
	default:
		return err
	}
}

// eofMeansShort tells an end before the announced size from a stream that broke:
// that one's error may wrap the same values.
func eofMeansShort(err error) error {
	if err == io.ErrUnexpectedEOF || err == io.EOF { //nolint:errorlint // see above
		return fmt.Errorf("%w: the content ended early", ErrDigestMismatch)
	}
	return err
}
