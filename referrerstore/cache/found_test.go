package cache

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/gatehouse-project/gatehouse/referrerstore/disk"
	"github.com/gatehouse-project/gatehouse/referrerstore/disk/disktest"
)

// A torn file that the journal does not know keeps nobody from having the content.
func TestTornFileThatNobodyKnows(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1000, 300 << 10} {
		for _, kind := range []Kind{Blob, Manifest} {
			t.Run(fmt.Sprint(size, kind), func(t *testing.T) {
				t.Parallel()
				it := served(noise(size, 1), kind)
				folder := disktest.New()
				folder.Put("blobs/sha256/"+it.want.Digest.Encoded(), it.data[:size/2])
				c := openCache(t, folder, Options{})
				mustObtain(t, c, it.want, it.data, it.from)
				settle(t, c)
				mustHold(t, c, it.want, it.data)
				c.replica.drop(it.want.Digest)
				mustHold(t, c, it.want, it.data)
				if n := c.index.bytes.Load(); n != int64(size) {
					t.Errorf("%d bytes are held, want %d", n, size)
				}
			})
		}
	}
}

// A file that somebody put there is hashed before it is handed out, also behind a
// clean end.
func TestFileThatSomebodyPutThere(t *testing.T) {
	t.Parallel()
	data := noise(300<<10, 1)
	folder := disktest.New()
	c := openCache(t, folder, Options{})
	c.Close()
	wrong := bytes.Clone(data)
	wrong[5] ^= 1
	folder.Put(c.path(digest.FromBytes(data)), wrong)
	c = openCache(t, folder, Options{})
	if !c.clean {
		t.Fatal("the end was clean")
	}
	got, err := read(c.Obtain(t.Context(), blobWant(data), newUpstream(data)))
	if err == nil && !bytes.Equal(got, data) {
		t.Error("wrong bytes were read to their end")
	}
}

// A name that is none does not make a disk fail.
func TestForeignNameThatIsNone(t *testing.T) {
	t.Parallel()
	at := t.TempDir()
	blobs := filepath.Join(at, blobsDir, "sha256")
	if err := os.MkdirAll(blobs, 0o700); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("é", 70) // the bound lies within a character
	for _, name := range []string{"no\xffname", "x" + long} {
		if err := os.WriteFile(filepath.Join(blobs, name), nil, 0o600); err != nil {
			t.Skipf("the file system does not have such names: %v", err)
		}
	}
	folder, err := disk.Open(at)
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	c := openCache(t, folder, Options{})
	if state, problem := c.health.state(); state != stateOK {
		t.Errorf("state %s: %s", state, problem)
	}
	if _, err := os.Stat(filepath.Join(blobs, "x"+long)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
	c.Close()
}

// Only so much stays put aside.
func TestPutAsideIsBounded(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		opts  Options
		full  bool
		files int
	}{
		"files": {Options{}, false, maxPutAside},
		"bytes": {Options{MaxBytes: 100_000}, false, 10},
		"full":  {Options{}, true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			folder := disktest.New()
			for i := range maxPutAside + 10 {
				folder.Put(fmt.Sprintf("quarantine/%04d", i), make([]byte, 1000))
			}
			c := openCache(t, folder, tt.opts)
			if tt.full {
				c.failed("test", syscall.ENOSPC)
			}
			c.forgetEvidence(t.Context())
			n := 0
			folder.List(quarantineDir, func(string, bool) error { n++; return nil })
			if n != tt.files {
				t.Errorf("%d files stay, want %d", n, tt.files)
			}
		})
	}
}

// A mark that cannot be read is none.
func TestCleanMarkThatIsAFolder(t *testing.T) {
	t.Parallel()
	data := noise(1000, 1)
	folder := disktest.New()
	fill(t, folder, Options{}, data)
	if err := errors.Join(folder.Remove(cleanFile), folder.MakeDir(cleanFile)); err != nil {
		t.Fatal(err)
	}
	c := openCache(t, folder, Options{})
	mustHold(t, c, blobWant(data), data)
	if c.clean {
		t.Error("it counts as a clean end")
	}
}
