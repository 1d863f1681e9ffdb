package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gatehouse-project/gatehouse/config"
	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/executor/canary"
	"github.com/gatehouse-project/gatehouse/executor/policy"
	"github.com/gatehouse-project/gatehouse/executor/proofs"
	"github.com/gatehouse-project/gatehouse/httpserver/registry"
	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/governor"
	"github.com/gatehouse-project/gatehouse/verifier"
	"github.com/gatehouse-project/gatehouse/verifier/trust"
)

// What server.limits.inFlightBytes is divided into, so that all that is held in
// memory on behalf of requests stays below it: a quarter for the requests that
// are being answered, what stores and verifiers hold, and the rest for bytes on
// their way from registries.
const (
	bodiesShare = 4
	// leastRegistryBytes is what must be left for registries: two signatures
	// of the largest size at once.
	leastRegistryBytes = 8 << 20
	// hostShare is the part of it that one registry host may take, at least
	// leastRegistryBytes.
	hostShare = 4
)

// What proofs.maxBytes is divided into: proofs as bytes take the rest.
const (
	replicaShare = 4 // ready to be read
	answersShare = 4 // as they are told
)

// live is one configuration at work. It is immutable until close.
type live struct {
	config   *config.Config
	name     string // of the configuration, by its content
	since    time.Time
	number   uint64 // of the configurations that went live; set before it does
	executor *executor.Executor
	proofs   *proofs.Memory
	stores   []store
	trust    *trust.Snapshot
	budget   *referrerstore.Budget // bytes from registries
	governor *governor.Governor
	metrics  *prometheus.Registry
	pulls    *registry.Snapshot // nil if nothing is pulled through
	canary   *canary.Canary     // nil if none is configured
	ends     []func()

	running sync.WaitGroup // of what start began
	stop    context.CancelFunc
}

// readFile reads a file whole, of at most limit bytes.
type readFile = func(path string, limit int64) ([]byte, error)

// build makes all that a configuration names, or nothing: the errors name file
// and line where they can. All files but those of the server are read through
// with.read; of with it takes logger and tracer too. The stores' background work
// ends with ctx. A former configuration, which may be nil,
// shares its budget if that is of one size.
func build(ctx context.Context, cfg *config.Config, with surroundings, former *live) (*live, error) {
	generation := newGeneration(cfg, with.read)
	snapshot, err := trust.Load(cfg.Dir(), certificates(cfg), generation.read)
	if err != nil {
		return nil, cfg.At("trust.certificates", err)
	}
	stores, storeErr := readComponents(storeKinds(), cfg.Stores)
	verifiers, verifierErr := readComponents(verifierKinds(), cfg.Verifiers)
	if err := errors.Join(storeErr, verifierErr); err != nil {
		return nil, err
	}
	budget, err := registryBudget(cfg, held(stores)+held(verifiers), former)
	if err != nil {
		return nil, err
	}
	l := &live{config: cfg, since: time.Now(), trust: snapshot, budget: budget, proofs: proofStore(cfg, former), metrics: prometheus.NewRegistry()}
	if l.governor, err = l.newGovernor(); err != nil {
		return nil, cfg.At("governor", err)
	}
	with.dir, with.trust, with.budget, with.governor = cfg.Dir(), snapshot, budget, l.governor
	with.registerer, with.read = l.metrics, generation.read
	with.atEnd = func(end func()) { l.ends = append(l.ends, end) }
	if err := l.assemble(ctx, stores, verifiers, with, generation); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// assemble builds the components and puts the executor on top.
func (l *live) assemble(ctx context.Context, stores []entry[store], verifiers []entry[verifier.Verifier], with surroundings, generation *generation) error {
	var storeErr error
	l.stores, storeErr = buildComponents(ctx, stores, with)
	judges, verifierErr := buildComponents(ctx, verifiers, with)
	rules, policyErr := buildPolicy(l.config)
	if err := errors.Join(storeErr, verifierErr, policyErr, agree(l.config, l.stores)); err != nil {
		return err
	}
	l.stores = remember(l.stores, l.config.Stores, with.content)
	roles := make([]referrerstore.Store, len(l.stores))
	for i, s := range l.stores {
		roles[i] = s
	}
	l.name = generation.String()
	opts := l.options(l.name)
	opts.Logger, opts.Registerer, opts.Tracer = with.logger, with.registerer, with.tracer
	if opts.Down, storeErr = downTerms(l.config); storeErr != nil {
		return storeErr
	}
	l.executor = executor.New(ctx, roles, judges, rules, opts)
	var err error
	if l.canary, err = l.newCanary(with.logger); err != nil {
		return err
	}
	l.pulls, err = l.pullThrough(with.read)
	return err
}

// newGovernor makes the one that all stores share.
func (l *live) newGovernor() (*governor.Governor, error) {
	host, pulled := l.config.Governor.PerHost, l.isUpstream()
	return governor.New(governor.Options{
		StartInFlight: host.StartInFlight,
		MaxInFlight:   host.MaxInFlight,
		Rate:          float64(host.Rate),
		MaxRetryAfter: host.MaxRetryAfter,
		Named: func(name string) bool {
			return pulled(name) ||
				slices.ContainsFunc(l.stores, func(s store) bool { return s.Serves(name) && s.Names(name) })
		},
		Registerer: l.metrics,
	})
}

// isUpstream says of canonical hosts whether something is pulled through from them.
func (l *live) isUpstream() func(host string) bool {
	var upstreams []string
	if r := l.config.Registry; r != nil {
		for _, text := range r.Upstreams {
			upstream, _ := referrerstore.CanonicalHost(text) // pullThrough tells what is wrong with it
			upstreams = append(upstreams, upstream)
		}
	}
	return func(host string) bool { return slices.Contains(upstreams, host) }
}

// options are the executor's as far as the configuration says.
func (l *live) options(generation string) executor.Options {
	kept, background := l.config.Proofs, l.config.Governor.Background
	return executor.Options{
		Budget:       l.budget,
		Generation:   generation,
		Proofs:       executor.ProofTerms{TTL: kept.TTL, DeniedTTL: kept.DeniedTTL, AbsentTTL: kept.AbsentTTL, ListTTL: kept.ListTTL},
		ProofStore:   l.proofs,
		ReplicaBytes: kept.MaxBytes / replicaShare,
		TagTTL:       l.config.Tags.TTL,
		Named:        l.isUpstream(),
		HeldAfter:    l.config.Server.VerifyTimeout / 2,
		Background:   executor.Background{MaxDuration: background.MaxDuration, MaxFlights: background.MaxFlights},
	}
}

// downTerms say for a host what becomes of its images while it is down: by the
// first line of the configuration that matches.
func downTerms(cfg *config.Config) (func(host string) executor.DownTerms, error) {
	if cfg.Cache == nil || len(cfg.Cache.OnRegistryDown) == 0 {
		return nil, nil //nolint:nilnil // none is no error
	}
	type line struct {
		hosts []referrerstore.HostPattern
		terms executor.DownTerms
	}
	var lines []line
	var errs []error
	for i, down := range cfg.Cache.OnRegistryDown {
		next := line{terms: executor.DownTerms{
			UseHeld: down.UseHeld, Tags: down.Tags, AcceptStaleRevocation: down.WhenRevocationStale == config.RevocationStaleAccept,
		}}
		for j, text := range down.Registries {
			pattern, err := referrerstore.ParseHostPattern(text)
			errs = append(errs, cfg.At(fmt.Sprintf("cache.onRegistryDown[%d].registries[%d]", i, j), err))
			next.hosts = append(next.hosts, pattern)
		}
		lines = append(lines, next)
	}
	return func(host string) executor.DownTerms {
		for _, l := range lines {
			if slices.ContainsFunc(l.hosts, func(p referrerstore.HostPattern) bool { return p.Match(host) }) {
				return l.terms
			}
		}
		return executor.DownTerms{}
	}, errors.Join(errs...)
}

// proofStore is where proofs are kept: that of the former configuration, if it
// is of the same size, because its keys tell generations apart.
func proofStore(cfg *config.Config, former *live) *proofs.Memory {
	if former != nil && former.config.Proofs.MaxBytes == cfg.Proofs.MaxBytes {
		return former.proofs
	}
	size := cfg.Proofs.MaxBytes
	return proofs.NewMemory(size - size/replicaShare - size/answersShare)
}

// generation names a configuration by all that it was made of: the file, and
// every file that it names. Another process with the same files has the same.
type generation struct {
	file readFile
	hash hash.Hash
}

func newGeneration(cfg *config.Config, read readFile) *generation {
	g := &generation{file: read, hash: sha256.New()}
	g.hash.Write(cfg.Sum[:])
	return g
}

// read reads a file and makes it part of the name.
func (g *generation) read(path string, limit int64) ([]byte, error) {
	data, err := g.file(path, limit)
	sum := sha256.Sum256(data)
	fmt.Fprintf(g.hash, "%d %s %x %t\n", len(path), path, sum, err == nil)
	return data, err
}

func (g *generation) String() string { return hex.EncodeToString(g.hash.Sum(nil)) }

func held[T any](entries []entry[T]) int64 {
	var sum int64
	for _, e := range entries {
		sum += e.held
	}
	return sum
}

func registryBudget(cfg *config.Config, held int64, former *live) (*referrerstore.Budget, error) {
	total := cfg.Server.Limits.InFlightBytes
	rest := total - total/bodiesShare - held
	if rest < leastRegistryBytes {
		err := fmt.Errorf("of its %d MiB a quarter is for requests and %d MiB are for caches, which leaves less than %d MiB for bytes from registries: raise it, or lower revocation.cacheBytes",
			total>>20, held>>20, leastRegistryBytes>>20)
		return nil, cfg.At("server.limits.inFlightBytes", err)
	}
	if former != nil && former.budget.Size() == rest {
		return former.budget, nil
	}
	return referrerstore.NewSharedBudget(rest, max(rest/hostShare, leastRegistryBytes)), nil
}

func certificates(cfg *config.Config) []trust.Certificates {
	entries := make([]trust.Certificates, len(cfg.Trust.Certificates))
	for i, c := range cfg.Trust.Certificates {
		entries[i] = trust.Certificates{Name: c.Name, Type: string(c.Type), Files: c.Files, Inline: c.Inline}
	}
	return entries
}

// agree refuses two stores that would talk to one host over different schemes.
func agree(cfg *config.Config, stores []store) error {
	var errs []error
	for _, a := range stores {
		for _, host := range a.PlainHosts() {
			for _, b := range stores {
				if a != b && b.Serves(host) && b.Scheme(host) != a.Scheme(host) {
					at := slices.IndexFunc(cfg.Stores, func(c config.Component) bool { return c.Name == b.Name() })
					errs = append(errs, cfg.At(fmt.Sprintf("stores[%d].plainHTTP", at),
						fmt.Errorf("stores %q and %q both serve %s and disagree on its scheme: list it in plainHTTP of both or of none", a.Name(), b.Name(), host)))
				}
			}
		}
	}
	return errors.Join(errs...)
}

// buildPolicy compiles the rules; what is wrong with one is told at its line.
func buildPolicy(cfg *config.Config) (executor.Policy, error) {
	if !cfg.Decides() {
		return noPolicy{}, nil
	}
	known := make([]string, len(cfg.Verifiers))
	for i, v := range cfg.Verifiers {
		known[i] = v.Name
	}
	rules := make([]policy.Rule, len(cfg.Policy.Rules))
	for i, r := range cfg.Policy.Rules {
		rules[i] = policy.Rule{Name: r.Name, Images: r.Images, Namespaces: r.Namespaces, EvaluateAll: r.Evaluate == config.EvaluateAll}
		if r.Require != nil {
			n := node(*r.Require)
			rules[i].Require = &n
		}
		if r.Allow != nil {
			rules[i].Allow = &executor.Exemption{Reason: r.Allow.Reason, Until: r.Allow.Until.Time}
		}
	}
	p, err := policy.New(rules, known)
	if err != nil {
		return nil, locateRules(cfg, err)
	}
	return p, nil
}

// noPolicy is that of a process which only serves pulls: it allows nothing.
type noPolicy struct{}

func (noPolicy) Match(referrerstore.Reference, string) (executor.Rule, bool, error) {
	return executor.Rule{}, false, nil
}

func locateRules(cfg *config.Config, err error) error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return cfg.At("policy.rules", err)
	}
	var errs []error
	for _, err := range joined.Unwrap() {
		if of, ok := errors.AsType[*policy.RuleError](err); ok {
			err = cfg.Policy.Rules[of.Index].Pos.At(of.Err)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func node(r config.Require) policy.Node {
	n := policy.Node{Verifier: r.Verifier, Every: r.Every}
	if r.AtLeast != 0 {
		n.AtLeast = &r.AtLeast
	}
	for _, child := range r.AllOf {
		n.AllOf = append(n.AllOf, node(child))
	}
	for _, child := range r.AnyOf {
		n.AnyOf = append(n.AnyOf, node(child))
	}
	return n
}

// files are all that the configuration was made from, some more than once.
func (l *live) files() []string {
	files := append(l.config.Files(), l.trust.Files()...)
	for _, s := range l.stores {
		files = append(files, s.Files()...)
	}
	return files
}

// start begins what goes on beside requests, until halt or close.
func (l *live) start(ctx context.Context) {
	ctx, l.stop = context.WithCancel(ctx)
	l.running.Go(func() { l.executor.Run(ctx) })
	if l.canary != nil {
		l.running.Go(func() { l.canary.Run(ctx) })
	}
}

// halt ends what start began; requests are still answered.
func (l *live) halt() {
	if l.stop != nil {
		l.stop()
	}
	l.running.Wait()
}

// close ends all that is under way; requests that still wait get no verdict.
func (l *live) close() {
	l.halt()
	if l.executor != nil {
		l.executor.Close()
	}
	for _, s := range l.stores {
		s.Close()
	}
	l.governor.Close()
	for _, end := range l.ends {
		end()
	}
}
