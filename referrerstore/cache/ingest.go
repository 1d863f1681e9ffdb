package cache

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/disk"
)

// copyStep is how much of a large object is read, hashed and written at a time.
const copyStep = 128 << 10

// random is a name that no file has yet.
func random() string { return rand.Text() }

func (c *Cache) ingestName() string { return ingestDir + "/" + random() }

// pull brings the content in: small ones by way of memory, large ones by way of
// the disk.
func (p *pull) pull() error {
	_, granted := p.cache.index.scope(p.want.Scope).grants(p.want.Digest)
	if e := p.cache.index.look(p.want.Digest); granted && e != nil && e.kind == p.want.Kind {
		p.again = true // it came while this one was called for
		return nil
	}
	s, err := openStream(p.ctx, p.want, p.from)
	if err != nil {
		return err
	}
	defer s.close()
	want := Want{Digest: p.want.Digest, Kind: p.want.Kind, Size: -1}
	if err := want.admits(s.head.Size); err != nil {
		return err
	}
	if s.head.Size < 0 {
		s.head.Size, p.guessed = p.want.Size, p.want.Size >= 0 // of the first who came
	}
	p.size, p.mediaType = s.head.Size, mediaTypeOf(p.want, s.head.MediaType)
	if p.want.Kind != Blob || (p.size >= 0 && p.size <= MaxReplicated) {
		return p.small(s)
	}
	return p.large(s)
}

// small reads content whole and answers all who wait before the disk has it.
func (p *pull) small(s *stream) error {
	limit := int64(MaxManifest)
	if p.size >= 0 {
		limit = min(limit, p.size)
	}
	data, err := readUpTo(s, limit)
	if errors.Is(err, referrerstore.ErrTooLarge) && p.size >= 0 && p.size <= MaxManifest {
		err = fmt.Errorf("%w: more than %d bytes", referrerstore.ErrDigestMismatch, p.size)
	}
	if err == nil {
		err = verify(p.want.Digest, data)
	}
	if err != nil {
		return err
	}
	p.cache.metrics.ingested.Add(float64(len(data)))
	p.cache.keep(p.ctx, p.want, data, p.mediaType)
	p.data, p.size = data, int64(len(data))
	if data == nil {
		p.data = []byte{}
	}
	return nil
}

// readUpTo reads all there is, which must not be more than limit. Memory grows
// with what comes, not with what is announced.
func readUpTo(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	switch {
	case err != nil:
		return nil, err
	case int64(len(data)) > limit:
		return nil, fmt.Errorf("%w: at most %d bytes", referrerstore.ErrTooLarge, limit)
	default:
		return data, nil
	}
}

// keep takes proven content in, visible at once, and says whether it did: not if
// the digest is known to be of another kind.
func (c *Cache) keep(ctx context.Context, want Want, data []byte, mediaType string) bool {
	e := c.newEntry(want.Digest, int64(len(data)), want.Kind)
	if want.Kind == Manifest {
		e.document = parseDocument(data)
	}
	e.proven.Store(true)
	e.unwritten.Store(&data)
	held, ours, err := c.admit(ctx, e)
	if err != nil {
		return false
	}
	c.replica.put(want.Digest, data)
	if ours {
		c.index.grant(want.Scope, held, mediaType)
		c.write(held) // which releases it
		return true
	}
	defer held.release()
	if held.kind != want.Kind {
		return false
	}
	c.grant(want.Scope, held, mediaType)
	c.index.touch(held, c.now().Unix())
	return true
}

func (c *Cache) newEntry(d digest.Digest, size int64, kind Kind) *entry {
	now := c.now().Unix()
	e := &entry{digest: d, size: size, kind: kind, created: now}
	e.pulled.Store(now)
	return e
}

// admit makes an entry known whose bytes are proven, or finds the one that is; the
// caller releases what it gets.
func (c *Cache) admit(ctx context.Context, e *entry) (known *entry, ours bool, err error) {
	for {
		held, gone := c.index.insert(e)
		if held == e {
			return e, true, nil
		}
		if gone == nil {
			known = c.index.acquire(e.digest)
		}
		switch {
		case known != nil && known.kind != e.kind && (c.index.orphan(known) || yields(known, e.kind)):
			if c.index.expel(known) { // its file is that of the new one
				c.index.bury(known)
			}
			known.release()
			known = nil
		case known != nil && known.size != e.size:
			c.torn(known)
			known = nil
		case known != nil:
			return known, false, nil
		case gone != nil:
			select {
			case <-gone:
			case <-ctx.Done():
				return nil, false, context.Cause(ctx)
			}
		}
	}
}

// torn puts an acquired object aside that is of another size than proven bytes of
// its digest, and releases it.
func (c *Cache) torn(e *entry) {
	defer e.release()
	c.quarantine(e, fmt.Errorf("%w: its file has %d bytes", referrerstore.ErrDigestMismatch, e.size))
}

// large streams content to the disk, for all who follow to read there. If the
// disk does not take it, each pulls for himself.
func (p *pull) large(s *stream) error {
	p.announce()
	room := p.cache.reserve(p.ctx, max(p.size, 0))
	if room == nil {
		return errPassed
	}
	defer room.release()
	name := p.cache.ingestName()
	f, err := p.cache.folder.Create(name)
	if err != nil {
		p.cache.failed("create "+ingestDir, err)
		return errPassed
	}
	p.change(func() { p.file = f })
	moved := false
	defer func() {
		if !moved {
			p.cache.folder.Remove(name) //nolint:errcheck,gosec // the next start removes it
		}
	}()
	if err := p.copy(s, f, room); err != nil {
		return err
	}
	moved, err = p.commit(f, name, room)
	if err != nil {
		p.cache.failed("commit "+blobsDir, err)
		return errPassed
	}
	return nil
}

// buffers are reused from pull to pull.
var buffers = sync.Pool{New: func() any { return new([copyStep]byte) }} //nolint:gochecknoglobals // of no state

// copy brings the stream to the file and proves it. Errors of the disk are
// errPassed.
func (p *pull) copy(s *stream, f disk.File, room *room) error {
	buf := buffers.Get().(*[copyStep]byte) //nolint:forcetypeassert // nothing else is put there
	defer buffers.Put(buf)
	h := newHash(p.want.Digest)
	for {
		n, err := s.Read(buf[:])
		if n > 0 {
			if err := p.append(f, h, buf[:n], room); err != nil {
				p.change(func() { p.begins = beginning{length: s.at, sum: h.Sum(nil)} })
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	if err := matches(p.want.Digest, h); err != nil {
		return err
	}
	p.change(func() { p.proven = true })
	p.cache.metrics.ingested.Add(float64(p.written))
	return nil
}

func (p *pull) append(f disk.File, h hash.Hash, data []byte, room *room) error {
	h.Write(data)
	if p.size < 0 && !room.grow(p.ctx, p.written+int64(len(data))) {
		return errPassed
	}
	n, err := f.Write(data)
	if err == nil && n < len(data) {
		err = io.ErrShortWrite
	}
	if err != nil {
		p.cache.failed("write "+ingestDir, err)
		return errPassed
	}
	p.change(func() { p.written += int64(n) })
	return nil
}

// commit makes the file an object, and says whether it has been moved to its
// place.
func (p *pull) commit(f disk.File, name string, room *room) (moved bool, err error) {
	c := p.cache
	if c.opts.Durability == Full {
		if err := f.Sync(); err != nil {
			return false, err
		}
	}
	e := c.newEntry(p.want.Digest, p.written, Blob)
	e.proven.Store(true)
	held, err := c.settle(p.ctx, e, name)
	if err != nil {
		return false, err
	}
	defer held.release()
	room.release() // it is counted as held from here on
	if held.kind == Blob {
		c.index.grant(p.want.Scope, held, "")
		c.index.touch(held, c.now().Unix())
		records := c.records(held)
		if err = c.commit(p.ctx, records...); err != nil && p.ctx.Err() != nil {
			c.note(records...)
		}
	}
	if err != nil {
		c.failed("commit journal", err) // it is there until the next start
	}
	return held == e, nil
}

// settle moves a file to where its object lies and makes the entry known, or finds
// the one that is. An object that is held already, or on its way out, is waited
// for first, or its removal would take the new file.
func (c *Cache) settle(ctx context.Context, e *entry, name string) (*entry, error) {
	for {
		held, err := c.await(ctx, e.digest)
		if err != nil {
			return nil, err
		}
		if held == nil {
			break
		}
		if held.size == e.size {
			return held, nil
		}
		c.torn(held)
	}
	path := c.path(e.digest)
	if err := c.folder.Rename(name, path); err != nil {
		return nil, err
	}
	if err := c.syncDir(e.digest); err != nil {
		return nil, err
	}
	held, _, err := c.admit(ctx, e)
	return held, err
}

// await acquires what is held; nil if nothing is, nor on its way out.
func (c *Cache) await(ctx context.Context, d digest.Digest) (*entry, error) {
	for {
		if e := c.index.acquire(d); e != nil {
			return e, nil
		}
		gone := c.index.dying(d)
		if gone == nil {
			return nil, nil //nolint:nilnil // there is none, and that is no error
		}
		select {
		case <-gone:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// syncDir brings the folder of an object to the disk.
func (c *Cache) syncDir(d digest.Digest) error {
	if c.opts.Durability != Full {
		return nil
	}
	return c.folder.Sync(blobsDir + "/" + d.Algorithm().String())
}

// records say that an object is held, and of whom.
func (c *Cache) records(e *entry) []record {
	all := []record{putRecord(e)}
	for _, s := range c.index.scopesOf(e) {
		if mediaType, granted := s.grants(e.digest); granted {
			all = append(all, grantRecord(s.Scope, e, mediaType))
		}
	}
	return all
}
