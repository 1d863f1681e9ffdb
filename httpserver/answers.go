package httpserver

import (
	"github.com/maypok86/otter/v2"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// answers keeps what was told of results that were read from proofs, encoded:
// the same proof tells the same to whoever asks the same. It belongs to one
// snapshot, and so to one configuration.
type answers struct {
	told *otter.Cache[executor.Request, *answer] // nil keeps nothing
}

// newAnswers keeps at most maxBytes; 0 keeps nothing.
func newAnswers(maxBytes int64) *answers {
	if maxBytes <= 0 {
		return &answers{}
	}
	// Without an expiry calculator the cache has no goroutine to stop. What an
	// entry was made of is compared each time, so it never tells what is over.
	return &answers{told: otter.Must(&otter.Options[executor.Request, *answer]{
		MaximumWeight: uint64(maxBytes),
		Weigher: func(req executor.Request, a *answer) uint32 {
			const overhead = 1024
			return uint32(overhead + len(req.Reference.Repository) + len(req.Namespace) + len(a.encoded) + len(a.explanation.What) + len(a.explanation.Do)) //nolint:gosec // answers are bounded
		},
		Executor: func(task func()) { task() },
	})}
}

// maxToldBytes is the size from which answers are not kept.
const maxToldBytes = 16 << 10

// find is the answer that was made of the same result before, nil if there is
// none.
func (c *answers) find(result executor.Result, err error) *answer {
	if c.told == nil || err != nil || result.Proof == 0 {
		return nil
	}
	a, ok := c.told.GetIfPresent(keyOf(result))
	if !ok || a.result.Proof != result.Proof || a.result.Decision != result.Decision {
		return nil
	}
	return a
}

// keep keeps an answer, which nobody may change from then on, if the result it
// was made of will come again. Of the result, what is not told is dropped.
func (c *answers) keep(a *answer) {
	if c.told == nil || a.err != nil || a.result.Proof == 0 || len(a.encoded) > maxToldBytes {
		return
	}
	a.result.Reports = nil
	c.told.Set(keyOf(a.result), a)
}

func keyOf(result executor.Result) executor.Request {
	req := result.Request
	req.Lane, req.Audit = referrerstore.LaneAdmission, false // whoever asks
	return req
}
