package executor

import "time"

// Status is what an executor holds and does at a moment, for people to read.
type Status struct {
	Subjects SubjectStatus `json:"subjects"`
	Proofs   ProofStatus   `json:"proofs"`
}

// SubjectStatus counts the requests that are worked on.
type SubjectStatus struct {
	UnderWay int `json:"underWay"`
	// Background is how many of them nobody waits for any more.
	Background int `json:"background"`
}

// ProofStatus describes the proofs in the replica, those that have ended and
// were not swept away yet included.
type ProofStatus struct {
	Number int `json:"number"`
	// Bytes that they are counted with.
	Bytes uint64 `json:"bytes"`
	// Oldest and Newest are when the work on the first and the last of them
	// began; zero without any.
	Oldest time.Time `json:"oldest,omitzero"`
	Newest time.Time `json:"newest,omitzero"`
	// Refreshing is how many are being proven again.
	Refreshing int `json:"refreshing"`
}

// Status looks at every proof once. It is safe for concurrent use, and changes
// nothing of what is kept for how long.
func (e *Executor) Status() Status {
	all, background := e.subjects.Number()
	s := Status{Subjects: SubjectStatus{UnderWay: all, Background: background}}
	s.Proofs.Bytes = e.memory.proofs.WeightedSize()
	s.Proofs.Refreshing = e.refreshes.number()
	for _, held := range e.memory.proofs.All() {
		s.Proofs.note(held.begun)
	}
	return s
}

func (s *ProofStatus) note(begun time.Time) {
	s.Number++
	if s.Oldest.IsZero() || begun.Before(s.Oldest) {
		s.Oldest = begun
	}
	if begun.After(s.Newest) {
		s.Newest = begun
	}
}

func (r *refreshes) number() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, under := range r.hosts {
		n += under
	}
	return n
}
