package journal_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/gatehouse-project/gatehouse/referrerstore/disk/disktest"
	"github.com/gatehouse-project/gatehouse/referrerstore/journal"
)

// An owner keeps what it knows in memory, and in the journal what changed.
func Example() {
	ctx, dir := context.Background(), disktest.New()
	tags := map[string]string{}
	apply := func(record []byte) error {
		tag, digest, _ := strings.Cut(string(record), " ")
		tags[tag] = digest
		return nil
	}
	j, _, err := journal.Open(dir, "journal", journal.Options{Sync: true}, apply)
	if err != nil {
		panic(err)
	}
	for _, record := range []string{"v1 sha256:aa", "v1 sha256:bb", "v2 sha256:cc"} {
		_ = apply([]byte(record)) // first in memory: snapshots are made of it
		if err := j.Append(ctx, []byte(record)); err != nil {
			panic(err)
		}
	}
	long := j.Size()
	err = j.Rewrite(ctx, func(yield func([]byte) bool) {
		for _, tag := range slices.Sorted(maps.Keys(tags)) {
			if !yield([]byte(tag + " " + tags[tag])) {
				return
			}
		}
	})
	fmt.Println(err, j.Size() < long, j.Close())

	clear(tags)
	_, damage, err := journal.Open(dir.Crash(disktest.PowerCut(0)), "journal", journal.Options{}, apply)
	fmt.Println(tags, damage, err)
	// Output:
	// <nil> true <nil>
	// map[v1:sha256:bb v2:sha256:cc] {0 0 0} <nil>
}
