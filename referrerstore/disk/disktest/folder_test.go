package disktest_test

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/gatehouse-project/gatehouse/referrerstore/disk"
	"github.com/gatehouse-project/gatehouse/referrerstore/disk/disktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFolder(t *testing.T) {
	t.Parallel()
	disktest.Run(t, func(*testing.T) disk.Folder { return disktest.New() })
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// write makes a file and leaves it open.
func write(t *testing.T, f disk.Folder, name, data string) disk.File {
	t.Helper()
	file, err := f.Create(name)
	ok(t, err)
	_, err = file.Write([]byte(data))
	ok(t, err)
	return file
}

func wantBytes(t *testing.T, f *disktest.Folder, name, want string) {
	t.Helper()
	if got, there := f.Bytes(name); !there || string(got) != want {
		t.Fatalf("%s: %q, %v, want %q\n%s", name, got, there, want, f.Log())
	}
}

func wantNames(t *testing.T, f *disktest.Folder, want ...string) {
	t.Helper()
	if got := f.Names(); !slices.Equal(got, want) {
		t.Fatalf("files %q, want %q\n%s", got, want, f.Log())
	}
}

func TestFailAt(t *testing.T) {
	t.Parallel()
	f := disktest.New()
	f.FailAt(2, syscall.EIO)
	file, err := f.Create("a") // 1
	ok(t, err)
	n, err := file.Write([]byte("hello!")) // 2
	if n != 3 || !errors.Is(err, syscall.EIO) || !disk.Failing(err) {
		t.Fatalf("%d, %v", n, err)
	}
	_, err = file.Write([]byte("p")) // 3
	ok(t, err)
	wantBytes(t, f, "a", "help")
	f.FailAt(4, syscall.EIO)
	if err := f.Rename("a", "b"); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	wantNames(t, f, "a")
	f.FailAt(5, syscall.EIO)
	if err := file.Close(); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	if err := file.Close(); !errors.Is(err, fs.ErrClosed) {
		t.Fatal(err)
	}
	if f.Ops() != 6 {
		t.Fatalf("%d operations", f.Ops())
	}
}

func TestFailFrom(t *testing.T) {
	t.Parallel()
	f := disktest.New()
	f.FailFrom(2, disktest.ErrCrashed)
	ok(t, f.MakeDir("d"))
	for range 3 {
		if err := f.Sync("d"); !errors.Is(err, disktest.ErrCrashed) {
			t.Fatal(err)
		}
	}
	f.Heal()
	ok(t, f.Sync("d"))
	if !strings.HasSuffix(f.Log(), "4 syncdir d\n5 syncdir d\n") {
		t.Fatal(f.Log())
	}
}

func TestBefore(t *testing.T) {
	t.Parallel()
	f := disktest.New()
	f.Before(func(op disktest.Op) error {
		if op.Kind == "sync" && op.Name == "a" && op.N == 3 {
			return syscall.ENOSPC
		}
		return nil
	})
	a, b := write(t, f, "a", ""), disk.File(nil)
	if err := a.Sync(); !disk.Full(err) {
		t.Fatal(err)
	}
	b = write(t, f, "b", "")
	ok(t, b.Sync())
	ok(t, a.Sync())
}

func TestCapacity(t *testing.T) {
	t.Parallel()
	f := disktest.New()
	f.Capacity(10)
	a := write(t, f, "a", "12345678")
	n, err := a.Write([]byte("abcd"))
	if n != 2 || !disk.Full(err) {
		t.Fatalf("%d, %v", n, err)
	}
	wantBytes(t, f, "a", "12345678ab")
	if free, size, err := f.Free(); free != 0 || size != 10 || err != nil {
		t.Fatalf("%d of %d, %v", free, size, err)
	}
	ok(t, f.Remove("a"))
	if free, _, _ := f.Free(); free != 0 {
		t.Fatalf("%d free although a reader has the file", free)
	}
	ok(t, a.Close())
	if free, _, _ := f.Free(); free != 10 {
		t.Fatalf("%d free", free)
	}
	b := write(t, f, "b", "0123456789")
	if _, err = b.Seek(5, 0); err != nil {
		t.Fatal(err)
	}
	if _, err = b.Write([]byte("56789")); err != nil {
		t.Fatalf("what is written over takes no room: %v", err)
	}
	ok(t, b.Truncate(4))
	if free, _, _ := f.Crash(disktest.Kill()).Free(); free != 6 {
		t.Fatalf("%d free after a crash", free)
	}
}

func TestReadOnly(t *testing.T) {
	t.Parallel()
	f := disktest.New()
	a := write(t, f, "a", "1")
	f.ReadOnly(true)
	_, writes := a.Write([]byte("2"))
	_, creates := f.Create("b")
	_, appends := f.Append("a")
	_, locks := f.Lock("LOCK")
	for _, err := range []error{writes, creates, appends, locks, f.Rename("a", "b"), f.Remove("a"), f.MakeDir("d")} {
		if !disk.ReadOnly(err) {
			t.Errorf("%v", err)
		}
	}
	_, err := f.Open("a")
	ok(t, err)
	f.ReadOnly(false)
	_, err = a.Write([]byte("2"))
	ok(t, err)
	wantBytes(t, f, "a", "12")
	wantNames(t, f, "a")
}

func TestPut(t *testing.T) {
	t.Parallel()
	f := disktest.New()
	f.Put("d/e/a", []byte("found"))
	f.Put("d/e/a", []byte("it"))
	if f.Ops() != 0 {
		t.Fatalf("%d operations", f.Ops())
	}
	wantBytes(t, f.Crash(disktest.PowerCut(0)), "d/e/a", "it")
	if _, there := f.Bytes("d/e"); there {
		t.Fatal("a folder has bytes")
	}
}
