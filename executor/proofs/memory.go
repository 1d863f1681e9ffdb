// Package proofs keeps proofs in this process's memory: the executor.ProofStore
// for those who have nothing else.
//
// It is bounded in bytes; what was not used for long makes room. An entry past
// its end is never given back, whatever the cache thinks of it.
package proofs

import (
	"context"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/gatehouse-project/gatehouse/executor"
)

// entryOverhead is what an entry costs beside its key and bytes.
const entryOverhead = 256

// Memory keeps proofs in memory. It is safe for concurrent use and holds no
// goroutine.
type Memory struct {
	entries *otter.Cache[string, entry]
}

type entry struct {
	value []byte
	until time.Time
}

var _ executor.ProofStore = (*Memory)(nil)

// NewMemory makes a store of at most maxBytes, which must be positive.
func NewMemory(maxBytes int64) *Memory {
	// Without an expiry calculator the cache has no goroutine to stop, and the
	// end is judged by the wall clock.
	return &Memory{entries: otter.Must(&otter.Options[string, entry]{
		MaximumWeight: uint64(maxBytes), //nolint:gosec // positive
		Weigher: func(key string, e entry) uint32 {
			return uint32(min(len(key)+len(e.value)+entryOverhead, 1<<30))
		},
		Executor: func(task func()) { task() },
	})}
}

// Get implements [executor.ProofStore]. It never fails.
func (m *Memory) Get(_ context.Context, key string) ([]byte, error) {
	e, ok := m.entries.GetIfPresent(key)
	if !ok {
		return nil, nil
	}
	if !time.Now().Round(0).Before(e.until) {
		m.entries.Invalidate(key)
		return nil, nil
	}
	return e.value, nil
}

// Put implements [executor.ProofStore]. It never fails; a value larger than the
// bound is not kept.
func (m *Memory) Put(_ context.Context, key string, value []byte, until time.Time) error {
	m.entries.Set(key, entry{value: value, until: until.Round(0)})
	return nil
}

// Bytes is about what the entries take.
func (m *Memory) Bytes() int64 {
	return int64(m.entries.WeightedSize()) //nolint:gosec // bounded by maxBytes
}
