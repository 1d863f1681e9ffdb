package httpserver

import (
	"hash/maphash"
	"sync"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/verifier"
)

// verdictsKept bounds what is remembered: two generations of this many words.
const verdictsKept = 4096

// verdicts remembers how requests last ended, so that the log has a line for
// each change and none for each repetition. Forgetting costs a line.
type verdicts struct {
	seed maphash.Seed

	mu       sync.Mutex // guards the fields that follow it
	now, old map[uint64]uint64
}

func newVerdicts() *verdicts {
	return &verdicts{seed: maphash.MakeSeed(), now: make(map[uint64]uint64)}
}

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
	return !known || last != outcome
}
