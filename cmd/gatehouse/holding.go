package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gatehouse-project/gatehouse/config"
	"github.com/gatehouse-project/gatehouse/executor/policy"
	"github.com/gatehouse-project/gatehouse/httpserver/control"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
	"github.com/gatehouse-project/gatehouse/referrerstore/disk"
)

// holding is the content cache of the process, and those who let people reach
// it. It outlives configurations: its folder is locked once.
type holding struct {
	cache  *cache.Cache
	config *config.Cache
	logger *slog.Logger

	listeners []net.Listener
	handlers  []http.Handler
}

// openHolding opens the cache that the configuration names, nil if it names none.
func openHolding(ctx context.Context, cfg *config.Config, logger *slog.Logger, registerer prometheus.Registerer) (*holding, error) {
	if cfg.Cache == nil {
		return nil, nil //nolint:nilnil // none is no error
	}
	opts, err := cacheOptions(cfg)
	if err != nil {
		return nil, err
	}
	opts.Logger, opts.Registerer = logger, registerer
	directory := cfg.Path(cfg.Cache.Directory)
	folder, err := disk.Open(directory)
	if err != nil {
		return nil, cfg.At("cache.directory", err)
	}
	held, err := cache.Open(ctx, folder, opts)
	if errors.Is(err, disk.ErrLocked) {
		err = fmt.Errorf("another process holds %s: one writes to a folder, give each its own", directory)
	}
	if err != nil {
		return nil, cfg.At("cache.directory", err)
	}
	return &holding{cache: held, config: cfg.Cache, logger: logger}, nil
}

// cacheOptions are those that the configuration says, zero if it has no cache.
func cacheOptions(cfg *config.Config) (cache.Options, error) {
	c := cfg.Cache
	if c == nil {
		return cache.Options{}, nil
	}
	keep := make([]policy.Pattern, len(c.Keep))
	var errs []error
	for i, text := range c.Keep {
		var err error
		keep[i], err = policy.ParsePattern(text)
		errs = append(errs, cfg.At(fmt.Sprintf("cache.keep[%d]", i), err))
	}
	opts := cache.Options{
		MaxBytes: c.MaxBytes, MinFreeBytes: c.MinFreeBytes, MaxAge: c.MaxAge,
		Lease: c.Lease, ReplicaBytes: c.ReplicaBytes,
		Keep: func(registry, repository string) bool { return matchesAny(keep, registry, repository) },
	}
	if c.Durability == config.DurabilityFast {
		opts.Durability = cache.Fast
	}
	return opts, errors.Join(errs...)
}

// listen opens the ways to the cache for people: the socket, and the loopback
// address if there is one. The identity is that of [localKeeper].
func (h *holding) listen(ctx context.Context, cfg *config.Config, identity func(host string) string) error {
	socket, err := control.ListenSocket(ctx, cfg.ControlSocket())
	if err != nil {
		return cfg.At("cache.control.socket", err)
	}
	keeper := &localKeeper{cache: h.cache, spool: spoolOf(cfg.Path(cfg.Cache.Directory)), identity: identity}
	h.listeners = append(h.listeners, socket)
	h.handlers = append(h.handlers, control.Handler(keeper, h.logger))
	if h.config.Control.Address == "" {
		return nil
	}
	token := func() string {
		token, err := readToken(cfg.Path(h.config.Control.TokenFile))
		if err != nil {
			h.logger.Error("nobody is let in at cache.control.address", "error", err.Error())
		}
		return token
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", h.config.Control.Address)
	if err != nil {
		return cfg.At("cache.control.address", err)
	}
	h.listeners = append(h.listeners, listener)
	h.handlers = append(h.handlers, control.TokenHandler(keeper, token, h.logger))
	return nil
}

// serve lets people in until ctx ends.
func (h *holding) serve(ctx context.Context) error {
	errs := make([]error, len(h.listeners))
	var group sync.WaitGroup
	for i, listener := range h.listeners {
		group.Go(func() { errs[i] = control.Serve(ctx, listener, h.handlers[i]) })
	}
	group.Wait()
	return errors.Join(errs...)
}

// close brings to disk what is not there yet; nil has nothing.
func (h *holding) close() {
	if h == nil {
		return
	}
	for _, listener := range h.listeners {
		_ = listener.Close() // closed already if it served
	}
	if err := h.cache.Close(); err != nil {
		h.logger.Error("the cache did not end cleanly", "error", err.Error())
	}
}
