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
	encoded *otter.Cache[executor.Request, told]
}

// told is what is told of a result that was read from one proof.
type told struct {
	proof       uint64
	decision    executor.Decision
	explanation executor.Explanation
	reports     encodedValue
}

// newAnswers keeps at most maxBytes; 0 keeps nothing.
func newAnswers(maxBytes int64) *answers {
	if maxBytes <= 0 {
		return &answers{}
	}
	// Without an expiry calculator the cache has no goroutine to stop. What an
	// entry was made of is compared each time, so it never tells what is over.
	return &answers{encoded: otter.Must(&otter.Options[executor.Request, told]{
		MaximumWeight: uint64(maxBytes),
		Weigher: func(req executor.Request, t told) uint32 {
			const overhead = 512
			return uint32(overhead + len(req.Reference.Repository) + len(req.Namespace) + len(t.reports) + len(t.explanation.What) + len(t.explanation.Do)) //nolint:gosec // answers are bounded
		},
		Executor: func(task func()) { task() },
	})}
}

// maxToldBytes is the size from which reports are encoded anew each time: they
// may have to be cut to the room that a request's other keys leave.
const maxToldBytes = 16 << 10

// find makes an answer of a result, from what is kept if that is the same.
func (c *answers) find(result executor.Result, err error) answer {
	a := answer{result: result, err: err, done: true}
	if c.encoded == nil || err != nil || result.Proof == 0 {
		a.explanation = executor.Explain(result, err)
		return a
	}
	req := result.Request
	req.Lane = referrerstore.LaneAdmission // whoever asks
	if t, ok := c.encoded.GetIfPresent(req); ok && t.proof == result.Proof && t.decision == result.Decision {
		a.explanation, a.encoded = t.explanation, t.reports
		return a
	}
	a.explanation = executor.Explain(result, err)
	reports := encodeValue(&a, "", maxAnswerBytes)
	if len(reports) > maxToldBytes {
		return a
	}
	a.encoded = reports
	c.encoded.Set(req, told{proof: result.Proof, decision: result.Decision, explanation: a.explanation, reports: reports})
	return a
}
