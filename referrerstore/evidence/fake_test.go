package evidence

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
	"github.com/gatehouse-project/gatehouse/referrerstore/storetest"
)

var errDisk = errors.New("the disk is on fire")

// noCache fails at all that it is asked for.
type noCache struct{ err error }

func (noCache) Tag(cache.Scope, string) (cache.Tag, bool)            { return cache.Tag{}, false }
func (noCache) SetTag(cache.Scope, string, cache.Tag)                {}
func (noCache) DropTag(cache.Scope, string)                          {}
func (noCache) Subject(cache.Scope, digest.Digest) (cache.Tag, bool) { return cache.Tag{}, false }
func (noCache) SetSubject(cache.Scope, cache.Tag)                    {}

func (noCache) Referrers(cache.Scope, digest.Digest) ([]ocispec.Descriptor, time.Time, bool) {
	return nil, time.Time{}, false
}

func (noCache) SetReferrers(cache.Scope, digest.Digest, []ocispec.Descriptor, time.Time) {}

func (c noCache) Get(cache.Want) (*cache.Content, error) { return nil, c.err }

func (c noCache) Obtain(context.Context, cache.Want, cache.Source) (*cache.Content, error) {
	return nil, c.err
}

// shelf hands out, for any digest, what make returns.
type shelf struct {
	noCache
	make func(want cache.Want, from cache.Source) (*book, error)
	mu   sync.Mutex // guards open
	open int
}

func (s *shelf) get(cache.Want) (content, error) { return nil, referrerstore.ErrNotFound }

func (s *shelf) obtain(_ context.Context, want cache.Want, from cache.Source) (content, error) {
	b, err := s.make(want, from)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open++
	b.shelf = s
	b.ReadSeeker = bytes.NewReader(b.data)
	return b, nil
}

// book is content of a shelf.
type book struct {
	io.ReadSeeker
	shelf    *shelf
	data     []byte
	inMemory bool
	held     bool
	read     func(p []byte) (int, error) // in place of the bytes
	rewound  func(*book)                 // called by Seek
}

func (b *book) Size() int64        { return int64(len(b.data)) }
func (b *book) MediaType() string  { return "" }
func (b *book) Created() time.Time { return time.Time{} }
func (b *book) Held() bool         { return b.held }

func (b *book) Bytes() ([]byte, bool) { return b.data, b.inMemory }

func (b *book) Seek(offset int64, whence int) (int64, error) {
	if b.rewound != nil {
		b.rewound(b)
	}
	return b.ReadSeeker.Seek(offset, whence)
}

func (b *book) Read(p []byte) (int, error) {
	if b.read != nil {
		return b.read(p)
	}
	return b.ReadSeeker.Read(p)
}

func (b *book) Close() error {
	b.shelf.mu.Lock()
	defer b.shelf.mu.Unlock()
	b.shelf.open--
	return nil
}

// The bytes of what is held are wrong in every way that they can be: none of them
// reaches a reader under a clean end, and the registry's do where that is still
// possible.
func TestHeldBytesAreNeverBelieved(t *testing.T) {
	t.Parallel()
	good := bytes.Repeat([]byte("what was proven "), 10_000)
	bad := bytes.Replace(good, []byte("was"), []byte("WAS"), 1)
	at := func(n int, err error) func(*book) func([]byte) (int, error) {
		return func(b *book) func([]byte) (int, error) {
			rest := io.MultiReader(bytes.NewReader(good[:n]), broken{err})
			return rest.Read
		}
	}
	for name, tt := range map[string]struct {
		book    book
		read    func(*book) func([]byte) (int, error)
		err     error // that the reader gets; nil if he gets the content
		fetches int   // that the store behind sees
	}{
		"memory":               {book: book{data: good, held: true, inMemory: true}},
		"memory, altered":      {book: book{data: bad, held: true, inMemory: true}, fetches: 1},
		"memory, short":        {book: book{data: good[1:], held: true, inMemory: true}, fetches: 1},
		"memory, long":         {book: book{data: append(slices.Clip(good), 'x'), held: true, inMemory: true}, fetches: 1},
		"file":                 {book: book{data: good, held: true}},
		"file, altered":        {book: book{data: bad, held: true}, fetches: 1},
		"file, short":          {book: book{data: good[1:], held: true}, fetches: 1},
		"file, long":           {book: book{data: append(slices.Clip(good), 'x'), held: true}, fetches: 1},
		"file, unreadable":     {book: book{data: good, held: true}, read: at(5, errDisk), fetches: 1},
		"file, altered later":  {book: book{data: good, held: true, rewound: func(b *book) { b.ReadSeeker = bytes.NewReader(bad) }}, err: referrerstore.ErrDigestMismatch},
		"arriving":             {book: book{data: good}},
		"arriving, altered":    {book: book{data: bad}, err: referrerstore.ErrDigestMismatch},
		"arriving, disk fails": {book: book{data: good}, read: at(70_000, errDisk), fetches: 1},
		"arriving, last fails": {book: book{data: good}, read: at(len(good), errDisk), fetches: 1},
		"arriving, cut":        {book: book{data: good}, read: at(70_000, referrerstore.ErrBrokenOff), err: referrerstore.ErrBrokenOff},
		"arriving, wrong":      {book: book{data: good}, read: at(70_000, referrerstore.ErrDigestMismatch), err: referrerstore.ErrDigestMismatch},
		"arriving, both wrong": {book: book{data: bad}, read: func(*book) func([]byte) (int, error) {
			return io.MultiReader(bytes.NewReader(bad[:70_000]), broken{errDisk}).Read
		}, fetches: 1, err: referrerstore.ErrDigestMismatch},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, offset := range []int64{0, 1, 60_000, 80_000, int64(len(good)) - 1, int64(len(good))} {
				inner := storetest.New("inner")
				subject := inner.AddImage("registry.example.com/app:v1")
				desc := inner.AddBlob(subject.Reference, storetest.Blob{MediaType: "example/blob", Data: good})
				held := &shelf{make: func(cache.Want, cache.Source) (*book, error) {
					b := tt.book
					if tt.read != nil {
						b.read = tt.read(&b)
					}
					return &b, nil
				}}
				s := newStore(inner, held, held, Options{})
				got, err := readAll(t.Context(), s, subject, desc, offset)
				if !errors.Is(err, tt.err) {
					t.Fatalf("offset %d: %v, want %v", offset, err, tt.err)
				}
				if tt.err == nil && !bytes.Equal(got, good[offset:]) {
					t.Errorf("offset %d: %d bytes that are not the content's", offset, len(got))
				}
				if n := inner.Counts().Fetch; n != tt.fetches {
					t.Errorf("offset %d: the store behind was asked %d times, want %d", offset, n, tt.fetches)
				}
				if held.open != 0 || inner.Counts().Open != 0 {
					t.Errorf("offset %d: %d contents and %d streams were never closed", offset, held.open, inner.Counts().Open)
				}
			}
		})
	}
}

type broken struct{ err error }

func (b broken) Read([]byte) (int, error) { return 0, b.err }

// readAll reads a stream to its end and closes it.
func readAll(ctx context.Context, from referrerstore.Fetcher, subject referrerstore.Subject, desc ocispec.Descriptor, offset int64) ([]byte, error) {
	stream, err := from.Fetch(ctx, subject, desc, offset)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(stream)
	return data, errors.Join(err, stream.Close())
}

// What the registry said reaches the caller as it was said; what the cache cannot
// do, the store behind does.
func TestErrorsOfTheCache(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err    error
		passed bool // to the caller
	}{
		{cache.ErrReadOnly, false},
		{cache.ErrClosed, false},
		{cache.ErrKind, false},
		{errDisk, false},
		{errIdentityChanged, false},
		{referrerstore.ErrTooLarge, false},
		{referrerstore.ErrNotFound, true},
		{referrerstore.ErrAuthDenied, true},
		{referrerstore.ErrDigestMismatch, true},
		{&referrerstore.RetryAfterError{After: time.Minute, Err: referrerstore.ErrRateLimited}, true},
		{referrerstore.ErrBrokenOff, true},
		{referrerstore.ErrBusy, true},
	} {
		t.Run(tt.err.Error(), func(t *testing.T) {
			t.Parallel()
			inner := storetest.New("inner")
			subject := inner.AddImage("registry.example.com/app:v1")
			s := New(inner, noCache{fmt.Errorf("wrapped: %w", tt.err)}, Options{})
			_, err := readAll(t.Context(), s, subject, subject.Descriptor, 0)
			if passed := errors.Is(err, tt.err); passed != tt.passed || (err == nil) == tt.passed {
				t.Errorf("fetch: %v", err)
			}
			if asked := inner.Counts().Fetch > 0; asked == tt.passed {
				t.Errorf("the store behind was asked: %t", asked)
			}
		})
	}
}

// A cache that can do nothing is as good as none.
func TestConformsWithoutCache(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) (referrerstore.Store, storetest.Seed) {
		inner, seed := newInner(t)
		return New(inner, noCache{cache.ErrReadOnly}, Options{}), seed
	})
}

// The same for a cache that hands everything through.
func TestConformsOverFake(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) (referrerstore.Store, storetest.Seed) {
		inner, seed := newInner(t)
		held := &shelf{}
		s := newStore(bare{inner}, held, passing{held}, Options{})
		t.Cleanup(func() {
			if held.open != 0 {
				t.Errorf("%d contents were never closed", held.open)
			}
		})
		return s, seed
	})
}

// passing hands out what sources deliver.
type passing struct{ *shelf }

func (c passing) obtain(ctx context.Context, want cache.Want, from cache.Source) (content, error) {
	pulled, err := from.Pull(ctx, want, 0)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open++
	return arriving{&book{shelf: c.shelf, read: pulled.Body.Read}, pulled.Body}, nil
}

type arriving struct {
	*book
	body io.Closer
}

func (a arriving) Close() error { return errors.Join(a.book.Close(), a.body.Close()) }

// bare is a store that does not pull.
type bare struct{ referrerstore.Store }

// newInner is a store in memory with what the conformance suite asks for.
func newInner(t *testing.T) (*storetest.Memory, storetest.Seed) {
	t.Helper()
	inner := storetest.New("inner")
	inner.ServesHost = func(host string) bool { return host == "registry.example.com" }
	stalled := make(chan struct{})
	stall := func(ctx context.Context) error {
		select {
		case <-stalled:
			<-ctx.Done()
		default:
		}
		return nil
	}
	inner.ResolveFault = func(ctx context.Context, _ referrerstore.Reference) error { return stall(ctx) }
	inner.ReferrersFault = func(ctx context.Context, _ referrerstore.Subject, _ int) error { return stall(ctx) }
	inner.FetchFault = func(ctx context.Context, _ ocispec.Descriptor) error { return stall(ctx) }
	inner.PullFault = func(ctx context.Context, _ storetest.Pull) error { return stall(ctx) }
	seed := storetest.Seed{
		Subject: inner.AddImage("registry.example.com/app:v1"),
		Data:    bytes.Repeat([]byte("0123456789"), 10_000),
		Foreign: "docker.io",
		Stall:   sync.OnceFunc(func() { close(stalled) }),
	}
	ref := seed.Subject.Reference
	seed.Blob = inner.AddBlob(ref, storetest.Blob{MediaType: "example/blob", Data: seed.Data})
	seed.Referrers = []ocispec.Descriptor{
		inner.AddReferrer(seed.Subject, "example/a", storetest.Blob{MediaType: "example/blob", Data: seed.Data}),
		inner.AddReferrer(seed.Subject, "example/b"),
	}
	seed.Altered = inner.AddBlob(ref, storetest.Blob{MediaType: "example/blob", Data: []byte("what was promised")})
	inner.Alter = func(desc ocispec.Descriptor, data []byte) []byte {
		if desc.Digest == seed.Altered.Digest {
			return []byte("what is delivered")
		}
		return data
	}
	return inner, seed
}

func (*shelf) Doubt(digest.Digest) {}

func (noCache) Doubt(digest.Digest) {}

func (passing) Doubt(digest.Digest) {}
