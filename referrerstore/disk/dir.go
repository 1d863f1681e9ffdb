package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	dirPerm  fs.FileMode = 0o700
	filePerm fs.FileMode = 0o600
	// batch is how many names of a folder List reads at once.
	batch = 256
)

// Dir is a real folder: all that it does stays below the folder that was opened,
// even if that is moved meanwhile. Folders that it makes are for their owner
// only (0700), files too (0600), less what the umask takes.
type Dir struct {
	root *os.Root
}

var (
	_ Folder = (*Dir)(nil)
	_ File   = (*os.File)(nil)
)

// Open opens the folder at a path of the system, and makes it, and those above
// it, if it is missing. A folder that exists may be one that cannot be written.
func Open(path string) (*Dir, error) {
	if err := os.MkdirAll(path, dirPerm); err != nil {
		return nil, fmt.Errorf("open folder: %w", err)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("open folder: %w", err)
	}
	return &Dir{root: root}, nil
}

// Path is the path that the folder was opened by.
func (d *Dir) Path() string { return d.root.Name() }

// Close lets go of the folder. Files and locks that are open stay so.
func (d *Dir) Close() error { return d.root.Close() }

// Create implements Folder.
func (d *Dir) Create(name string) (File, error) {
	return d.open("create", name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
}

// Append implements Folder.
func (d *Dir) Append(name string) (File, error) {
	return d.open("append", name, os.O_WRONLY|os.O_CREATE|os.O_APPEND)
}

// Open implements Folder; the File is an *os.File.
func (d *Dir) Open(name string) (File, error) { return d.open("open", name, os.O_RDONLY) }

// Rename implements Folder.
func (d *Dir) Rename(from, to string) error {
	if err := errors.Join(valid("rename", from), valid("rename", to)); err != nil {
		return err
	}
	return d.root.Rename(filepath.FromSlash(from), filepath.FromSlash(to))
}

// Remove implements Folder.
func (d *Dir) Remove(name string) error {
	if err := valid("remove", name); err != nil {
		return err
	}
	return d.root.Remove(filepath.FromSlash(name))
}

// MakeDir implements Folder.
func (d *Dir) MakeDir(name string) error {
	if err := valid("mkdir", name); err != nil {
		return err
	}
	return d.root.MkdirAll(filepath.FromSlash(name), dirPerm)
}

// List implements Folder; it reads the folder in batches, however large it is.
func (d *Dir) List(name string, each func(name string, dir bool) error) error {
	f, err := d.file("list", name, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		entries, err := f.ReadDir(batch)
		for _, entry := range entries {
			if err := each(entry.Name(), entry.IsDir()); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// Stat implements Folder.
func (d *Dir) Stat(name string) (fs.FileInfo, error) {
	if err := valid("stat", name); err != nil {
		return nil, err
	}
	return d.root.Stat(filepath.FromSlash(name))
}

// Sync implements Folder. File systems that cannot sync a folder have nothing to
// be synced by it.
func (d *Dir) Sync(name string) error {
	f, err := d.file("sync", name, os.O_RDONLY)
	if err != nil {
		return err
	}
	return errors.Join(syncDir(f), f.Close())
}

// Free implements Folder.
func (d *Dir) Free() (free, size int64, err error) {
	f, err := d.file("free", ".", os.O_RDONLY)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	free, size, err = space(f)
	if err != nil {
		return 0, 0, &fs.PathError{Op: "statfs", Path: d.root.Name(), Err: err}
	}
	return free, size, nil
}

// Lock implements Folder. It is advisory: it binds those who take it, also a
// second one within the same process.
func (d *Dir) Lock(name string) (io.Closer, error) {
	f, err := d.file("lock", name, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, err
	}
	if err := lock(f); err != nil {
		return nil, errors.Join(&fs.PathError{Op: "lock", Path: name, Err: err}, f.Close())
	}
	return f, nil
}

// open keeps a nil *os.File from becoming a File that is not nil.
func (d *Dir) open(op, name string, flag int) (File, error) {
	f, err := d.file(op, name, flag)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (d *Dir) file(op, name string, flag int) (*os.File, error) {
	if err := valid(op, name); err != nil {
		return nil, err
	}
	return d.root.OpenFile(filepath.FromSlash(name), flag, filePerm)
}

func valid(op, name string) error {
	if !fs.ValidPath(name) || !filepath.IsLocal(filepath.FromSlash(name)) {
		return &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	return nil
}
