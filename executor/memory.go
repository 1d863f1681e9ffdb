package executor

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// ProofStore is where proofs are kept: bytes under a key, until a time. It may
// forget anything at any moment, must never give back what was not put there,
// and is safe for concurrent use. Whoever can write to it can allow images.
type ProofStore interface {
	// Get returns the bytes under the key, nil if there are none. The caller
	// does not change them.
	Get(ctx context.Context, key string) ([]byte, error)
	// Put keeps the bytes under the key until the time, at most.
	Put(ctx context.Context, key string, value []byte, until time.Time) error
}

// memory is what an executor remembers: proofs, as a replica of what the
// ProofStore keeps, and which subject a reference led to.
type memory struct {
	generation string
	terms      ProofTerms
	store      ProofStore // nil keeps nothing beyond the replica
	proofs     *otter.Cache[proofKey, *remembered]
	subjects   *otter.Cache[referrerstore.Reference, resolved]
	plans      *otter.Cache[Request, *plan] // of which nothing changes
	tagTTL     time.Duration
	ids        atomic.Uint64
}

// remembered is a proof with the question that it came of, so that it can be
// asked again.
type remembered struct {
	*proof
	plan *plan
	// superseded says that there is a later proof, or that this one is gone.
	superseded atomic.Bool
}

// resolved is where a reference led to, or that it led nowhere.
type resolved struct {
	subject   referrerstore.Subject
	err       error
	at, until time.Time
}

// subjectsBytes bounds what references led to, and plansBytes what the
// configuration says of them: about 4,000 each.
const subjectsBytes, plansBytes = 2 << 20, 2 << 20

// maxProofBytes bounds a proof that is read: a hundred artifacts have less.
const maxProofBytes = 4 << 20

// newMemory makes a memory of which the replica takes at most bytes.
func newMemory(opts Options) *memory {
	m := &memory{generation: opts.Generation, terms: opts.Proofs, store: opts.ProofStore, tagTTL: opts.TagTTL}
	// Without an expiry calculator the caches have no goroutine to stop: what
	// has ended is told from the entry, by the wall clock.
	m.proofs = otter.Must(&otter.Options[proofKey, *remembered]{
		MaximumWeight: uint64(max(opts.ReplicaBytes, 1)),
		Weigher: func(key proofKey, r *remembered) uint32 {
			return uint32(min(r.bytes+int64(len(key.repository)+len(key.rule)), 1<<30)) //nolint:gosec // bounded
		},
		OnAtomicDeletion: func(e otter.DeletionEvent[proofKey, *remembered]) { e.Value.superseded.Store(true) },
		Executor:         func(task func()) { task() },
	})
	m.subjects = otter.Must(&otter.Options[referrerstore.Reference, resolved]{
		MaximumWeight: subjectsBytes,
		Weigher: func(ref referrerstore.Reference, _ resolved) uint32 {
			const overhead = 384
			return uint32(overhead + len(ref.Registry) + len(ref.Repository) + len(ref.Tag)) //nolint:gosec // references are bounded
		},
		Executor: func(task func()) { task() },
	})
	m.plans = otter.Must(&otter.Options[Request, *plan]{
		MaximumWeight: plansBytes,
		Weigher: func(req Request, _ *plan) uint32 {
			const overhead = 480
			return uint32(overhead + len(req.Reference.Registry) + len(req.Reference.Repository) + len(req.Reference.Tag) + len(req.Namespace)) //nolint:gosec // references are bounded
		},
		Executor: func(task func()) { task() },
	})
	return m
}

// remembersProofs says whether anything is kept at all.
func (m *memory) remembersProofs() bool { return m.terms.TTL > 0 }

// proof is what the replica has under the key.
func (m *memory) proof(key proofKey) (*remembered, bool) {
	return m.proofs.GetIfPresent(key)
}

// fetch looks where proofs are kept for one that is later than what the replica
// has, which may be nil.
func (m *memory) fetch(ctx context.Context, key proofKey, held *remembered, pl *plan) (*remembered, error) {
	if m.store == nil || !m.remembersProofs() {
		return nil, nil
	}
	data, err := m.store.Get(ctx, m.name(key))
	if err != nil || data == nil {
		return nil, err
	}
	if len(data) > maxProofBytes {
		return nil, fmt.Errorf("read a proof: %d bytes, at most %d", len(data), maxProofBytes)
	}
	p, err := decodeProof(data)
	if err != nil {
		return nil, err
	}
	if p.subject.Digest != key.digest {
		return nil, fmt.Errorf("read a proof: it is of %s, not %s", p.subject.Digest, key.digest)
	}
	if held != nil && !p.begun.After(held.begun) {
		return nil, nil
	}
	return m.replicate(key, p, pl), nil
}

func (m *memory) replicate(key proofKey, p *proof, pl *plan) *remembered {
	p.id = m.ids.Add(1)
	r := &remembered{proof: p, plan: pl}
	former, ok := m.proofs.GetIfPresent(key)
	if ok && former.begun.After(p.begun) {
		return former // of work that was given up, and ended late
	}
	if ok {
		p.asked.Store(max(p.asked.Load(), former.asked.Load()))
	}
	m.proofs.Set(key, r)
	return r
}

// keep puts a proof where proofs are kept.
func (m *memory) keep(ctx context.Context, key proofKey, p *proof, pl *plan) error {
	if !m.remembersProofs() {
		return nil
	}
	if kept := m.replicate(key, p, pl); m.store == nil || kept.proof != p {
		return nil
	}
	data, err := p.encode()
	if err != nil {
		return fmt.Errorf("keep a proof: %w", err)
	}
	return m.store.Put(ctx, m.name(key), data, p.end(m.terms))
}

// name is the key for a store that others may share: all that the proof is
// bound to, hashed, so that no name that a pod's author chose is in it.
func (m *memory) name(key proofKey) string {
	sum := sha256.Sum256([]byte(strings.Join([]string{
		"proof/1", m.generation, key.registry, key.repository, key.digest.String(), key.mediaType, key.rule, key.identity,
	}, "\n")))
	return hex.EncodeToString(sum[:])
}

// subject is where a reference led to not long ago.
func (m *memory) subject(ref referrerstore.Reference, now time.Time) (resolved, bool) {
	r, ok := m.subjects.GetIfPresent(ref)
	if !ok || !now.Before(r.until) || ahead(r.at, now) {
		return resolved{}, false
	}
	return r, true
}

// led notes where a reference led to. Errors other than "not found" are no
// knowledge and are not kept.
func (m *memory) led(ref referrerstore.Reference, subject referrerstore.Subject, err error, now time.Time) {
	ttl := m.tagTTL
	if err != nil {
		ttl = m.terms.AbsentTTL
	}
	if ttl <= 0 {
		return
	}
	m.subjects.Set(ref, resolved{subject: subject, err: err, at: now.Round(0), until: now.Add(ttl).Round(0)})
}
