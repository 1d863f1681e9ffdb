package disktest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"
)

// ErrCrashed is what operations of a process may fail with that a test lets end:
// see Folder.FailFrom.
var ErrCrashed = errors.New("disktest: crashed")

// remembered is how many operations Log knows.
const remembered = 256

// Op is one operation: of the folder (create, append, open, rename, remove, mkdir,
// list, stat, syncdir, free, lock) or of an open file (read, readat, write,
// truncate, sync, fstat, close, unlock).
type Op struct {
	N     int // counted from 1
	Kind  string
	Name  string
	To    string // of a rename
	Bytes int    // of a read, a write, or the size of a truncate
}

func (o Op) String() string {
	switch {
	case o.To != "":
		return fmt.Sprintf("%d %s %s to %s", o.N, o.Kind, o.Name, o.To)
	case o.Bytes != 0:
		return fmt.Sprintf("%d %s %s %d", o.N, o.Kind, o.Name, o.Bytes)
	}
	return fmt.Sprintf("%d %s %s", o.N, o.Kind, o.Name)
}

// wrap makes of an error one as package os has it; io.EOF stays what it is.
func (o Op) wrap(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return &fs.PathError{Op: o.Kind, Path: o.Name, Err: err}
}

// faults decides which operations fail.
type faults struct {
	mu   sync.Mutex // guards what follows; never held across a call
	ops  int
	at   map[int]error
	from int // 0: none
	err  error
	hook func(Op) error
	log  []Op
}

// FailAt lets the k-th operation fail with the error, counted from 1 since the
// folder was made. A write that fails writes half of its bytes, a close closes;
// of all else nothing happens.
func (f *Folder) FailAt(k int, err error) {
	f.faults.mu.Lock()
	defer f.faults.mu.Unlock()
	if f.faults.at == nil {
		f.faults.at = map[int]error{}
	}
	f.faults.at[k] = err
}

// FailFrom lets all operations from the k-th on fail with the error. With
// ErrCrashed it is a process that ends there.
func (f *Folder) FailFrom(k int, err error) {
	f.faults.mu.Lock()
	defer f.faults.mu.Unlock()
	f.faults.from, f.faults.err = k, err
}

// Before calls with each operation before it is done, which then fails with the
// error that is returned, if any. The function may wait; it is called by many
// at once. Nil ends that.
func (f *Folder) Before(call func(Op) error) {
	f.faults.mu.Lock()
	defer f.faults.mu.Unlock()
	f.faults.hook = call
}

// Heal ends all of FailAt, FailFrom and Before.
func (f *Folder) Heal() {
	f.faults.mu.Lock()
	defer f.faults.mu.Unlock()
	f.faults.at, f.faults.from, f.faults.err, f.faults.hook = nil, 0, nil, nil
}

// Ops is how many operations there were, those too that failed.
func (f *Folder) Ops() int {
	f.faults.mu.Lock()
	defer f.faults.mu.Unlock()
	return f.faults.ops
}

// Log is what the last operations were, one a line, for the message of a test.
func (f *Folder) Log() string {
	f.faults.mu.Lock()
	defer f.faults.mu.Unlock()
	var b strings.Builder
	for _, op := range f.faults.log {
		fmt.Fprintln(&b, op)
	}
	return b.String()
}

// next counts an operation and says how it fails.
func (f *faults) next(op Op) error {
	hook, op, err := f.count(op)
	if err != nil || hook == nil {
		return err
	}
	return hook(op)
}

func (f *faults) count(op Op) (func(Op) error, Op, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ops++
	op.N = f.ops
	if len(f.log) == 2*remembered {
		f.log = append(f.log[:0], f.log[remembered:]...)
	}
	f.log = append(f.log, op)
	if f.from > 0 && op.N >= f.from {
		return nil, op, f.err
	}
	return f.hook, op, f.at[op.N]
}
