package disk_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/gatehouse-project/gatehouse/referrerstore/disk"
	"github.com/gatehouse-project/gatehouse/referrerstore/disk/disktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, path string) *disk.Dir {
	t.Helper()
	d, err := disk.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func TestDir(t *testing.T) {
	t.Parallel()
	disktest.Run(t, func(t *testing.T) disk.Folder { return open(t, t.TempDir()) })
}

func TestOpenMakesPrivateFolders(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "above", "cache")
	d := open(t, path)
	if err := d.MakeDir("a/b"); err != nil {
		t.Fatal(err)
	}
	file, err := d.Append("a/file")
	if err != nil {
		t.Fatal(err)
	}
	if _, is := file.(*os.File); !is {
		t.Errorf("a file is a %T", file)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{"": 0o700, "a": 0o700, "a/b": 0o700, "a/file": 0o600} {
		info, err := os.Stat(filepath.Join(path, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%q has mode %o, want %o", name, got, want)
		}
	}
	if d.Path() != path {
		t.Errorf("path %s", d.Path())
	}
}

func TestOpenOfAFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := disk.Open(path); err == nil {
		t.Fatal("a file was opened as a folder")
	}
}

func TestLinksDoNotLeadOut(t *testing.T) {
	t.Parallel()
	outside, path := t.TempDir(), t.TempDir()
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"dir": outside, "file": secret, "relative": "../" + filepath.Base(outside)} {
		if err := os.Symlink(to, filepath.Join(path, name)); err != nil {
			t.Fatal(err)
		}
	}
	d := open(t, path)
	for _, name := range []string{"dir/secret", "file", "relative/secret"} {
		_, opens := d.Open(name)
		_, appends := d.Append(name)
		_, stats := d.Stat(name)
		_, locks := d.Lock(name)
		for op, err := range map[string]error{"open": opens, "append": appends, "stat": stats, "lock": locks} {
			if err == nil {
				t.Errorf("%s %s led out", op, name)
			}
		}
	}
	_, creates := d.Create("dir/new")
	for op, err := range map[string]error{
		"create": creates, "mkdir": d.MakeDir("dir/sub"), "remove": d.Remove("dir/secret"),
		"rename": d.Rename("dir/secret", "here"), "sync": d.Sync("dir"),
		"list": d.List("dir", func(string, bool) error { return nil }),
	} {
		if err == nil {
			t.Errorf("%s led out", op)
		}
	}
	if data, err := os.ReadFile(secret); err != nil || string(data) != "secret" {
		t.Fatalf("%q, %v", data, err)
	}
}

// A rename puts a file where a link was, and not where the link leads.
func TestRenameOverALink(t *testing.T) {
	t.Parallel()
	outside, path := t.TempDir(), t.TempDir()
	secret := filepath.Join(outside, "secret")
	if err := errors.Join(os.WriteFile(secret, []byte("secret"), 0o600),
		os.WriteFile(filepath.Join(path, "a"), []byte("a"), 0o600),
		os.Symlink(secret, filepath.Join(path, "link"))); err != nil {
		t.Fatal(err)
	}
	if err := open(t, path).Rename("a", "link"); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(secret); err != nil || string(data) != "secret" {
		t.Fatalf("%q, %v", data, err)
	}
}

func TestLockIsOfTheFolder(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	first, second := open(t, path), open(t, path)
	lock, err := first.Lock("LOCK")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := second.Lock("LOCK"); !errors.Is(err, disk.ErrLocked) {
		t.Fatalf("second: %v", err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	lock, err = second.Lock("LOCK")
	if err != nil {
		t.Fatal(err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestClassify(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		err                     error
		full, readOnly, failing bool
	}{
		{err: nil},
		{err: errors.New("other")},
		{err: fs.ErrNotExist},
		{err: syscall.EEXIST},
		{err: disk.ErrLocked},
		{err: syscall.ENOSPC, full: true},
		{err: syscall.EDQUOT, full: true},
		{err: syscall.EROFS, readOnly: true},
		{err: syscall.EACCES, readOnly: true},
		{err: syscall.EPERM, readOnly: true},
		{err: syscall.EIO, failing: true},
		{err: syscall.EMFILE, failing: true},
		{err: syscall.ENFILE, failing: true},
		{err: syscall.ESTALE, failing: true},
		{err: syscall.ENOTCONN, failing: true},
		{err: fmt.Errorf("commit: %w", &fs.PathError{Op: "write", Path: "a", Err: syscall.ENOSPC}), full: true},
		{err: errors.Join(nil, &os.LinkError{Op: "rename", Old: "a", New: "b", Err: syscall.EROFS}), readOnly: true},
	} {
		if got := disk.Full(tc.err); got != tc.full {
			t.Errorf("full %v: %v", tc.err, got)
		}
		if got := disk.ReadOnly(tc.err); got != tc.readOnly {
			t.Errorf("read-only %v: %v", tc.err, got)
		}
		if got := disk.Failing(tc.err); got != tc.failing {
			t.Errorf("failing %v: %v", tc.err, got)
		}
	}
}
