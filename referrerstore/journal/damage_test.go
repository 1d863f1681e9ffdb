package journal_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/gatehouse-project/gatehouse/referrerstore/disk/disktest"
	"github.com/gatehouse-project/gatehouse/referrerstore/journal"
)

const file1, file2 = folder + "/0000000001.log", folder + "/0000000002.log"

const (
	fileHeader  = 20
	frameHeader = 16
)

// three are three appends, and where the frames of each begin in their file.
func three(t *testing.T) (data []byte, at []int) {
	t.Helper()
	data, there := written(t, []string{"a1", "a2"}, []string{"b"}, []string{"c1", "c2", "c3"}).Bytes(file1)
	if !there {
		t.Fatal("no file")
	}
	at = []int{fileHeader, fileHeader + frameHeader + 6, fileHeader + 2*frameHeader + 8}
	if want := at[2] + frameHeader + 9; len(data) != want {
		t.Fatalf("%d bytes, want %d", len(data), want)
	}
	return data, at
}

func reopened(t *testing.T, data []byte) ([]string, journal.Damage) {
	t.Helper()
	dir := disktest.New()
	dir.Put(file1, data)
	j, got, damage := open(t, dir, journal.Options{})
	add(t, j, "new")
	end(t, j)
	if kept, _ := dir.Bytes(file1); !bytes.Equal(kept, data) {
		t.Fatal("what was damaged was changed")
	}
	_, again, same := open(t, dir, journal.Options{})
	wantRecords(t, again, append(slices.Clone(got), "new")...)
	wantDamage(t, same, damage)
	return got, damage
}

// A file that ends anywhere gives all appends that are whole.
func TestCutAnywhere(t *testing.T) {
	t.Parallel()
	data, at := three(t)
	all := []string{"a1", "a2", "b", "c1", "c2", "c3"}
	for size := range data {
		want, whole := all[:0], size == 0 || slices.Contains(at, size)
		switch {
		case size >= at[2]:
			want = all[:3]
		case size >= at[1]:
			want = all[:2]
		}
		got, damage := reopened(t, data[:size])
		wantRecords(t, got, want...)
		if whole != (damage == journal.Damage{}) || damage.Torn > 1 || damage.Records > 0 {
			t.Fatalf("cut to %d: %+v", size, damage)
		}
	}
}

// A byte that changes anywhere takes the append that it is in, and those behind
// only if it is in a header.
func TestByteChangedAnywhere(t *testing.T) {
	t.Parallel()
	data, at := three(t)
	appends := [][]string{{"a1", "a2"}, {"b"}, {"c1", "c2", "c3"}}
	for i := range data {
		for _, flip := range []byte{1, 0x80, 0xff} {
			changed := slices.Clone(data)
			changed[i] ^= flip
			in := -1 // the frame; the header of the file is before all
			for ; in+1 < len(at) && i >= at[in+1]; in++ {
			}
			left := slices.Clone(appends)
			var wanted journal.Damage
			switch {
			case in < 0:
				left, wanted = nil, journal.Damage{Torn: 1, Bytes: int64(len(data))}
			case i < at[in]+frameHeader:
				left, wanted = left[:in], journal.Damage{Torn: 1, Bytes: int64(len(data) - at[in])}
			default:
				bytes := frameHeader + 3*len(appends[in])
				if in == 1 {
					bytes--
				}
				wanted = journal.Damage{Records: len(appends[in]), Bytes: int64(bytes)}
				left = slices.Delete(left, in, in+1)
			}
			got, damage := reopened(t, changed)
			wantRecords(t, got, slices.Concat(left...)...)
			wantDamage(t, damage, wanted)
		}
	}
}

// Frames of one file mean nothing in another, so that no record can hold one.
func TestFramesOfAnotherFile(t *testing.T) {
	t.Parallel()
	ours, _ := three(t)
	other, _ := written(t, []string{"theirs"}).Bytes(file1)
	got, damage := reopened(t, append(slices.Clone(ours), other[fileHeader:]...))
	wantRecords(t, got, "a1", "a2", "b", "c1", "c2", "c3")
	wantDamage(t, damage, journal.Damage{Torn: 1, Bytes: int64(len(other) - fileHeader)})
}

// Damage of one file takes nothing of the others.
func TestDamageOfOneFile(t *testing.T) {
	t.Parallel()
	data, _ := three(t)
	dir := disktest.New()
	dir.Put(file1, data[:len(data)-1])
	dir.Put(file2, data)
	dir.Put(folder+"/0000000003.log", []byte("something else altogether"))
	dir.Put(folder+"/0000000004.log", nil)
	dir.Put(folder+"/0000000005.log", data)
	_, got, damage := open(t, dir, journal.Options{})
	all := []string{"a1", "a2", "b", "c1", "c2", "c3"}
	wantRecords(t, got, slices.Concat(all[:3], all, all)...)
	wantDamage(t, damage, journal.Damage{Torn: 2, Bytes: int64(frameHeader + 8 + 25)})
}

func TestOtherNames(t *testing.T) {
	t.Parallel()
	data, _ := three(t)
	dir := disktest.New()
	for _, name := range []string{
		"1.log", "0000000001", "0000000001.txt", "-000000001.log", "+000000001.log", "000000000x.log",
		"99999999999999999999999.log", "00000000001.log", "0000000009.new", "README",
	} {
		dir.Put(folder+"/"+name, data)
	}
	dir.Put(folder+"/0000000007.log/file", data)
	j, got, damage := open(t, dir, journal.Options{})
	wantRecords(t, got)
	wantDamage(t, damage, journal.Damage{})
	add(t, j, "a")
	if _, there := dir.Bytes(folder + "/0000000010.log"); !there {
		t.Fatalf("%q", dir.Names())
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	data, _ := three(t)
	journal.LaterVersion(data)
	dir := disktest.New()
	dir.Put(file1, data)
	_, _, err := journal.Open(dir, folder, journal.Options{}, func([]byte) error { return errors.New("read") })
	if !errors.Is(err, journal.ErrVersion) {
		t.Fatal(err)
	}
}

func FuzzOpen(f *testing.F) {
	dir := disktest.New()
	j, _, err := journal.Open(dir, folder, journal.Options{}, func([]byte) error { return nil })
	if err != nil {
		f.Fatal(err)
	}
	for _, records := range [][]string{{"a1", "a2"}, {""}, {strings.Repeat("x", 300)}} {
		if err := j.Append(f.Context(), bytesOf(records...)...); err != nil {
			f.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		f.Fatal(err)
	}
	valid, _ := dir.Bytes(file1)
	f.Add(valid, uint16(0), byte(0))
	f.Add(valid[:50], uint16(30), byte(1))
	f.Add([]byte("gatejnl\x01"), uint16(0), byte(0))
	f.Fuzz(func(t *testing.T, data []byte, at uint16, flip byte) {
		anything(t, data)
		changed := slices.Clone(valid)
		changed[int(at)%len(changed)] ^= flip
		all := []string{"a1", "a2", "", strings.Repeat("x", 300)}
		got, _ := reopened(t, changed)
		for _, record := range got {
			i := slices.Index(all, record)
			if i < 0 {
				t.Fatalf("read %q, which nobody appended", record)
			}
			all = all[i+1:]
		}
	})
}

// anything is read within the bounds, and appended to.
func anything(t *testing.T, data []byte) {
	t.Helper()
	got, damage := reopened(t, data)
	total := int64(0)
	for _, record := range got {
		total += int64(len(record))
	}
	if total+damage.Bytes > int64(len(data)) {
		t.Fatalf("%d bytes of records and %+v in %d bytes", total, damage, len(data))
	}
}

func BenchmarkOpen(b *testing.B) {
	dir, record := disktest.New(), bytes.Repeat([]byte("r"), 300)
	j, _, err := journal.Open(dir, folder, journal.Options{}, nil)
	if err != nil {
		b.Fatal(err)
	}
	for range 1000 {
		if err := j.Append(b.Context(), slices.Repeat([][]byte{record}, 100)...); err != nil {
			b.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(j.Size())
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		if _, _, err := journal.Open(dir, folder, journal.Options{}, func([]byte) error { n++; return nil }); err != nil || n != 100_000 {
			b.Fatal(n, err)
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	dir, record := disktest.New(), bytes.Repeat([]byte("r"), 300)
	j, _, err := journal.Open(dir, folder, journal.Options{}, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.SetParallelism(16)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := j.Append(b.Context(), record); err != nil {
				b.Error(err)
			}
		}
	})
	if err := j.Close(); err != nil {
		b.Fatal(err)
	}
}
