package evidence

import (
	"context"
	"errors"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
)

// errIdentityChanged makes the caller of Fetch ask the inner store for himself: it
// is no sentinel of the registry.
var errIdentityChanged = errors.New("evidence: the registry was shown another identity meanwhile")

// source is one thing to fetch, as its first caller asks for it.
//
// A pull is shared, and lives on the cache's time. The [referrerstore.Work] that it
// is part of is the pull's own, which follows those of all who wait for it; what
// else a context carries, such as a trace, is the first caller's.
type source struct {
	store   *Store
	subject referrerstore.Subject
	desc    ocispec.Descriptor
	scope   cache.Scope
	caller  context.Context //nolint:containedctx // its values only, for the pull that it begins
}

var _ cache.Source = (*source)(nil)

func (s *Store) source(ctx context.Context, subject referrerstore.Subject, desc ocispec.Descriptor, scope cache.Scope) *source {
	return &source{store: s, subject: subject, desc: plain(desc), scope: scope, caller: context.WithoutCancel(ctx)}
}

// onBehalf is a context that ends with one and has the values of both.
type onBehalf struct {
	context.Context //nolint:containedctx // it is a context itself
	values          context.Context
}

// Value looks in the context's own time first: the cause of its end is there.
func (o onBehalf) Value(key any) any {
	if v := o.Context.Value(key); v != nil {
		return v
	}
	return o.values.Value(key)
}

// Pull implements [cache.Source].
func (f *source) Pull(ctx context.Context, _ cache.Want, offset int64) (referrerstore.Pulled, error) {
	pulled, err := f.pull(onBehalf{ctx, f.caller}, offset)
	if err == nil && !f.store.still(f.scope, f.subject.Reference) {
		return referrerstore.Pulled{}, errors.Join(errIdentityChanged, pulled.Body.Close())
	}
	return pulled, err
}

// pull asks the way that an admission does, and not as one that pulls for a node:
// the two do not wait for each other. What comes is hashed already; the cache
// hashes it all the same.
func (f *source) pull(ctx context.Context, offset int64) (referrerstore.Pulled, error) {
	stream, err := f.store.inner.Fetch(ctx, f.subject, f.desc, offset)
	if err != nil {
		return referrerstore.Pulled{}, err
	}
	pulled := referrerstore.Pulled{Body: unproven{stream}, Offset: offset, Size: f.desc.Size}
	if referrerstore.IsManifest(f.desc.MediaType) {
		pulled.MediaType, pulled.Digest = f.desc.MediaType, f.desc.Digest
	}
	return pulled, nil
}

// unproven is a stream whose reader hashes for himself.
type unproven struct{ io.ReadCloser }

func (u unproven) Read(p []byte) (int, error) {
	n, err := u.ReadCloser.Read(p)
	if errors.Is(err, referrerstore.ErrUnverified) {
		err = io.EOF
	}
	return n, err
}

// Confirm implements [cache.Source].
func (f *source) Confirm(ctx context.Context, _ cache.Want) error {
	if err := f.confirm(onBehalf{ctx, f.caller}); err != nil {
		return err
	}
	if !f.store.still(f.scope, f.subject.Reference) {
		return errIdentityChanged
	}
	return nil
}

func (f *source) confirm(ctx context.Context) error {
	ref := f.subject.Reference
	if referrerstore.IsManifest(f.desc.MediaType) {
		_, err := f.store.inner.Resolve(ctx, ref.Pinned(f.desc.Digest))
		return err
	}
	// Whoever may read it may have it.
	stream, err := f.store.inner.Fetch(ctx, f.subject, f.desc, 0)
	if err != nil {
		return err
	}
	if f.desc.Size <= cache.MaxReplicated { // to its end, which keeps the connection
		_, err = io.Copy(io.Discard, stream)
	}
	return errors.Join(err, stream.Close())
}
