package journal_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/gatehouse-project/gatehouse/referrerstore/disk"
	"github.com/gatehouse-project/gatehouse/referrerstore/disk/disktest"
	"github.com/gatehouse-project/gatehouse/referrerstore/journal"
)

func snapshot(records ...string) iter.Seq[[]byte] { return slices.Values(bytesOf(records...)) }

func TestRewrite(t *testing.T) {
	t.Parallel()
	dir := disktest.New()
	j, _, _ := open(t, dir, journal.Options{})
	for i := range 100 {
		add(t, j, fmt.Sprint("old ", i))
	}
	before := j.Size()
	if err := j.Rewrite(t.Context(), snapshot("all", "of it")); err != nil {
		t.Fatal(err)
	}
	if j.Size() >= before || j.Size() != int64(len(dirBytes(dir))) || len(dir.Names()) != 1 {
		t.Fatalf("size %d, was %d; %q", j.Size(), before, dir.Names())
	}
	add(t, j, "new")
	// Without Sync the snapshot is on the disk nevertheless.
	_, got, _ := open(t, dir.Crash(disktest.PowerCut(0)), journal.Options{})
	wantRecords(t, got, "all", "of it")
	if err := j.Rewrite(t.Context(), snapshot()); err != nil {
		t.Fatal(err)
	}
	add(t, j, "newer")
	end(t, j)
	j, got, damage := open(t, dir, journal.Options{})
	wantRecords(t, got, "newer")
	wantDamage(t, damage, journal.Damage{})
	if j.Size() != int64(len(dirBytes(dir))) {
		t.Fatalf("size %d of %d", j.Size(), len(dirBytes(dir)))
	}
}

func TestRewriteOfMany(t *testing.T) {
	t.Parallel()
	dir := disktest.New()
	j, _, _ := open(t, dir, journal.Options{})
	var want []string
	for i := range 3000 {
		want = append(want, strings.Repeat(fmt.Sprint(i, " "), i%100))
	}
	want[1500] = strings.Repeat("l", journal.MaxRecord)
	if err := j.Rewrite(t.Context(), snapshot(want...)); err != nil {
		t.Fatal(err)
	}
	if j.Size() != int64(len(dirBytes(dir))) {
		t.Fatalf("size %d of %d", j.Size(), len(dirBytes(dir)))
	}
	end(t, j)
	_, got, _ := open(t, dir, journal.Options{})
	if !slices.Equal(got, want) {
		t.Fatalf("read %d records", len(got))
	}
}

// Appends go on while a snapshot is written, even by the snapshot itself and while
// the disk takes none of it, and come behind it.
func TestAppendDuringRewrite(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := disktest.New()
		j, _, _ := open(t, dir, journal.Options{Sync: true})
		add(t, j, "old")
		g := newGate(dir, "sync new")
		var group sync.WaitGroup
		group.Go(func() {
			err := j.Rewrite(t.Context(), func(yield func([]byte) bool) {
				add(t, j, "by the snapshot")
				yield([]byte("snapshot"))
			})
			if err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		add(t, j, "meanwhile") // hangs if it waits for the snapshot
		_, got, _ := open(t, dir.Crash(disktest.PowerCut(0)), journal.Options{})
		wantRecords(t, got, "old", "by the snapshot", "meanwhile")
		g.open("sync new")
		group.Wait()
		_, got, _ = open(t, dir.Crash(disktest.PowerCut(0)), journal.Options{})
		wantRecords(t, got, "snapshot", "by the snapshot", "meanwhile")
	})
}

// A Rewrite that fails at any operation leaves what was there, and a journal that
// works; so does one that is interrupted.
func TestRewriteFails(t *testing.T) {
	t.Parallel()
	for k := 1; ; k++ {
		dir := disktest.New()
		j, _, _ := open(t, dir, journal.Options{Sync: true})
		add(t, j, "old")
		before := dir.Ops()
		dir.FailAt(before+k, syscall.ENOSPC)
		err := j.Rewrite(t.Context(), snapshot("snapshot"))
		last := lastOp(dir, before+k)
		if strings.HasPrefix(last, "list") {
			// What comes now only tidies up.
			if err != nil || k < 6 {
				t.Fatalf("operation %d, %s: %v", k, last, err)
			}
			return
		}
		if strings.HasPrefix(last, "close "+file1) { // it was synced before
			end(t, j)
			continue
		}
		if !disk.Full(err) {
			t.Fatalf("operation %d, %s: %v", k, last, err)
		}
		add(t, j, "new")
		end(t, j)
		_, got, damage := open(t, dir, journal.Options{})
		if !strings.HasPrefix(last, "syncdir") { // the one after which it is in place
			wantRecords(t, got, "old", "new")
			if names := dir.Names(); slices.ContainsFunc(names, func(n string) bool { return strings.HasSuffix(n, ".new") }) {
				t.Fatalf("left behind: %q", names)
			}
		} else {
			wantRecords(t, got, "snapshot", "new")
		}
		wantDamage(t, damage, journal.Damage{})
	}
}

func TestRewriteIsInterrupted(t *testing.T) {
	t.Parallel()
	leave := errors.New("leave")
	for name, interrupt := range map[string]func(*journal.Journal, context.CancelCauseFunc){
		"context": func(_ *journal.Journal, cancel context.CancelCauseFunc) { cancel(leave) },
		"close":   func(j *journal.Journal, _ context.CancelCauseFunc) { go j.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				dir := disktest.New()
				j, _, _ := open(t, dir, journal.Options{})
				add(t, j, "old")
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				err := j.Rewrite(ctx, func(yield func([]byte) bool) {
					for i := 0; yield([]byte("snapshot")); i++ {
						if i == 10 {
							interrupt(j, cancel)
							synctest.Wait()
						}
						if i > 20 {
							t.Error("it goes on")
							return
						}
					}
				})
				if !errors.Is(err, leave) && !errors.Is(err, journal.ErrClosed) {
					t.Fatal(err)
				}
				end(t, j)
				// Without Sync too, a clean end keeps what was written before.
				_, got, _ := open(t, dir.Crash(disktest.PowerCut(0)), journal.Options{})
				wantRecords(t, got, "old")
			})
		})
	}
}

func TestRewriteTooLarge(t *testing.T) {
	t.Parallel()
	dir := disktest.New()
	j, _, _ := open(t, dir, journal.Options{})
	add(t, j, "old")
	if err := j.Rewrite(t.Context(), snapshot("a", strings.Repeat("l", journal.MaxRecord+1))); !errors.Is(err, journal.ErrTooLarge) {
		t.Fatal(err)
	}
	end(t, j)
	_, got, _ := open(t, dir, journal.Options{})
	wantRecords(t, got, "old")
}

// A caller that leaves while the disk hangs does not keep the turn from coming,
// nor does a snapshot that panics keep others from rewriting.
func TestRewriteLeft(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := disktest.New()
		j, _, _ := open(t, dir, journal.Options{})
		add(t, j, "old")
		g := newGate(dir, "write log")
		var group sync.WaitGroup
		group.Go(func() { add(t, j, "slow") })
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		group.Go(func() {
			if err := j.Rewrite(ctx, snapshot("never")); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		synctest.Wait()
		cancel()
		synctest.Wait()
		g.open("write log")
		group.Wait()
		add(t, j, "new")
		func() {
			defer func() { _ = recover() }()
			_ = j.Rewrite(t.Context(), func(func([]byte) bool) { panic("snapshot") })
		}()
		_, got, _ := open(t, dir.Crash(disktest.Kill()), journal.Options{})
		wantRecords(t, got, "old", "slow", "new")
		if err := j.Rewrite(t.Context(), snapshot("all")); err != nil {
			t.Fatal(err)
		}
		_, got, _ = open(t, dir.Crash(disktest.Kill()), journal.Options{})
		wantRecords(t, got, "all")
	})
}

// What a Rewrite could not remove counts no more, and goes with the next.
func TestRewriteLeavesFiles(t *testing.T) {
	t.Parallel()
	dir := disktest.New()
	j, _, _ := open(t, dir, journal.Options{})
	add(t, j, "old")
	dir.Put(folder+"/0000000000.new", []byte("a draft that a crash left"))
	dir.Before(func(op disktest.Op) error {
		if op.Kind == "remove" {
			return syscall.EIO
		}
		return nil
	})
	if err := j.Rewrite(t.Context(), snapshot("all")); err != nil {
		t.Fatal(err)
	}
	if len(dir.Names()) != 3 {
		t.Fatalf("%q", dir.Names())
	}
	_, got, _ := open(t, dir.Crash(disktest.Kill()), journal.Options{})
	wantRecords(t, got, "all")
	dir.Heal()
	if err := j.Rewrite(t.Context(), snapshot("again")); err != nil {
		t.Fatal(err)
	}
	if len(dir.Names()) != 1 {
		t.Fatalf("%q", dir.Names())
	}
}

func TestRewritesTakeTurns(t *testing.T) {
	t.Parallel()
	dir := disktest.New()
	j, _, _ := open(t, dir, journal.Options{})
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			if err := j.Rewrite(t.Context(), snapshot(fmt.Sprint(i), fmt.Sprint(i))); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	end(t, j)
	_, got, _ := open(t, dir, journal.Options{})
	if len(got) != 2 || got[0] != got[1] || len(dir.Names()) != 1 {
		t.Fatalf("%q in %q", got, dir.Names())
	}
}
