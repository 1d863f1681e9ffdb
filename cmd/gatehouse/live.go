package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gatehouse-project/gatehouse/config"
	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/executor/policy"
	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/oras"
	"github.com/gatehouse-project/gatehouse/verifier"
	"github.com/gatehouse-project/gatehouse/verifier/trust"
)

// What server.limits.inFlightBytes is divided into, so that all that is held in
// memory on behalf of requests stays below it: a quarter for the requests that
// are being answered, what stores and verifiers keep in caches, and the rest
// for bytes on their way from registries.
const (
	bodiesShare = 4
	// leastRegistryBytes is what must be left for registries: two signatures
	// of the largest size at once.
	leastRegistryBytes = 8 << 20
)

// cacher is a component that keeps bytes beyond a request.
type cacher interface {
	// CacheBytes is the bound on what it keeps.
	CacheBytes() int64
}

func registryBudget(cfg *config.Config, components ...any) (*referrerstore.Budget, error) {
	total := cfg.Server.Limits.InFlightBytes
	rest := total - total/bodiesShare
	for _, c := range components {
		if keeps, ok := c.(cacher); ok {
			rest -= keeps.CacheBytes()
		}
	}
	rest -= int64(len(cfg.Stores)) * oras.TokenCacheBytes
	if rest < leastRegistryBytes {
		err := fmt.Errorf("caches leave %d MiB of it for bytes from registries, at least %d are needed: raise it, or lower revocation.cacheBytes", rest>>20, leastRegistryBytes>>20)
		return nil, cfg.At("server.limits.inFlightBytes", err)
	}
	return referrerstore.NewBudget(rest), nil
}

// live is one configuration at work. It is immutable until Close.
type live struct {
	config   *config.Config
	executor *executor.Executor
	stores   []store
	trust    *trust.Snapshot
	metrics  *prometheus.Registry
}

// build makes all that a configuration names, or nothing: the errors name file
// and line where they can. The stores' background work ends with ctx.
func build(ctx context.Context, cfg *config.Config, logger *slog.Logger) (*live, error) {
	l := &live{config: cfg, metrics: prometheus.NewRegistry()}
	snapshot, err := trust.Load(cfg.Dir(), certificates(cfg))
	if err != nil {
		return nil, cfg.At("trust.certificates", err)
	}
	l.trust = snapshot
	with := surroundings{dir: cfg.Dir(), trust: snapshot, logger: logger, registerer: l.metrics}
	verifiers, verifierErr := buildVerifiers(ctx, cfg, with)
	budget, budgetErr := registryBudget(cfg, anys(verifiers)...)
	with.budget = budget
	stores, storeErr := l.buildStores(ctx, cfg, with)
	rules, policyErr := buildPolicy(cfg)
	if err := errors.Join(budgetErr, storeErr, verifierErr, policyErr, agree(cfg, l.stores)); err != nil {
		l.close()
		return nil, err
	}
	l.executor = executor.New(stores, verifiers, rules, executor.Options{
		Budget:     budget,
		Logger:     logger,
		Registerer: l.metrics,
	})
	return l, nil
}

func certificates(cfg *config.Config) []trust.Certificates {
	entries := make([]trust.Certificates, len(cfg.Trust.Certificates))
	for i, c := range cfg.Trust.Certificates {
		entries[i] = trust.Certificates{Name: c.Name, Type: string(c.Type), Files: c.Files, Inline: c.Inline}
	}
	return entries
}

func (l *live) buildStores(ctx context.Context, cfg *config.Config, with surroundings) ([]referrerstore.Store, error) {
	var roles []referrerstore.Store
	var errs []error
	for _, c := range cfg.Stores {
		s, err := buildComponent(ctx, storeKinds(), c, with)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		l.stores, roles = append(l.stores, s), append(roles, s)
	}
	return roles, errors.Join(errs...)
}

func buildVerifiers(ctx context.Context, cfg *config.Config, with surroundings) ([]verifier.Verifier, error) {
	var verifiers []verifier.Verifier
	var errs []error
	for _, c := range cfg.Verifiers {
		v, err := buildComponent(ctx, verifierKinds(), c, with)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		verifiers = append(verifiers, v)
	}
	return verifiers, errors.Join(errs...)
}

// agree refuses two stores that would talk to one host over different schemes.
func agree(cfg *config.Config, stores []store) error {
	var errs []error
	for _, a := range stores {
		for _, host := range a.PlainHosts() {
			for i, b := range stores {
				if a != b && b.Serves(host) && b.Scheme(host) != a.Scheme(host) {
					errs = append(errs, cfg.At(fmt.Sprintf("stores[%d].plainHTTP", i),
						fmt.Errorf("stores %q and %q both serve %s and disagree on its scheme: list it in plainHTTP of both or of none", a.Name(), b.Name(), host)))
				}
			}
		}
	}
	return errors.Join(errs...)
}

// buildPolicy compiles the rules; what is wrong with one is told at its line.
func buildPolicy(cfg *config.Config) (*policy.Policy, error) {
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
	if r.Verifier != "" && !r.Every && r.AtLeast != 0 {
		atLeast := r.AtLeast
		n.AtLeast = &atLeast
	}
	for _, child := range r.AllOf {
		n.AllOf = append(n.AllOf, node(child))
	}
	for _, child := range r.AnyOf {
		n.AnyOf = append(n.AnyOf, node(child))
	}
	return n
}

// files are all that the configuration was made from.
func (l *live) files() []string {
	files := append(l.config.Files(), l.trust.Files()...)
	for _, s := range l.stores {
		files = append(files, s.Files()...)
	}
	slices.Sort(files)
	return slices.Compact(files)
}

// close ends what the stores started; requests still under way get no verdict.
func (l *live) close() {
	for _, s := range l.stores {
		s.Close()
	}
}

func anys[T any](of []T) []any {
	out := make([]any, len(of))
	for i, v := range of {
		out[i] = v
	}
	return out
}

func names[T any](kinds map[string]T) []string {
	return slices.Sorted(maps.Keys(kinds))
}
