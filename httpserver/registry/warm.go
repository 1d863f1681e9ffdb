package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
)

const (
	// maxWarmObjects bounds the manifests and blobs of an image and of all that
	// refers to it.
	maxWarmObjects = 10_000
	// maxWarmDepth is how many indexes may stand within each other, and how many
	// generations of referrers are brought in.
	maxWarmDepth = 4
	// blobsAtOnce are brought in for one image.
	blobsAtOnce = 3
)

var (
	// ErrNotAllowed says that the policy does not allow an image. The text has the
	// verdict.
	ErrNotAllowed = errors.New("registry: not allowed by the policy")
	// ErrAirGapped says that upstreams are not asked.
	ErrAirGapped = errors.New("registry: upstreams are not asked (registry.airGapped)")
	// ErrNoPlatform says that an index lists nothing for the chosen platforms.
	ErrNoPlatform = errors.New("registry: not there for the platform")
	// ErrNotKept says that the cache did not keep what came: its disk is full or
	// failing.
	ErrNotKept = errors.New("registry: the cache did not keep it")
	// ErrTooMuch says that an image with all that refers to it has more than 10,000
	// objects, or more than four indexes within each other.
	ErrTooMuch = errors.New("registry: the image has too many objects")
)

// Warmed is what was brought in.
type Warmed struct {
	// Objects are the manifests and blobs of an image and of what refers to it,
	// each counted once, whether they had been there before or not; Bytes is how
	// large they are together.
	Objects int
	Bytes   int64
}

// Warm brings an image, which the reference names by tag or digest, into the cache
// by the way that clients' requests take, and shares pulls with them: its manifests,
// configs and layers, and four generations of what refers to it with the lists that
// say so, so that it can be served and proven without its registry. Of an index
// those children are brought in whose platform is chosen, those that are about one
// of them, and those that say no platform; nil chooses all. The index stays whole.
//
// It stands behind clients where a registry's capacity is scarce, pulls at most
// three blobs at once, and returns when the cache holds all, or ctx ends. Artifacts
// that are listed as referrers and are not there are left out. What had come before
// an error stays, and is in what is returned as far as it was counted.
//
// Under EnforceOn the image must be allowed, and nothing is brought in on the
// strength of referring to it that would not be served. Errors are ErrNotAllowed,
// ErrAirGapped, ErrNoPlatform, ErrNotKept, ErrTooMuch, those of package
// referrerstore, the cause of ctx's end, or the text of what a client would be told.
func (s *Registry) Warm(ctx context.Context, ref referrerstore.Reference, chosen func(ocispec.Platform) bool) (Warmed, error) {
	if chosen == nil {
		chosen = func(ocispec.Platform) bool { return true }
	}
	ctx = referrerstore.WithWork(ctx, referrerstore.NewWork(time.Now(), referrerstore.LaneBackground))
	w := &warming{chosen: chosen, known: make(map[digest.Digest]bool)}
	var err error
	if w.q, err = s.warmRequest(ctx, ref); err == nil {
		err = w.run(ctx)
	}
	if err != nil {
		return w.done, fmt.Errorf("warm %s: %w", ref, err)
	}
	return w.done, nil
}

// warmRequest is the request of nobody for an image: from here on all goes the way
// of a client's.
func (s *Registry) warmRequest(ctx context.Context, ref referrerstore.Reference) (*request, error) {
	snap := s.live.Load()
	switch {
	case snap == nil:
		return nil, errStarting()
	case snap.AirGapped:
		return nil, ErrAirGapped
	}
	t, err := upstreamOf(snap, ref.Registry)
	if err != nil {
		return nil, err
	}
	t.ref, t.scope.Repository = ref, ref.Repository
	p := path{kind: kindManifest, name: ref.Repository, tag: ref.Tag, digest: ref.Digest}
	if p.digest != "" {
		p.tag = ""
	}
	r := (&http.Request{Method: http.MethodGet}).WithContext(ctx)
	w := newWriter(nowhere{}, r, s.opts.Idle, &s.buffers)
	return &request{s: s, snap: snap, r: r, w: w, path: p, target: t, source: fromNowhere, begun: time.Now()}, nil
}

// nowhere is where the header of an answer goes that nobody waits for.
type nowhere struct{}

func (nowhere) Header() http.Header         { return make(http.Header) }
func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (nowhere) WriteHeader(int)             {}

// warmRoot finds the manifest of the image, which the policy must allow.
func (q *request) warmRoot(ctx context.Context) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{Digest: q.path.digest}
	if q.path.tag != "" {
		answer, err := q.resolveTag()
		if err != nil {
			return desc, err
		}
		if answer.data != nil {
			return desc, ErrNotKept
		}
		desc = answer.desc
	}
	content, err := q.open(ctx, wantManifest(q.target.scope, desc))
	if err != nil {
		return desc, err
	}
	defer content.Close()
	e := entity{digest: desc.Digest, size: content.Size(), mediaType: desc.MediaType}
	if mediaType := content.MediaType(); mediaType != "" {
		e.mediaType = mediaType
	}
	_, err = q.examine(content, nil, e)
	if f, ok := errors.AsType[*failure](err); ok && f.status == http.StatusForbidden {
		err = fmt.Errorf("%w: %w", ErrNotAllowed, err)
	}
	return desc, err
}

// about is the request for another manifest of the same repository.
func (q *request) about(d digest.Digest) *request {
	other := *q
	other.path.tag, other.path.digest = "", d
	return &other
}

// wantChild is a manifest as clients ask for it: whoever lists it has no say in
// what it is.
func wantChild(scope cache.Scope, d digest.Digest) cache.Want {
	return cache.Want{Scope: scope, Digest: d, Kind: cache.Manifest, Size: -1}
}
