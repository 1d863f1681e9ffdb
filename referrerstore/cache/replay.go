package cache

import (
	"encoding/json"

	"github.com/opencontainers/go-digest"
)

func (c *Cache) applyLine(line []byte) bool {
	var r record
	return json.Unmarshal(line, &r) == nil && c.apply(r)
}

// apply does what a record of the journal says, and is false if it says nothing.
// It is called by one goroutine, before anybody else uses the cache.
func (c *Cache) apply(r record) bool {
	switch r.Kind {
	case recordPut:
		return c.applyPut(r)
	case recordDrop:
		if e := c.index.look(r.Digest); e != nil && c.index.expel(e) {
			c.index.bury(e)
		}
	case recordGrant:
		if e := c.index.look(r.Digest); e != nil {
			c.index.grant(r.Scope, e, r.MediaType)
		}
	case recordPulled:
		c.applyPulled(r.Times)
	case recordPin, recordUnpin:
		return c.applyPin(r)
	default:
		return c.applyEvidence(r)
	}
	return true
}

func (c *Cache) applyPut(r record) bool {
	if validDigest(r.Digest) != nil || r.Object >= kinds || r.Size < 0 {
		return false
	}
	if e := c.index.look(r.Digest); e != nil {
		if e.kind == r.Object {
			return true
		}
		c.index.expel(e)
		c.index.bury(e)
	}
	e := &entry{digest: r.Digest, size: r.Size, kind: r.Object, created: r.Created}
	e.document = document{mediaType: r.MediaType, index: r.Index, ambiguous: r.Ambiguous, lists: distinct(r.Lists), subject: r.Subject}
	e.pulled.Store(max(r.Pulled, r.Created))
	e.stamped.Store(e.pulled.Load())
	e.loose.Store(true)
	c.index.insert(e)
	e.release()
	return true
}

func (c *Cache) applyPulled(times map[digest.Digest]int64) {
	for d, at := range times {
		if e := c.index.look(d); e != nil {
			e.pulled.Store(at)
			e.stamped.Store(at)
		}
	}
}

func (c *Cache) applyPin(r record) bool {
	if r.Pin == nil {
		return false
	}
	if r.Kind == recordUnpin {
		c.pins.remove(*r.Pin)
		return true
	}
	_, err := c.pins.add(*r.Pin)
	return err == nil
}

// applyEvidence takes records in any order: the latest word counts.
func (c *Cache) applyEvidence(r record) bool {
	is := Tag{At: r.At}
	is.Descriptor.MediaType, is.Descriptor.Digest, is.Descriptor.Size = r.MediaType, r.Digest, r.Size
	switch r.Kind {
	case recordTag:
		is, ok := is.plain()
		return ok && (c.index.setTag(r.Scope, r.Tag, is, c.started) || true)
	case recordUntag:
		c.index.change(r.Scope, func(s *scope) { s.dropTag(r.Tag, r.At) })
	case recordSubject:
		is, ok := is.plain()
		return ok && (c.index.setSubject(r.Scope, is, c.started) || true)
	case recordList:
		c.index.setList(r.Scope, r.Digest, listed{list: r.List, at: r.At}, c.started)
	default:
		return false
	}
	return true
}
