package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// passing is content on its way from the registry to one reader, and nowhere else:
// what cannot be kept. It hashes what comes and keeps the end back until the
// digest is right.
type passing struct {
	ctx   context.Context //nolint:containedctx // a reader of one request
	want  Want
	from  Source
	total int64

	begins beginning // what was handed out before, by another pull

	stream  *stream // nil: to be opened from the start
	hash    hash.Hash
	start   int64  // where pending begins in the content
	pending []byte // read and hashed, and not handed out yet
	ended   bool   // pending is the end, and all is proven
	err     error  // what ended it before
}

// errPassed says that content cannot be kept: each reader pulls for himself.
var errPassed = errors.New("cache: not kept")

// passStep is how much is read from the registry at a time.
const passStep = 32 << 10

// beginning is the first bytes of what one pull brought, and their hash: another one
// must begin with the same if some of them were handed out before they were proven.
// The zero value asks for nothing.
type beginning struct {
	length int64
	sum    []byte
}

// pass opens content that is not kept, as soon as the header is there.
func pass(ctx context.Context, want Want, from Source) (*Content, error) {
	return passBehind(ctx, want, from, beginning{})
}

func passBehind(ctx context.Context, want Want, from Source, begins beginning) (*Content, error) {
	p := &passing{ctx: ctx, want: want, from: from, total: -1, begins: begins}
	if err := p.open(); err != nil {
		return nil, err
	}
	return &Content{
		digest: want.Digest, mediaType: mediaTypeOf(want, p.stream.head.MediaType), created: time.Now().Unix(),
		total: p.total, body: p,
	}, nil
}

// mediaTypeOf is what a manifest is: as its registry says, or else as it was
// listed.
func mediaTypeOf(want Want, said string) string {
	switch {
	case want.Kind != Manifest:
		return ""
	case said != "" && len(said) <= maxMediaType:
		return said
	default:
		return want.MediaType
	}
}

// open begins anew at the first byte.
func (p *passing) open() error {
	s, err := openStream(p.ctx, p.want, p.from)
	if err != nil {
		return err
	}
	if err := p.want.admits(s.head.Size); err != nil {
		return errors.Join(err, s.close())
	}
	if s.head.Size >= 0 {
		p.total = s.head.Size
	} else if p.want.Size >= 0 {
		p.total, s.head.Size = p.want.Size, p.want.Size
	}
	p.stream, p.hash, p.start, p.ended = s, newHash(p.want.Digest), 0, false
	p.pending = p.pending[:0]
	return nil
}

// admits says whether content of a size, -1 if that is not known, is what is
// wanted and within the bound of its kind.
func (w Want) admits(size int64) error {
	if limit := w.limit(); limit >= 0 && max(size, w.Size) > limit {
		return fmt.Errorf("content %s: %w: %d bytes, at most %d", w.Digest, referrerstore.ErrTooLarge, max(size, w.Size), limit)
	}
	return w.sizeIs(size)
}

// limit bounds what is no blob; -1 is no bound.
func (w Want) limit() int64 {
	if w.Kind == Blob {
		return -1
	}
	return MaxManifest
}

func (p *passing) size() int64 { return p.total }

func (p *passing) close() error {
	if p.stream != nil {
		p.stream.close() //nolint:gosec // only says that ctx has ended
		p.stream = nil
	}
	return nil
}

func (p *passing) readAt(b []byte, offset int64) (int, error) {
	if p.stream == nil || offset < p.start {
		if err := errors.Join(p.close(), p.open()); err != nil {
			return 0, err
		}
	}
	for {
		free := p.free()
		if skip := offset - p.start; skip < free {
			n := copy(b, p.pending[skip:free])
			p.forget(skip + int64(n))
			return n, nil
		}
		if p.ended {
			return 0, io.EOF
		}
		p.forget(free)
		if p.err != nil {
			return 0, p.err
		}
		p.err = p.fill()
	}
}

// free is how much of pending may be handed out.
func (p *passing) free() int64 {
	have := int64(len(p.pending))
	switch {
	case p.ended:
		return have
	case p.total >= 0:
		return max(min(have, p.total-holdBack-p.start), 0)
	default:
		return max(have-holdBack, 0)
	}
}

func (p *passing) forget(n int64) {
	p.pending = p.pending[:copy(p.pending, p.pending[n:])]
	p.start += n
}

// fill reads some more, and proves the digest at the end.
func (p *passing) fill() error {
	have := len(p.pending)
	if cap(p.pending)-have < passStep {
		grown := make([]byte, have, have+holdBack+passStep)
		copy(grown, p.pending)
		p.pending = grown
	}
	n, err := p.stream.Read(p.pending[have : have+passStep])
	p.pending = p.pending[:have+n]
	if err := p.take(p.pending[have:]); err != nil {
		return err
	}
	if limit := p.want.limit(); limit >= 0 && p.stream.at > limit {
		return fmt.Errorf("content %s: %w: at most %d bytes", p.want.Digest, referrerstore.ErrTooLarge, limit)
	}
	if !errors.Is(err, io.EOF) {
		return err
	}
	if err := matches(p.want.Digest, p.hash); err != nil {
		return err
	}
	if p.begins.length > p.stream.at {
		return p.otherwise()
	}
	p.ended, p.total = true, p.stream.at
	return nil
}

// take hashes what was just read.
func (p *passing) take(data []byte) error {
	left := p.begins.length - (p.stream.at - int64(len(data)))
	if 0 < left && left <= int64(len(data)) {
		p.hash.Write(data[:left])
		if !bytes.Equal(p.hash.Sum(nil), p.begins.sum) {
			return p.otherwise()
		}
		data = data[left:]
	}
	p.hash.Write(data)
	return nil
}

func (p *passing) otherwise() error {
	return fmt.Errorf("content %s: %w: another pull of it began otherwise", p.want.Digest, referrerstore.ErrDigestMismatch)
}
