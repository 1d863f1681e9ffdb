//go:build linux || darwin || freebsd

package disk

import (
	"errors"
	"os"
	"syscall"
)

// lock takes a lock of the open file, which ends with it. It is that of flock and
// not of fcntl, which any close of the same file by the process would release.
func lock(f *os.File) error {
	err := onFile(f, func(fd int) error { return syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB) })
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return ErrLocked
	}
	return err
}

func space(f *os.File) (free, size int64, err error) {
	var s syscall.Statfs_t
	err = onFile(f, func(fd int) error { return syscall.Fstatfs(fd, &s) })
	if err != nil {
		return 0, 0, err
	}
	unit := blockSize(&s)
	// The types differ between systems; some count what is left below zero.
	return max(0, int64(s.Bavail)) * unit, int64(s.Blocks) * unit, nil //nolint:gosec,unconvert // see above
}

// syncDir takes EINVAL and ENOTSUP as success: such a file system does not know
// the operation.
func syncDir(f *os.File) error {
	err := f.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) {
		return nil
	}
	return err
}

// onFile calls with the descriptor, again when a signal came in between.
func onFile(f *os.File, call func(fd int) error) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = conn.Control(func(fd uintptr) {
		for {
			if failed = call(int(fd)); !errors.Is(failed, syscall.EINTR) {
				return
			}
		}
	})
	if err != nil {
		return err
	}
	return failed
}
