package httpserver

import (
	"hash/maphash"
	"sync"
	"sync/atomic"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/verifier"
)

// verdictsKept bounds what is remembered: two generations of this many words.
const verdictsKept = 4096

// verdicts remembers how requests last ended, so that the log has a line for
// each change and none for each repetition. Forgetting costs a line.
type verdicts struct {
	seed maphash.Seed
	// changes counts the lines, so that whoever asks again before the next one
	// need not look.
	changes atomic.Uint64

	mu       sync.Mutex // guards the fields that follow it
	now, old map[uint64]uint64
}

func newVerdicts() *verdicts {
	return &verdicts{seed: maphash.MakeSeed(), now: make(map[uint64]uint64)}
}

// since says whether any request has ended in another way after seen, which is
// what since noted the last time.
func (v *verdicts) since(seen *atomic.Uint64) bool {
	now := v.changes.Load() + 1
	return seen.Swap(now) != now
}

// changed notes how a request ended and says whether that is news.
func (v *verdicts) changed(req executor.Request, decision executor.Decision, code verifier.Code) bool {
	key := maphash.Comparable(v.seed, req)
	outcome := maphash.Comparable(v.seed, struct {
		executor.Decision
		verifier.Code
	}{decision, code})
	v.mu.Lock()
	defer v.mu.Unlock()
	last, known := v.now[key]
	if !known {
		last, known = v.old[key]
	}
	if len(v.now) >= verdictsKept {
		v.now, v.old = make(map[uint64]uint64), v.now
	}
	v.now[key] = outcome
	if known && last == outcome {
		return false
	}
	v.changes.Add(1)
	return true
}
