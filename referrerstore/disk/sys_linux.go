package disk

import "syscall"

// blockSize is the unit that blocks are counted in, which is not always that of
// the best transfer (Bsize).
func blockSize(s *syscall.Statfs_t) int64 {
	if s.Frsize > 0 {
		return int64(s.Frsize) //nolint:unconvert // 32 bits wide on some processors
	}
	return int64(s.Bsize) //nolint:unconvert // as above
}

func damaged() []syscall.Errno { return []syscall.Errno{syscall.EUCLEAN, syscall.EREMOTEIO} }
