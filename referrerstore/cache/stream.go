package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

const (
	// resumes is how often in a row an answer that broke off is taken up again
	// without at least resumeProgress bytes having come, and resumePause how long
	// the first of them waits; each waits four times as long as the one before.
	resumes        = 3
	resumeProgress = 64 << 10
	resumePause    = 50 * time.Millisecond
)

// stream reads content from its registry, from the first byte to the last, taking
// it up again where it breaks off. It hashes nothing and bounds nothing but what
// the registry itself announced.
type stream struct {
	ctx  context.Context //nolint:containedctx // a reader of one request
	from Source
	want Want
	head referrerstore.Pulled // as the registry said at first; its Body is the present one
	stop func() bool          // of what closes Body when ctx ends

	at     int64 // bytes that were read
	since  int64 // at, when it last broke off
	broken int   // how often without progress
}

// openStream asks for the content's first byte and returns as soon as the header
// is there.
func openStream(ctx context.Context, want Want, from Source) (*stream, error) {
	s := &stream{ctx: ctx, from: from, want: want}
	head, err := from.Pull(ctx, want, 0)
	if err != nil {
		return nil, err
	}
	if head.Offset != 0 {
		return nil, errors.Join(fmt.Errorf("content %s: %w: it begins at byte %d", want.Digest, referrerstore.ErrProtocol, head.Offset), head.Body.Close())
	}
	s.head = head
	s.follow(head.Body)
	return s, nil
}

// follow takes up a body. One that does not heed its context is closed when that
// ends.
func (s *stream) follow(body io.ReadCloser) {
	s.head.Body = body
	s.stop = context.AfterFunc(s.ctx, func() { body.Close() }) //nolint:gosec // nobody reads it any more
}

// Read implements io.Reader. io.EOF comes only behind the size that the registry
// announced; more than that is ErrDigestMismatch.
func (s *stream) Read(p []byte) (int, error) {
	for {
		n, err := s.head.Body.Read(p)
		s.at += int64(n)
		if s.head.Size >= 0 && s.at > s.head.Size {
			return 0, fmt.Errorf("content %s: %w: more than the %d bytes announced", s.want.Digest, referrerstore.ErrDigestMismatch, s.head.Size)
		}
		switch {
		case n > 0:
			return n, nil
		case err == nil:
			continue
		case s.ctx.Err() != nil:
			return 0, context.Cause(s.ctx)
		case errors.Is(err, io.EOF) && (s.head.Size < 0 || s.at == s.head.Size):
			return 0, io.EOF
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			err = fmt.Errorf("content %s: %w", s.want.Digest, referrerstore.ErrBrokenOff)
		}
		if err := s.resume(err); err != nil {
			return 0, err
		}
	}
}

// resume pulls the rest of an answer that broke off, or gives the reason up.
func (s *stream) resume(reason error) error {
	if s.at-s.since >= resumeProgress {
		s.broken = 0
	}
	s.since = s.at
	for errors.Is(reason, referrerstore.ErrUnavailable) && s.broken < resumes {
		if err := pause(s.ctx, resumePause<<(2*s.broken)); err != nil {
			return err
		}
		s.broken++
		if reason = s.again(); reason == nil {
			return nil
		}
	}
	return reason
}

// again pulls from where it broke off. A registry that begins at the start is read
// to that point: those bytes were hashed when they came first.
func (s *stream) again() error {
	if err := s.close(); err != nil {
		return err
	}
	next, err := s.from.Pull(s.ctx, s.want, s.at)
	if err != nil {
		s.head.Body = io.NopCloser(noBody{})
		return err
	}
	s.follow(next.Body)
	switch {
	case next.Size >= 0 && s.head.Size >= 0 && next.Size != s.head.Size:
		return fmt.Errorf("content %s: %w: it had %d bytes, and now %d", s.want.Digest, referrerstore.ErrProtocol, s.head.Size, next.Size)
	case next.Offset == s.at:
		return nil
	case next.Offset != 0:
		return fmt.Errorf("content %s: %w: it begins at byte %d and not at %d", s.want.Digest, referrerstore.ErrProtocol, next.Offset, s.at)
	}
	if _, err := io.CopyN(io.Discard, next.Body, s.at); err != nil {
		if errors.Is(err, io.EOF) {
			err = referrerstore.ErrBrokenOff
		}
		return fmt.Errorf("content %s: %w", s.want.Digest, err)
	}
	return nil
}

// noBody is the body of an answer that did not come.
type noBody struct{}

func (noBody) Read([]byte) (int, error) { return 0, referrerstore.ErrBrokenOff }

// close ends the answer; what it broke off with was told by Read.
func (s *stream) close() error {
	s.stop()
	s.head.Body.Close() //nolint:gosec // see above
	return context.Cause(s.ctx)
}

// pause waits, unless ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
