package journal_test

import (
	"slices"
	"testing"

	"go.uber.org/goleak"

	"github.com/gatehouse-project/gatehouse/referrerstore/disk"
	"github.com/gatehouse-project/gatehouse/referrerstore/disk/disktest"
	"github.com/gatehouse-project/gatehouse/referrerstore/journal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const folder = "journal"

// open reads a journal and closes it at the end of the test.
func open(t *testing.T, dir disk.Folder, opts journal.Options) (*journal.Journal, []string, journal.Damage) {
	t.Helper()
	var read []string
	j, damage, err := journal.Open(dir, folder, opts, func(record []byte) error {
		read = append(read, string(record))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j, read, damage
}

func add(t *testing.T, j *journal.Journal, records ...string) {
	t.Helper()
	if err := j.Append(t.Context(), bytesOf(records...)...); err != nil {
		t.Fatal(err)
	}
}

func bytesOf(records ...string) [][]byte {
	var all [][]byte
	for _, r := range records {
		all = append(all, []byte(r))
	}
	return all
}

func end(t *testing.T, j *journal.Journal) {
	t.Helper()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

func wantRecords(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("read %.200q, want %.200q", got, want)
	}
}

func wantDamage(t *testing.T, got, want journal.Damage) {
	t.Helper()
	if got != want {
		t.Fatalf("damage %+v, want %+v", got, want)
	}
}

// written is a folder with the records of each Append, closed.
func written(t *testing.T, appends ...[]string) *disktest.Folder {
	t.Helper()
	dir := disktest.New()
	j, _, _ := open(t, dir, journal.Options{})
	for _, records := range appends {
		add(t, j, records...)
	}
	end(t, j)
	return dir
}
