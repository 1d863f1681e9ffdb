package registry

import (
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
)

// Kind is what a request is for.
type Kind int

// The kinds of requests. A request that must be answered 401 counts as a
// Challenge, whatever it is for.
const (
	// Other is anything else: pings, uploads, lists of tags.
	Other Kind = iota
	// Challenge lacks credentials that cover it.
	Challenge
	// Token is to the token service.
	Token
	// Resolve asks what a tag or digest is: HEAD of a manifest, or GET by tag.
	Resolve
	// Referrers is a page of the referrers API or a GET of the tag that
	// stands in for it.
	Referrers
	// Manifest is a GET of a manifest by digest.
	Manifest
	// Blob is a GET or HEAD of a blob.
	Blob

	kinds
)

// KindOf tells what a request is for. It never says Challenge.
func KindOf(r *http.Request) Kind {
	path := r.URL.Path
	if path == tokenPath {
		return Token
	}
	_, section, last := splitPath(path)
	read := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch {
	case !read:
		return Other
	case section == "referrers", section == "manifests" && isReferrersTag(last):
		return Referrers
	case section == "manifests" && r.Method == http.MethodGet && strings.Contains(last, ":"):
		return Manifest
	case section == "manifests":
		return Resolve
	case section == "blobs":
		return Blob
	}
	return Other
}

// splitPath takes /v2/REPO/SECTION/LAST apart; all are empty if it is not one.
func splitPath(path string) (repo, section, last string) {
	rest, ok := strings.CutPrefix(path, "/v2/")
	if !ok {
		return "", "", ""
	}
	end := strings.LastIndexByte(rest, '/')
	if end < 0 {
		return "", "", ""
	}
	start := strings.LastIndexByte(rest[:end], '/')
	if start < 0 {
		return "", "", ""
	}
	return rest[:start], rest[start+1 : end], rest[end+1:]
}

// ReferrersTag is the tag at which the distribution specification keeps a list
// of referrers where there is no API for it.
func ReferrersTag(subject digest.Digest) string {
	algorithm, encoded := subject.Algorithm().String(), subject.Encoded()
	return algorithm[:min(len(algorithm), 32)] + "-" + encoded[:min(len(encoded), 64)]
}

func isReferrersTag(tag string) bool {
	algorithm, encoded, found := strings.Cut(tag, "-")
	return found && (algorithm == "sha256" || algorithm == "sha512") &&
		len(encoded) == 64 && strings.Trim(encoded, "0123456789abcdef") == ""
}

// Stats counts requests since the start or the last reset, as they arrive.
// Each request is of one kind; the kinds add up to Total.
type Stats struct {
	Challenge, Token, Resolve, Referrers, Manifest, Blob, Other int64
	// Total is all requests, the token service's included.
	Total int64
	// Unauthorized are the challenges of requests that did show credentials.
	Unauthorized int64
	// Throttled were answered 429.
	Throttled int64
	// Connections are those accepted.
	Connections int64
	// Peak is the most requests that were under way at once.
	Peak int64
}

// Stats is what clients asked for so far.
func (r *Registry) Stats() Stats {
	c := &r.stats
	s := Stats{
		Challenge: c.kinds[Challenge].Load(), Token: c.kinds[Token].Load(),
		Resolve: c.kinds[Resolve].Load(), Referrers: c.kinds[Referrers].Load(),
		Manifest: c.kinds[Manifest].Load(), Blob: c.kinds[Blob].Load(),
		Other: c.kinds[Other].Load(), Unauthorized: c.unauthorized.Load(),
		Throttled: c.throttled.Load(), Connections: c.connections.Load(), Peak: c.peak.Load(),
	}
	s.Total = s.Challenge + s.Token + s.Resolve + s.Referrers + s.Manifest + s.Blob + s.Other
	return s
}

// Paths counts the requests that had the credentials they need, since the start
// or the last reset, by method and path: "GET /v2/team/app/manifests/v1". Queries
// are left out.
func (r *Registry) Paths() map[string]int64 {
	counts := make(map[string]int64)
	r.stats.paths.Range(func(key, n any) bool {
		counts[key.(string)] = n.(*atomic.Int64).Load()
		return true
	})
	return counts
}

// ResetStats starts the count anew. Requests that are under way stay in Peak.
func (r *Registry) ResetStats() {
	c := &r.stats
	for i := range c.kinds {
		c.kinds[i].Store(0)
	}
	c.unauthorized.Store(0)
	c.throttled.Store(0)
	c.connections.Store(0)
	c.peak.Store(c.now.Load())
	c.paths.Clear()
}

type counters struct {
	kinds                                [kinds]atomic.Int64
	unauthorized, throttled, connections atomic.Int64
	now, peak                            atomic.Int64
	paths                                sync.Map // "METHOD path" -> *atomic.Int64
}

func (c *counters) begin(kind Kind, refusal *refusal, req *http.Request) {
	if refusal != nil {
		kind = Challenge
		if refusal.presented {
			c.unauthorized.Add(1)
		}
	} else {
		c.path(req)
	}
	c.kinds[kind].Add(1)
	now := c.now.Add(1)
	for peak := c.peak.Load(); now > peak && !c.peak.CompareAndSwap(peak, now); {
		peak = c.peak.Load()
	}
}

func (c *counters) path(req *http.Request) {
	key := req.Method + " " + req.URL.Path
	n, ok := c.paths.Load(key)
	if !ok {
		n, _ = c.paths.LoadOrStore(key, new(atomic.Int64))
	}
	n.(*atomic.Int64).Add(1)
}

func (c *counters) end() { c.now.Add(-1) }
