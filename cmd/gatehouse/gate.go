package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"github.com/gatehouse-project/gatehouse/config"
	"github.com/gatehouse-project/gatehouse/httpserver"
	"github.com/gatehouse-project/gatehouse/httpserver/registry"
	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// gate is the serving process: a server, the configuration that is live in it,
// and the watch that exchanges one for the next.
type gate struct {
	path    string
	logger  *slog.Logger
	opts    gateOptions
	server  *httpserver.Server
	pulls   *registry.Registry // nil if none is configured
	holding *holding           // nil if no cache is configured
	// identities are of listeners that speak TLS, by what they are for.
	identities map[string]*httpserver.TLS
	metrics    gateMetrics
	live       atomic.Pointer[live]
	retired    sync.WaitGroup // of configurations whose requests are running out

	//nolint:containedctx // background work of every configuration lives as long as the gate
	ctx    context.Context
	cancel context.CancelFunc

	seen        config.Seen
	generation  uint64           // written by load only, which never runs twice at once
	mu          sync.Mutex       // guards the fields that follow it
	refusal     error            // of the last attempt to load, nil if it went live
	tlsRefusals map[string]error // of the last attempts to exchange certificates
	candidate   []string         // files that the refused configuration names
}

// gateOptions are for those who embed a gate.
type gateOptions struct {
	// wrap may observe what the executor decides.
	wrap func(httpserver.Decider) httpserver.Decider
	// watchInterval is how often files are looked at; 0 is config's default.
	watchInterval time.Duration
	// tracer receives spans; nil makes none.
	tracer trace.TracerProvider
}

type gateMetrics struct {
	registry    *prometheus.Registry
	reloads     *prometheus.CounterVec
	current     prometheus.Gauge
	certificate *prometheus.GaugeVec
}

// What identities are for, in metrics.
const (
	serverIdentity   = "server"
	registryIdentity = "registry"
)

// newGate loads the configuration and makes it live. The caller closes it.
func newGate(ctx context.Context, path string, logger *slog.Logger, opts gateOptions) (*gate, error) {
	g := &gate{path: path, logger: logger, opts: opts, metrics: newGateMetrics(), tlsRefusals: make(map[string]error)}
	cfg, err := g.read()
	if err != nil {
		return nil, err
	}
	if g.identities, err = loadIdentities(cfg); err != nil {
		return nil, err
	}
	g.server = httpserver.New(g.serverOptions(cfg))
	// Requests that are under way when ctx ends are still answered.
	g.ctx, g.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if g.holding, err = openHolding(g.ctx, cfg, logger, g.metrics.registry); err != nil {
		g.cancel()
		return nil, err
	}
	if cfg.Registry != nil {
		g.pulls = registry.New(g.ctx, g.holding.cache, registry.Options{
			Connections: cfg.Registry.Connections, Logger: logger, Registerer: g.metrics.registry,
		})
	}
	if err := g.load(cfg); err != nil {
		g.close()
		return nil, err
	}
	return g, nil
}

// read parses the file as it is now.
func (g *gate) read() (*config.Config, error) {
	data, err := g.seen.ReadFile(g.path, config.MaxBytes)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	return config.Parse(g.path, data)
}

// loadIdentities reads the certificates of listeners; none speaks plain HTTP.
func loadIdentities(cfg *config.Config) (map[string]*httpserver.TLS, error) {
	identities := make(map[string]*httpserver.TLS)
	wanted := map[string]*config.TLS{serverIdentity: cfg.Server.TLS}
	if cfg.Registry != nil {
		wanted[registryIdentity] = cfg.Registry.TLS
	}
	for use, t := range wanted {
		if t == nil {
			continue
		}
		material, err := httpserver.NewTLS(httpserver.TLSOptions{
			Certificate: cfg.Path(t.Certificate), Key: cfg.Path(t.Key), ClientCA: cfg.Path(t.ClientCA),
			ClientNames: t.ClientNames, InsecureAnyClient: t.InsecureAnyClient,
		})
		if err != nil {
			return nil, cfg.At(use+".tls", err)
		}
		identities[use] = material
	}
	return identities, nil
}

func (g *gate) serverOptions(cfg *config.Config) httpserver.Options {
	return httpserver.Options{
		TLS:         g.identities[serverIdentity],
		Connections: cfg.Server.Limits.Connections,
		Bodies:      referrerstore.NewBudget(cfg.Server.Limits.InFlightBytes / bodiesShare),
		Logger:      g.logger,
		Registerer:  g.metrics.registry,
		Gatherer:    prometheus.GathererFunc(g.gather),
		Detail:      g.detail,
		Status:      g.status,
	}
}

func newGateMetrics() gateMetrics {
	m := gateMetrics{
		registry: prometheus.NewRegistry(),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gatehouse_config_reloads_total", Help: "Attempts to load the configuration, by outcome.",
		}, []string{"outcome"}),
		current: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "gatehouse_config_current", Help: "1 if the configuration on disk is the one that is live, 0 if it was refused.",
		}),
		certificate: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "gatehouse_certificate_not_after_seconds", Help: "Earliest end of certificates in use, in Unix time, by their use: server, registry or trust.",
		}, []string{"use"}),
	}
	m.registry.MustRegister(m.reloads, m.current, m.certificate, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// gather shows the process's metrics and those of the live configuration,
// which begin anew with it.
func (g *gate) gather() ([]*dto.MetricFamily, error) {
	gatherers := prometheus.Gatherers{g.metrics.registry}
	if l := g.live.Load(); l != nil {
		gatherers = append(gatherers, l.metrics)
	}
	return gatherers.Gather()
}

func (g *gate) current() *live { return g.live.Load() }

// load builds a configuration and makes it live, or leaves all as it was. It
// never runs twice at once.
func (g *gate) load(cfg *config.Config) error {
	next, err := g.attempt(cfg)
	if err != nil {
		return err
	}
	g.metrics.reloads.WithLabelValues("live").Inc()
	g.told(func() { g.refusal, g.candidate = nil, nil })
	g.observeCertificates(next)
	for _, warning := range cfg.Warnings {
		g.logger.Warn("configuration", "warning", warning.Error())
	}
	g.generation++
	next.number = g.generation
	next.start(g.ctx)
	former := g.live.Swap(next)
	g.server.Swap(g.snapshot(next))
	if g.pulls != nil {
		g.pulls.Swap(next.pulls)
	}
	if former != nil {
		g.retire(former)
	}
	return nil
}

// attempt builds a configuration, and notes the files that it was built from:
// a refused one may be waiting for a file that is not there yet.
func (g *gate) attempt(cfg *config.Config) (*live, error) {
	former := g.live.Load()
	if former != nil {
		if err := needsRestart(former.config, cfg); err != nil {
			return nil, err
		}
	}
	files := cfg.Files()
	with := surroundings{logger: g.logger, tracer: g.opts.tracer, read: func(path string, limit int64) ([]byte, error) {
		files = append(files, path)
		return g.seen.ReadFile(path, limit)
	}}
	if g.holding != nil {
		with.content = g.holding.cache
	}
	next, err := build(g.ctx, cfg, with, former)
	if err != nil {
		g.told(func() { g.candidate = files })
	}
	return next, err
}

// told changes what readiness and metrics tell of the state on disk.
func (g *gate) told(change func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change()
	current := 1.0
	if g.disagreement() != nil {
		current = 0
	}
	g.metrics.current.Set(current)
}

// retire closes a former configuration once its last request has run out.
func (g *gate) retire(former *live) {
	g.retired.Go(func() {
		former.halt()
		timer := time.NewTimer(max(former.config.Server.VerifyTimeout, former.config.Server.MutateTimeout) + time.Second)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-g.ctx.Done():
		}
		former.close()
	})
}

func (g *gate) observeCertificates(l *live) {
	for use, t := range g.identities {
		g.metrics.certificate.WithLabelValues(use).Set(float64(t.NotAfter().Unix()))
	}
	if end := l.trust.NotAfter(); !end.IsZero() {
		g.metrics.certificate.WithLabelValues("trust").Set(float64(end.Unix()))
	}
}

// detail is what /readyz tells beside being ready.
func (g *gate) detail() map[string]any {
	detail := map[string]any{"config": g.path, "version": versionText()}
	if err := g.refused(); err != nil {
		detail["refused"] = err.Error()
	}
	if g.holding != nil {
		if stats := g.holding.cache.Stats(); stats.Problem != "" {
			detail["cache"] = stats.State + ": " + stats.Problem
		}
	}
	return detail
}

// refused says why what is on disk is not live, nil if it is.
func (g *gate) refused() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.disagreement()
}

// disagreement is called with mu held.
func (g *gate) disagreement() error {
	return errors.Join(g.refusal, g.tlsRefusals[serverIdentity], g.tlsRefusals[registryIdentity])
}

// listeners are those that run serves on; a nil one is not configured.
type listeners struct{ webhook, admin, pulls net.Listener }

// run serves and watches until ctx ends. Certificates of listeners are watched
// apart, so that their exchange does not take caches and connections along.
func (g *gate) run(ctx context.Context, on listeners) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return g.server.Serve(ctx, on.webhook, on.admin) })
	if on.pulls != nil {
		group.Go(func() error { return g.servePulls(ctx, on.pulls) })
	}
	if g.holding != nil {
		group.Go(func() error { return g.holding.serve(ctx) })
	}
	if g.pulls != nil {
		group.Go(func() error { g.preload(ctx); return nil })
	}
	group.Go(func() error {
		config.Watch(ctx, config.WatchOptions{Interval: g.opts.watchInterval, Files: g.files, Seen: &g.seen}, func(context.Context) { g.reload() })
		return nil
	})
	for use, t := range g.identities {
		group.Go(func() error {
			config.Watch(ctx, config.WatchOptions{Interval: g.opts.watchInterval, Files: t.Files}, func(context.Context) { g.reloadTLS(use, t) })
			return nil
		})
	}
	return group.Wait()
}

// files are those of which a change makes a new configuration.
func (g *gate) files() []string {
	files := append([]string{g.path}, g.live.Load().files()...)
	g.mu.Lock()
	files = append(files, g.candidate...)
	g.mu.Unlock()
	files = g.withoutTLS(files)
	slices.Sort(files)
	return slices.Compact(files)
}

func (g *gate) withoutTLS(files []string) []string {
	return slices.DeleteFunc(slices.Clone(files), func(file string) bool {
		for _, t := range g.identities {
			if slices.Contains(t.Files(), file) {
				return true
			}
		}
		return false
	})
}

// reload reads the configuration anew. If it cannot be read or is not valid,
// the former one stays, and log, metrics and readiness say why.
func (g *gate) reload() {
	cfg, err := g.read()
	if err == nil {
		err = g.load(cfg)
	}
	if err != nil {
		g.told(func() { g.refusal = err })
		g.metrics.reloads.WithLabelValues("refused").Inc()
		g.logger.Error("the former configuration stays", "error", err.Error())
		return
	}
	g.logger.Info("configuration live", "generation", g.generation)
}

// reloadTLS does the same for a listener's certificate and client authority.
func (g *gate) reloadTLS(use string, t *httpserver.TLS) {
	changed, err := t.Reload()
	g.told(func() { g.tlsRefusals[use] = err })
	if err != nil {
		g.logger.Error("the former certificate stays", "use", use, "error", err.Error())
		return
	}
	if changed {
		g.metrics.certificate.WithLabelValues(use).Set(float64(t.NotAfter().Unix()))
		g.logger.Info("certificate exchanged", "use", use, "not_after", t.NotAfter())
	}
}

// close ends all background work.
func (g *gate) close() {
	g.cancel()
	g.retired.Wait()
	if g.pulls != nil {
		g.pulls.Close()
	}
	if l := g.live.Load(); l != nil {
		l.close()
	}
	g.holding.close()
}
