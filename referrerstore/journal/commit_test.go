package journal_test

import (
	"context"
	"errors"
	"fmt"
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

// gate lets a test hold one kind of operation. It is for use in a synctest
// bubble.
type gate struct {
	mu   sync.Mutex
	seen map[string]int
	hold map[string]chan struct{}
}

func newGate(dir *disktest.Folder, hold ...string) *gate {
	g := &gate{seen: map[string]int{}, hold: map[string]chan struct{}{}}
	for _, key := range hold {
		g.hold[key] = make(chan struct{})
	}
	dir.Before(g.before)
	return g
}

func (g *gate) before(op disktest.Op) error {
	g.mu.Lock()
	ext := op.Name[strings.LastIndexByte(op.Name, '.')+1:]
	g.seen[op.Kind+" "+ext]++
	wait := g.hold[op.Kind+" "+ext]
	g.mu.Unlock()
	if wait != nil {
		<-wait
	}
	return nil
}

func (g *gate) open(key string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.hold[key])
	g.hold[key] = nil
}

func (g *gate) count(key string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.seen[key]
}

func TestGroupCommit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := disktest.New()
		j, _, _ := open(t, dir, journal.Options{Sync: true})
		g := newGate(dir, "sync log")
		const number = 50
		errs := make([]error, number)
		var group sync.WaitGroup
		for i := range number {
			group.Go(func() { errs[i] = j.Append(t.Context(), fmt.Appendf(nil, "%02d", i)) })
			synctest.Wait()
		}
		g.open("sync log")
		group.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		if w, s := g.count("write log"), g.count("sync log"); w != 2 || s != 2 {
			t.Fatalf("%d writes and %d syncs", w, s)
		}
		var want []string
		for i := range number {
			want = append(want, fmt.Sprintf("%02d", i))
		}
		_, got, _ := open(t, dir.Crash(disktest.PowerCut(0)), journal.Options{})
		wantRecords(t, got, want...)
	})
}

// An error is that of all that were written together, and of none after it.
func TestErrorsAreOfTheBatch(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"write", "sync"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { errorsOfTheBatch(t, kind) })
		})
	}
}

func errorsOfTheBatch(t *testing.T, kind string) {
	dir := disktest.New()
	j, _, _ := open(t, dir, journal.Options{Sync: true})
	add(t, j, "first")
	first, failing := make(chan struct{}), 0
	dir.Before(func(op disktest.Op) error {
		if op.Kind == "write" {
			<-first
		}
		if op.Kind == kind {
			if failing++; failing == 2 {
				return syscall.EIO
			}
		}
		return nil
	})
	errs := make([]error, 4)
	var group sync.WaitGroup
	for i := range errs { // one alone, then three together
		group.Go(func() { errs[i] = j.Append(t.Context(), fmt.Appendf(nil, "%s %d", kind, i)) })
		synctest.Wait()
	}
	close(first)
	group.Wait()
	if errs[0] != nil {
		t.Fatal(errs[0])
	}
	for _, err := range errs[1:] {
		if !errors.Is(err, syscall.EIO) {
			t.Fatal(err)
		}
	}
	add(t, j, "next")
	for seed := range uint64(50) {
		_, got, _ := open(t, dir.Crash(disktest.PowerCut(seed)), journal.Options{})
		if len(got) < 3 || !slices.Equal(got[:2], []string{"first", kind + " 0"}) || got[len(got)-1] != "next" {
			t.Fatalf("seed %d: %q", seed, got)
		}
	}
}

// A disk that stays full is not filled with files, and is used again when it has
// room.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	dir := disktest.New()
	j, _, _ := open(t, dir, journal.Options{})
	add(t, j, "before")
	dir.Capacity(j.Size() + 10)
	for range 20 {
		if err := j.Append(t.Context(), []byte("too much")); !disk.Full(err) {
			t.Fatal(err)
		}
	}
	if names := dir.Names(); len(names) != 1 {
		t.Fatalf("%q", names)
	}
	dir.Capacity(1000)
	add(t, j, "after")
	end(t, j)
	j, got, damage := open(t, dir, journal.Options{})
	wantRecords(t, got, "before", "after")
	wantDamage(t, damage, journal.Damage{Torn: 1, Bytes: 10})
	if want := int64(len(dirBytes(dir))); j.Size() != want {
		t.Fatalf("size %d, want %d", j.Size(), want)
	}
}

func dirBytes(dir *disktest.Folder) (all []byte) {
	for _, name := range dir.Names() {
		data, _ := dir.Bytes(name)
		all = append(all, data...)
	}
	return all
}

// The context bounds the wait, also that for room while the disk hangs, and not
// what was taken.
func TestContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := disktest.New()
		j, _, _ := open(t, dir, journal.Options{})
		g := newGate(dir, "write log")
		leave := errors.New("leave")
		ctx, cancel := context.WithCancelCause(t.Context())
		var group sync.WaitGroup
		errs := make([]error, 40)
		for i := range errs {
			record := make([]byte, journal.MaxRecord)
			copy(record, fmt.Sprintf("%02d", i))
			group.Go(func() { errs[i] = j.Append(ctx, record) })
			synctest.Wait()
		}
		cancel(leave)
		group.Wait()
		for _, err := range errs {
			if !errors.Is(err, leave) {
				t.Fatal(err)
			}
		}
		if err := j.Append(ctx, []byte("late")); !errors.Is(err, leave) {
			t.Fatal(err)
		}
		g.open("write log")
		add(t, j, "next")
		end(t, j)
		_, got, _ := open(t, dir, journal.Options{})
		if len(got) < 10 || len(got) > 17 || got[0][:2] != "00" || got[len(got)-1] != "next" {
			t.Fatalf("%d records were taken", len(got))
		}
	})
}
