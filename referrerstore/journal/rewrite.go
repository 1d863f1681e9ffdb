package journal

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path"

	"github.com/gatehouse-project/gatehouse/referrerstore/disk"
)

const (
	// draftFrame is from how many bytes on a snapshot begins another frame: what
	// is lost if one is damaged.
	draftFrame = 16 << 10
	// draftWrite is from how many bytes on it is written.
	draftWrite = 256 << 10
)

// Rewrite replaces all that was appended before it by the records of the
// snapshot. What is appended meanwhile comes behind. A failure leaves all as it
// was: at any moment, a crash leaves either what there was or the whole snapshot,
// and in both cases what was appended meanwhile. The snapshot is always synced.
//
// The snapshot is ranged over, once, after the point at which it takes the place
// of what came before: it must hold all that Append was called with up to then,
// so an owner changes what snapshots are made of before it appends that. Its
// bytes are used only until the next; it may call Append, but not Close. The
// context bounds the whole; of several callers one rewrites at a time.
func (j *Journal) Rewrite(ctx context.Context, snapshot iter.Seq[[]byte]) error {
	err := j.rewrite(ctx, snapshot)
	if err != nil && !errors.Is(err, ErrClosed) {
		return fmt.Errorf("rewrite journal %s: %w", j.name, err)
	}
	return err
}

func (j *Journal) rewrite(ctx context.Context, snapshot iter.Seq[[]byte]) error {
	select {
	case j.rewriting <- struct{}{}:
	case <-j.closing:
		return ErrClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-j.rewriting }()
	t, err := j.turn(ctx)
	if err != nil {
		return err
	}
	return j.replace(ctx, t, snapshot)
}

func (j *Journal) replace(ctx context.Context, t turn, snapshot iter.Seq[[]byte]) error {
	size, err := j.draft(ctx, t.number, snapshot)
	if err != nil {
		return err
	}
	// From here on the snapshot counts, and is itself part of the size.
	j.size.Add(size)
	if err := j.dir.Sync(j.name); err != nil {
		return err
	}
	j.size.Add(-t.before)
	j.removeBefore(t.number)
	return nil
}

// turn is the point at which a snapshot takes its place: the next append begins a
// new file.
type turn struct {
	number uint64 // of the snapshot, between the files before it and those behind
	before int64  // bytes
	err    error
}

func (j *Journal) turn(ctx context.Context) (turn, error) {
	turned := make(chan turn, 1)
	if err := j.call(func() { turned <- j.turnNow() }); err != nil {
		return turn{}, err
	}
	select {
	case t := <-turned:
		return t, t.err
	case <-ctx.Done(): // the turn comes later, and does no harm
		return turn{}, context.Cause(ctx)
	}
}

// turnNow runs between two batches.
func (j *Journal) turnNow() turn {
	if err := j.makeFolder(); err != nil {
		return turn{err: err}
	}
	if j.out.file != nil {
		_ = j.out.file.Close() // what Append promised is there
		j.out = out{}
	}
	j.last++
	return turn{number: j.last, before: j.size.Load()}
}

// draft writes a snapshot beside and puts it in its place.
func (j *Journal) draft(ctx context.Context, number uint64, snapshot iter.Seq[[]byte]) (size int64, err error) {
	name := path.Join(j.name, fileName(number, drafts))
	file, err := j.dir.Create(name)
	if err != nil {
		return 0, err
	}
	placed := false
	defer func() {
		if !placed {
			_ = j.dir.Remove(name) // otherwise the next Rewrite does
		}
	}()
	if size, err = j.fill(ctx, file, snapshot); err != nil {
		return 0, err
	}
	if err := j.dir.Rename(name, path.Join(j.name, fileName(number, snapshots))); err != nil {
		return 0, err
	}
	placed = true
	return size, nil
}

// fill writes, syncs and closes a draft, whatever the snapshot does.
func (j *Journal) fill(ctx context.Context, file disk.File, snapshot iter.Seq[[]byte]) (size int64, err error) {
	defer func() { err = errors.Join(err, file.Close()) }()
	w := newDraft(file)
	for record := range snapshot {
		if err := j.interrupted(ctx); err != nil {
			return 0, err
		}
		if err := w.add(record); err != nil {
			return 0, err
		}
	}
	if err := w.flush(); err != nil {
		return 0, err
	}
	if err := j.interrupted(ctx); err != nil {
		return 0, err
	}
	return w.out.written, file.Sync()
}

func (j *Journal) interrupted(ctx context.Context) error {
	select {
	case <-j.closing:
		return ErrClosed
	default:
		return context.Cause(ctx)
	}
}

// removeBefore removes what counts no more. What it fails to remove is ignored by
// Open and removed by the next Rewrite.
func (j *Journal) removeBefore(number uint64) {
	files, _ := j.list()
	for _, f := range files {
		if f.number < number {
			_ = j.dir.Remove(path.Join(j.name, f.name))
		}
	}
}

// draft is a snapshot that is being written.
type draft struct {
	out     out
	buf     []byte // frames that are not written yet
	frame   []byte
	records int // of frame
}

func newDraft(file disk.File) *draft {
	d := &draft{out: out{file: file}, frame: make([]byte, frameHeader)}
	d.buf, d.out.seal = newFile(nil)
	return d
}

func (d *draft) add(record []byte) error {
	if len(record) > MaxRecord {
		return fmt.Errorf("%w: %d bytes", ErrTooLarge, len(record))
	}
	d.frame = appendRecord(d.frame, record)
	d.records++
	if len(d.frame) >= draftFrame {
		d.endFrame()
	}
	if len(d.buf) >= draftWrite {
		return d.write()
	}
	return nil
}

func (d *draft) endFrame() {
	if d.records == 0 {
		return
	}
	finish(d.frame, d.records)
	d.out.seal.close(d.frame)
	d.buf = append(d.buf, d.frame...)
	d.frame, d.records = d.frame[:frameHeader], 0
}

func (d *draft) write() error {
	_, err := d.out.write(d.buf)
	d.buf = d.buf[:0]
	return err
}

func (d *draft) flush() error {
	d.endFrame()
	return d.write()
}
