package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
)

// tagKey is what all who ask for a tag at the same time share an answer to.
type tagKey struct {
	scope cache.Scope
	tag   string
}

// tagAnswer is what a tag leads to. pulled says that the manifest was read to find
// out, data is set only if the cache would not keep it.
type tagAnswer struct {
	desc   ocispec.Descriptor
	data   []byte
	pulled bool
}

// staleWarning is the text of RFC 7234 for an answer that may not be true now.
const staleWarning = `110 - "the upstream registry does not answer: this is what it said before"`

// resolveTag finds what the request's tag leads to.
func (q *request) resolveTag() (tagAnswer, error) {
	held, known := q.heldTag()
	switch {
	case q.snap.AirGapped && !known:
		return tagAnswer{}, errNotHeld(kindManifest)
	case q.snap.AirGapped:
		return tagAnswer{desc: held.Descriptor}, nil
	case known && q.target.upstream.Tags.believes(time.Since(held.At)):
		return tagAnswer{desc: held.Descriptor}, nil
	}
	t, tag := q.target, q.path.tag
	answer, err := q.s.tags.Do(q.r.Context(), tagKey{t.scope, tag}, func(ctx context.Context) (tagAnswer, error) {
		return q.s.askTag(ctx, t, tag, held, known)
	})
	switch {
	case err == nil && answer.pulled:
		q.source = fromPulled
	case err != nil && known && q.mayBeStale(err, held.At):
		q.source = fromStale
		q.w.Header().Set("Warning", staleWarning)
		return tagAnswer{desc: held.Descriptor}, nil
	}
	return answer, err
}

func (q *request) heldTag() (cache.Tag, bool) {
	for _, scope := range q.scopes() {
		if held, known := q.s.cache.Tag(scope, q.path.tag); known {
			return held, true
		}
	}
	return cache.Tag{}, false
}

// scopes are those that the request may be answered from.
func (q *request) scopes() []cache.Scope {
	scope := q.target.scope
	if !q.snap.AirGapped || scope.Identity == "" {
		return []cache.Scope{scope}
	}
	loaded := scope
	loaded.Identity = ""
	return []cache.Scope{scope, loaded}
}

// believes says whether an answer of that age stands. One from the future does
// not: the clock was set.
func (p TagPolicy) believes(age time.Duration) bool {
	switch p.Mode {
	case TagIfAbsent:
		return true
	case TagInterval:
		return age >= 0 && age < p.Interval
	default:
		return false
	}
}

// mayBeStale says whether an answer of an earlier time stands in for one that
// could not be had.
func (q *request) mayBeStale(err error, at time.Time) bool {
	return q.r.Context().Err() == nil && time.Since(at) <= q.target.upstream.Tags.StaleIfError && isOutage(err)
}

// isOutage tells a registry that does not answer from one that says no.
func isOutage(err error) bool {
	return errors.Is(err, referrerstore.ErrUnavailable) || errors.Is(err, referrerstore.ErrRateLimited) || errors.Is(err, context.DeadlineExceeded)
}

// askTag asks the upstream what a tag leads to: without fetching the manifest if
// what it led to before is held.
func (s *Registry) askTag(ctx context.Context, t *target, tag string, held cache.Tag, known bool) (tagAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, upstreamTimeout)
	defer cancel()
	at := time.Now()
	var answer tagAnswer
	var err error
	if known && s.holds(t.scope, held.Descriptor) {
		var subject referrerstore.Subject
		subject, err = t.upstream.Store.Resolve(ctx, t.ref)
		answer.desc = plain(subject.Descriptor)
	} else {
		answer, err = s.pullTag(ctx, t)
	}
	if err == nil {
		err = t.still()
	}
	switch {
	case err == nil:
		s.cache.SetTag(t.scope, tag, cache.Tag{Descriptor: answer.desc, At: at})
	case errors.Is(err, referrerstore.ErrNotFound):
		s.cache.DropTag(t.scope, tag)
	case ctx.Err() != nil:
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return answer, err
}

func plain(desc ocispec.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size}
}

func (s *Registry) holds(scope cache.Scope, desc ocispec.Descriptor) bool {
	content, err := s.cache.Get(wantManifest(scope, desc))
	if err != nil {
		return false
	}
	_ = content.Close() // it was only looked for
	return true
}

func wantManifest(scope cache.Scope, desc ocispec.Descriptor) cache.Want {
	want := cache.Want{Scope: scope, Digest: desc.Digest, Kind: cache.Manifest, Size: desc.Size, MediaType: desc.MediaType}
	if want.Size <= 0 {
		want.Size = -1
	}
	return want
}

// pullTag reads the manifest that a tag leads to, in one request that whoever
// asks for it by its digest next is answered from.
func (s *Registry) pullTag(ctx context.Context, t *target) (tagAnswer, error) {
	pulled, err := t.upstream.Store.PullManifest(ctx, t.ref)
	if err != nil {
		return tagAnswer{}, err
	}
	defer pulled.Body.Close()
	if err := t.still(); err != nil { // before anything is kept
		return tagAnswer{}, err
	}
	data, err := s.readManifest(ctx, pulled)
	if err != nil {
		return tagAnswer{}, fmt.Errorf("pull %s: %w", t.ref, err)
	}
	desc, err := describe(pulled, data)
	if err != nil {
		return tagAnswer{}, fmt.Errorf("pull %s: %w", t.ref, err)
	}
	err = s.cache.Put(wantManifest(t.scope, desc), data)
	switch {
	case errors.Is(err, cache.ErrKind):
		return tagAnswer{}, err
	case err != nil: // the cache is full or failing: what is there is handed on
		return tagAnswer{desc: desc, data: data, pulled: true}, nil
	default:
		return tagAnswer{desc: desc, pulled: true}, nil
	}
}

// readManifest reads at most as much as a manifest may have.
func (s *Registry) readManifest(ctx context.Context, pulled referrerstore.Pulled) ([]byte, error) {
	size := pulled.Size
	if size > cache.MaxManifest {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", referrerstore.ErrTooLarge, size, cache.MaxManifest)
	}
	if size < 0 {
		size = cache.MaxManifest
	}
	if err := s.opts.Budget.Acquire(ctx, size); err != nil {
		return nil, err
	}
	defer s.opts.Budget.Release(size)
	data, err := io.ReadAll(io.LimitReader(pulled.Body, cache.MaxManifest+1))
	switch {
	case err != nil:
		return nil, err
	case len(data) > cache.MaxManifest:
		return nil, fmt.Errorf("%w: more than %d bytes", referrerstore.ErrTooLarge, cache.MaxManifest)
	case pulled.Size >= 0 && int64(len(data)) != pulled.Size:
		return nil, fmt.Errorf("%w: %d of %d bytes", referrerstore.ErrBrokenOff, len(data), pulled.Size)
	default:
		return data, nil
	}
}

// describe hashes a manifest, by the algorithm that the registry uses for it.
func describe(pulled referrerstore.Pulled, data []byte) (ocispec.Descriptor, error) {
	algorithm := digest.SHA256
	if pulled.Digest != "" {
		said, err := referrerstore.ParseDigest(pulled.Digest.String())
		if err != nil {
			return ocispec.Descriptor{}, fmt.Errorf("%w: %w", referrerstore.ErrProtocol, err)
		}
		algorithm = said.Algorithm()
	}
	desc := ocispec.Descriptor{MediaType: pulled.MediaType, Digest: algorithm.FromBytes(data), Size: int64(len(data))}
	if pulled.Digest != "" && pulled.Digest != desc.Digest {
		return desc, fmt.Errorf("%w: %s was announced as %s", referrerstore.ErrDigestMismatch, desc.Digest, pulled.Digest)
	}
	return desc, nil
}
