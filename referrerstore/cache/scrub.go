package cache

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"log/slog"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/time/rate"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/disk"
)

const (
	// scrubDelay is when after its start the background hashes all for the first
	// time, and scrubInterval how long after that again.
	scrubDelay    = 24 * time.Hour
	scrubInterval = 7 * 24 * time.Hour
	// scrubStep is how much is hashed between two looks at the context and rate.
	scrubStep = 256 << 10
	// settled is how old a file is that nobody is about to make known.
	settled = 10 * time.Minute
)

// Scrubbed is what a scrub found.
type Scrubbed struct {
	Objects     int   `json:"objects"`
	Bytes       int64 `json:"bytes"`
	Quarantined int   `json:"quarantined"` // were not what their names said
	Missing     int   `json:"missing"`     // known, but not there
	Foreign     int   `json:"foreign"`     // there, but not known: put aside
}

// Scrub hashes all that lies on the disk, at any speed, and puts aside what is
// not what its name says. It calls progress, which may be nil, after each object
// and now and then within large ones. Objects that the disk did not let it read
// stay, and the first of them is in the error.
func (c *Cache) Scrub(ctx context.Context, progress func(done, total int64)) (Scrubbed, error) {
	if c.scribe == nil {
		return Scrubbed{}, ErrReadOnly
	}
	ctx, done, err := c.during(ctx)
	if err != nil {
		return Scrubbed{}, err
	}
	defer done()
	return c.scrub(ctx, rate.NewLimiter(rate.Inf, scrubStep), func(*entry) bool { return true }, progress)
}

// scrubLoop hashes at Options.ScrubRate: what was not hashed since an unclean end
// first, and all of it after a day and then every week.
func (c *Cache) scrubLoop(ctx context.Context) {
	limit := rate.NewLimiter(rate.Limit(c.opts.ScrubRate), scrubStep)
	if c.unproven() {
		c.scrubRound(ctx, limit, func(e *entry) bool { return !e.proven.Load() })
	}
	for next := scrubDelay; ; next = scrubInterval {
		if pause(ctx, next) != nil {
			return
		}
		c.scrubRound(ctx, limit, func(*entry) bool { return true })
	}
}

func (c *Cache) scrubRound(ctx context.Context, limit *rate.Limiter, which func(*entry) bool) {
	found, err := c.scrub(ctx, limit, which, nil)
	if ctx.Err() != nil {
		return
	}
	level := slog.LevelDebug
	if err != nil || found.Quarantined+found.Missing+found.Foreign > 0 {
		level = slog.LevelWarn
	}
	c.log.Log(ctx, level, "scrubbed the cache", slog.Int("objects", found.Objects), slog.Int64("bytes", found.Bytes),
		slog.Int("quarantined", found.Quarantined), slog.Int("missing", found.Missing), slog.Int("foreign", found.Foreign), slog.Any("error", err))
}

// scrubbing is one scrub at work. It is for one goroutine.
type scrubbing struct {
	cache    *Cache
	limit    *rate.Limiter
	progress func(done, total int64)
	total    int64
	buffer   []byte
	found    Scrubbed
	err      error // the first
}

func (c *Cache) scrub(ctx context.Context, limit *rate.Limiter, which func(*entry) bool, progress func(done, total int64)) (Scrubbed, error) {
	s := &scrubbing{cache: c, limit: limit, progress: progress, buffer: make([]byte, scrubStep)}
	c.index.each(func(e *entry) bool {
		if which(e) {
			s.total += e.size
		}
		return true
	})
	c.index.each(func(e *entry) bool {
		if which(e) {
			s.object(ctx, e)
		}
		return ctx.Err() == nil
	})
	if ctx.Err() == nil {
		s.foreign(ctx)
	}
	if ctx.Err() != nil {
		return s.found, context.Cause(ctx)
	}
	return s.found, s.err
}

// object hashes one object, which is not dropped meanwhile.
func (s *scrubbing) object(ctx context.Context, seen *entry) {
	e := s.cache.index.acquire(seen.digest)
	if e == nil {
		return
	}
	defer e.release()
	if e.unwritten.Load() != nil || e.loose.Load() {
		return // it has no file yet, or none at all
	}
	err := s.hash(ctx, e)
	switch {
	case ctx.Err() != nil:
		return
	case err == nil:
		e.proven.Store(true)
	case errors.Is(err, fs.ErrNotExist):
		s.found.Missing++
		s.cache.drop(e, "its file is gone")
	case errors.Is(err, referrerstore.ErrDigestMismatch):
		s.found.Quarantined++
		s.cache.quarantine(e, err)
	default:
		e.proven.Store(false)
		s.fail(err)
	}
	s.found.Objects++
}

// hash says whether an object's file is what its name says.
func (s *scrubbing) hash(ctx context.Context, e *entry) error {
	f, err := s.cache.folder.Open(s.cache.path(e.digest))
	if err != nil {
		return err
	}
	defer f.Close()
	h := newHash(e.digest)
	n, err := s.read(ctx, f, h, e.size)
	switch {
	case err != nil:
		return err
	case n != e.size:
		return fmt.Errorf("content %s: %w: its file has another size than %d bytes", e.digest, referrerstore.ErrDigestMismatch, e.size)
	}
	return matches(e.digest, h)
}

// read hashes a file at the rate, up to a byte behind its size.
func (s *scrubbing) read(ctx context.Context, f disk.File, h hash.Hash, size int64) (n int64, err error) {
	for n <= size {
		part := s.buffer[:min(int64(len(s.buffer)), size+1-n)]
		if err := s.limit.WaitN(ctx, len(part)); err != nil {
			return n, err
		}
		got, err := f.ReadAt(part, n)
		h.Write(part[:got])
		n += int64(got)
		s.advance(int64(got))
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func (s *scrubbing) advance(n int64) {
	s.found.Bytes += n
	if s.progress != nil {
		s.progress(min(s.found.Bytes, s.total), s.total)
	}
}

func (s *scrubbing) fail(err error) {
	s.cache.failed("scrub", err)
	if s.err == nil {
		s.err = fmt.Errorf("scrub: %w", err)
	}
}

// foreign puts files aside that nobody knows. One that has just come may be about
// to be known.
func (s *scrubbing) foreign(ctx context.Context) {
	for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		dir := blobsDir + "/" + algorithm.String()
		err := s.cache.folder.List(dir, func(name string, isDir bool) error {
			if !isDir && !s.known(algorithm, name) && s.old(dir+"/"+name) && !s.known(algorithm, name) {
				s.found.Foreign++
				s.cache.putAside(dir+"/"+name, name, errForeign)
			}
			return ctx.Err()
		})
		if err != nil && ctx.Err() == nil && !errors.Is(err, fs.ErrNotExist) {
			s.fail(err)
		}
	}
}

var errForeign = errors.New("nothing is known of it")

func (s *scrubbing) known(algorithm digest.Algorithm, name string) bool {
	return s.cache.index.knows(digest.NewDigestFromEncoded(algorithm, name))
}

func (s *scrubbing) old(name string) bool {
	info, err := s.cache.folder.Stat(name)
	return err == nil && s.cache.now().Sub(info.ModTime()) >= settled
}
