package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
)

// maxTags bounds the tags of one answer.
const maxTags = 10_000

// page is the part of a list of tags that is asked for; n is 0 if nothing is said.
type page struct {
	n    int
	none bool // no tags at all are asked for
	last string
}

func pageOf(query url.Values) (page, error) {
	p := page{last: query.Get("last")}
	if p.last != "" && !tagPattern.MatchString(p.last) {
		return p, errBadPage("last")
	}
	if !query.Has("n") {
		return p, nil
	}
	n, err := strconv.ParseUint(query.Get("n"), 10, 31)
	if err != nil {
		return p, errBadPage("n")
	}
	p.n, p.none = min(int(n), maxTags), n == 0
	return p, nil
}

// listTags passes on the upstream's list, page by page, as it is asked for.
func (q *request) listTags() error {
	query := q.r.URL.Query()
	p, err := pageOf(query)
	if err != nil {
		return err
	}
	var tags []string
	var more bool
	switch {
	case p.none:
	case q.snap.AirGapped:
		q.source = fromHeld
		if tags, more = q.heldTags(p); len(tags) == 0 && p.last == "" {
			return errNotHeld(kindTags)
		}
	default:
		ctx, cancel := context.WithTimeout(q.r.Context(), upstreamTimeout)
		defer cancel()
		q.source = fromPulled
		if tags, more, err = q.target.upstream.Store.Tags(ctx, q.target.ref, p.n, p.last); err != nil {
			return err
		}
		if err := q.target.still(); err != nil {
			return err
		}
	}
	if more && len(tags) > 0 {
		q.w.Header().Set("Link", q.nextPage(query, tags[len(tags)-1]))
	}
	if tags == nil {
		tags = []string{}
	}
	return q.writeJSON("application/json", map[string]any{"name": q.path.name, "tags": tags})
}

// nextPage is the Link header to the tags behind last.
func (q *request) nextPage(query url.Values, last string) string {
	next := url.Values{"last": {last}}
	for _, name := range []string{"n", "ns"} {
		if query.Has(name) {
			next.Set(name, query.Get(name))
		}
	}
	return fmt.Sprintf(`</v2/%s/tags/list?%s>; rel="next"`, q.path.name, next.Encode())
}

// heldTags are the tags of the repository that lead to what is held.
func (q *request) heldTags(p page) (tags []string, more bool) {
	scopes, name := q.scopes(), q.target.ref.Name()
	here := cache.Filter{All: true, Match: func(item string) bool {
		rest, ok := strings.CutPrefix(item, name)
		return ok && (rest == "" || rest[0] == ':' || rest[0] == '@')
	}}
	for item := range q.s.cache.Items(here) {
		if slices.Contains(scopes, item.Scope) {
			tags = append(tags, item.Tags...)
		}
	}
	slices.Sort(tags)
	tags = slices.Compact(tags)
	if p.last != "" {
		at, found := slices.BinarySearch(tags, p.last)
		if found {
			at++
		}
		tags = tags[at:]
	}
	n := maxTags
	if p.n > 0 {
		n = p.n
	}
	return tags[:min(n, len(tags))], len(tags) > n
}

// listReferrers answers with the upstream's list of a subject's referrers, whether
// that has the API for it or a tag. A subject that does not exist has none.
func (q *request) listReferrers() error {
	listed, err := q.referrers()
	if err != nil {
		return err
	}
	if artifactType := q.r.URL.Query().Get("artifactType"); artifactType != "" {
		q.w.Header().Set("OCI-Filters-Applied", "artifactType")
		listed = slices.DeleteFunc(slices.Clone(listed), func(d ocispec.Descriptor) bool { return d.ArtifactType != artifactType })
	}
	if listed == nil {
		listed = []ocispec.Descriptor{}
	}
	return q.writeJSON(ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: listed,
	})
}

func (q *request) referrers() ([]ocispec.Descriptor, error) {
	held, at, known := q.heldReferrers()
	if q.snap.AirGapped {
		q.source = fromHeld
		return held, nil
	}
	begun := time.Now()
	listed, err := q.askReferrers()
	switch {
	case isMissing(err):
		return nil, nil
	case err != nil && known && q.mayBeStale(err, at):
		q.source = fromStale
		q.w.Header().Set("Warning", staleWarning)
		return held, nil
	case err != nil:
		return nil, err
	}
	// Of digests that nobody has there is nothing worth remembering.
	if _, about := q.known(q.path.digest); about || known || len(listed) > 0 {
		q.s.cache.SetReferrers(q.target.scope, q.path.digest, listed, begun)
	}
	return listed, nil
}

func (q *request) askReferrers() ([]ocispec.Descriptor, error) {
	ctx, cancel := context.WithTimeout(q.r.Context(), upstreamTimeout)
	defer cancel()
	q.source = fromPulled
	subject := referrerstore.Subject{Reference: q.target.ref, Descriptor: ocispec.Descriptor{Digest: q.path.digest}}
	var listed []ocispec.Descriptor
	for desc, err := range q.target.upstream.Store.Referrers(ctx, subject) {
		if err != nil {
			return nil, err
		}
		listed = append(listed, desc)
	}
	return listed, q.target.still()
}

func (q *request) heldReferrers() ([]ocispec.Descriptor, time.Time, bool) {
	for _, scope := range q.scopes() {
		if held, at, known := q.s.cache.Referrers(scope, q.path.digest); known {
			return held, at, true
		}
	}
	return nil, time.Time{}, false
}

func (q *request) writeJSON(mediaType string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", q.path.kind, err)
	}
	h := q.w.Header()
	h.Set("Content-Type", mediaType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-cache")
	q.w.WriteHeader(http.StatusOK)
	_, _ = q.w.Write(body) // a client that has gone is not our error
	return nil
}
