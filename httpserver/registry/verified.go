package registry

import (
	"context"
	"regexp"

	"github.com/opencontainers/go-digest"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
)

// standing is on what ground content may be served.
type standing int

const (
	// refused: on none.
	refused standing = iota
	// referring: it refers to what is allowed, or is listed by what does. That
	// proves nothing of what is in it, so nothing that could be run is served.
	referring
	// allowed: by the policy, or as part of what the policy allows.
	allowed
)

// enforce asks the policy about content before it goes out, as the snapshot says.
// Lists of tags and referrers are not content: nothing in them can be run.
func (q *request) enforce(check func(*gate) error) error {
	if q.snap.Enforce == EnforceOff {
		return nil
	}
	ctx, cancel := context.WithTimeout(q.r.Context(), q.s.opts.VerdictTimeout)
	defer cancel()
	g := &gate{q: q, left: maxTried, known: make(map[digest.Digest]ground)}
	g.verify = func(d digest.Digest) (executor.Result, error) { return g.ask(ctx, d) }
	err := check(g)
	q.s.metrics.verdicts.WithLabelValues(outcome(err)).Inc()
	if err == nil || q.snap.Enforce == EnforceOn {
		return err
	}
	q.warn(explain(q.r.Context(), q.target, q.path.kind, err), true)
	return nil
}

func outcome(err error) string {
	switch f := asFailure(err); {
	case err == nil:
		return "allowed"
	case f.status == 403:
		return "refused"
	default:
		return "unsure"
	}
}

// gate decides on one request. It is for one goroutine.
type gate struct {
	q      *request
	verify func(digest.Digest) (executor.Result, error)
	left   int // verdicts that may still be asked for
	known  map[digest.Digest]ground

	// Why content is refused, in the order in which that is told.
	unsure  error // the first lack of a verdict
	cut     bool  // not all that might allow it was tried
	problem error // a document that would have allowed it, but for what it is
	denial  error // the first verdict
}

// ground is what a manifest stands on.
type ground struct {
	standing standing
	// mediaType is the one that was verified, empty if that is not known.
	mediaType string
}

// ask is one question to the policy.
func (g *gate) ask(ctx context.Context, d digest.Digest) (executor.Result, error) {
	if g.q.snap.Decider == nil {
		return executor.Result{}, errNoDecider()
	}
	req := executor.Request{Reference: g.q.target.ref.Pinned(d), Namespace: g.q.snap.EnforceAs, Lane: referrerstore.LaneAdmission}
	result, err := g.q.snap.Decider.Verify(ctx, req)
	if result.Request == (executor.Request{}) {
		result.Request = req
	}
	if err != nil {
		return result, errUnsure(result, err)
	}
	return result, nil
}

// manifest decides on a manifest that is at hand.
func (g *gate) manifest(e entity, doc document) error {
	at := g.groundOf(e.digest, 0)
	if at.standing == refused {
		at = g.byTag(doc)
	}
	switch {
	case at.standing == refused:
		return g.why()
	case at.standing == referring && doc.runnable:
		return errRunnable()
	}
	if problem := doc.conflict(e.mediaType, at.mediaType); problem != "" {
		return errDocument(problem)
	}
	return nil
}

// referrersTag is the tag of a list of referrers, as clients ask for it where a
// registry has no API for that.
var referrersTag = regexp.MustCompile(`^sha256-([0-9a-f]{64})$`)

// byTag lets through the list of an allowed subject's referrers. What it lists
// stands on its own.
func (g *gate) byTag(doc document) ground {
	found := referrersTag.FindStringSubmatch(g.q.path.tag)
	if found == nil || !doc.index {
		return ground{}
	}
	if g.groundOf(digest.NewDigestFromEncoded(digest.SHA256, found[1]), 1).standing == refused {
		return ground{}
	}
	return ground{standing: referring}
}

// blob decides on a blob by the manifests that list it as config or layer: first by
// the one that it was served by before, because some blobs are in every image.
func (g *gate) blob() error {
	d := g.q.path.digest
	key := seenKey{g.q.target.scope, d}
	if parent, ok := g.q.s.by.get(key); ok && g.lists(parent) {
		return nil
	}
	for _, parent := range g.parents(d, false) {
		if g.lists(parent) {
			g.q.s.by.put(key, parent)
			return nil
		}
	}
	return g.why()
}

// lists says whether a manifest allows the blobs that it lists.
func (g *gate) lists(parent cache.Parent) bool {
	at := g.groundOf(parent.Digest, 0)
	return at.standing != refused && g.sound(parent, at)
}

// why says why nothing was found that allows the content. What is not known comes
// before what is: it might have allowed.
func (g *gate) why() error {
	switch {
	case g.unsure != nil:
		return g.unsure
	case g.cut:
		return errTooManyParents(g.q.target)
	case g.problem != nil:
		return g.problem
	case g.denial != nil:
		return g.denial
	default:
		return errNoParent(g.q.target, g.q.path.kind)
	}
}
