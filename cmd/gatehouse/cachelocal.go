package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/gatehouse-project/gatehouse/httpserver/control"
	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/archive"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
)

// localKeeper keeps a cache of this process.
type localKeeper struct {
	cache *cache.Cache
	// spool is a folder on the cache's disk for archives on their way in; what is
	// left there by a kill is removed at the next start.
	spool string
	// identity names whose credentials a registry host would be shown: content
	// is kept for that one.
	identity func(host string) string
}

// nobody shows no credentials, to any host.
func nobody(string) string { return "" }

var _ control.Keeper = (*localKeeper)(nil)

// Items implements [control.Viewer].
func (k *localKeeper) Items(ctx context.Context, req control.ItemsRequest, each func(cache.Item)) error {
	match, err := parseMatch(req.Match)
	if err != nil {
		return err
	}
	for item := range k.cache.Items(cache.Filter{Match: match, All: req.All}) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		each(item)
	}
	return nil
}

// parseMatch reads a pattern of names; an empty one takes all.
func parseMatch(text string) (func(name string) bool, error) {
	if text == "" {
		return nil, nil //nolint:nilnil // none is no error
	}
	return cache.ParseMatch(text)
}

// Stats implements [control.Viewer].
func (k *localKeeper) Stats(context.Context) (cache.Stats, error) { return k.cache.Stats(), nil }

// Prune implements [control.Cleaner].
func (k *localKeeper) Prune(ctx context.Context, req control.PruneRequest, each func(cache.Item)) (cache.Pruned, error) {
	match, err := parseMatch(req.Match)
	if err != nil {
		return cache.Pruned{}, err
	}
	return k.cache.Prune(ctx, cache.PruneRequest{
		PulledBefore: req.PulledBefore, CreatedBefore: req.CreatedBefore, Match: match,
		ToBytes: req.ToBytes, ToFree: req.ToFree, All: req.All, DryRun: req.DryRun,
	}, each)
}

// Scrub implements [control.Cleaner].
func (k *localKeeper) Scrub(ctx context.Context, progress func(done, total int64)) (cache.Scrubbed, error) {
	return k.cache.Scrub(ctx, progress)
}

// Pins implements [control.Pinner].
func (k *localKeeper) Pins(context.Context) ([]cache.Pin, error) { return k.cache.Pins(), nil }

// Pin implements [control.Pinner].
func (k *localKeeper) Pin(ctx context.Context, pin cache.Pin) error { return k.cache.Pin(ctx, pin) }

// Unpin implements [control.Pinner].
func (k *localKeeper) Unpin(ctx context.Context, pin cache.Pin) (bool, error) {
	return k.cache.Unpin(ctx, pin)
}

// Load implements [control.Mover]. The archive is put into a temporary file
// beside the cache first: it is read twice.
func (k *localKeeper) Load(ctx context.Context, req control.LoadRequest, from io.Reader, progress func(done, total int64)) (control.Loaded, error) {
	platforms, err := parsePlatforms(req.Platforms)
	if err != nil {
		return control.Loaded{}, err
	}
	path, remove, err := spool(ctx, k.spool, from)
	if err != nil {
		return control.Loaded{}, fmt.Errorf("receive the archive: %w", err)
	}
	defer remove()
	opened, err := archive.Open(ctx, path, archive.OpenOptions{TempDir: k.spool})
	if err != nil {
		return control.Loaded{}, err
	}
	defer func() { _ = opened.Close() }() // it was only read
	loaded, err := archive.Load(ctx, opened, k.cache, archive.Options{Name: req.Name, Platforms: platforms, Identity: k.identity, Progress: progress})
	result := control.Loaded{Bytes: loaded.Bytes}
	for _, image := range loaded.Images {
		result.Images = append(result.Images, image.Reference.String())
	}
	if errors.Is(err, archive.ErrUnnamed) {
		err = fmt.Errorf("%w: say what it is called with --name HOST/REPOSITORY:TAG", err)
	}
	return result, err
}

// spool puts what comes into a temporary file of the folder.
func spool(ctx context.Context, dir string, from io.Reader) (path string, remove func(), err error) {
	file, err := os.CreateTemp(dir, "load-")
	if err != nil {
		return "", nil, err
	}
	remove = func() { _ = os.Remove(file.Name()) } // at the next start, else
	_, err = io.Copy(file, readerFunc(func(p []byte) (int, error) {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		return from.Read(p)
	}))
	if err = errors.Join(err, file.Close()); err != nil {
		remove()
		return "", nil, err
	}
	return file.Name(), remove, nil
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func parsePlatforms(texts []string) ([]archive.Platform, error) {
	platforms := make([]archive.Platform, len(texts))
	for i, text := range texts {
		var err error
		if platforms[i], err = archive.ParsePlatform(text); err != nil {
			return nil, err
		}
	}
	return platforms, nil
}

// Export implements [control.Mover].
func (k *localKeeper) Export(ctx context.Context, req control.ExportRequest, to io.Writer) error {
	platforms, err := parsePlatforms(req.Platforms)
	if err != nil {
		return err
	}
	items := make([]archive.Item, len(req.Images))
	for i, image := range req.Images {
		if items[i].Reference, err = referrerstore.ParseReference(image); err != nil {
			return fmt.Errorf("%q: %w", image, err)
		}
		items[i].Identity = k.identity(items[i].Reference.Registry)
	}
	_, err = archive.Export(ctx, k.cache, items, archive.Tar(to), archive.ExportOptions{Platforms: platforms, Referrers: req.Referrers})
	return err
}
