package journal

import (
	"fmt"
	"io"
	"path"

	"github.com/gatehouse-project/gatehouse/referrerstore/disk"
)

// keptFrame bounds the bytes that are kept from one commit for the next.
const keptFrame = 1 << 20

// batch is what is written by one write and synced by one sync.
type batch struct {
	frames [][]byte
	bytes  int64
	done   chan struct{}
	err    error // set before done is closed
}

// enqueue puts a frame into the next batch.
func (j *Journal) enqueue(frame []byte) (*batch, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return nil, ErrClosed
	}
	if j.next == nil {
		j.next = &batch{done: make(chan struct{})}
	}
	j.next.frames = append(j.next.frames, frame)
	j.next.bytes += int64(len(frame))
	j.wake()
	return j.next, nil
}

// call has a function called between two batches.
func (j *Journal) call(f func()) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return ErrClosed
	}
	j.calls = append(j.calls, f)
	j.wake()
	return nil
}

// wake starts drain, which ends when it has nothing left to do. The lock is held.
func (j *Journal) wake() {
	if !j.busy {
		j.busy = true
		j.work.Go(j.drain)
	}
}

// drain is the only one that writes what is appended, so that those who wait can
// leave while the disk takes its time.
func (j *Journal) drain() {
	for {
		calls, b := j.take()
		if b == nil && len(calls) == 0 {
			return
		}
		for _, call := range calls {
			call()
		}
		if b == nil {
			continue
		}
		if err := j.commit(b.frames); err != nil {
			b.err = fmt.Errorf("append to journal %s: %w", j.name, err)
		}
		j.room.Release(b.bytes)
		close(b.done)
	}
}

func (j *Journal) take() ([]func(), *batch) {
	j.mu.Lock()
	defer j.mu.Unlock()
	calls, b := j.calls, j.next
	j.calls, j.next = nil, nil
	j.busy = b != nil || len(calls) > 0
	return calls, b
}

// commit writes frames behind each other, in a new file if there is none that can
// be trusted. A file that fails is left for good.
func (j *Journal) commit(frames [][]byte) error {
	buf := j.frame[:0]
	if j.out.file == nil {
		if err := j.begin(); err != nil {
			return err
		}
		buf, j.out.seal = newFile(buf)
	}
	for _, frame := range frames {
		j.out.seal.close(frame)
		buf = append(buf, frame...)
	}
	if cap(buf) <= keptFrame {
		j.frame = buf
	}
	n, err := j.out.write(buf)
	if err == nil && j.opts.Sync {
		err = j.out.sync(j.dir, j.name)
	}
	j.size.Add(int64(n))
	if err != nil {
		j.abandon()
		return err
	}
	j.out.used = true
	return nil
}

func (j *Journal) begin() error {
	if err := j.makeFolder(); err != nil {
		return err
	}
	j.last++
	name := path.Join(j.name, fileName(j.last, logs))
	file, err := j.dir.Create(name)
	if err != nil {
		return err
	}
	j.out = out{file: file, name: name}
	return nil
}

// makeFolder makes the journal's folder, once, and brings its name to the disk.
func (j *Journal) makeFolder() error {
	if j.made {
		return nil
	}
	if err := j.dir.MakeDir(j.name); err != nil {
		return err
	}
	err := j.syncAbove()
	j.made = err == nil
	return err
}

// syncAbove brings the name of the folder to the disk, and those above it.
func (j *Journal) syncAbove() error {
	for at := j.name; at != "."; {
		at = path.Dir(at)
		if err := j.dir.Sync(at); err != nil {
			return err
		}
	}
	return nil
}

// abandon leaves a file that failed. One that holds nothing else is removed, lest
// a disk that stays full is filled with files.
func (j *Journal) abandon() {
	_ = j.out.file.Close() // it failed before
	if !j.out.used && j.dir.Remove(j.out.name) == nil {
		j.size.Add(-j.out.written)
	}
	j.out = out{}
}

// out is the file that is appended to.
type out struct {
	file    disk.File // nil: the next commit begins one
	name    string
	seal    seal
	written int64
	used    bool // it holds what an Append returned for
	named   bool // its name is on the disk
}

func (o *out) write(buf []byte) (int, error) {
	n, err := o.file.Write(buf)
	o.written += int64(n)
	if err == nil && n < len(buf) {
		err = io.ErrShortWrite
	}
	return n, err
}

func (o *out) sync(dir disk.Folder, folder string) error {
	if err := o.file.Sync(); err != nil {
		return err
	}
	if o.named {
		return nil
	}
	err := dir.Sync(folder)
	o.named = err == nil
	return err
}
