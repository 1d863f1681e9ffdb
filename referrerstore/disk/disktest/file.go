package disktest

import (
	"errors"
	"io"
	"io/fs"
	"slices"
	"syscall"
	"time"
)

// access is what a file was opened for.
type access struct{ read, write, end, lock bool }

// file is an open file. The folder's lock guards it too.
type file struct {
	folder *Folder
	node   *node
	name   string
	may    access
	offset int64
	closed bool
}

// do counts an operation on an open file. The error of a fault is handed to
// failed, for what happens of the operation nevertheless.
func (h *file) do(op Op, allowed, writes bool, act func() error, failed func()) error {
	op.Name = h.name
	fault := h.folder.faults.next(op)
	h.folder.mu.Lock()
	defer h.folder.mu.Unlock()
	switch {
	case h.closed:
		return op.wrap(fs.ErrClosed)
	case !allowed:
		return op.wrap(syscall.EBADF)
	case writes && h.folder.readOnly:
		return op.wrap(syscall.EROFS)
	case fault != nil:
		failed()
		return op.wrap(fault)
	}
	return op.wrap(act())
}

func nothing() {}

// Read implements io.Reader.
func (h *file) Read(p []byte) (n int, err error) {
	err = h.do(Op{Kind: "read", Bytes: len(p)}, h.may.read, false, func() error {
		n, err = h.copy(p, h.offset)
		h.offset += int64(n)
		return err
	}, nothing)
	return n, err
}

// ReadAt implements io.ReaderAt.
func (h *file) ReadAt(p []byte, offset int64) (n int, err error) {
	err = h.do(Op{Kind: "readat", Bytes: len(p)}, h.may.read, false, func() error {
		if offset < 0 {
			return errNegative
		}
		if n, err = h.copy(p, offset); err == nil && n < len(p) {
			return io.EOF
		}
		return err
	}, nothing)
	return n, err
}

var errNegative = errors.New("negative offset")

func (h *file) copy(p []byte, offset int64) (int, error) {
	if h.node.dir() {
		return 0, syscall.EISDIR
	}
	if len(p) == 0 {
		return 0, nil
	}
	if offset >= int64(len(h.node.data)) {
		return 0, io.EOF
	}
	return copy(p, h.node.data[offset:]), nil
}

// Seek implements io.Seeker. It is not counted: nothing of it reaches a disk.
func (h *file) Seek(offset int64, whence int) (int64, error) {
	h.folder.mu.Lock()
	defer h.folder.mu.Unlock()
	op := Op{Kind: "seek", Name: h.name}
	switch {
	case h.closed:
		return 0, op.wrap(fs.ErrClosed)
	case whence == io.SeekCurrent:
		offset += h.offset
	case whence == io.SeekEnd:
		offset += int64(len(h.node.data))
	case whence != io.SeekStart:
		return 0, op.wrap(syscall.EINVAL)
	}
	if offset < 0 {
		return 0, op.wrap(syscall.EINVAL)
	}
	h.offset = offset
	return offset, nil
}

// Write implements io.Writer. One that fails by a fault writes the first half.
func (h *file) Write(p []byte) (n int, err error) {
	err = h.do(Op{Kind: "write", Bytes: len(p)}, h.may.write, true,
		func() error { n, err = h.write(p); return err },
		func() { n, _ = h.write(p[:len(p)/2]) })
	return n, err
}

func (h *file) write(p []byte) (int, error) {
	if h.may.end {
		h.offset = int64(len(h.node.data))
	}
	end := h.offset + int64(len(p))
	grow := max(0, end-int64(len(h.node.data)))
	room := max(0, h.folder.capacity-h.folder.used)
	var err error
	if grow > room {
		p = p[:max(0, int64(len(p))-(grow-room))]
		err = syscall.ENOSPC
	}
	h.node.write(h.folder, p, h.offset)
	h.offset += int64(len(p))
	return len(p), err
}

// write changes bytes in a copy, unless they are behind all that there are.
func (n *node) write(f *Folder, p []byte, offset int64) {
	if len(p) == 0 {
		return
	}
	before, end := len(n.data), int(offset)+len(p)
	switch {
	case int(offset) == before:
		n.data = append(n.data, p...)
	default:
		changed := make([]byte, max(before, end))
		copy(changed, n.data)
		copy(changed[offset:], p)
		n.data = changed
	}
	n.doubtful = cut(n.doubtful, span{int(offset), end})
	n.modified = time.Now()
	f.used += int64(len(n.data) - before)
}

// Truncate implements disk.File; a file that grows by it is filled with zeros.
func (h *file) Truncate(size int64) error {
	return h.do(Op{Kind: "truncate", Bytes: int(size)}, h.may.write, true, func() error {
		n, before := h.node, len(h.node.data)
		switch {
		case size < 0:
			return syscall.EINVAL
		case size <= int64(before):
			n.data = slices.Clip(n.data[:size])
			n.doubtful = cut(n.doubtful, span{int(size), before})
		case size-int64(before) > h.folder.capacity-h.folder.used:
			return syscall.ENOSPC
		default:
			n.data = append(n.data, make([]byte, int(size)-before)...)
		}
		h.folder.used += int64(len(n.data) - before)
		return nil
	}, nothing)
}

// Sync implements disk.File. After one that fails by a fault a power cut may take
// what was to be synced, although a later one succeeds.
func (h *file) Sync() error {
	n := h.node
	return h.do(Op{Kind: "sync"}, true, false,
		func() error { n.synced = n.data; return nil },
		func() { n.doubtful = append(n.doubtful, span{common(n.synced, n.data), len(n.data)}) })
}

// Stat implements disk.File.
func (h *file) Stat() (i fs.FileInfo, err error) {
	err = h.do(Op{Kind: "fstat"}, true, false, func() error { i = h.node.info(h.name); return nil }, nothing)
	return i, err
}

// Close implements io.Closer. One that fails has closed the file nevertheless.
func (h *file) Close() error {
	kind := "close"
	if h.may.lock {
		kind = "unlock"
	}
	return h.do(Op{Kind: kind}, true, false, func() error { h.release(); return nil }, h.release)
}

func (h *file) release() {
	h.closed = true
	h.node.opens--
	if h.may.lock {
		h.node.locked = false
	}
	h.folder.reclaim(h.node)
}
