package registry

import (
	"errors"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
)

const (
	// maxTried bounds the verdicts that one request asks for.
	maxTried = 64
	// maxGenerations is how far above content something may stand that allows it.
	maxGenerations = 4
	// maxSeen and maxDocuments bound what is remembered, twice each.
	maxSeen      = 8192
	maxDocuments = 8192
)

var errUndecided = errors.New("the policy did not decide")

// groundOf finds what a manifest stands on: the policy itself, an index that
// lists it, or a subject that it refers to.
func (g *gate) groundOf(d digest.Digest, generation int) ground {
	if at, ok := g.known[d]; ok {
		return at
	}
	if g.left == 0 {
		g.cut = true
		return ground{}
	}
	at := g.byVerdict(d)
	if at.standing == refused && generation < maxGenerations {
		at = g.byIndex(d, generation)
	}
	if at.standing == refused && generation < maxGenerations {
		at = g.bySubject(d, generation)
	}
	g.known[d] = at
	return at
}

func (g *gate) byVerdict(d digest.Digest) ground {
	g.left--
	result, err := g.verify(d)
	switch {
	case err != nil:
		g.doubt(err)
	case result.Decision == executor.Allowed && (result.Subject.Descriptor.Digest == d || result.Subject.Descriptor.Digest == ""):
		verified, vague := plainType(result.Subject.Descriptor.MediaType)
		if vague {
			verified = ""
		}
		return ground{allowed, verified}
	case result.Decision == executor.Denied:
		if g.denial == nil {
			g.denial = errVerdict(result)
		}
	default:
		g.doubt(errUnsure(result, errUndecided))
	}
	return ground{}
}

func (g *gate) doubt(err error) {
	if g.unsure == nil {
		g.unsure = err
	}
}

// byIndex takes the best of what the indexes stand on that list a manifest.
func (g *gate) byIndex(d digest.Digest, generation int) ground {
	best := ground{}
	for _, parent := range g.parents(d, true) {
		at := g.groundOf(parent.Digest, generation+1)
		if at.standing > best.standing && g.sound(parent, at) {
			best = ground{standing: at.standing} // of the child nothing was verified but its digest
		}
		if best.standing == allowed {
			break
		}
	}
	return best
}

func (g *gate) bySubject(d digest.Digest, generation int) ground {
	about, ok := g.q.known(d)
	if !ok || about.Subject == "" {
		return ground{}
	}
	if g.groundOf(about.Subject, generation+1).standing == refused {
		return ground{}
	}
	return ground{standing: referring}
}

// sound says whether a manifest that stands on something may allow what it lists:
// it must be what it was verified as, and if it only refers to what is allowed,
// nothing that can be run.
func (g *gate) sound(parent cache.Parent, at ground) bool {
	content, err := g.q.held(cache.Want{Scope: g.q.target.scope, Digest: parent.Digest, Kind: cache.Manifest, Size: -1})
	if err != nil {
		return false
	}
	defer content.Close()
	doc, err := g.q.document(content, nil, entity{digest: parent.Digest})
	if err != nil {
		return false
	}
	problem := doc.conflict(doc.servedAs(parent.MediaType), at.mediaType)
	if parent.Ambiguous && problem == "" {
		problem = "it lists both manifests and layers"
	}
	switch {
	case problem != "":
		g.problem = errDocument(problem)
	case at.standing == referring && doc.runnable:
		g.problem = errRunnable()
	default:
		return true
	}
	return false
}

// parents are the indexes, or the other manifests, known to list a digest, those
// that were served of late before others: whoever pulls a blob has just pulled its
// manifest. A digest such as that of the empty config has as many as there are
// images: no more are returned than verdicts are asked for.
func (g *gate) parents(d digest.Digest, indexes bool) []cache.Parent {
	var late, others []cache.Parent
	for _, scope := range g.q.scopes() {
		for _, parent := range g.q.s.cache.Parents(scope, d) {
			_, served := g.q.s.seen.get(seenKey{g.q.target.scope, parent.Digest})
			switch {
			case parent.Index != indexes:
			case served && len(late) < maxTried:
				late = append(late, parent)
			case !served && len(others) < maxTried:
				others = append(others, parent)
			default:
				g.cut = true
			}
		}
	}
	all := append(late, others...)
	if len(all) > maxTried {
		g.cut = true
	}
	return all[:min(len(all), maxTried)]
}

// recent remembers the last of what is put into it, at most twice its bound.
type recent[K comparable, V any] struct {
	bound int

	mu       sync.RWMutex // guards the fields that follow it
	now, old map[K]V
}

func newRecent[K comparable, V any](bound int) *recent[K, V] {
	return &recent[K, V]{bound: bound, now: make(map[K]V)}
}

func (r *recent[K, V]) get(key K) (V, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	v, ok := r.now[key]
	if !ok {
		v, ok = r.old[key]
	}
	return v, ok
}

func (r *recent[K, V]) put(key K, v V) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.now) >= r.bound {
		r.now, r.old = make(map[K]V), r.now
	}
	r.now[key] = v
}

// seenKey names a manifest in a repository.
type seenKey struct {
	scope  cache.Scope
	digest digest.Digest
}

// seen are the manifests that were served of late. It only says what to try first.
type seen = recent[seenKey, struct{}]

func newSeen() *seen { return newRecent[seenKey, struct{}](maxSeen) }

// parents are manifests by which blobs were served of late. Whether they still are
// allowed is asked anew each time; that they list the blob cannot change.
type parents = recent[seenKey, cache.Parent]

func newParents() *parents { return newRecent[seenKey, cache.Parent](maxSeen) }

// documents are what manifests are, by their digest, of which nothing changes.
type documents = recent[digest.Digest, document]

func newDocuments() *documents { return newRecent[digest.Digest, document](maxDocuments) }
