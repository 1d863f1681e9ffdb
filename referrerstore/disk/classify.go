package disk

import (
	"errors"
	"io/fs"
	"slices"
	"syscall"
)

// Full says that there is no room: on the disk (ENOSPC), or in what this user may
// fill of it (EDQUOT). Removing files helps.
func Full(err error) bool { return is(err, syscall.ENOSPC, syscall.EDQUOT) }

// ReadOnly says that writing is not allowed: the file system is read-only
// (EROFS), or the permissions forbid it (EACCES, EPERM). It tells so of an
// operation that writes; one that only reads fails with the latter two if it may
// not read either. Nothing that this process does helps.
func ReadOnly(err error) bool {
	return errors.Is(err, fs.ErrPermission) || is(err, syscall.EROFS)
}

// Failing says that the disk, or what this process has left to use it, fails: what
// is on it may be whole, but cannot be had now. EIO, ENXIO, ENODEV, ESTALE,
// ENOTCONN and ETIMEDOUT (the device or the server behind it), a damaged file
// system (EUCLEAN of Linux), EMFILE and ENFILE (too many open files), ENOMEM.
// Trying again later may help; the name itself is not at fault.
func Failing(err error) bool {
	return is(err, syscall.EIO, syscall.ENXIO, syscall.ENODEV, syscall.ESTALE, syscall.ENOTCONN,
		syscall.ETIMEDOUT, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM) || is(err, damaged()...)
}

func is(err error, any ...syscall.Errno) bool {
	errno, ok := errors.AsType[syscall.Errno](err)
	return ok && slices.Contains(any, errno)
}
