package cache

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/disk"
	"github.com/gatehouse-project/gatehouse/referrerstore/disk/disktest"
)

// fill makes a folder with content and a clean end.
func fill(t *testing.T, folder disk.Folder, opts Options, all ...[]byte) {
	t.Helper()
	c := openCache(t, folder, opts)
	for _, data := range all {
		mustObtain(t, c, blobWant(data), data, newUpstream(data))
	}
	settle(t, c)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

// replace writes a file anew.
func replace(t *testing.T, folder disk.Folder, name string, data []byte) {
	t.Helper()
	if err := folder.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	f, err := folder.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
	f.Close()
}

// After an end that was not clean, bytes that changed on the disk are never
// served, wherever reading begins, and the file is put aside.
func TestUncleanStart(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1000, 64 << 10, 100 << 10, 500 << 10} {
		for _, at := range []int{0, size / 2, size - 1} {
			for _, from := range []int{0, 1, size / 2, size - 1} {
				t.Run(fmt.Sprintf("%d bytes, %d wrong, read from %d", size, at, from), func(t *testing.T) {
					t.Parallel()
					folder := disktest.New()
					data, good := noise(size, 1), noise(size, 2)
					fill(t, folder, Options{}, data, good)
					c := &Cache{}
					wrong := bytes.Clone(data)
					wrong[at] ^= 1
					replace(t, folder, c.path(blobWant(data).Digest), wrong)
					folder.Remove(cleanFile)

					c = openCache(t, folder, Options{ScrubRate: 1})
					if c.clean {
						t.Fatal("the end was not clean")
					}
					content, err := c.Get(blobWant(data))
					if err == nil {
						content.Seek(int64(from), io.SeekStart)
						var got []byte
						if got, err = read(content, nil); from > 0 && len(got) > 0 {
							t.Errorf("%d bytes from the middle of what is wrong", len(got))
						} else if len(got) > size-holdBack {
							t.Errorf("%d bytes of what is wrong", len(got))
						}
					}
					if !errors.Is(err, referrerstore.ErrDigestMismatch) && !errors.Is(err, referrerstore.ErrNotFound) {
						t.Fatalf("wrong bytes: %v", err)
					}
					mustMiss(t, c, blobWant(data))
					if c.quarantined.Load() != 1 {
						t.Errorf("%d put aside", c.quarantined.Load())
					}
					mustHold(t, c, blobWant(good), good)
					if !c.index.look(blobWant(good).Digest).proven.Load() {
						t.Error("what was hashed is not proven")
					}
					mustHold(t, c, blobWant(good), good)
					mustObtain(t, c, blobWant(data), data, newUpstream(data))
				})
			}
		}
	}
}

// What was not hashed yet when a process ends well is not proven by that.
func TestUnprovenStaysSo(t *testing.T) {
	t.Parallel()
	folder := disktest.New()
	data := noise(500<<10, 1)
	fill(t, folder, Options{}, data)
	folder.Remove(cleanFile)
	folder.Before(func(op disktest.Op) error { // so that the background hashes nothing
		if op.Kind == "open" && strings.HasPrefix(op.Name, blobsDir) {
			return fs.ErrPermission
		}
		return nil
	})
	c := openCache(t, folder, Options{})
	c.Close()
	folder.Before(nil)
	c = openCache(t, folder, Options{})
	if c.clean {
		t.Error("nobody has hashed it, and it is taken for proven")
	}
}

func TestCleanMark(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		durability Durability
		boot       string
		clean      bool
	}{
		"full, same boot":     {Full, "a", true},
		"full, other boot":    {Full, "b", true},
		"fast, same boot":     {Fast, "a", true},
		"fast, other boot":    {Fast, "b", false},
		"fast, boot unknown":  {Fast, "", false},
		"full, boot, unknown": {Full, "", true},
	} {
		folder := disktest.New()
		for _, boot := range []string{"a", tt.boot} {
			c, err := open(t.Context(), folder, Options{Durability: tt.durability}, boot)
			if err != nil {
				t.Fatal(err)
			}
			if boot == "a" && tt.boot != "a" {
				c.Close()
				continue
			}
			if _, err := folder.Stat(cleanFile); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: CLEAN while it runs: %v", name, err)
			}
			c.Close()
			if tt.boot != "a" && c.clean != tt.clean {
				t.Errorf("%s: clean is %v", name, c.clean)
			}
		}
	}
	folder := disktest.New()
	for i, durability := range []Durability{Fast, Full, Full} {
		c, err := open(t.Context(), folder, Options{Durability: durability}, fmt.Sprint(i/2))
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		if i == 2 && c.clean {
			t.Error("what was not synced once is taken for synced later")
		}
	}
}

func TestForeignFiles(t *testing.T) {
	t.Parallel()
	folder := disktest.New()
	data, stranger := noise(1000, 1), noise(2000, 2)
	fill(t, folder, Options{}, data)
	for _, name := range []string{"blobs/README", "blobs/sha256/README", "blobs/sha512/" + strings.Repeat("a", 64), "ingest/left", "ingest/trash-1"} {
		replace(t, folder, name, []byte("something"))
	}
	c := &Cache{}
	replace(t, folder, c.path(blobWant(stranger).Digest), stranger)
	lost := noise(3000, 3)
	fill(t, folder, Options{}, lost)
	if err := folder.Remove(c.path(blobWant(lost).Digest)); err != nil {
		t.Fatal(err)
	}
	replace(t, folder, "blobs/sha256/README", []byte("something"))

	c = openCache(t, folder, Options{})
	mustHold(t, c, blobWant(data), data)
	mustMiss(t, c, blobWant(lost))
	if c.quarantined.Load() != 1 || c.missing.Load() != 1 {
		t.Errorf("%d put aside, want 1; %d missing, want 1", c.quarantined.Load(), c.missing.Load())
	}
	aside := 0
	folder.List(quarantineDir, func(string, bool) error { aside++; return nil })
	if aside != 4 {
		t.Errorf("%d files are put aside, want 4", aside)
	}
	folder.List(ingestDir, func(name string, _ bool) error {
		t.Errorf("%s is left", name)
		return nil
	})
	// A blob that nobody is known to have pulled is asked for and taken in.
	mustMiss(t, c, blobWant(stranger))
	from := newUpstream(stranger)
	mustObtain(t, c, blobWant(stranger), stranger, from)
	if from.confirmed() != 1 || from.count(blobWant(stranger).Digest) != 0 {
		t.Errorf("asked %d times, pulled %d times", from.confirmed(), from.count(blobWant(stranger).Digest))
	}
	c.Close()
	c = openCache(t, folder, Options{})
	mustHold(t, c, blobWant(stranger), stranger)
}

// What was found without a scope may turn out to be a manifest.
func TestOrphanManifest(t *testing.T) {
	t.Parallel()
	folder := disktest.New()
	fill(t, folder, Options{})
	child := digest.FromString("layer")
	data := []byte(`{"layers":[{"digest":"` + child.String() + `"}]}`)
	replace(t, folder, (&Cache{}).path(digest.FromBytes(data)), data)
	c := openCache(t, folder, Options{})
	mustObtain(t, c, manifestWant(data), data, newUpstream(data))
	mustHold(t, c, manifestWant(data), data)
	if len(c.Parents(testScope, child)) != 1 {
		t.Error("it has no children")
	}
}

func TestOneWriter(t *testing.T) {
	t.Parallel()
	folder := disktest.New()
	data, late := noise(1000, 1), noise(100<<10, 2)
	first := openCache(t, folder, Options{Registerer: prometheus.NewRegistry()})
	mustObtain(t, first, blobWant(data), data, newUpstream(data))
	settle(t, first)
	if _, err := Open(t.Context(), folder, Options{}); !errors.Is(err, disk.ErrLocked) {
		t.Fatalf("second writer: %v", err)
	}
	folder.Before(func(op disktest.Op) error {
		switch op.Kind {
		case "open", "read", "readat", "fstat", "stat", "list", "close", "free":
		default:
			t.Errorf("a reader does %v", op)
		}
		return nil
	})
	second := openCache(t, folder, Options{ReadOnly: true})
	mustHold(t, second, blobWant(data), data)
	mustObtain(t, second, blobWant(late), late, newUpstream(late))
	mustObtain(t, second, blobWant(noise(500, 3)), noise(500, 3), newUpstream(noise(500, 3)))
	second.SetTag(testScope, "v1", Tag{At: time.Now()})
	if state, problem := second.health.state(); state != stateReadOnly || problem == "" {
		t.Errorf("state %s: %s", state, problem)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	folder.Before(nil)
	first.Close()
	openCache(t, folder, Options{}).Close() // the lock is free
}

func TestReadOnlyFolder(t *testing.T) {
	t.Parallel()
	folder := disktest.New()
	data, other := noise(1000, 1), noise(100<<10, 2)
	fill(t, folder, Options{}, data, other)
	folder.ReadOnly(true)
	c := openCache(t, folder, Options{})
	mustHold(t, c, blobWant(data), data)
	mustHold(t, c, blobWant(other), other)
	if state, _ := c.health.state(); state != stateReadOnly || !c.clean {
		t.Errorf("state %s, clean %v", state, c.clean)
	}
	more := noise(100<<10, 3)
	mustObtain(t, c, blobWant(more), more, newUpstream(more))
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestOtherVersion(t *testing.T) {
	t.Parallel()
	folder := disktest.New()
	replace(t, folder, versionFile, []byte("2\n"))
	for _, opts := range []Options{{}, {ReadOnly: true}} {
		if _, err := Open(t.Context(), folder, opts); !errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), `"2"`) {
			t.Errorf("error %v", err)
		}
	}
	replace(t, folder, versionFile, nil) // torn when it was made
	openCache(t, folder, Options{})
}

// Much history is rewritten, and nothing lost by that.
func TestJournalIsRewritten(t *testing.T) {
	t.Parallel()
	folder := disktest.New()
	data := noise(1000, 1)
	c := openCache(t, folder, Options{Durability: Fast})
	mustObtain(t, c, blobWant(data), data, newUpstream(data))
	at := time.Now()
	for i := range 60_000 {
		err := c.commit(t.Context(), tagRecord(testScope, "latest", Tag{At: at.Add(time.Duration(i))}))
		if err != nil {
			t.Fatal(err)
		}
	}
	c.SetTag(testScope, "v1", Tag{Descriptor: tagTo(blobWant(data).Digest).Descriptor, At: at})
	c.Close()
	if size := c.scribe.journal.Size(); size > 8<<20 {
		t.Errorf("the journal has %d bytes", size)
	}
	c = openCache(t, folder, Options{})
	mustHold(t, c, blobWant(data), data)
	if is, known := c.Tag(testScope, "v1"); !known || !is.At.Equal(at) {
		t.Errorf("the tag: %+v, %v", is, known)
	}
}
