//go:build !linux && !darwin && !freebsd

package disk

import (
	"errors"
	"os"
	"syscall"
)

// lock is not there: a cache that two processes write is worse than none.
func lock(*os.File) error { return errors.ErrUnsupported }

func space(*os.File) (free, size int64, err error) { return 0, 0, errors.ErrUnsupported }

func syncDir(*os.File) error { return nil }

func damaged() []syscall.Errno { return nil }
