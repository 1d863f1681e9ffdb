// Package disk is the folder that a cache keeps its files in: the few operations
// that it takes, so that tests can let each of them fail.
//
// [Open] is a real folder; disktest has one in memory that fails, is full, or
// loses what was not synced, at the k-th operation. Names are relative, with
// slashes, as [fs.ValidPath] has them, and never lead out of the folder, not by
// a symbolic link either; "." is the folder itself.
//
//   - disk.go: the roles.
//   - dir.go: a real folder, over [os.Root].
//   - classify.go: what an error says that a caller can act on.
//   - sys_*.go: locks and free space, by system.
package disk

import (
	"errors"
	"io"
	"io/fs"
)

// Folder is a folder at work. All methods are safe for concurrent use. Errors
// are those of package os: errors.Is finds [fs.ErrNotExist] and [fs.ErrExist],
// and [Full], [ReadOnly] and [Failing] tell what else a caller can act on. A name
// that is none is [fs.ErrInvalid].
type Folder interface { //nolint:interfacebloat // one role: a folder is of use only with all of these
	// Create makes a file that must not exist yet, for reading and writing.
	Create(name string) (File, error)
	// Append opens a file for writing at its end, and makes it if need be.
	Append(name string) (File, error)
	// Open opens a file for reading. That of a real folder is an *os.File.
	Open(name string) (File, error)
	// Rename moves a file within the folder, in one step, over what is there.
	// To survive a power cut it takes a Sync of the folder that the file comes
	// to, and then of the one that it leaves.
	Rename(from, to string) error
	// Remove deletes a file, or a folder that is empty. Whoever has the file
	// open reads on.
	Remove(name string) error
	// MakeDir makes a folder below, and those above it; it may exist.
	MakeDir(name string) error
	// List calls each with the files of a folder below, in no order, until it
	// returns an error, which List returns. The size is not looked up. The
	// function may use the folder; whether it is called with a file that is
	// made or removed meanwhile is open.
	List(name string, each func(name string, dir bool) error) error
	// Stat is a file's size and mode.
	Stat(name string) (fs.FileInfo, error)
	// Sync brings what was created, renamed and removed in a folder below to
	// the disk. What is in its files takes File.Sync, and its own name a Sync
	// of the folder above.
	Sync(name string) error
	// Free is how many bytes of its file system an unprivileged user may still
	// fill, and how many there are in all. errors.ErrUnsupported if the system
	// does not say.
	Free() (free, size int64, err error)
	// Lock takes the file as a lock that no other process can take until it is
	// closed, and makes it if need be. ErrLocked says that another has it. A
	// process that ends, in whatever way, lets go of its locks.
	Lock(name string) (io.Closer, error)
}

// File is an open file. ReadAt may be called concurrently, also with a Write;
// the others by one goroutine at a time.
type File interface { //nolint:interfacebloat // what *os.File is used for
	io.Reader
	io.ReaderAt
	io.Seeker
	// Write may have written a part of the bytes, even if it fails.
	io.Writer
	io.Closer
	// Sync brings the file's bytes to the disk. After a Sync that failed nobody
	// can tell what is there, not even if a later one succeeds: what was
	// written before it has to be written again, to another file.
	Sync() error
	// Truncate cuts the file to size.
	Truncate(size int64) error
	Stat() (fs.FileInfo, error)
}

// ErrLocked says that another process holds the lock.
var ErrLocked = errors.New("disk: locked by another process")
