// Package journal is a log of small records in a [disk.Folder]: what was appended
// is read again after a restart, in order, up to the first that a crash tore.
//
//   - journal.go: a Journal, and appending to it.
//   - frame.go: how records lie in a file.
//   - open.go: reading them again.
//   - commit.go: many appends by one write and one sync.
//   - rewrite.go: a snapshot in place of what came before it.
//
// The files, below the folder that is named:
//
//	NNNNNNNNNN.log   what was appended, in the order of the numbers
//	NNNNNNNNNN.all   a snapshot: files with lower numbers count no more
//	NNNNNNNNNN.new   a snapshot that is not whole yet
//
// No file is written again once it was closed, or once a write to it failed: what
// comes next begins another. A journal has one writer; that there is no second
// one is for its owner to see to, by [disk.Folder.Lock].
package journal

import (
	"context"
	"errors"
	"fmt"
	"path"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/semaphore"

	"github.com/gatehouse-project/gatehouse/referrerstore/disk"
)

const (
	// MaxRecord bounds the bytes of one record.
	MaxRecord = 1 << 20
	// MaxAppend bounds the bytes of all records of one Append, with up to four
	// for each that tell its length.
	MaxAppend = 8 << 20
	// maxQueued bounds the bytes that wait for the disk; whoever comes then
	// waits before they are taken.
	maxQueued = 2 * (MaxAppend + frameHeader)
)

var (
	// ErrClosed is what a journal answers after Close.
	ErrClosed = errors.New("journal: closed")
	// ErrTooLarge says that a record has more than MaxRecord bytes, or the
	// records of an Append more than MaxAppend. Nothing of them was appended.
	ErrTooLarge = errors.New("journal: record too large")
	// ErrVersion says that a file was written by a later version of Gatehouse.
	ErrVersion = errors.New("journal: unknown version")
)

// Options of a Journal.
type Options struct {
	// Sync makes Append return only when the records are on the disk; without
	// it they survive a killed process but not a power cut.
	Sync bool
}

// Damage is what Open put aside: bytes behind the last whole record of a file, or
// records whose checksum is wrong. The files stay as they are, and are counted
// again by each Open, until a Rewrite.
type Damage struct {
	Torn    int   // files that end within a record, or of which the rest makes no sense
	Records int   // records that are not what was written
	Bytes   int64 // of both
}

// Journal appends records. Open makes one; it is safe for concurrent use.
type Journal struct {
	dir  disk.Folder
	name string
	opts Options

	size      atomic.Int64
	room      *semaphore.Weighted // of maxQueued
	rewriting chan struct{}       // holds one while somebody rewrites
	closing   chan struct{}       // closed by Close
	close     func() error
	work      sync.WaitGroup // of drain

	mu     sync.Mutex // guards what follows; never held across I/O
	closed bool
	busy   bool // drain is under way
	next   *batch
	calls  []func() // for drain to do before the next batch

	// Only drain uses what follows, and Close behind it.
	out   out
	made  bool   // the folder is there
	last  uint64 // the highest number that a file has
	frame []byte // kept between commits
}

// Append adds records, all or none after a crash of the process, and returns
// when they are as safe as Options.Sync says. Appends that come together are
// written and synced together. The records are not used any more when it returns.
//
// An Append that comes after another has returned is read behind it. The context
// bounds only the wait: when it ends, and after any error but ErrTooLarge and
// ErrClosed, the records may be read again or not. An error of the disk is that of
// all that were written together; the next Append tries anew.
func (j *Journal) Append(ctx context.Context, records ...[]byte) error {
	if len(records) == 0 {
		return nil
	}
	frame, err := encode(records)
	if err != nil {
		return err
	}
	if err := j.room.Acquire(ctx, int64(len(frame))); err != nil {
		return fmt.Errorf("append to journal %s: %w", j.name, context.Cause(ctx))
	}
	b, err := j.enqueue(frame)
	if err != nil {
		j.room.Release(int64(len(frame)))
		return err
	}
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return fmt.Errorf("append to journal %s: %w", j.name, context.Cause(ctx))
	}
}

// Size is the bytes of all files, by which the owner decides to Rewrite.
func (j *Journal) Size() int64 { return j.size.Load() }

// Close ends the journal; what Append returned for is kept. It waits for what is
// under way; a Rewrite ends with ErrClosed. Then it brings to the disk all that
// counts and is not there: what was appended without Options.Sync, also by a
// process before this one that was killed. An error says that a power cut may take
// some of that. Closing again returns what the first Close did.
func (j *Journal) Close() error { return j.close() }

func (j *Journal) shut() error {
	j.mu.Lock()
	j.closed = true
	j.mu.Unlock()
	close(j.closing)
	j.work.Wait()
	j.rewriting <- struct{}{} // and keeps it
	var err error
	if j.out.file != nil {
		err = j.out.file.Close()
	}
	if err := errors.Join(err, j.syncAll()); err != nil {
		return fmt.Errorf("close journal %s: %w", j.name, err)
	}
	return nil
}

// syncAll syncs all files that count, and their names.
func (j *Journal) syncAll() error {
	files, err := j.list()
	if err != nil || len(files) == 0 {
		return err
	}
	for _, f := range current(files) {
		if err := j.syncFile(path.Join(j.name, f.name)); err != nil {
			return err
		}
	}
	if err := j.dir.Sync(j.name); err != nil {
		return err
	}
	return j.syncAbove()
}

func (j *Journal) syncFile(name string) error {
	f, err := j.dir.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
