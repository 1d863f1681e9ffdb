package disktest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"
	"testing"

	"github.com/gatehouse-project/gatehouse/referrerstore/disk"
)

// Run checks a folder against every sentence of the Folder and File roles. Open
// makes an empty one anew for each of the checks; what it needs to clean up it
// leaves to t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) disk.Folder) {
	t.Helper()
	for name, check := range map[string]func(*testing.T, disk.Folder){
		"create":       checkCreate,
		"append":       checkAppend,
		"open":         checkOpen,
		"positions":    checkPositions,
		"truncate":     checkTruncate,
		"closed":       checkClosed,
		"missing":      checkMissing,
		"rename":       checkRename,
		"remove":       checkRemove,
		"folders":      checkFolders,
		"list":         checkList,
		"stat":         checkStat,
		"sync":         checkSync,
		"names":        checkNames,
		"lock":         checkLock,
		"free":         checkFree,
		"concurrently": checkConcurrently,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			check(t, open(t))
		})
	}
}

func checkCreate(t *testing.T, f disk.Folder) {
	file := must(f.Create("a"))(t)
	defer closeIt(t, file)
	if n, err := file.Write([]byte("hello")); n != 5 || err != nil {
		t.Fatalf("write: %d, %v", n, err)
	}
	if _, err := file.Seek(1, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	want(t, must(io.ReadAll(file))(t), "ello")
	if _, err := f.Create("a"); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("create of what exists: %v", err)
	}
	want(t, read(t, f, "a"), "hello")
}

func checkAppend(t *testing.T, f disk.Folder) {
	first := must(f.Append("a"))(t)
	defer closeIt(t, first)
	second := must(f.Append("a"))(t)
	defer closeIt(t, second)
	put(t, first, "one ")
	put(t, second, "two ")
	put(t, first, "three")
	want(t, read(t, f, "a"), "one two three")
	if _, err := first.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Fatalf("read of a file opened for appending: %v", err)
	}
}

func checkOpen(t *testing.T, f disk.Folder) {
	write(t, f, "a", "hello")
	file := must(f.Open("a"))(t)
	defer closeIt(t, file)
	if _, err := file.Write([]byte("x")); err == nil {
		t.Fatal("a file opened for reading was written")
	}
	if err := file.Truncate(0); err == nil {
		t.Fatal("a file opened for reading was cut")
	}
	want(t, must(io.ReadAll(file))(t), "hello")
	if n, err := file.Read(make([]byte, 1)); n != 0 || err != io.EOF { //nolint:errorlint // io.Reader says ==
		t.Fatalf("read at the end: %d, %v", n, err)
	}
}

func checkPositions(t *testing.T, f disk.Folder) {
	file := must(f.Create("a"))(t)
	defer closeIt(t, file)
	put(t, file, "0123456789")
	buf := make([]byte, 4)
	if n, err := file.ReadAt(buf, 3); n != 4 || err != nil || string(buf) != "3456" {
		t.Fatalf("read at 3: %d, %v, %q", n, err, buf)
	}
	if n, err := file.ReadAt(buf, 8); n != 2 || err != io.EOF { //nolint:errorlint // io.ReaderAt says ==
		t.Fatalf("read at 8: %d, %v", n, err)
	}
	if _, err := file.ReadAt(buf, -1); err == nil {
		t.Fatal("read at -1")
	}
	if at, err := file.Seek(-2, io.SeekEnd); at != 8 || err != nil {
		t.Fatalf("seek: %d, %v", at, err)
	}
	put(t, file, "abc")
	if at, err := file.Seek(-1, io.SeekCurrent); at != 10 || err != nil {
		t.Fatalf("seek: %d, %v", at, err)
	}
	if _, err := file.Seek(-1, io.SeekStart); err == nil {
		t.Fatal("seek to -1")
	}
	want(t, read(t, f, "a"), "01234567abc")
	if _, err := file.Seek(13, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	put(t, file, "z")
	want(t, read(t, f, "a"), "01234567abc\x00\x00z")
}

func checkTruncate(t *testing.T, f disk.Folder) {
	file := must(f.Append("a"))(t)
	defer closeIt(t, file)
	put(t, file, "hello")
	ok(t, file.Truncate(2))
	put(t, file, "y")
	want(t, read(t, f, "a"), "hey")
	ok(t, file.Truncate(5))
	want(t, read(t, f, "a"), "hey\x00\x00")
	if err := file.Truncate(-1); err == nil {
		t.Fatal("cut to -1")
	}
}

func checkClosed(t *testing.T, f disk.Folder) {
	file := must(f.Create("a"))(t)
	ok(t, file.Close())
	_, reads := file.Read(make([]byte, 1))
	_, writes := file.Write([]byte("x"))
	_, stats := file.Stat()
	for _, err := range []error{reads, writes, stats, file.Sync(), file.Truncate(0), file.Close()} {
		if !errors.Is(err, fs.ErrClosed) {
			t.Errorf("after close: %v", err)
		}
	}
}

func checkMissing(t *testing.T, f disk.Folder) {
	_, opens := f.Open("no")
	_, stats := f.Stat("no")
	_, creates := f.Create("no/file")
	_, appends := f.Append("no/file")
	_, locks := f.Lock("no/file")
	write(t, f, "a", "")
	for op, err := range map[string]error{
		"open": opens, "stat": stats, "create": creates, "append": appends, "lock": locks,
		"rename": f.Rename("no", "other"), "rename into": f.Rename("a", "no/file"),
		"remove": f.Remove("no"), "sync": f.Sync("no"),
		"list": f.List("no", func(string, bool) error { return nil }),
	} {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s of what is missing: %v", op, err)
		}
	}
}

func checkRename(t *testing.T, f disk.Folder) {
	ok(t, f.MakeDir("in"))
	ok(t, f.MakeDir("out"))
	write(t, f, "out/a", "old")
	reader := must(f.Open("out/a"))(t)
	defer closeIt(t, reader)
	write(t, f, "in/a", "new")
	ok(t, f.Rename("in/a", "out/a"))
	want(t, read(t, f, "out/a"), "new")
	want(t, must(io.ReadAll(reader))(t), "old")
	if _, err := f.Stat("in/a"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("the old name: %v", err)
	}
	ok(t, f.Rename("out/a", "out/a"))
	want(t, read(t, f, "out/a"), "new")
	if err := f.Rename("out/a", "in"); err == nil {
		t.Fatal("a file went over a folder")
	}
	ok(t, f.Rename("out", "in/out"))
	want(t, read(t, f, "in/out/a"), "new")
	if err := f.Rename("in", "in/out/in"); err == nil {
		t.Fatal("a folder went below itself")
	}
}

func checkRemove(t *testing.T, f disk.Folder) {
	ok(t, f.MakeDir("d"))
	write(t, f, "d/a", "hello")
	reader := must(f.Open("d/a"))(t)
	defer closeIt(t, reader)
	if err := f.Remove("d"); err == nil {
		t.Fatal("a folder with files was removed")
	}
	ok(t, f.Remove("d/a"))
	want(t, must(io.ReadAll(reader))(t), "hello")
	ok(t, f.Remove("d"))
	if _, err := f.Stat("d"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("after remove: %v", err)
	}
	if err := f.Remove("."); err == nil {
		t.Fatal("the folder itself was removed")
	}
}

func checkFolders(t *testing.T, f disk.Folder) {
	ok(t, f.MakeDir("a/b/c"))
	ok(t, f.MakeDir("a/b/c"))
	ok(t, f.MakeDir("."))
	write(t, f, "a/b/c/file", "x")
	for _, name := range []string{"a/b/c/file", "a/b/c/file/d"} {
		if err := f.MakeDir(name); err == nil {
			t.Errorf("%s became a folder", name)
		}
	}
	if _, err := f.Open("a/b/c/file/d"); err == nil {
		t.Fatal("a file below a file")
	}
	if _, err := f.Append("a"); err == nil {
		t.Fatal("a folder was appended to")
	}
}

func checkList(t *testing.T, f disk.Folder) {
	ok(t, f.MakeDir("d/sub"))
	wanted := []string{"sub/"}
	for i := range 600 {
		name := fmt.Sprintf("f%03d", i)
		write(t, f, "d/"+name, "")
		wanted = append(wanted, name)
	}
	got := list(t, f, "d")
	slices.Sort(wanted)
	if !slices.Equal(got, wanted) {
		t.Fatalf("listed %d names, want %d", len(got), len(wanted))
	}
	stop, calls := errors.New("stop"), 0
	err := f.List("d", func(string, bool) error { calls++; return stop })
	if !errors.Is(err, stop) || calls != 1 {
		t.Fatalf("left early: %v after %d", err, calls)
	}
	ok(t, f.List("d", func(name string, dir bool) error { return f.Remove("d/" + name) }))
	if left := list(t, f, "d"); len(left) != 0 {
		t.Fatalf("left after removing all: %q", left)
	}
	if got := list(t, f, "."); !slices.Equal(got, []string{"d/"}) {
		t.Fatalf("listed %q", got)
	}
	write(t, f, "file", "")
	if err := f.List("file", func(string, bool) error { return nil }); err == nil {
		t.Fatal("a file was listed")
	}
}

func checkStat(t *testing.T, f disk.Folder) {
	ok(t, f.MakeDir("d"))
	write(t, f, "d/a", "hello")
	info := must(f.Stat("d/a"))(t)
	if info.Size() != 5 || info.Name() != "a" || !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		t.Fatalf("file: %s %d %s", info.Name(), info.Size(), info.Mode())
	}
	for _, name := range []string{"d", "."} {
		if info := must(f.Stat(name))(t); !info.IsDir() {
			t.Fatalf("%s: %s", name, info.Mode())
		}
	}
	file := must(f.Open("d/a"))(t)
	defer closeIt(t, file)
	if info := must(file.Stat())(t); info.Size() != 5 || info.IsDir() {
		t.Fatalf("open file: %d %s", info.Size(), info.Mode())
	}
}

func checkSync(t *testing.T, f disk.Folder) {
	ok(t, f.MakeDir("d"))
	file := must(f.Create("d/a"))(t)
	put(t, file, "hello")
	ok(t, file.Sync())
	ok(t, file.Close())
	ok(t, f.Sync("d"))
	ok(t, f.Sync("."))
	want(t, read(t, f, "d/a"), "hello")
}

func checkNames(t *testing.T, f disk.Folder) {
	write(t, f, "a", "")
	for _, name := range []string{"", "..", "../a", "/a", "a/../../a", "./a", "d//a", "a/"} {
		_, creates := f.Create(name)
		_, appends := f.Append(name)
		_, opens := f.Open(name)
		_, stats := f.Stat(name)
		_, locks := f.Lock(name)
		for op, err := range map[string]error{
			"create": creates, "append": appends, "open": opens, "stat": stats, "lock": locks,
			"rename": f.Rename(name, "b"), "rename to": f.Rename("a", name), "remove": f.Remove(name),
			"mkdir": f.MakeDir(name), "sync": f.Sync(name),
			"list": f.List(name, func(string, bool) error { return nil }),
		} {
			if !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("%s %q: %v", op, name, err)
			}
		}
	}
}

func checkLock(t *testing.T, f disk.Folder) {
	lock := must(f.Lock("LOCK"))(t)
	if _, err := f.Lock("LOCK"); !errors.Is(err, disk.ErrLocked) {
		t.Fatalf("second lock: %v", err)
	}
	other := must(f.Lock("OTHER"))(t)
	ok(t, other.Close())
	file := must(f.Open("LOCK"))(t)
	ok(t, file.Close())
	if _, err := f.Lock("LOCK"); !errors.Is(err, disk.ErrLocked) {
		t.Fatalf("lock after a reader's close: %v", err)
	}
	ok(t, lock.Close())
	again := must(f.Lock("LOCK"))(t)
	ok(t, again.Close())
}

func checkFree(t *testing.T, f disk.Folder) {
	free, size, err := f.Free()
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil || free < 0 || size <= 0 || free > size {
		t.Fatalf("%d of %d free, %v", free, size, err)
	}
}

func checkConcurrently(t *testing.T, f disk.Folder) {
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			for j := range 20 {
				name := fmt.Sprintf("%d-%d", i, j)
				write(t, f, name, name)
				if err := f.Rename(name, "moved-"+name); err != nil {
					t.Error(err)
				}
				if err := f.List(".", func(string, bool) error { return nil }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	names := list(t, f, ".")
	if len(names) != 160 {
		t.Fatalf("%d files", len(names))
	}
	for _, name := range names {
		want(t, read(t, f, name), name[len("moved-"):])
	}
}
