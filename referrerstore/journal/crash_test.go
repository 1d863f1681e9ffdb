package journal_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"github.com/gatehouse-project/gatehouse/referrerstore/disk/disktest"
	"github.com/gatehouse-project/gatehouse/referrerstore/journal"
)

// owner uses a journal as one has to: it notes what it appends before it does.
// Records are numbered, so that the order is known; those of a snapshot tell of
// which, so that nobody takes the old for the new.
type owner struct {
	opts    journal.Options
	j       *journal.Journal
	next    int
	appends [][]string // what each Append was called with, in order
	held    []string   // what a snapshot has to hold
	acked   map[string]bool
	taken   [][]string // what each snapshot held
	failing bool       // something failed, so that the journal may be behind
}

type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

func newOwner(t fataler, dir *disktest.Folder, opts journal.Options) *owner {
	t.Helper()
	o := &owner{opts: opts, acked: map[string]bool{}}
	o.open(t, dir)
	return o
}

func (o *owner) open(t fataler, dir *disktest.Folder) []string {
	t.Helper()
	j, got, err := readAll(dir, o.opts)
	if err != nil {
		t.Fatalf("%v\n%s", err, dir.Log())
	}
	o.j = j
	return got
}

func readAll(dir *disktest.Folder, opts journal.Options) (*journal.Journal, []string, error) {
	var got []string
	j, _, err := journal.Open(dir, folder, opts, func(r []byte) error { got = append(got, string(r)); return nil })
	return j, got, err
}

func (o *owner) add(t *testing.T, number int) {
	var records []string
	for range number {
		// Long enough to lie in several pages.
		records = append(records, fmt.Sprintf("%06d %s", o.next, strings.Repeat("r", o.next%7*100)))
		o.next++
	}
	o.appends = append(o.appends, records)
	o.held = append(o.held, records...)
	if err := o.j.Append(t.Context(), bytesOf(records...)...); err != nil {
		o.failing = true
		return
	}
	for _, r := range records {
		o.acked[r] = true
	}
}

// rewrite appends meanwhile: before, in the middle and at the end of a snapshot.
func (o *owner) rewrite(t *testing.T) {
	err := o.j.Rewrite(t.Context(), func(yield func([]byte) bool) {
		held := slices.Clone(o.held)
		o.taken = append(o.taken, held)
		o.add(t, 1)
		for i, r := range held {
			if i == len(held)/2 {
				o.add(t, 2)
			}
			if !yield(fmt.Appendf(nil, "s%d %s", len(o.taken)-1, r)) {
				return
			}
		}
		o.add(t, 1)
	})
	o.failing = o.failing || err != nil
}

// check says what is wrong with what was read, if anything: it has to be a whole
// snapshot or none, then appends, each whole, in their order, with no gap where
// one returned that is promised.
func (o *owner) check(got []string, promised bool) error {
	plain, from, err := o.snapshotOf(got)
	if err != nil {
		return err
	}
	read := map[string]bool{}
	for _, r := range plain {
		read[r] = true
	}
	if !slices.IsSorted(plain) || len(read) != len(plain) {
		return fmt.Errorf("out of order, or twice")
	}
	known := map[string]bool{}
	for i, records := range o.appends {
		there := 0
		for _, r := range records {
			known[r] = true
			if read[r] {
				there++
			} else if promised && o.acked[r] {
				return fmt.Errorf("%.10q is lost", r)
			}
		}
		if there != 0 && there != len(records) {
			return fmt.Errorf("%d of %d records of append %d", there, len(records), i)
		}
	}
	for _, r := range plain[from:] {
		if !known[r] {
			return fmt.Errorf("%.10q was not appended", r)
		}
	}
	return nil
}

// snapshotOf takes the names of snapshots off what was read.
func (o *owner) snapshotOf(got []string) (plain []string, from int, err error) {
	plain = slices.Clone(got)
	for from < len(got) && got[from][0] == 's' {
		from++
	}
	for _, r := range got[from:] {
		if r[0] == 's' {
			return nil, 0, fmt.Errorf("a snapshot behind appends")
		}
	}
	if from == 0 {
		return plain, 0, nil
	}
	var of int
	if _, err := fmt.Sscanf(got[0], "s%d ", &of); err != nil {
		return nil, 0, err
	}
	for i := range from {
		plain[i] = strings.TrimPrefix(got[i], fmt.Sprintf("s%d ", of))
	}
	if !slices.Equal(plain[:from], o.taken[of]) {
		return nil, 0, fmt.Errorf("%d records of snapshot %d, which had %d", from, of, len(o.taken[of]))
	}
	return plain, from, nil
}

// story is what a process does that crashes somewhere in it.
func story(t *testing.T, o *owner) {
	o.add(t, 1)
	o.add(t, 3)
	o.rewrite(t)
	o.add(t, 2)
	o.rewrite(t)
	o.add(t, 1)
}

func wantCheck(t *testing.T, o *owner, dir *disktest.Folder, promised bool, what ...any) {
	t.Helper()
	j, got, err := readAll(dir, o.opts)
	if err == nil {
		err = o.check(got, promised)
	}
	if err != nil {
		t.Fatalf("%s: %v\nread %.20q", fmt.Sprint(what...), err, got)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

const seeds = 24

// A process that ends at any operation, and what a kill or a power cut leaves.
func TestCrashAnywhere(t *testing.T) {
	t.Parallel()
	for _, opts := range []journal.Options{{}, {Sync: true}} {
		t.Run(fmt.Sprint("sync ", opts.Sync), func(t *testing.T) {
			t.Parallel()
			for k := 1; ; k++ {
				dir := disktest.New()
				o := newOwner(t, dir, opts)
				dir.FailFrom(dir.Ops()+k, disktest.ErrCrashed)
				story(t, o)
				wantCheck(t, o, dir.Crash(disktest.Kill()), true, "killed at ", k, "\n", dir.Log())
				for seed := range uint64(seeds) {
					wantPowerCut(t, o, dir, seed, k)
				}
				_ = o.j.Close()
				if !o.failing {
					if k < 30 {
						t.Fatalf("the story has only %d operations", k)
					}
					return
				}
			}
		})
	}
}

// wantPowerCut promises nothing without Sync, not even appends that are whole and
// in order where a snapshot took the place of others: only that nothing else is
// read.
func wantPowerCut(t *testing.T, o *owner, dir *disktest.Folder, seed uint64, k int) {
	t.Helper()
	cut := dir.Crash(disktest.PowerCut(seed))
	wantCheck(t, o, cut, o.opts.Sync, "power cut at ", k, " seed ", seed, "\n", dir.Log())
	if !o.opts.Sync {
		return
	}
	// The next process writes on, and is cut off too.
	next := *o
	next.acked, next.appends = maps.Clone(o.acked), slices.Clone(o.appends)
	next.open(t, cut)
	next.add(t, 2)
	if !next.acked[next.appends[len(next.appends)-1][0]] {
		t.Fatalf("power cut at %d seed %d: it does not go on\n%s", k, seed, cut.Log())
	}
	wantCheck(t, &next, cut.Crash(disktest.PowerCut(0)), true, "second power cut at ", k, " seed ", seed)
	_ = next.j.Close()
}

// One operation fails, and the process goes on.
func TestFailAnywhere(t *testing.T) {
	t.Parallel()
	for k := 1; ; k++ {
		dir := disktest.New()
		o := newOwner(t, dir, journal.Options{Sync: true})
		dir.FailAt(dir.Ops()+k, syscall.EIO)
		story(t, o)
		ops := dir.Ops()
		wantCheck(t, o, dir.Crash(disktest.Kill()), true, "failed at ", k, "\n", dir.Log())
		for seed := range uint64(seeds) {
			wantPowerCut(t, o, dir, seed, k)
		}
		dir.Heal()
		if err := o.j.Close(); err != nil {
			t.Fatal(err)
		}
		if k > ops {
			return
		}
	}
}

// Any order of appends, rewrites, failures, ends and crashes.
func TestModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		dir := disktest.New()
		o := newOwner(r, dir, journal.Options{Sync: rapid.Bool().Draw(r, "sync")})
		crash := func(mode disktest.Mode, promised bool) {
			after := dir.Crash(mode)
			_ = o.j.Close()
			dir = after
			got := o.open(r, dir)
			if err := o.check(got, promised); err != nil {
				r.Fatalf("%v\nread %.20q", err, got)
			}
			o.restart(got)
		}
		r.Repeat(map[string]func(*rapid.T){
			"append":  func(r *rapid.T) { o.add(t, rapid.IntRange(1, 4).Draw(r, "records")) },
			"rewrite": func(*rapid.T) { o.rewrite(t) },
			"fail":    func(r *rapid.T) { dir.FailAt(dir.Ops()+rapid.IntRange(1, 9).Draw(r, "in"), syscall.EIO) },
			"kill":    func(*rapid.T) { crash(disktest.Kill(), true) },
			"cut": func(r *rapid.T) {
				crash(disktest.PowerCut(rapid.Uint64Range(0, 1000).Draw(r, "seed")), o.opts.Sync)
			},
			"end": func(r *rapid.T) {
				dir.Heal()
				clean := o.j.Close() == nil
				crash(disktest.PowerCut(0), clean)
			},
		})
		_ = o.j.Close()
	})
}

// restart goes on with what was read. What is missing is not promised any more; it
// may come back as long as a power cut can take its removal.
func (o *owner) restart(got []string) {
	o.held, _, _ = o.snapshotOf(got)
	for r := range o.acked {
		if !slices.Contains(o.held, r) {
			delete(o.acked, r)
		}
	}
}
