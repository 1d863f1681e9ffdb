package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/sync/errgroup"

	"github.com/gatehouse-project/gatehouse/config"
	"github.com/gatehouse-project/gatehouse/httpserver/registry"
	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/archive"
)

const (
	// preloadsAtOnce are the images of a list that are pulled at once.
	preloadsAtOnce = 2
	// preloadTries is how often an image is tried whose registry does not answer.
	preloadTries = 3
	// preloadPause is before the second try, and doubled before each after it;
	// longestPreloadPause bounds what a registry may ask for.
	preloadPause        = 2 * time.Second
	longestPreloadPause = time.Minute
)

// Outcomes of an image, in metrics.
const (
	preloadLoaded = "loaded"
	preloadDenied = "denied"
	preloadFailed = "failed"
)

// preloader fills the cache at start: from lists of images by way of the registry,
// as if a client pulled them, and from archives. It is used once; what changes in
// its files later is for the next start.
type preloader struct {
	warm      func(ctx context.Context, ref referrerstore.Reference, chosen func(ocispec.Platform) bool) (registry.Warmed, error)
	into      archive.Into
	identity  func(host string) string
	platforms []archive.Platform
	logger    *slog.Logger
	images    *prometheus.GaugeVec
	pause     time.Duration

	mu     sync.Mutex // guards the fields that follow it
	loaded int
	failed int
	bytes  int64
}

// preload brings in what the configuration says, if it says anything. Nothing that
// goes wrong ends the process: it is in the log, and counted.
func (g *gate) preload(ctx context.Context) {
	cfg := g.current().config
	if cfg.Registry.Preload == nil {
		return
	}
	platforms, err := parsePlatforms(cfg.Registry.Preload.Platforms)
	if err != nil { // validated when the configuration was read, but for their length
		g.logger.Error("nothing is preloaded", "error", cfg.At("registry.preload.platforms", err).Error())
		return
	}
	p := &preloader{
		warm: g.pulls.Warm, into: g.holding.cache, identity: g.identity, platforms: platforms,
		logger: g.logger, images: newPreloadGauge(g.metrics.registry), pause: preloadPause,
	}
	files := make([]string, len(cfg.Registry.Preload.Files))
	for i, file := range cfg.Registry.Preload.Files {
		files[i] = cfg.Path(file)
	}
	p.run(ctx, files)
}

func newPreloadGauge(registerer prometheus.Registerer) *prometheus.GaugeVec {
	images := promauto.With(registerer).NewGaugeVec(prometheus.GaugeOpts{
		Name: "gatehouse_preload_images",
		Help: "Images of registry.preload that were tried since the start, by outcome: loaded, denied by the policy, failed. A file that could not be read, and a line that names no image, count as one that failed.",
	}, []string{"outcome"})
	for _, outcome := range []string{preloadLoaded, preloadDenied, preloadFailed} {
		images.WithLabelValues(outcome)
	}
	return images
}

// run takes one file after the other, and says at the end what came of it.
func (p *preloader) run(ctx context.Context, files []string) {
	begun := time.Now()
	for _, file := range files {
		if ctx.Err() != nil {
			break
		}
		if err := p.file(ctx, file); err != nil {
			p.failure(ctx, preloadFailed, err, "file", file)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.logger.Info("preloaded", "images", p.loaded, "bytes", p.bytes, "failures", p.failed, "complete", ctx.Err() == nil, "took", time.Since(begun))
}

// file takes a list of images, or an archive.
func (p *preloader) file(ctx context.Context, file string) error {
	is, err := isArchive(file)
	switch {
	case err != nil:
		return err
	case is:
		return p.archive(ctx, file)
	default:
		return p.list(ctx, file)
	}
}

// archive loads all images of an archive. The policy is not asked about them before
// somebody pulls them.
func (p *preloader) archive(ctx context.Context, file string) error {
	opened, err := archive.Open(ctx, file, archive.OpenOptions{})
	if err != nil {
		return err
	}
	defer func() { _ = opened.Close() }() // it was only read
	loaded, err := archive.Load(ctx, opened, p.into, archive.Options{Platforms: p.platforms, Identity: p.identity})
	if errors.Is(err, archive.ErrUnnamed) {
		err = fmt.Errorf("%w: load it with gatehouse cache load --name HOST/REPOSITORY:TAG", err)
	}
	if err != nil {
		return err
	}
	p.success(len(loaded.Images), loaded.Bytes)
	return nil
}

// list pulls the images of a list.
func (p *preloader) list(ctx context.Context, file string) error {
	data, err := config.ReadFile(file, maxPreloadBytes)
	if err != nil {
		return err
	}
	lines, err := parsePreloads(data)
	if err != nil {
		return err
	}
	var group errgroup.Group
	group.SetLimit(preloadsAtOnce)
	for _, line := range lines {
		group.Go(func() error {
			p.image(ctx, file, line)
			return nil
		})
	}
	return group.Wait()
}

// image pulls one image, which may take several tries.
func (p *preloader) image(ctx context.Context, file string, line preloadLine) {
	if ctx.Err() != nil {
		return
	}
	outcome, warmed, err := preloadFailed, registry.Warmed{}, line.err
	if err == nil {
		warmed, err = p.tries(ctx, line.ref)
	}
	if errors.Is(err, registry.ErrNotAllowed) {
		outcome = preloadDenied
	}
	if err != nil {
		p.failure(ctx, outcome, err, "file", file, "line", line.number)
		return
	}
	p.success(1, warmed.Bytes)
}

func (p *preloader) tries(ctx context.Context, ref referrerstore.Reference) (warmed registry.Warmed, err error) {
	pause := p.pause
	for try := 1; ; try++ {
		warmed, err = p.warm(ctx, ref, p.chosen())
		if err == nil || try == preloadTries || !isPassing(err) {
			return warmed, err
		}
		select {
		case <-time.After(min(max(pause, referrerstore.RetryAfter(err)), longestPreloadPause)):
		case <-ctx.Done():
			return warmed, context.Cause(ctx)
		}
		pause *= 2
	}
}

// isPassing says whether another try may help.
func isPassing(err error) bool {
	for _, passing := range []error{
		referrerstore.ErrUnavailable, referrerstore.ErrRateLimited, referrerstore.ErrBrokenOff, referrerstore.ErrBusy, context.DeadlineExceeded,
	} {
		if errors.Is(err, passing) {
			return true
		}
	}
	return false
}

// chosen chooses by the platforms, nil if there are none.
func (p *preloader) chosen() func(ocispec.Platform) bool {
	if len(p.platforms) == 0 {
		return nil
	}
	return func(of ocispec.Platform) bool {
		return slices.ContainsFunc(p.platforms, func(platform archive.Platform) bool { return platform.Match(of) })
	}
}

func (p *preloader) success(images int, bytes int64) {
	p.images.WithLabelValues(preloadLoaded).Add(float64(images))
	p.mu.Lock()
	defer p.mu.Unlock()
	p.loaded += images
	p.bytes += bytes
}

// failure tells what did not come, unless that is because the process ends.
func (p *preloader) failure(ctx context.Context, outcome string, err error, where ...any) {
	if ctx.Err() != nil {
		return
	}
	p.images.WithLabelValues(outcome).Inc()
	p.logger.Error("not preloaded", append(where, "error", err.Error())...)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failed++
}

// checkPreload says which files of registry.preload are not there.
func checkPreload(cfg *config.Config) error {
	if cfg.Registry == nil || cfg.Registry.Preload == nil {
		return nil
	}
	_, err := parsePlatforms(cfg.Registry.Preload.Platforms)
	errs := []error{cfg.At("registry.preload.platforms", err)}
	for i, file := range cfg.Registry.Preload.Files {
		info, err := os.Stat(cfg.Path(file))
		if err == nil && !info.IsDir() && !info.Mode().IsRegular() {
			err = fmt.Errorf("%s: neither a file nor a folder", file)
		}
		errs = append(errs, cfg.At(fmt.Sprintf("registry.preload.files[%d]", i), err))
	}
	return errors.Join(errs...)
}
