package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/gatehouse-project/gatehouse/referrerstore/journal"
)

// The kinds of records.
const (
	recordPut     = "put"     // an object is held
	recordDrop    = "drop"    // it is not any more
	recordGrant   = "grant"   // a scope's registry hands it out
	recordTag     = "tag"     // what a tag led to
	recordUntag   = "untag"   // there is no such tag
	recordSubject = "subject" // what a digest is
	recordList    = "list"    // the list of a subject's referrers
	recordPulled  = "pulled"  // when objects were pulled last
	recordPin     = "pin"
	recordUnpin   = "unpin"
)

// record is what the journal says: one change. Memory is changed first, and a
// record may be read twice: all of them say how things are, not what to add.
type record struct {
	Kind  string `json:"k"`
	Scope Scope  `json:"s,omitzero"`
	// Digest is the object's; of a tag what it led to, of a list its subject.
	Digest    digest.Digest `json:"d,omitempty"`
	MediaType string        `json:"m,omitempty"`
	Size      int64         `json:"n,omitempty"`
	Object    Kind          `json:"o,omitempty"`
	Created   int64         `json:"c,omitempty"` // Unix seconds
	Pulled    int64         `json:"u,omitempty"` // likewise
	Tag       string        `json:"t,omitempty"`
	At        time.Time     `json:"a,omitzero"`
	List      digest.Digest `json:"l,omitempty"` // the list, an object of its own

	// What a manifest that was put lists; see document.
	Index     bool            `json:"x,omitempty"`
	Ambiguous bool            `json:"g,omitempty"`
	Lists     []digest.Digest `json:"ls,omitempty"`
	Subject   digest.Digest   `json:"su,omitempty"`

	Times map[digest.Digest]int64 `json:"p,omitempty"` // Unix seconds
	Pin   *Pin                    `json:"pin,omitempty"`
}

func (t told) size() (bytes int) {
	for _, line := range t.records {
		bytes += len(line)
	}
	return bytes
}

// maxQueued bounds the changes that wait for the disk.
const maxQueued = 4096

// scribe brings records to the journal in the order in which it was told, many
// at a time. One goroutine owns the journal.
type scribe struct {
	cache   *Cache
	journal *journal.Journal
	queue   chan told
	again   chan struct{} // has an element when the disk is well again
	quit    chan struct{} // closed by close
	done    chan struct{} // closed when all is written
	base    int64         // what the journal would take if rewritten, about
	lost    atomic.Int64  // records that did not reach the disk
	healed  int64         // of those, how many do not matter any more
	tried   time.Time     // when the journal was rewritten last, or was to be
}

// told are records that belong together.
type told struct {
	records [][]byte
	written chan<- error // of one element; nil if nobody waits
}

// note brings records to the disk some time soon, all or none. If the disk does
// not follow they are lost to the next start, which is counted: it asks the
// registry anew.
func (c *Cache) note(records ...record) {
	if c.scribe == nil || len(records) == 0 {
		return
	}
	t := told{records: encode(records)}
	select {
	case c.scribe.queue <- t:
	default:
		c.scribe.lost.Add(int64(len(records)))
		c.log.Warn("cache does not bring to disk what it was told", slog.Any("error", errQueueFull))
	}
}

var errQueueFull = errors.New("too many changes wait for the disk")

// commit brings records to the disk and returns when they are as safe as
// Options.Durability says.
func (c *Cache) commit(ctx context.Context, records ...record) error {
	if c.scribe == nil {
		return ErrReadOnly
	}
	written := make(chan error, 1)
	select {
	case c.scribe.queue <- told{records: encode(records), written: written}:
	case <-c.scribe.quit:
		return ErrClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-written:
		return err
	case <-c.scribe.done:
		return c.scribe.last(written)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// last is what became of records when the scribe is done: they may have been
// among the last that it wrote.
func (s *scribe) last(written <-chan error) error {
	select {
	case err := <-written:
		return err
	default:
		return ErrClosed
	}
}

func encode(records []record) [][]byte {
	all := make([][]byte, 0, len(records))
	for _, r := range records {
		line, err := json.Marshal(r)
		if err != nil {
			continue // strings, numbers and times of this century always are
		}
		all = append(all, line)
	}
	return all
}

func (c *Cache) newScribe(j *journal.Journal, base int64) *scribe {
	return &scribe{
		cache: c, journal: j, base: base, queue: make(chan told, maxQueued),
		again: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{}),
	}
}

// run writes until close, and then what is left.
func (s *scribe) run(ctx context.Context) {
	defer close(s.done)
	for {
		select {
		case t := <-s.queue:
			s.write(ctx, s.gather(t))
		case <-s.again:
			s.heal(ctx)
		case <-s.quit:
			s.drain(ctx)
			return
		}
	}
}

func (s *scribe) drain(ctx context.Context) {
	for {
		select {
		case t := <-s.queue:
			s.write(ctx, s.gather(t))
		default:
			s.heal(ctx)
			return
		}
	}
}

// heal writes down what the disk did not take when it was told.
func (s *scribe) heal(ctx context.Context) {
	if s.lost.Load() != s.healed {
		s.rewrite(ctx)
	}
}

// gather takes what waits along, so that it is synced together.
func (s *scribe) gather(first told) []told {
	const most, bytes = 512, journal.MaxAppend / 4
	all, size := []told{first}, first.size()
	for len(all) < most && size < bytes {
		select {
		case t := <-s.queue:
			all = append(all, t)
			size += t.size()
		default:
			return all
		}
	}
	return all
}

func (s *scribe) write(ctx context.Context, all []told) {
	var lines [][]byte
	for _, t := range all {
		lines = append(lines, t.records...)
	}
	err := s.append(ctx, lines)
	if err != nil {
		s.lost.Add(int64(len(lines)))
		err = fmt.Errorf("journal: %w", err)
		s.cache.failed("journal", err)
	}
	for _, t := range all {
		if t.written != nil {
			t.written <- err
		}
	}
	if err == nil && s.cache.health.ok() { // else it is tried once the disk is well
		s.compact(ctx)
	}
}

// append brings records to the journal, as many at a time as it takes.
func (s *scribe) append(ctx context.Context, lines [][]byte) error {
	const most, perLine = journal.MaxAppend, 8
	for len(lines) > 0 {
		n, size := 0, 0
		for n < len(lines) && (n == 0 || size+len(lines[n])+perLine <= most) {
			size += len(lines[n]) + perLine
			n++
		}
		if err := s.journal.Append(ctx, lines[:n]...); err != nil {
			return err
		}
		lines = lines[n:]
	}
	return nil
}

// compact rewrites a journal of which most is history, or which lacks something
// that the disk did not take when it was told: that not all the time, while more is
// told than the disk takes.
func (s *scribe) compact(ctx context.Context) {
	const small, history, pause = 8 << 20, 4, time.Minute
	lacks := s.lost.Load() != s.healed && s.cache.now().Sub(s.tried) >= pause
	if lacks || s.journal.Size() > max(small, history*s.base) {
		s.rewrite(ctx)
	}
}

func (s *scribe) rewrite(ctx context.Context) {
	s.tried = s.cache.now()
	lost := s.lost.Load()
	if err := s.journal.Rewrite(ctx, encoded(s.cache.snapshot())); err != nil {
		s.base = s.journal.Size() // not again at once
		s.cache.failed("rewrite journal", err)
		return
	}
	s.base, s.healed = s.journal.Size(), lost
}

// snapshot is all that the journal has to say, read while it changes: what comes
// or goes meanwhile is told behind it.
func (c *Cache) snapshot() iter.Seq[record] {
	return func(yield func(record) bool) {
		more := true
		c.index.each(func(e *entry) bool {
			more = yield(putRecord(e))
			return more
		})
		for _, s := range c.index.all() {
			more = more && s.snapshot(yield)
		}
		for _, pin := range c.Pins() {
			more = more && yield(record{Kind: recordPin, Pin: &pin})
		}
	}
}

// snapshot is what is known in a scope; false if yield wants no more.
func (s *scope) snapshot(yield func(record) bool) bool {
	for d, mediaType := range inChunks(&s.mu, s.granted) {
		if !yield(record{Kind: recordGrant, Scope: s.Scope, Digest: d, MediaType: mediaType}) {
			return false
		}
	}
	for tag, is := range inChunks(&s.mu, s.tags) {
		if !yield(tagRecord(s.Scope, tag, is)) {
			return false
		}
	}
	for _, is := range inChunks(&s.mu, s.subjects) {
		if !yield(subjectRecord(s.Scope, is)) {
			return false
		}
	}
	for subject, is := range inChunks(&s.mu, s.lists) {
		if !yield(listRecord(s.Scope, subject, is)) {
			return false
		}
	}
	return true
}

func putRecord(e *entry) record {
	r := record{
		Kind: recordPut, Digest: e.digest, Object: e.kind, Size: e.size, Created: e.created, Pulled: e.pulled.Load(),
		MediaType: e.mediaType, Index: e.index, Ambiguous: e.ambiguous, Lists: e.lists, Subject: e.subject,
	}
	e.stamped.Store(r.Pulled)
	return r
}

func grantRecord(of Scope, e *entry, mediaType string) record {
	return record{Kind: recordGrant, Scope: of, Digest: e.digest, MediaType: mediaType}
}

func tagRecord(of Scope, tag string, is Tag) record {
	r := subjectRecord(of, is)
	r.Kind, r.Tag = recordTag, tag
	return r
}

func subjectRecord(of Scope, is Tag) record {
	return record{Kind: recordSubject, Scope: of, Digest: is.Descriptor.Digest, MediaType: is.Descriptor.MediaType, Size: is.Descriptor.Size, At: is.At}
}

func listRecord(of Scope, subject digest.Digest, is listed) record {
	return record{Kind: recordList, Scope: of, Digest: subject, List: is.list, At: is.at}
}

func encoded(records iter.Seq[record]) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for r := range records {
			if line, err := json.Marshal(r); err == nil && !yield(line) {
				return
			}
		}
	}
}

// close writes what was told, ends the goroutine and the journal.
func (s *scribe) close() error {
	close(s.quit)
	<-s.done
	return s.journal.Close()
}
