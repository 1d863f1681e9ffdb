package registry

import (
	"context"
	"errors"
	"net/http"

	"github.com/opencontainers/go-digest"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
)

// maxSizeParents is how many manifests are asked for the size of a blob. Where
// there are more, one that lies could hide among them.
const maxSizeParents = 8

// blob answers a request for a blob. No layer is fetched for the sake of its
// header.
func (q *request) blob() error {
	if err := q.enforce((*gate).blob); err != nil {
		return err
	}
	want := cache.Want{Scope: q.target.scope, Digest: q.path.digest, Kind: cache.Blob, Size: -1}
	content, err := q.held(want)
	switch {
	case err == nil:
		q.source = fromHeld
	case errors.Is(err, cache.ErrKind) || q.snap.AirGapped:
		return err
	case q.r.Method == http.MethodHead || unchanged(q.r, etagOf(want.Digest)):
		return q.blobHeader(want)
	default:
		want.Size = q.sizeOf(want.Digest)
		if content, err = q.open(q.r.Context(), want); err != nil {
			return err
		}
	}
	defer content.Close()
	return q.serve(content, blobEntity(want.Digest, content.Size()))
}

func blobEntity(d digest.Digest, size int64) entity {
	return entity{digest: d, size: size, mediaType: "application/octet-stream", byDigest: true}
}

// blobHeader answers from what the upstream says of a blob that is not held.
func (q *request) blobHeader(want cache.Want) error {
	t := q.target
	size, err := q.s.blobs.Do(q.r.Context(), want, func(ctx context.Context) (int64, error) {
		ctx, cancel := context.WithTimeout(ctx, upstreamTimeout)
		defer cancel()
		size, err := t.upstream.Store.HasBlob(ctx, t.at(want), want.Digest)
		if err == nil {
			err = t.still()
		}
		return size, err
	})
	if err != nil {
		return err
	}
	q.source = fromPulled
	q.settled(blobEntity(want.Digest, size))
	return nil
}

// sizeOf is what the manifests that list a blob say of its size, -1 if they do not
// agree or too many do: a lie in one must not keep the others' images from being
// pulled.
func (q *request) sizeOf(blob digest.Digest) int64 {
	parents := q.s.cache.Parents(q.target.scope, blob)
	if len(parents) > maxSizeParents {
		return -1
	}
	size := int64(-1)
	for _, parent := range parents {
		listed := q.sizeIn(parent, blob)
		if listed < 0 || (size >= 0 && listed != size) {
			return -1
		}
		size = listed
	}
	return size
}

// sizeIn is a blob's size as a manifest that is in memory lists it.
func (q *request) sizeIn(parent cache.Parent, blob digest.Digest) int64 {
	content, err := q.s.cache.Get(cache.Want{Scope: q.target.scope, Digest: parent.Digest, Kind: cache.Manifest, Size: -1})
	if err != nil {
		return -1
	}
	defer content.Close()
	data, ok := content.Bytes()
	if !ok {
		return -1
	}
	return parseDocument(data).sizeOf(blob)
}

// known says whether the target's repository is known to have the manifest.
func (q *request) known(d digest.Digest) (cache.Parent, bool) {
	for _, scope := range q.scopes() {
		if about, ok := q.s.cache.About(scope, d); ok {
			return about, true
		}
	}
	return cache.Parent{}, false
}

// isMissing says that the upstream, or the cache, does not have a thing.
func isMissing(err error) bool { return errors.Is(err, referrerstore.ErrNotFound) }
