// Package disktest is a folder in memory whose every operation a test can let
// fail, and that can be crashed: what a killed process leaves, or what a power cut
// leaves of what was not synced.
//
//   - folder.go: the folder and its operations.
//   - file.go: its open files.
//   - tree.go: names and what they lead to, now and on the disk.
//   - fault.go: which operations fail, and the log of what was done.
//   - crash.go: kills and power cuts.
//   - suite.go, suite_steps.go: what every Folder has to do, for tests of real
//     ones too.
//
// A test that lets a process die at every moment runs it once to learn the number
// of operations ([Folder.Ops]), then again for each k with [Folder.FailFrom], and
// opens what [Folder.Crash] leaves.
package disktest

import (
	"io"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore/disk"
)

// unbounded is the capacity of a folder that was given none.
const unbounded = 1 << 40

// Folder is a folder in memory. Use New. All methods are safe for concurrent use.
type Folder struct {
	faults faults

	mu       sync.Mutex // guards what follows, and all nodes; never held across a call
	root     *node
	pending  []step // of names, not synced, in their order
	capacity int64
	used     int64
	readOnly bool
}

var (
	_ disk.Folder = (*Folder)(nil)
	_ disk.File   = (*file)(nil)
)

// New is an empty folder in which nothing fails, with room for a tebibyte.
func New() *Folder { return &Folder{root: newDir(), capacity: unbounded} }

// Capacity is how many bytes all files may have together from now on, those too
// that are removed but still open. A write that does not fit writes what does and
// fails with ENOSPC; making files and folders takes no room.
func (f *Folder) Capacity(bytes int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.capacity = bytes
}

// ReadOnly makes all that writes fail with EROFS, in files that are open too, or
// ends that.
func (f *Folder) ReadOnly(yes bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.readOnly = yes
}

// Create implements disk.Folder.
func (f *Folder) Create(name string) (disk.File, error) {
	return f.open(Op{Kind: "create", Name: name}, true, func(at place) (*node, error) {
		if at.node != nil {
			return nil, syscall.EEXIST
		}
		return f.make(at, &node{}), nil
	}, access{read: true, write: true})
}

// Append implements disk.Folder.
func (f *Folder) Append(name string) (disk.File, error) {
	return f.open(Op{Kind: "append", Name: name}, true, func(at place) (*node, error) {
		if at.node == nil {
			return f.make(at, &node{}), nil
		}
		if at.node.dir() {
			return nil, syscall.EISDIR
		}
		return at.node, nil
	}, access{write: true, end: true})
}

// Open implements disk.Folder.
func (f *Folder) Open(name string) (disk.File, error) {
	return f.open(Op{Kind: "open", Name: name}, false, place.existing, access{read: true})
}

// Rename implements disk.Folder.
func (f *Folder) Rename(from, to string) error {
	return f.do(Op{Kind: "rename", Name: from, To: to}, true, func() error {
		source, err := f.find(from)
		if err != nil {
			return err
		}
		target, err := f.find(to)
		if err != nil {
			return err
		}
		return f.move(source, target, from, to)
	})
}

// Remove implements disk.Folder.
func (f *Folder) Remove(name string) error {
	return f.do(Op{Kind: "remove", Name: name}, true, func() error {
		at, err := f.find(name)
		if err != nil {
			return err
		}
		n, err := at.existing()
		switch {
		case err != nil:
			return err
		case n == f.root:
			return syscall.EINVAL
		case len(n.now) > 0:
			return syscall.ENOTEMPTY
		}
		f.change(link{dir: at.parent, name: at.name})
		f.unlink(n)
		return nil
	})
}

// MakeDir implements disk.Folder.
func (f *Folder) MakeDir(name string) error {
	return f.do(Op{Kind: "mkdir", Name: name}, true, func() error {
		for above := range prefixes(name) {
			at, err := f.find(above)
			switch {
			case err != nil:
				return err
			case at.node == nil:
				f.make(at, newDir())
			case !at.node.dir():
				return syscall.ENOTDIR
			}
		}
		return nil
	})
}

// List implements disk.Folder: the files that there are at its start, by name.
func (f *Folder) List(name string, each func(name string, dir bool) error) error {
	var names []string
	dirs := map[string]bool{}
	err := f.do(Op{Kind: "list", Name: name}, false, func() error {
		n, err := f.findDir(name)
		if err != nil {
			return err
		}
		names = slices.Sorted(maps.Keys(n.now))
		for name, child := range n.now {
			dirs[name] = child.dir()
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := each(name, dirs[name]); err != nil {
			return err
		}
	}
	return nil
}

// Stat implements disk.Folder.
func (f *Folder) Stat(name string) (info fs.FileInfo, err error) {
	err = f.do(Op{Kind: "stat", Name: name}, false, func() error {
		at, err := f.find(name)
		if err != nil {
			return err
		}
		n, err := at.existing()
		if err != nil {
			return err
		}
		info = n.info(at.name)
		return nil
	})
	return info, err
}

// Sync implements disk.Folder.
func (f *Folder) Sync(name string) error {
	return f.do(Op{Kind: "syncdir", Name: name}, false, func() error {
		n, err := f.findDir(name)
		if err != nil {
			return err
		}
		f.settle(n)
		return nil
	})
}

// Free implements disk.Folder.
func (f *Folder) Free() (free, size int64, err error) {
	err = f.do(Op{Kind: "free", Name: "."}, false, func() error {
		free, size = max(0, f.capacity-f.used), f.capacity
		return nil
	})
	return free, size, err
}

// Lock implements disk.Folder.
func (f *Folder) Lock(name string) (closer io.Closer, err error) {
	opened, err := f.open(Op{Kind: "lock", Name: name}, true, func(at place) (*node, error) {
		n := at.node
		switch {
		case n == nil:
			n = f.make(at, &node{})
		case n.dir():
			return nil, syscall.EISDIR
		case n.locked:
			return nil, disk.ErrLocked
		}
		n.locked = true
		return n, nil
	}, access{lock: true})
	if err != nil {
		return nil, err
	}
	return opened, nil
}

// do counts an operation, fails it if it shall, and otherwise does it under the
// lock.
func (f *Folder) do(op Op, writes bool, act func() error) error {
	if !fs.ValidPath(op.Name) || op.Kind == "rename" && !fs.ValidPath(op.To) {
		return op.wrap(fs.ErrInvalid)
	}
	if err := f.faults.next(op); err != nil {
		return op.wrap(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if writes && f.readOnly {
		return op.wrap(syscall.EROFS)
	}
	return op.wrap(act())
}

func (f *Folder) open(op Op, writes bool, get func(place) (*node, error), may access) (disk.File, error) {
	var opened *file
	err := f.do(op, writes, func() error {
		at, err := f.find(op.Name)
		if err != nil {
			return err
		}
		n, err := get(at)
		if err != nil {
			return err
		}
		n.opens++
		opened = &file{folder: f, node: n, name: op.Name, may: may}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return opened, nil
}

// Put makes a file with the bytes, and the folders above it, as found on the disk:
// nothing is counted, nothing fails, and all of it is synced.
func (f *Folder) Put(name string, data []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at := place{node: f.root}
	for above := range prefixes(name) {
		at, _ = f.find(above)
		switch {
		case at.node != nil:
		case above == name:
			at.node = f.make(at, &node{})
		default:
			at.node = f.make(at, newDir())
		}
		f.settle(at.parent)
	}
	n := at.node
	f.used += int64(len(data) - len(n.data))
	n.data = slices.Clone(data)
	n.synced, n.doubtful, n.modified = n.data, nil, time.Now()
}

// Bytes are those of a file as it is now; false if there is none.
func (f *Folder) Bytes(name string) ([]byte, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at, err := f.find(name)
	if err != nil || at.node == nil || at.node.dir() {
		return nil, false
	}
	return slices.Clone(at.node.data), true
}

// Names are those of all files as they are now, sorted.
func (f *Folder) Names() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	names := f.root.names("", nil)
	slices.Sort(names)
	return names
}
