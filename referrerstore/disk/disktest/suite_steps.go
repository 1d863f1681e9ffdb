package disktest

import (
	"bytes"
	"io"
	"slices"
	"testing"

	"github.com/gatehouse-project/gatehouse/referrerstore/disk"
)

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		ok(t, err)
		return v
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, got []byte, want string) {
	t.Helper()
	if !bytes.Equal(got, []byte(want)) {
		t.Fatalf("got %q, want %q", got, want)
	}
}

func put(t *testing.T, file disk.File, data string) {
	t.Helper()
	if n, err := file.Write([]byte(data)); n != len(data) || err != nil {
		t.Errorf("wrote %d of %d: %v", n, len(data), err)
	}
}

// write may be called by any goroutine of a test.
func write(t *testing.T, f disk.Folder, name, data string) {
	t.Helper()
	file, err := f.Create(name)
	if err != nil {
		t.Error(err)
		return
	}
	put(t, file, data)
	closeIt(t, file)
}

func closeIt(t *testing.T, file io.Closer) {
	t.Helper()
	if err := file.Close(); err != nil {
		t.Error(err)
	}
}

func read(t *testing.T, f disk.Folder, name string) []byte {
	t.Helper()
	file := must(f.Open(name))(t)
	defer closeIt(t, file)
	return must(io.ReadAll(file))(t)
}

func list(t *testing.T, f disk.Folder, name string) []string {
	t.Helper()
	var names []string
	ok(t, f.List(name, func(name string, dir bool) error {
		if dir {
			name += "/"
		}
		names = append(names, name)
		return nil
	}))
	slices.Sort(names)
	return names
}
