package disk_test

import (
	"os"
	"runtime"
	"syscall"
	"testing"

	"github.com/gatehouse-project/gatehouse/referrerstore/disk"
)

// The system's own file that is always full.
func TestFullForReal(t *testing.T) {
	t.Parallel()
	file, err := open(t, "/dev").Append("full")
	if err != nil {
		t.Skip(err)
	}
	defer file.Close()
	if _, err := file.Write([]byte("x")); !disk.Full(err) {
		t.Fatalf("%v", err)
	}
}

// Permissions do not bind root, so the test goes on as somebody else, on a thread
// that ends with it.
func TestReadOnlyForReal(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	d := open(t, path)
	if err := os.Chmod(path, 0o555); err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocks
		if os.Getuid() == 0 {
			if err := syscall.Setfsuid(65534); err != nil {
				failed <- nil
				return
			}
		}
		_, err := d.Create("a")
		failed <- err
	}()
	if err := <-failed; err == nil {
		t.Skip("permissions bind nobody here")
	} else if !disk.ReadOnly(err) {
		t.Fatal(err)
	}
}
