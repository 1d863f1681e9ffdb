package oras

import (
	"container/list"
	"sync"
	"time"
)

const (
	maxTokens          = 2048
	maxTokenCacheBytes = 4 << 20
)

// tokenKey is all that a bearer token is bound to. Host includes the port.
type tokenKey struct{ scheme, host, identity, repository string }

// token is a bearer token and the time from which it is not used any more.
type token struct {
	value string
	until time.Time
}

// tokenCache keeps tokens until they end, the least recently used make room. It
// is safe for concurrent use.
type tokenCache struct {
	maxEntries int
	maxBytes   int

	mu      sync.Mutex // guards the fields that follow it
	entries map[tokenKey]*list.Element
	recent  *list.List // of tokenEntry, most recent first
	bytes   int
}

type tokenEntry struct {
	key tokenKey
	token
}

// size is what an entry costs, its share of map and list included.
func (e tokenEntry) size() int {
	const overhead = 256
	return overhead + len(e.value) + len(e.key.host) + len(e.key.identity) + len(e.key.repository)
}

func newTokenCache(maxEntries, maxBytes int) *tokenCache {
	return &tokenCache{maxEntries: maxEntries, maxBytes: maxBytes, entries: make(map[tokenKey]*list.Element), recent: list.New()}
}

// get finds a token that can still be used.
func (c *tokenCache) get(key tokenKey, now time.Time) (token, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, ok := c.entries[key]
	if !ok {
		return token{}, false
	}
	entry, _ := at.Value.(tokenEntry)
	if !now.Before(entry.until) {
		c.remove(at)
		return token{}, false
	}
	c.recent.MoveToFront(at)
	return entry.token, true
}

func (c *tokenCache) put(key tokenKey, t token) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if at, ok := c.entries[key]; ok {
		c.remove(at)
	}
	entry := tokenEntry{key: key, token: t}
	if entry.size() > c.maxBytes {
		return
	}
	c.entries[key] = c.recent.PushFront(entry)
	c.bytes += entry.size()
	for len(c.entries) > c.maxEntries || c.bytes > c.maxBytes {
		c.remove(c.recent.Back())
	}
}

// drop forgets a token that a registry did not accept, unless it has been
// replaced since.
func (c *tokenCache) drop(key tokenKey, value string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if at, ok := c.entries[key]; ok {
		if entry, _ := at.Value.(tokenEntry); entry.value == value {
			c.remove(at)
		}
	}
}

// remove is called with mu held.
func (c *tokenCache) remove(at *list.Element) {
	entry, _ := c.recent.Remove(at).(tokenEntry)
	delete(c.entries, entry.key)
	c.bytes -= entry.size()
}
