package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// maxSocketPath is the longest path of a Unix socket that all systems take.
const maxSocketPath = 103

// ListenSocket listens on a Unix socket of mode 0600, in place of one that nobody
// answers at any more. The file is removed when the listener is closed.
func ListenSocket(ctx context.Context, path string) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("listen at %s: the path is longer than %d bytes", path, maxSocketPath)
	}
	if err := clearSocket(ctx, path); err != nil {
		return nil, err
	}
	// Under another name until its mode is right: nobody can connect before.
	hidden, err := os.MkdirTemp(filepath.Dir(path), ".control-")
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	defer func() { _ = os.RemoveAll(hidden) }() // nothing of use is left in it
	at := filepath.Join(hidden, "s")
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", at)
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	if unix, ok := listener.(*net.UnixListener); ok {
		unix.SetUnlinkOnClose(false)
	}
	err = errors.Join(os.Chmod(at, 0o600), os.Rename(at, path))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen at %s: %w", path, err), listener.Close())
	}
	return &socket{Listener: listener, path: path}, nil
}

// clearSocket removes a socket that a process left behind.
func clearSocket(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("listen at %s: %w", path, err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("listen at %s: there is a file that is no socket", path)
	}
	dialer := net.Dialer{Timeout: time.Second}
	conn, err := dialer.DialContext(ctx, "unix", path)
	if err == nil {
		return errors.Join(fmt.Errorf("listen at %s: %w", path, syscall.EADDRINUSE), conn.Close())
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("listen at %s: %w", path, err)
	}
	return nil
}

// socket removes its file when it is closed.
type socket struct {
	net.Listener
	path string
}

func (s *socket) Close() error {
	_ = os.Remove(s.path) // it may be another's by now, or gone
	return s.Listener.Close()
}
