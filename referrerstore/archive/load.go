package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
)

// Options of Load. The zero value loads all platforms of all images that have a
// full name.
type Options struct {
	// Name is what the images are called, whatever they call themselves. With a
	// tag or digest it is that of the archive's only image; without one it is the
	// repository for the tags that the images have ("latest" for an only one that
	// has none). Empty leaves it to the archive: to the annotations of its index
	// or the RepoTags of docker save.
	Name string
	// Platforms chooses among the images of an index; none means all that are
	// there. See the package comment.
	Platforms []Platform
	// Identity names, for a canonical host, as whom its registry would be asked:
	// content is kept for that identity. Nil is nobody, for all hosts.
	Identity func(host string) string
	// Progress is told how many bytes of how many are done, now and then and
	// at the end; nil is nobody. It must not block.
	Progress func(done, total int64)
}

// Into is what Load needs of a [cache.Cache].
type Into interface {
	Source
	Put(want cache.Want, data []byte) error
	Obtain(ctx context.Context, want cache.Want, from cache.Source) (*cache.Content, error)
	tagger
	SetReferrers(scope cache.Scope, subject digest.Digest, listed []ocispec.Descriptor, at time.Time)
}

type tagger interface {
	SetTag(scope cache.Scope, tag string, is cache.Tag)
	DropTag(scope cache.Scope, tag string)
}

// Loaded is what was loaded.
type Loaded struct {
	// Images are those that have names, in the archive's order, the names of one
	// image together.
	Images []Image
	// Objects and Bytes are of all that they consist of.
	Objects int
	Bytes   int64
	// Unnamed is how many manifests the archive lists that have no name and refer
	// to no image that has one: they were left out.
	Unnamed int
}

// Image is an image and what it is called.
type Image struct {
	Reference  referrerstore.Reference
	Descriptor ocispec.Descriptor // media type, digest and size
}

// Load brings the images of an archive into a cache, with what refers to them,
// manifests first and tags last. What was loaded before a failure stays: each
// object is what its digest says, and no tag leads to what is not whole.
//
// Errors are ErrInvalid, ErrUnnamed, ErrAmbiguous, ErrNoPlatform, ErrNotKept, a
// *MissingError, referrerstore.ErrDigestMismatch and ErrInvalidReference, those of
// the cache, or the cause of ctx's end.
func Load(ctx context.Context, from *Archive, into Into, opts Options) (Loaded, error) {
	p, err := newPlan(ctx, from.files, opts)
	if err != nil {
		return Loaded{}, fmt.Errorf("load: %w", err)
	}
	l := &loading{into: into, plan: p, progress: newProgress(opts.Progress, p.total)}
	if err := l.run(ctx); err != nil {
		return Loaded{}, fmt.Errorf("load: %w", err)
	}
	return Loaded{Images: p.images, Objects: len(p.steps), Bytes: p.total, Unnamed: p.left}, nil
}

// loading is a plan that is carried out.
type loading struct {
	into     Into
	plan     *plan
	progress *progress
}

func (l *loading) run(ctx context.Context) error {
	for _, s := range l.plan.steps {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := l.take(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", s.want.Digest, err)
		}
	}
	if err := l.check(); err != nil {
		return err
	}
	l.note()
	l.progress.end()
	return nil
}

// take brings in one object: what is small at once, layers as a stream.
func (l *loading) take(ctx context.Context, s step) error {
	desc := ocispec.Descriptor{Digest: s.want.Digest, Size: s.want.Size}
	if s.want.Kind == cache.Manifest || desc.Size <= cache.MaxReplicated {
		data, err := readBlob(s.from, desc)
		if err != nil {
			return err
		}
		l.progress.add(desc.Size)
		return l.into.Put(s.want, data)
	}
	from := &stored{files: s.from}
	held, err := l.obtain(ctx, s.want, from, l.progress)
	if err != nil {
		return err
	}
	if held {
		l.progress.add(desc.Size)
		return nil
	}
	return l.settled(ctx, s.want, from)
}

// obtain has an object brought in, and says whether it was there already.
func (l *loading) obtain(ctx context.Context, want cache.Want, from cache.Source, to io.Writer) (held bool, err error) {
	got, err := l.into.Obtain(ctx, want, from)
	if err != nil {
		return false, err
	}
	held = got.Held()
	if !held && to != nil {
		_, err = io.Copy(to, &patient{ctx: ctx, from: got})
	}
	return held, errors.Join(err, got.Close())
}

// settled waits until a layer that was read whole is held: the disk is a little
// behind its readers. If the cache comes back for it, it did not keep it.
func (l *loading) settled(ctx context.Context, want cache.Want, from *stored) error {
	const longest = 50 * time.Millisecond
	before := from.pulls.Load()
	for pause := time.Millisecond; ; pause = min(2*pause, longest) {
		held, err := l.obtain(ctx, want, from, nil)
		switch {
		case err != nil || held:
			return err
		case from.pulls.Load() != before:
			return ErrNotKept
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// check sees to it that all is held: a cache whose disk is full hands things
// through without keeping them.
func (l *loading) check() error {
	for _, s := range l.plan.steps {
		got, err := l.into.Get(s.want)
		if err == nil {
			err = got.Close()
		}
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrNotKept, s.want.Digest, err)
		}
	}
	return nil
}

// loaded is the age of what an archive says: older than all that may decide on an
// admission. It is somebody's word, and no registry's.
func loaded() time.Time { return time.Unix(1, 0) }

// note tells the cache where tags lead and what refers to what. Where a tag leads
// elsewhere by its registry's word, the archive's counts from now on, for pulls.
func (l *loading) note() {
	for at, listed := range l.plan.lists {
		if l.plan.known[at] {
			l.list(at, listed)
		}
	}
	for _, image := range l.plan.images {
		ref := image.Reference
		if ref.Tag == "" || ref.Digest != "" {
			continue
		}
		scope := l.plan.scope(ref)
		if was, known := l.into.Tag(scope, ref.Tag); known && was.Descriptor.Digest == image.Descriptor.Digest {
			continue
		}
		l.into.DropTag(scope, ref.Tag)
		l.into.SetTag(scope, ref.Tag, cache.Tag{Descriptor: image.Descriptor, At: loaded()})
	}
}

// list adds to what the registry said before, and leaves its age: an archive has
// what somebody chose to put there, which is no reason to forget or to renew.
func (l *loading) list(at place, listed []ocispec.Descriptor) {
	all, when, known := l.into.Referrers(at.scope, at.digest)
	if !known {
		when = loaded()
	}
	all = slices.Clone(all)
	for _, desc := range listed {
		if !slices.ContainsFunc(all, func(d ocispec.Descriptor) bool { return d.Digest == desc.Digest }) {
			all = append(all, desc)
		}
	}
	l.into.SetReferrers(at.scope, at.digest, all, when)
}

// stored is an archive as the source of one object of a cache.
type stored struct {
	files files
	pulls atomic.Int32 // how often it was asked
}

// Pull implements [cache.Source].
func (s *stored) Pull(_ context.Context, want cache.Want, offset int64) (referrerstore.Pulled, error) {
	s.pulls.Add(1)
	f, err := s.open(want)
	if err != nil {
		return referrerstore.Pulled{}, err
	}
	if offset < 0 || offset > f.size() {
		offset = 0
	}
	body := struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(f, offset, f.size()-offset), f}
	return referrerstore.Pulled{Body: body, Offset: offset, Size: f.size(), MediaType: want.MediaType}, nil
}

// Confirm implements [cache.Source]: whoever has a digest's name need not have its
// bytes.
func (s *stored) Confirm(ctx context.Context, want cache.Want) error {
	f, err := s.open(want)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // it was only read
	got, err := sum(ctx, f, want.Digest.Algorithm())
	if err == nil && got != want.Digest {
		err = fmt.Errorf("%s: %w", want.Digest, referrerstore.ErrDigestMismatch)
	}
	return err
}

func (s *stored) open(want cache.Want) (file, error) {
	f, err := s.files.open(blobPath(want.Digest))
	if isAbsent(err) {
		return nil, fmt.Errorf("%s: %w", want.Digest, referrerstore.ErrNotFound)
	}
	return f, err
}

// progress counts bytes for whoever wants to know, every few of them.
type progress struct {
	tell        func(done, total int64)
	done, total int64
	told        int64
}

func newProgress(tell func(done, total int64), total int64) *progress {
	return &progress{tell: tell, total: total}
}

func (p *progress) add(n int64) {
	const step = 1 << 20
	if p.done += n; p.tell != nil && p.done-p.told >= step {
		p.told = p.done
		p.tell(p.done, p.total)
	}
}

// Write implements io.Writer.
func (p *progress) Write(b []byte) (int, error) {
	p.add(int64(len(b)))
	return len(b), nil
}

func (p *progress) end() {
	if p.tell != nil {
		p.tell(p.done, p.total)
	}
}
