package disktest_test

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/gatehouse-project/gatehouse/referrerstore/disk/disktest"
)

const seeds = 400

// outcomes crashes in many ways and says what there was afterwards.
func outcomes(f *disktest.Folder, describe func(*disktest.Folder) string) []string {
	seen := map[string]bool{}
	for seed := range uint64(seeds) {
		seen[describe(f.Crash(disktest.PowerCut(seed)))] = true
	}
	return slices.Sorted(maps.Keys(seen))
}

func files(f *disktest.Folder) string { return strings.Join(f.Names(), " ") }

func bytesOf(name string) func(*disktest.Folder) string {
	return func(f *disktest.Folder) string {
		data, there := f.Bytes(name)
		if !there {
			return "missing"
		}
		return string(data)
	}
}

func wantOutcomes(t *testing.T, got []string, want ...string) {
	t.Helper()
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Fatalf("outcomes %q, want %q", got, want)
	}
}

func TestKillKeepsAll(t *testing.T) {
	t.Parallel()
	f := disktest.New()
	ok(t, f.MakeDir("d"))
	write(t, f, "d/a", "hello")
	write(t, f, "b", "bye")
	ok(t, f.Rename("b", "d/b"))
	after := f.Crash(disktest.Kill())
	wantNames(t, after, "d/a", "d/b")
	wantBytes(t, after, "d/a", "hello")
	// A power cut behind it still takes what nobody synced.
	wantNames(t, after.Crash(disktest.PowerCut(0)))
	wantNames(t, after.Crash(disktest.PowerCut(1)), "d/a", "d/b")
}

func TestCrashIsACopy(t *testing.T) {
	t.Parallel()
	f := disktest.New()
	a := write(t, f, "a", "one")
	after := f.Crash(disktest.Kill())
	_, err := a.Write([]byte(" two"))
	ok(t, err)
	other, err := after.Append("a")
	ok(t, err)
	_, err = other.Write([]byte(" too"))
	ok(t, err)
	wantBytes(t, f, "a", "one two")
	wantBytes(t, after, "a", "one too")
	f.FailFrom(1, errors.New("no"))
	ok(t, after.Remove("a"))
	wantNames(t, f, "a")
}

func TestPowerCutBytes(t *testing.T) {
	t.Parallel()
	f := disktest.New()
	a := write(t, f, "a", "S")
	ok(t, a.Sync())
	ok(t, f.Sync("."))
	_, err := a.Write([]byte("un"))
	ok(t, err)
	wantOutcomes(t, outcomes(f, bytesOf("a")), "S", "Su", "Sun", "S\x00\x00", "Su\x00", "S\x00n")
	wantBytes(t, f.Crash(disktest.PowerCut(0)), "a", "S")
	wantBytes(t, f.Crash(disktest.PowerCut(1)), "a", "Sun")
	ok(t, a.Sync())
	wantOutcomes(t, outcomes(f, bytesOf("a")), "Sun")
}

func TestPowerCutOverwritten(t *testing.T) {
	t.Parallel()
	f := disktest.New()
	a := write(t, f, "a", "abcd")
	ok(t, a.Sync())
	ok(t, f.Sync("."))
	ok(t, a.Truncate(2))
	wantOutcomes(t, outcomes(f, bytesOf("a")), "ab", "abcd")
	_, err := a.Seek(0, 0)
	ok(t, err)
	_, err = a.Write([]byte("X"))
	ok(t, err)
	wantBytes(t, f.Crash(disktest.PowerCut(0)), "a", "abcd")
	wantBytes(t, f.Crash(disktest.PowerCut(1)), "a", "Xb")
}

func TestPowerCutNames(t *testing.T) {
	t.Parallel()
	f := disktest.New()
	write(t, f, "a", "")
	write(t, f, "b", "")
	wantOutcomes(t, outcomes(f, files), "", "a", "b", "a b")
	ok(t, f.Sync("."))
	wantOutcomes(t, outcomes(f, files), "a b")
	ok(t, f.Remove("a"))
	wantOutcomes(t, outcomes(f, files), "a b", "b")
	ok(t, f.Rename("b", "c")) // in one step
	wantOutcomes(t, outcomes(f, files), "a b", "b", "a c", "c")
}

func TestPowerCutReplaced(t *testing.T) {
	t.Parallel()
	f := disktest.New()
	old := write(t, f, "a", "old")
	ok(t, old.Sync())
	ok(t, f.Sync("."))
	tmp := write(t, f, "tmp", "new")
	ok(t, tmp.Sync())
	ok(t, f.Rename("tmp", "a"))
	wantOutcomes(t, outcomes(f, bytesOf("a")), "old", "new")
	ok(t, f.Sync("."))
	wantOutcomes(t, outcomes(f, bytesOf("a")), "new")
}

func TestPowerCutMoved(t *testing.T) {
	t.Parallel()
	f := disktest.New()
	ok(t, f.MakeDir("in"))
	ok(t, f.MakeDir("out"))
	ok(t, f.Sync("."))
	write(t, f, "in/a", "")
	ok(t, f.Sync("in"))
	ok(t, f.Rename("in/a", "out/a"))
	wantOutcomes(t, outcomes(f, files), "in/a", "out/a")
	wrong := f.Crash(disktest.Kill())
	ok(t, f.Sync("out"))
	wantOutcomes(t, outcomes(f, files), "in/a out/a", "out/a")
	ok(t, f.Sync("in"))
	wantOutcomes(t, outcomes(f, files), "out/a")
	ok(t, wrong.Sync("in")) // the wrong one first
	wantOutcomes(t, outcomes(wrong, files), "", "out/a")
}

func TestPowerCutFolder(t *testing.T) {
	t.Parallel()
	f := disktest.New()
	ok(t, f.MakeDir("d"))
	a := write(t, f, "d/a", "x")
	ok(t, a.Sync())
	ok(t, f.Sync("d"))
	wantOutcomes(t, outcomes(f, files), "", "d/a")
	ok(t, f.Sync("."))
	wantOutcomes(t, outcomes(f, files), "d/a")
}

// What a failed sync was to bring to the disk may be gone, although the next
// sync succeeds; what is written again is not.
func TestFailedSync(t *testing.T) {
	t.Parallel()
	f := disktest.New()
	a := write(t, f, "a", "S")
	ok(t, a.Sync())
	ok(t, f.Sync("."))
	_, err := a.Write([]byte("lost"))
	ok(t, err)
	f.FailAt(f.Ops()+1, errors.New("no"))
	if err := a.Sync(); err == nil {
		t.Fatal("it did not fail")
	}
	ok(t, a.Sync())
	wantOutcomes(t, outcomes(f, bytesOf("a")), "S\x00\x00\x00\x00", "Slost")
	_, err = a.Seek(1, 0)
	ok(t, err)
	_, err = a.Write([]byte("ke"))
	ok(t, err)
	ok(t, a.Sync())
	wantOutcomes(t, outcomes(f, bytesOf("a")), "Ske\x00\x00", "Skest")
}

func TestCrashReleasesLocks(t *testing.T) {
	t.Parallel()
	f := disktest.New()
	_, err := f.Lock("LOCK")
	ok(t, err)
	for _, mode := range []disktest.Mode{disktest.Kill(), disktest.PowerCut(0), disktest.PowerCut(1)} {
		_, err := f.Crash(mode).Lock("LOCK")
		ok(t, err)
	}
}

func TestSameSeedSameCrash(t *testing.T) {
	t.Parallel()
	f := disktest.New()
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		write(t, f, name, "some bytes")
	}
	describe := func(f *disktest.Folder) string {
		var all strings.Builder
		for _, name := range f.Names() {
			all.WriteString(name + bytesOf(name)(f))
		}
		return all.String()
	}
	for seed := range uint64(50) {
		first := describe(f.Crash(disktest.PowerCut(seed)))
		for range 5 {
			if again := describe(f.Crash(disktest.PowerCut(seed))); again != first {
				t.Fatalf("seed %d: %q, then %q", seed, first, again)
			}
		}
	}
}
