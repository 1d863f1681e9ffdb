package registry

import (
	"context"
	"errors"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
)

// source is where a cache gets the content of a target from.
type source struct{ target *target }

var _ cache.Source = source{}

// Pull implements cache.Source. Manifests are small, and always read from their
// start.
func (s source) Pull(ctx context.Context, want cache.Want, offset int64) (referrerstore.Pulled, error) {
	pulled, err := s.pull(ctx, want, offset)
	if err != nil {
		return referrerstore.Pulled{}, err
	}
	if err := s.target.still(); err != nil {
		return referrerstore.Pulled{}, errors.Join(err, pulled.Body.Close())
	}
	return pulled, nil
}

func (s source) pull(ctx context.Context, want cache.Want, offset int64) (referrerstore.Pulled, error) {
	store := s.target.upstream.Store
	if want.Kind == cache.Manifest {
		return store.PullManifest(ctx, s.target.at(want))
	}
	return store.PullBlob(ctx, s.target.at(want), want.Digest, offset)
}

// Confirm implements cache.Source.
func (s source) Confirm(ctx context.Context, want cache.Want) error {
	store := s.target.upstream.Store
	var err error
	if want.Kind == cache.Manifest {
		_, err = store.Resolve(ctx, s.target.at(want))
	} else {
		_, err = store.HasBlob(ctx, s.target.at(want), want.Digest)
	}
	if err != nil {
		return err
	}
	return s.target.still()
}
