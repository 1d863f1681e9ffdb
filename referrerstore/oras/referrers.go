package oras

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// maxAnnotationBytes is how much of the annotations of a listed descriptor is
// kept; those of one that has more are dropped. They are what the registry
// says, and prove nothing.
const maxAnnotationBytes = 1 << 10

var errEnough = errors.New("the list is wanted no further")

// Referrers lists by the referrers API, page by page as they come, or by the
// tag schema where a registry has no such API. At most 32 pages of 1.5 MiB and
// 1,000 entries are read; a list that is cut ends with ErrTooManyReferrers, and
// one with an entry that is not valid with ErrProtocol.
//
// Descriptors carry media type, digest, size, artifact type, and annotations of
// at most 1 KiB.
func (s *Store) Referrers(ctx context.Context, subject referrerstore.Subject) iter.Seq2[ocispec.Descriptor, error] {
	return func(yield func(ocispec.Descriptor, error) bool) {
		budget := s.budget.Host(subject.Reference.Registry)
		defer budget.Close()
		l := &listing{
			ctx: ctx, yield: yield, subject: subject,
			client: s.client(subject.Reference.Registry),
			page:   &page{budget: budget},
			seen:   make(map[digest.Digest]bool),
		}
		err := l.run()
		if err == nil || l.left {
			return
		}
		yield(ocispec.Descriptor{}, fmt.Errorf("referrers of %s: %w", subject, classify(ctx, err)))
	}
}

// listing is one list on its way.
type listing struct {
	ctx     context.Context //nolint:containedctx // it lives as long as the call that made it
	yield   func(ocispec.Descriptor, error) bool
	subject referrerstore.Subject
	client  *client
	page    *page
	seen    map[digest.Digest]bool
	left    bool // whoever ranges over the list has left it
}

// run tries the API, and the tag schema if the very first page says that there
// is no API. Later the same answer would make a list that broke off look like
// one that is complete.
func (l *listing) run() error {
	defer l.page.release()
	if l.ctx.Err() != nil {
		return context.Cause(l.ctx)
	}
	if _, err := referrerstore.ParseDigest(l.subject.Descriptor.Digest.String()); err != nil {
		return fmt.Errorf("%w: %w", referrerstore.ErrInvalidReference, err)
	}
	err := l.list(true)
	if errors.Is(err, errdef.ErrUnsupported) && l.page.begun == 1 {
		answered := l.page.bodies > 0
		l.page.bodies, l.page.lists = 0, 0
		err = l.list(false)
		if err == nil && answered && l.page.bodies == 0 {
			// Not "404, no such API" but something else: a page for people, say.
			return fmt.Errorf("%w: what the referrers API answers is no list, and no tag has one", referrerstore.ErrProtocol)
		}
	}
	if err == nil && l.page.lists != l.page.bodies {
		return fmt.Errorf("%w: a list of referrers has no manifests field", referrerstore.ErrProtocol)
	}
	return err
}

func (l *listing) list(byAPI bool) error {
	name := l.subject.Reference.Repository
	repository := l.client.repository(name)
	if err := repository.SetReferrersCapability(byAPI); err != nil {
		return err
	}
	ctx := withCall(l.ctx, &call{kind: kindReferrers, repository: name, size: -1, page: l.page})
	return repository.Referrers(ctx, l.subject.Descriptor, "", l.take)
}

// take hands on the entries of a page. What the page held is given back before,
// so that nobody waits on whoever the entries are handed to.
func (l *listing) take(page []ocispec.Descriptor) error {
	l.page.release()
	for _, desc := range page {
		if l.ctx.Err() != nil {
			return context.Cause(l.ctx)
		}
		listed, err := entry(desc)
		if err != nil {
			return err
		}
		if l.seen[listed.Digest] {
			continue
		}
		if len(l.seen) == maxEntries {
			return fmt.Errorf("%w: %d entries", referrerstore.ErrTooManyReferrers, maxEntries)
		}
		l.seen[listed.Digest] = true
		if !l.yield(listed, nil) {
			l.left = true
			return errEnough
		}
	}
	return nil
}

// entry keeps what is of use in a listed descriptor, and refuses one that could
// not be fetched: left out, the list would look complete.
func entry(desc ocispec.Descriptor) (ocispec.Descriptor, error) {
	if _, err := referrerstore.ParseDigest(desc.Digest.String()); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("%w: an entry of the list: %w", referrerstore.ErrProtocol, err)
	}
	if desc.Size < 0 {
		return ocispec.Descriptor{}, fmt.Errorf("%w: an entry of the list has size %d", referrerstore.ErrProtocol, desc.Size)
	}
	if len(desc.MediaType) > maxMediaTypeBytes || len(desc.ArtifactType) > maxMediaTypeBytes {
		return ocispec.Descriptor{}, fmt.Errorf("%w: an entry of the list has a type of more than %d bytes", referrerstore.ErrProtocol, maxMediaTypeBytes)
	}
	return ocispec.Descriptor{
		MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size,
		ArtifactType: desc.ArtifactType, Annotations: annotations(desc.Annotations),
	}, nil
}

func annotations(all map[string]string) map[string]string {
	size := 0
	for name, value := range all {
		size += len(name) + len(value)
	}
	if size > maxAnnotationBytes {
		return nil
	}
	return maps.Clone(all)
}
