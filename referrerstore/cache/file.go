package cache

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/disk"
)

// wholeFile is content in a file whose bytes were proven.
type wholeFile struct {
	cache *Cache
	entry *entry
	file  disk.File
}

func (f *wholeFile) size() int64  { return f.entry.size }
func (f *wholeFile) close() error { return f.file.Close() }

func (f *wholeFile) readAt(p []byte, offset int64) (int, error) {
	left := f.entry.size - offset
	if left <= 0 {
		return 0, io.EOF
	}
	n, err := f.file.ReadAt(p[:min(int64(len(p)), left)], offset)
	switch {
	case n > 0:
		return n, nil
	case errors.Is(err, io.EOF): // it was cut while it was read
		err = fmt.Errorf("content %s: %w: its file has become shorter", f.entry.digest, referrerstore.ErrDigestMismatch)
		f.cache.quarantine(f.entry, err)
	default:
		f.cache.failed("read "+blobsDir, err)
		err = fmt.Errorf("content %s: %w", f.entry.digest, err)
	}
	return 0, err
}

// provingFile is content in a file that was not hashed since an unclean end. It
// hashes what it hands out, in order, and keeps the end back until the digest is
// right. Whoever begins in the middle waits until all of it is hashed.
type provingFile struct {
	wholeFile
	ctx    context.Context //nolint:containedctx // that of Obtain; nil if there is none
	hash   hash.Hash
	hashed int64
	proven bool
	err    error
}

func (f *provingFile) readAt(p []byte, offset int64) (int, error) {
	open := f.entry.size - holdBack // what may be handed out before all is proven
	if !f.proven && (offset != f.hashed || offset >= open) {
		if err := f.prove(); err != nil {
			return 0, err
		}
	}
	if f.proven {
		return f.wholeFile.readAt(p, offset)
	}
	n, err := f.wholeFile.readAt(p[:min(int64(len(p)), open-offset)], offset)
	f.hash.Write(p[:n])
	f.hashed += int64(n)
	return n, err
}

// prove hashes what was not yet.
func (f *provingFile) prove() error {
	if f.err != nil {
		return f.err
	}
	if f.entry.proven.Load() && f.hashed == 0 { // another reader was faster
		f.proven = true
		return nil
	}
	for f.hashed < f.entry.size {
		if f.ctx != nil && f.ctx.Err() != nil { // nobody waits for the rest
			return context.Cause(f.ctx)
		}
		if f.err = f.hashSome(); f.err != nil {
			return f.err
		}
	}
	if f.err = matches(f.entry.digest, f.hash); f.err != nil {
		f.cache.quarantine(f.entry, f.err)
		return f.err
	}
	f.proven = true
	f.entry.proven.Store(true)
	return nil
}

// hashSome hashes the next bytes.
func (f *provingFile) hashSome() error {
	const step = 1 << 20
	some := io.NewSectionReader(f.file, f.hashed, min(step, f.entry.size-f.hashed))
	n, err := io.Copy(f.hash, some)
	f.hashed += n
	switch {
	case err != nil:
		f.cache.failed("read "+blobsDir, err)
		return fmt.Errorf("content %s: %w", f.entry.digest, err)
	case n == 0: // it was cut while it was read
		err = fmt.Errorf("content %s: %w: its file has become shorter", f.entry.digest, referrerstore.ErrDigestMismatch)
		f.cache.quarantine(f.entry, err)
		return err
	}
	return nil
}

// rescued is content from a file whose reader can pull for himself where the disk
// fails.
type rescued struct {
	body
	ctx  context.Context //nolint:containedctx // that of Obtain
	want Want
	from Source
	read bool // some of it was handed out
	own  *Content
}

func (r *rescued) readAt(p []byte, offset int64) (int, error) {
	if r.own != nil {
		return r.own.body.readAt(p, offset)
	}
	n, err := r.body.readAt(p, offset)
	r.read = r.read || n > 0
	if err == nil || errors.Is(err, io.EOF) || r.ctx.Err() != nil || !r.may() {
		return n, err
	}
	own, passErr := pass(r.ctx, r.want, r.from)
	if passErr != nil {
		return 0, errors.Join(err, passErr)
	}
	r.own = own
	return r.readAt(p, offset)
}

// may says whether what was handed out is sure to be the beginning of the same.
func (r *rescued) may() bool {
	proving, unproven := r.body.(*provingFile)
	return !r.read || !unproven || proving.proven
}

func (r *rescued) close() error {
	err := r.body.close()
	if r.own != nil {
		err = errors.Join(err, r.own.Close())
	}
	return err
}
