//go:build darwin || freebsd

package disk

import "syscall"

func blockSize(s *syscall.Statfs_t) int64 { return int64(s.Bsize) }

func damaged() []syscall.Errno { return nil }
