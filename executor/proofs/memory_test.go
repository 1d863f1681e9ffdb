package proofs_test

import (
	"bytes"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/gatehouse-project/gatehouse/executor/proofs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func put(t testing.TB, m *proofs.Memory, key, value string, until time.Time) {
	t.Helper()
	if err := m.Put(t.Context(), key, []byte(value), until); err != nil {
		t.Fatal(err)
	}
}

// expect gets a value; empty is none.
func expect(t testing.TB, m *proofs.Memory, key, want string) {
	t.Helper()
	got, err := m.Get(t.Context(), key)
	if err != nil || string(got) != want || (got == nil) != (want == "") {
		t.Errorf("%s: %q, %v; want %q", key, got, err, want)
	}
}

func TestMemoryGivesBackWhatWasPut(t *testing.T) {
	t.Parallel()
	m := proofs.NewMemory(1 << 20)
	later := time.Now().Add(time.Hour)
	expect(t, m, "a", "")
	put(t, m, "a", "one", later)
	put(t, m, "b", "two", later)
	expect(t, m, "a", "one")
	expect(t, m, "b", "two")
	put(t, m, "a", "three", later) // takes the former's place
	expect(t, m, "a", "three")
	expect(t, m, "c", "")
	if n := m.Bytes(); n < int64(len("athreebtwo")) || n > 1<<10 {
		t.Errorf("%d bytes for two small entries", n)
	}
}

// An entry is given back until its end, which the last who put it said, and never
// from then on.
func TestMemoryForgetsAtTheEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := proofs.NewMemory(1 << 20)
		start := time.Now()
		put(t, m, "past", "x", start.Add(-time.Nanosecond))
		put(t, m, "now", "x", start)
		put(t, m, "never", "x", time.Time{})
		put(t, m, "shortened", "x", start.Add(time.Hour))
		put(t, m, "shortened", "y", start.Add(time.Minute))
		put(t, m, "prolonged", "x", start.Add(time.Second))
		put(t, m, "prolonged", "y", start.Add(time.Hour))
		for _, key := range []string{"past", "now", "never"} {
			expect(t, m, key, "")
		}
		time.Sleep(time.Minute - time.Nanosecond)
		expect(t, m, "shortened", "y")
		time.Sleep(time.Nanosecond)
		expect(t, m, "shortened", "")
		expect(t, m, "prolonged", "y")
		time.Sleep(time.Hour)
		expect(t, m, "prolonged", "")
		if n := m.Bytes(); n != 0 {
			t.Errorf("%d bytes for nothing", n)
		}
	})
}

// An end says a time of day, not how long this machine has run: it counts the
// same whether or not it holds a reading of the monotonic clock.
func TestMemoryEndsByTheWallClock(t *testing.T) {
	t.Parallel()
	m := proofs.NewMemory(1 << 20)
	later := time.Now().Add(time.Hour)
	put(t, m, "monotonic", "x", later)
	put(t, m, "wall", "x", later.Round(0))
	put(t, m, "elsewhere", "x", later.In(time.FixedZone("elsewhere", -7*3600)))
	for _, key := range []string{"monotonic", "wall", "elsewhere"} {
		expect(t, m, key, "x")
	}
}

// However much is put, no more bytes are kept than the bound, and what is larger
// than that is not kept at all.
func TestMemoryIsBoundedInBytes(t *testing.T) {
	t.Parallel()
	const bound = 64 << 10
	m := proofs.NewMemory(bound)
	later := time.Now().Add(time.Hour)
	value := bytes.Repeat([]byte("x"), 1<<10)
	kept := func() (n int) {
		for i := range 1000 {
			if got, _ := m.Get(t.Context(), fmt.Sprint(i)); got != nil {
				n++
			}
		}
		return n
	}
	for i := range 1000 {
		if err := m.Put(t.Context(), fmt.Sprint(i), value, later); err != nil {
			t.Fatal(err)
		}
		if n := m.Bytes(); n > bound {
			t.Fatalf("%d bytes after %d entries, at most %d", n, i+1, bound)
		}
	}
	if n := kept(); n < bound/len(value)/2 || n > bound/len(value) {
		t.Errorf("%d entries of %d bytes fit into %d", n, len(value), bound)
	}
	put(t, m, "large", string(make([]byte, bound)), later)
	expect(t, m, "large", "")
	if kept() == 0 {
		t.Error("what was never kept has made room for itself")
	}
}

// Whoever gets gets what was put under that key, whatever others do meanwhile.
func TestMemoryIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	m := proofs.NewMemory(16 << 10)
	later := time.Now().Add(time.Hour)
	var group sync.WaitGroup
	for worker := range 8 {
		group.Go(func() {
			for i := range 500 {
				key := fmt.Sprint((worker*7 + i) % 64)
				if i%3 == 0 {
					_ = m.Put(t.Context(), key, []byte("of "+key), later)
				}
				if got, err := m.Get(t.Context(), key); err != nil || (got != nil && string(got) != "of "+key) {
					t.Errorf("%s: %q, %v", key, got, err)
				}
			}
		})
	}
	group.Wait()
}
