package cache

import (
	"encoding/json"
	"log/slog"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// maxReferrers bounds the entries of a list that is kept.
	maxReferrers = 1000
	// maxTag bounds a tag; the distribution specification has 128.
	maxTag = 128
)

// Tag is what a tag led to, on the word of the scope's registry.
type Tag struct {
	Descriptor ocispec.Descriptor // media type, digest and size
	At         time.Time          // when the registry said so last
}

// plain is t with nothing but what is kept of it; false if it is of no use.
func (t Tag) plain() (Tag, bool) {
	d := t.Descriptor
	if validDigest(d.Digest) != nil || len(d.MediaType) > maxMediaType || t.At.IsZero() {
		return Tag{}, false
	}
	// Without the reading of a monotonic clock, as the journal gives it back.
	return Tag{Descriptor: ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}, At: t.At.UTC().Round(0)}, true
}

// Tag is what a tag led to when its registry was asked last; false if that is not
// known.
func (c *Cache) Tag(scope Scope, tag string) (Tag, bool) {
	s := c.index.scope(scope)
	if s == nil {
		return Tag{}, false
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	is, known := s.tags[tag]
	return is, known
}

// SetTag notes what a tag led to; what is older than what is known changes nothing.
// The disk follows.
func (c *Cache) SetTag(scope Scope, tag string, is Tag) {
	is, ok := is.plain()
	if ok && tag != "" && len(tag) <= maxTag && c.index.setTag(scope, tag, is, c.now()) {
		c.note(tagRecord(scope, tag, is))
	}
}

func (x *index) setTag(of Scope, tag string, is Tag, now time.Time) (set bool) {
	x.change(of, func(s *scope) { set = newer(s.tags, tag, is, now) })
	return set
}

// newer sets what is not older than what is known.
func newer[K comparable](known map[K]Tag, key K, is Tag, now time.Time) bool {
	if !supersedes(is.At, known[key].At, now) {
		return false
	}
	known[key] = is
	return true
}

// supersedes says whether what was said at a moment counts more than what was said
// before. What is ahead of now was dated by a clock that was wrong: it would stand
// until then.
func supersedes(is, before, now time.Time) bool {
	return !is.Before(before) || before.After(now) && !is.After(now)
}

// DropTag forgets a tag: its registry says that there is none.
func (c *Cache) DropTag(scope Scope, tag string) {
	s := c.index.scope(scope)
	if s == nil {
		return
	}
	at := c.now().UTC().Round(0)
	if was, known := s.forgetTag(tag); known {
		if was.After(at) { // by a clock that was wrong
			at = was
		}
		c.note(record{Kind: recordUntag, Scope: scope, Tag: tag, At: at})
	}
}

// forgetTag forgets a tag, and says when the registry said so.
func (s *scope) forgetTag(tag string) (at time.Time, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	is, known := s.tags[tag]
	delete(s.tags, tag)
	return is.At, known
}

// dropTag forgets a tag unless it is known to have led somewhere later. The lock is
// held.
func (s *scope) dropTag(tag string, at time.Time) {
	if at.IsZero() || !at.Before(s.tags[tag].At) {
		delete(s.tags, tag)
	}
}

// Subject is what the registry said of a digest of which the content need not be
// held: its media type and size.
func (c *Cache) Subject(scope Scope, of digest.Digest) (Tag, bool) {
	s := c.index.scope(scope)
	if s == nil {
		return Tag{}, false
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	is, known := s.subjects[of]
	return is, known
}

// SetSubject notes it.
func (c *Cache) SetSubject(scope Scope, is Tag) {
	is, ok := is.plain()
	if ok && c.index.setSubject(scope, is, c.now()) {
		c.note(subjectRecord(scope, is))
	}
}

func (x *index) setSubject(of Scope, is Tag, now time.Time) (set bool) {
	x.change(of, func(s *scope) { set = newer(s.subjects, is.Descriptor.Digest, is, now) })
	return set
}

// Referrers is the last list of a subject's referrers that ended whole, and when
// it was asked for; false if there is none.
func (c *Cache) Referrers(scope Scope, subject digest.Digest) (listed []ocispec.Descriptor, at time.Time, known bool) {
	is, known := c.index.scope(scope).list(subject)
	if !known {
		return nil, time.Time{}, false
	}
	content, err := c.Get(Want{Scope: scope, Digest: is.list, Kind: List, Size: -1})
	if err != nil {
		return nil, time.Time{}, false
	}
	defer content.Close()
	if listed, err = decodeList(content); err != nil {
		c.Doubt(is.list) // or it would count as held
		return nil, time.Time{}, false
	}
	return listed, is.at, true
}

func (s *scope) list(subject digest.Digest) (is listed, known bool) {
	if s == nil {
		return listed{}, false
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	is, known = s.lists[subject]
	return is, known
}

// keptList is how a list of referrers lies on the disk. Its salt makes a digest of it
// that nobody can guess: whoever did could have content of the same bytes held as a
// blob first, and the list would not be kept.
type keptList struct {
	Salt      string               `json:"salt"`
	Referrers []ocispec.Descriptor `json:"referrers"`
}

// decodeList reads what SetReferrers kept. It was hashed if it is small; one that
// is not is hashed here, as it ends.
func decodeList(content *Content) (all []ocispec.Descriptor, err error) {
	data, whole := content.Bytes()
	if !whole {
		if data, err = readUpTo(content, MaxManifest); err != nil {
			return nil, err
		}
		if err := verify(content.Digest(), data); err != nil {
			return nil, err
		}
	}
	var kept keptList
	err = json.Unmarshal(data, &kept)
	return kept.Referrers, err
}

// SetReferrers notes a list that ended whole. Annotations are kept. A list of more
// than 1,000 entries or 4 MiB is not kept, and what was known before is forgotten
// no more than with time; neither is one that is older than what is known.
func (c *Cache) SetReferrers(scope Scope, subject digest.Digest, all []ocispec.Descriptor, at time.Time) {
	if validDigest(subject) != nil || at.IsZero() {
		return
	}
	data, err := json.Marshal(keptList{Salt: c.salt, Referrers: all})
	if err != nil || len(data) > MaxManifest || len(all) > maxReferrers {
		c.index.dropList(scope, subject, at) // the registry has said more since
		return
	}
	is := listed{list: digest.FromBytes(data), at: at.UTC().Round(0)}
	if !c.held(scope, is.list) {
		if err := c.Put(Want{Scope: scope, Digest: is.list, Kind: List, Size: int64(len(data))}, data); err != nil {
			c.log.Debug("cache does not keep a list of referrers", slog.Any("error", err))
			c.index.dropList(scope, subject, at)
			return
		}
	}
	if c.index.setList(scope, subject, is, c.now()) {
		c.note(listRecord(scope, subject, is))
	}
}

// held says whether an object is known in a scope, without reading it.
func (c *Cache) held(scope Scope, d digest.Digest) bool {
	_, granted := c.index.scope(scope).grants(d)
	if !granted {
		return false
	}
	e := c.index.acquire(d)
	if e == nil {
		return false
	}
	defer e.release()
	c.index.touch(e, c.now().Unix())
	return true
}

// dropList forgets a list that is older than one that cannot be kept.
func (x *index) dropList(of Scope, subject digest.Digest, at time.Time) {
	x.change(of, func(s *scope) {
		if s.lists[subject].at.Before(at) {
			delete(s.lists, subject)
		}
	})
}

func (x *index) setList(of Scope, subject digest.Digest, is listed, now time.Time) (set bool) {
	x.change(of, func(s *scope) {
		if set = supersedes(is.at, s.lists[subject].at, now); set {
			s.lists[subject] = is
		}
	})
	return set
}
