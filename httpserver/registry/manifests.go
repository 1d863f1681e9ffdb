package registry

import (
	"errors"
	"fmt"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
)

// manifest answers a request for a manifest. One for its header alone is answered
// like any other: manifests are small, and will be asked for next.
func (q *request) manifest() error {
	desc := ocispec.Descriptor{Digest: q.path.digest}
	var data []byte
	if q.path.tag != "" {
		answer, err := q.resolveTag()
		if err != nil {
			return err
		}
		desc, data = answer.desc, answer.data
	}
	e := entity{digest: desc.Digest, size: int64(len(data)), mediaType: desc.MediaType, byDigest: q.path.digest != ""}
	if data != nil {
		return q.manifestOf(nil, data, e)
	}
	content, err := q.open(q.r.Context(), wantManifest(q.target.scope, desc))
	if err != nil {
		return err
	}
	defer content.Close()
	e.size = content.Size()
	if mediaType := content.MediaType(); mediaType != "" {
		e.mediaType = mediaType
	}
	return q.manifestOf(content, nil, e)
}

// manifestOf answers with a manifest that is held, or, without content, with data.
func (q *request) manifestOf(content *cache.Content, data []byte, e entity) error {
	e, err := q.examine(content, data, e)
	if err != nil {
		return err
	}
	q.note(e)
	if content == nil {
		return q.serveBytes(data, e)
	}
	return q.serve(content, e)
}

// examine asks the policy about a manifest, and finds out its media type where the
// upstream is vague about that.
func (q *request) examine(content *cache.Content, data []byte, e entity) (entity, error) {
	base, vague := plainType(e.mediaType)
	if !vague && q.snap.Enforce == EnforceOff {
		e.mediaType = base
		return e, nil
	}
	doc, err := q.document(content, data, e)
	if err != nil {
		return e, err
	}
	e.mediaType = doc.servedAs(e.mediaType)
	return e, q.enforce(func(g *gate) error { return g.manifest(e, doc) })
}

// note remembers that a manifest was served, for the sake of the blobs that are
// asked for next.
func (q *request) note(e entity) {
	if q.snap.Enforce == EnforceOff {
		return
	}
	key := seenKey{q.target.scope, e.digest}
	if _, known := q.s.seen.get(key); !known { // most were: no lock is taken then
		q.s.seen.put(key, struct{}{})
	}
}

// document says what a manifest is. It is read at most once, and then known.
func (q *request) document(content *cache.Content, data []byte, e entity) (document, error) {
	if doc, ok := q.s.docs.get(e.digest); ok {
		return doc, nil
	}
	if content == nil {
		return q.s.learn(e, data), nil
	}
	data, release, err := q.bytesOf(content)
	if err != nil {
		return document{}, err
	}
	defer release()
	return q.s.learn(e, data), nil
}

// bytesOf are all bytes of a manifest, which is at its start again. What is not in
// memory is read within the budget, to which it goes back with release.
func (q *request) bytesOf(content *cache.Content) (data []byte, release func(), err error) {
	if data, ok := content.Bytes(); ok {
		return data, nothing, nil
	}
	if err := q.s.opts.Budget.Acquire(q.r.Context(), cache.MaxManifest); err != nil {
		return nil, nil, err
	}
	release = func() { q.s.opts.Budget.Release(cache.MaxManifest) }
	data, err = io.ReadAll(io.LimitReader(content, cache.MaxManifest+1))
	if err == nil && len(data) > cache.MaxManifest {
		err = fmt.Errorf("read %s: %w", content.Digest(), errTooLong)
	}
	if err == nil {
		_, err = content.Seek(0, io.SeekStart)
	}
	if err != nil {
		release()
		return nil, nil, err
	}
	return data, release, nil
}

var errTooLong = errors.New("the manifest is too long")

func (s *Registry) learn(e entity, data []byte) document {
	doc := parseDocument(data).document
	s.docs.put(e.digest, doc)
	return doc
}
