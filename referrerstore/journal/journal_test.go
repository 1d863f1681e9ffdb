package journal_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/gatehouse-project/gatehouse/referrerstore/disk"
	"github.com/gatehouse-project/gatehouse/referrerstore/disk/disktest"
	"github.com/gatehouse-project/gatehouse/referrerstore/journal"
)

func TestReadAgain(t *testing.T) {
	t.Parallel()
	real, err := disk.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = real.Close() })
	for name, dir := range map[string]disk.Folder{"real": real, "memory": disktest.New()} {
		for _, opts := range []journal.Options{{}, {Sync: true}} {
			t.Run(fmt.Sprint(name, opts), func(t *testing.T) {
				sub := fmt.Sprint("at/", opts.Sync)
				readAgain(t, dir, sub, opts)
			})
		}
	}
}

func readAgain(t *testing.T, dir disk.Folder, sub string, opts journal.Options) {
	t.Helper()
	var want []string
	size := int64(0)
	for round := range 4 {
		var got []string
		j, damage, err := journal.Open(dir, sub, opts, func(r []byte) error { got = append(got, string(r)); return nil })
		if err != nil {
			t.Fatal(err)
		}
		wantDamage(t, damage, journal.Damage{})
		wantRecords(t, got, want...)
		if j.Size() != size {
			t.Fatalf("size %d, want %d", j.Size(), size)
		}
		records := []string{fmt.Sprint("round ", round), "", strings.Repeat("x", 1000*round)}
		add(t, j, records...)
		add(t, j)
		add(t, j, "alone")
		want = append(append(want, records...), "alone")
		size = j.Size()
		end(t, j)
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	dir := disktest.New()
	j, _, _ := open(t, dir, journal.Options{})
	large := make([]byte, journal.MaxRecord)
	over := append(slices.Clone(large), 0)
	if err := j.Append(t.Context(), []byte("a"), over); !errors.Is(err, journal.ErrTooLarge) {
		t.Fatalf("a record over the bound: %v", err)
	}
	if err := j.Append(t.Context(), slices.Repeat([][]byte{large}, 8)...); !errors.Is(err, journal.ErrTooLarge) {
		t.Fatalf("an append over the bound: %v", err)
	}
	if len(dir.Names()) != 0 {
		t.Fatalf("something was written: %q", dir.Names())
	}
	for range 4 { // more than may wait at once
		if err := j.Append(t.Context(), slices.Repeat([][]byte{large}, 7)...); err != nil {
			t.Fatal(err)
		}
	}
	end(t, j)
	_, got, _ := open(t, dir, journal.Options{})
	if len(got) != 28 || len(got[27]) != journal.MaxRecord {
		t.Fatalf("%d records", len(got))
	}
}

// What an owner does with its bytes after Append does not reach the journal, nor
// does what each does with those of Open.
func TestBytesAreCopied(t *testing.T) {
	t.Parallel()
	dir := disktest.New()
	j, _, _ := open(t, dir, journal.Options{})
	record := []byte("before")
	if err := j.Append(t.Context(), record, []byte("next")); err != nil {
		t.Fatal(err)
	}
	copy(record, "after!")
	end(t, j)
	var got []string
	_, _, err := journal.Open(dir, folder, journal.Options{}, func(r []byte) error {
		got = append(got, string(r))
		_ = append(r, "overwritten"...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	wantRecords(t, got, "before", "next")
}

func TestOpenWritesNothing(t *testing.T) {
	t.Parallel()
	dir := written(t, []string{"a"})
	dir.ReadOnly(true)
	before := dir.Ops()
	j, got, _ := open(t, dir, journal.Options{Sync: true})
	wantRecords(t, got, "a")
	if dir.Ops() == before {
		t.Fatal("nothing was read")
	}
	if err := j.Append(t.Context(), []byte("b")); !disk.ReadOnly(err) {
		t.Fatal(err)
	}
	end(t, j)
	dir.ReadOnly(false)
	j, got, damage := open(t, dir, journal.Options{})
	wantRecords(t, got, "a")
	wantDamage(t, damage, journal.Damage{})
	add(t, j, "b")
}

func TestOpenEndsWithItsCaller(t *testing.T) {
	t.Parallel()
	dir, stop := written(t, []string{"a"}, []string{"b"}), errors.New("stop")
	calls := 0
	_, _, err := journal.Open(dir, folder, journal.Options{}, func([]byte) error { calls++; return stop })
	if !errors.Is(err, stop) || calls != 1 {
		t.Fatalf("%v after %d", err, calls)
	}
}

// Every operation of Open that fails is an error: what cannot be read is not
// taken as missing.
func TestOpenFails(t *testing.T) {
	t.Parallel()
	for k := 1; ; k++ {
		dir := written(t, []string{"a"}, []string{"b"})
		before := dir.Ops()
		dir.FailAt(before+k, syscall.EIO)
		_, _, err := journal.Open(dir, folder, journal.Options{}, func([]byte) error { return nil })
		if strings.HasPrefix(lastOp(dir, before+k), "close") {
			if k < 5 {
				t.Fatalf("closed after %d operations\n%s", k, dir.Log())
			}
			return
		}
		if !disk.Failing(err) {
			t.Fatalf("operation %d: %v\n%s", k, err, dir.Log())
		}
	}
}

func lastOp(dir *disktest.Folder, k int) string {
	for line := range strings.Lines(dir.Log()) {
		if kind, found := strings.CutPrefix(line, fmt.Sprint(k, " ")); found {
			return kind
		}
	}
	return ""
}

func TestClose(t *testing.T) {
	t.Parallel()
	dir := disktest.New()
	j, _, _ := open(t, dir, journal.Options{})
	add(t, j, "a")
	if _, got, _ := open(t, dir.Crash(disktest.PowerCut(0)), journal.Options{}); len(got) != 0 {
		t.Fatalf("synced although it was not asked to: %q", got)
	}
	end(t, j)
	end(t, j)
	_, got, _ := open(t, dir.Crash(disktest.PowerCut(0)), journal.Options{})
	wantRecords(t, got, "a")
	if err := j.Append(t.Context(), []byte("b")); !errors.Is(err, journal.ErrClosed) {
		t.Fatal(err)
	}
	if err := j.Rewrite(t.Context(), slices.Values(bytesOf("b"))); !errors.Is(err, journal.ErrClosed) {
		t.Fatal(err)
	}
}

func TestCloseSaysWhatItFailedToSync(t *testing.T) {
	t.Parallel()
	dir := disktest.New()
	j, _, _ := open(t, dir, journal.Options{})
	add(t, j, "a")
	dir.FailAt(dir.Ops()+1, syscall.EIO)
	for range 2 {
		if err := j.Close(); !disk.Failing(err) {
			t.Fatal(err)
		}
	}
}

// Many at once: all is there, each one's in its order.
func TestConcurrently(t *testing.T) {
	t.Parallel()
	dir := disktest.New()
	j, _, _ := open(t, dir, journal.Options{Sync: true})
	var group sync.WaitGroup
	for who := range 8 {
		group.Go(func() {
			for i := range 100 {
				if err := j.Append(t.Context(), fmt.Appendf(nil, "%d %d", who, i), []byte("-")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	_, got, _ := open(t, dir.Crash(disktest.PowerCut(0)), journal.Options{})
	next := map[int]int{}
	for i := 0; i < len(got); i += 2 {
		var who, n int
		if _, err := fmt.Sscanf(got[i], "%d %d", &who, &n); err != nil || n != next[who] || got[i+1] != "-" {
			t.Fatalf("read %q after %d, %v", got[i], next[who], err)
		}
		next[who]++
	}
	if len(got) != 1600 {
		t.Fatalf("%d records", len(got))
	}
}
