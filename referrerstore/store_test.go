package referrerstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/iotest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// shelf serves one thing, whatever is asked for, and keeps a Fetcher's promise:
// io.EOF only if the bytes have the digest asked for.
type shelf struct {
	data     []byte
	openErr  error
	closeErr error
	wrap     func(io.Reader) io.Reader
	opened   int
	closed   int
}

func (s *shelf) Fetch(_ context.Context, _ referrerstore.Subject, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	s.opened++
	if s.openErr != nil || offset != 0 {
		return nil, s.openErr
	}
	var from io.Reader = bytes.NewReader(s.data)
	if s.wrap != nil {
		from = s.wrap(from)
	}
	return &proven{from: from, verifier: desc.Digest.Verifier(), shelf: s}, nil
}

type proven struct {
	from     io.Reader
	verifier digest.Verifier
	shelf    *shelf
}

func (p *proven) Read(b []byte) (int, error) {
	n, err := p.from.Read(b)
	_, _ = p.verifier.Write(b[:n])
	if errors.Is(err, io.EOF) && !p.verifier.Verified() {
		return n, referrerstore.ErrDigestMismatch
	}
	return n, err
}

func (p *proven) Close() error {
	p.shelf.closed++
	return p.shelf.closeErr
}

func describe(data string) ocispec.Descriptor {
	return ocispec.Descriptor{Digest: digest.FromString(data), Size: int64(len(data))}
}

func TestReadAll(t *testing.T) {
	t.Parallel()
	broken := errors.New("cable cut")
	resized := func(data string, size int64) ocispec.Descriptor {
		desc := describe(data)
		desc.Size = size
		return desc
	}
	for name, test := range map[string]struct {
		shelf  shelf
		desc   ocispec.Descriptor
		limit  int64
		want   string
		errs   []error
		opened int
	}{
		"exact":           {shelf{data: []byte("data")}, describe("data"), 4, "data", nil, 1},
		"below the limit": {shelf{data: []byte("data")}, describe("data"), 100, "data", nil, 1},
		"empty":           {shelf{}, describe(""), 0, "", nil, 1},
		"in small pieces": {shelf{data: []byte("data"), wrap: iotest.OneByteReader}, describe("data"), 4, "data", nil, 1},
		"end with data":   {shelf{data: []byte("data"), wrap: iotest.DataErrReader}, describe("data"), 4, "data", nil, 1},

		"over the limit": {shelf{data: []byte("data")}, describe("data"), 3, "", []error{referrerstore.ErrTooLarge}, 0},
		"negative size":  {shelf{}, resized("", -1), 3, "", []error{referrerstore.ErrTooLarge}, 0},
		"not found":      {shelf{openErr: referrerstore.ErrNotFound}, describe("data"), 4, "", []error{referrerstore.ErrNotFound}, 1},
		"short":          {shelf{data: []byte("dat")}, describe("data"), 4, "", []error{referrerstore.ErrDigestMismatch}, 1},
		"short, right digest": {
			shelf{data: []byte("data")}, resized("data", 5), 9, "", []error{referrerstore.ErrDigestMismatch}, 1,
		},
		"nothing, right digest": {shelf{}, resized("", 5), 9, "", []error{referrerstore.ErrDigestMismatch}, 1},

		"nothing":    {shelf{}, describe("data"), 4, "", []error{referrerstore.ErrDigestMismatch}, 1},
		"long":       {shelf{data: []byte("data!")}, describe("data"), 9, "", []error{referrerstore.ErrDigestMismatch}, 1},
		"long empty": {shelf{data: []byte("!")}, describe(""), 9, "", []error{referrerstore.ErrDigestMismatch}, 1},
		"long, right digest": {
			shelf{data: []byte("data")}, resized("data", 3), 9, "", []error{referrerstore.ErrDigestMismatch}, 1,
		},
		"wrong": {shelf{data: []byte("date")}, describe("data"), 4, "", []error{referrerstore.ErrDigestMismatch}, 1},
		"wrong, end with data": {
			shelf{data: []byte("date"), wrap: iotest.DataErrReader}, describe("data"), 4, "", []error{referrerstore.ErrDigestMismatch}, 1,
		},
		"breaks off": {
			shelf{data: []byte("data"), wrap: breakAfter(2, broken)}, describe("data"), 4, "", []error{broken}, 1,
		},
		"breaks before its end": {
			shelf{data: []byte("data"), wrap: breakAfter(4, broken)}, describe("data"), 4, "", []error{broken}, 1,
		},
		"close fails": {shelf{data: []byte("data"), closeErr: broken}, describe("data"), 4, "", []error{broken}, 1},
		"both fail": {
			shelf{data: []byte("date"), closeErr: broken}, describe("data"), 4, "", []error{referrerstore.ErrDigestMismatch, broken}, 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := referrerstore.ReadAll(t.Context(), &test.shelf, referrerstore.Subject{}, test.desc, test.limit)
			if string(got) != test.want || (err == nil) != (test.errs == nil) {
				t.Errorf("%q, %v", got, err)
			}
			if err != nil && got != nil {
				t.Errorf("bytes beside an error: %q", got)
			}
			for _, want := range test.errs {
				if !errors.Is(err, want) {
					t.Errorf("%v is not %v", err, want)
				}
			}
			if s := &test.shelf; s.opened != test.opened || s.openErr == nil && s.closed != s.opened {
				t.Errorf("opened %d times, closed %d", s.opened, s.closed)
			}
		})
	}
}

func breakAfter(n int64, err error) func(io.Reader) io.Reader {
	return func(r io.Reader) io.Reader { return io.MultiReader(io.LimitReader(r, n), iotest.ErrReader(err)) }
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	err := error(&referrerstore.RetryAfterError{After: 7 * time.Second, Err: referrerstore.ErrRateLimited})
	wrapped := fmt.Errorf("resolve: %w", err)
	if got := referrerstore.RetryAfter(wrapped); got != 7*time.Second {
		t.Errorf("%s", got)
	}
	if !errors.Is(wrapped, referrerstore.ErrRateLimited) || errors.Is(wrapped, referrerstore.ErrUnavailable) {
		t.Error("does not unwrap to its cause")
	}
	if got, want := err.Error(), referrerstore.ErrRateLimited.Error()+"; it asks to wait 7s"; got != want {
		t.Errorf("%q", got)
	}
	for _, none := range []error{nil, referrerstore.ErrRateLimited} {
		if got := referrerstore.RetryAfter(none); got != 0 {
			t.Errorf("%v: %s", none, got)
		}
	}
}

// brokenStream ends with an error of its own after its bytes.
type brokenStream struct {
	io.Reader
	err error
}

func (b brokenStream) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		err = b.err
	}
	return n, err
}

func (brokenStream) Close() error { return nil }

type brokenFetcher struct {
	data []byte
	err  error
}

func (f brokenFetcher) Fetch(context.Context, referrerstore.Subject, ocispec.Descriptor, int64) (io.ReadCloser, error) {
	return brokenStream{bytes.NewReader(f.data), f.err}, nil
}

// Only io.EOF itself vouches for the digest: a connection that breaks off with
// an error around it proves nothing, and is no proof of altered content either.
func TestReadAllTellsBrokenFromEnded(t *testing.T) {
	t.Parallel()
	for _, cause := range []error{io.EOF, io.ErrUnexpectedEOF} {
		wrapped := fmt.Errorf("connection: %w", cause)
		for _, have := range []string{"", "conten", "content"} {
			desc := ocispec.Descriptor{Digest: digest.FromString("content"), Size: int64(len("content"))}
			_, err := referrerstore.ReadAll(t.Context(), brokenFetcher{[]byte(have), wrapped}, referrerstore.Subject{}, desc, 100)
			if !errors.Is(err, wrapped) || errors.Is(err, referrerstore.ErrDigestMismatch) {
				t.Errorf("%q then %v: %v", have, wrapped, err)
			}
		}
	}
}
