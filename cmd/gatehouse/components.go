package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/gatehouse-project/gatehouse/config"
	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
	"github.com/gatehouse-project/gatehouse/referrerstore/credential"
	"github.com/gatehouse-project/gatehouse/referrerstore/credential/aws"
	"github.com/gatehouse-project/gatehouse/referrerstore/credential/azure"
	"github.com/gatehouse-project/gatehouse/referrerstore/credential/dockerconfig"
	"github.com/gatehouse-project/gatehouse/referrerstore/credential/google"
	"github.com/gatehouse-project/gatehouse/referrerstore/credential/kubernetes"
	"github.com/gatehouse-project/gatehouse/referrerstore/credential/static"
	"github.com/gatehouse-project/gatehouse/referrerstore/governor"
	"github.com/gatehouse-project/gatehouse/referrerstore/guard"
	"github.com/gatehouse-project/gatehouse/referrerstore/oras"
	"github.com/gatehouse-project/gatehouse/verifier"
	"github.com/gatehouse-project/gatehouse/verifier/notation"
	"github.com/gatehouse-project/gatehouse/verifier/trust"
)

// storeKinds are the types that an entry of stores may have: one line each.
func storeKinds() map[string]kind[store] {
	return map[string]kind[store]{
		"oras": newKind(newORAS),
	}
}

// verifierKinds are the types that an entry of verifiers may have.
func verifierKinds() map[string]kind[verifier.Verifier] {
	return map[string]kind[verifier.Verifier]{
		notation.Type: newKind(newNotation),
	}
}

// credentialKinds are the types that an entry of a store's credentials may
// have: one line each.
func credentialKinds(env credential.Environment) map[string]credential.Kind {
	return map[string]credential.Kind{
		dockerconfig.Type: dockerconfig.Kind(),
		static.Type:       static.Kind(),
		kubernetes.Type:   kubernetes.Kind(kubernetes.InCluster(env.Getenv)),
		azure.Type:        azure.Kind(env),
		aws.Type:          aws.Kind(env),
		google.Type:       google.Kind(env),
	}
}

// hosts are what a store's options say of registry hosts.
type hosts interface {
	// Scheme is http or https, for a canonical host.
	Scheme(host string) string
	// Names reports whether the configuration names the host.
	Names(host string) bool
	// PlainHosts are the hosts for which Scheme is http.
	PlainHosts() []string
}

// store is what the process needs of a store beside its role.
type store interface {
	referrerstore.Store
	hosts
	// Files are those that were read, to be watched.
	Files() []string
	// Close ends what the store started.
	Close()
}

// surroundings are what components are given besides their options.
type surroundings struct {
	dir        string
	trust      *trust.Snapshot
	budget     *referrerstore.Budget // bytes from registries
	governor   *governor.Governor    // requests to registries
	logger     *slog.Logger
	tracer     trace.TracerProvider // nil makes no spans
	content    *cache.Cache         // nil keeps no evidence
	registerer prometheus.Registerer
	// read reads a file that a component names; the process notes which.
	read func(path string, limit int64) ([]byte, error)
	// atEnd notes what is to be done when the configuration is retired.
	atEnd func(func())
}

// kind builds components of one type from their entries in the configuration.
type kind[T any] struct {
	options any // zero options, for the schema
	read    func(config.Component) (entry[T], error)
}

// entry is a component whose options were read.
type entry[T any] struct {
	// held is what it keeps in memory beside the budget it is given.
	held  int64
	build func(context.Context, surroundings) (T, error)
}

// holder is implemented by options of components that keep or read bytes
// beside the budget.
type holder interface{ HeldBytes() int64 }

func newKind[O, T any](build func(context.Context, string, O, surroundings) (T, error)) kind[T] {
	var zero O
	return kind[T]{options: zero, read: func(c config.Component) (entry[T], error) {
		var options O
		if err := c.Decode(&options); err != nil {
			return entry[T]{}, err
		}
		e := entry[T]{build: func(ctx context.Context, with surroundings) (T, error) {
			built, err := build(ctx, c.Name, options, with)
			return built, c.Pos.At(err)
		}}
		if holds, ok := any(options).(holder); ok {
			e.held = holds.HeldBytes()
		}
		return e, nil
	}}
}

// readComponents decodes the options of all entries, each by its type.
func readComponents[T any](kinds map[string]kind[T], components []config.Component) ([]entry[T], error) {
	entries := make([]entry[T], len(components))
	var errs []error
	for i, c := range components {
		k, ok := kinds[c.Type]
		if !ok {
			errs = append(errs, c.Pos.At(fmt.Errorf("type %q is none of %v", c.Type, names(kinds))))
			continue
		}
		e, err := k.read(c)
		entries[i] = e
		errs = append(errs, err)
	}
	return entries, errors.Join(errs...)
}

// buildComponents builds all that can be built; the error joins what cannot.
func buildComponents[T any](ctx context.Context, entries []entry[T], with surroundings) ([]T, error) {
	var built []T
	var errs []error
	for _, e := range entries {
		t, err := e.build(ctx, with)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		built = append(built, t)
	}
	return built, errors.Join(errs...)
}

func names[T any](kinds map[string]T) []string {
	return slices.Sorted(maps.Keys(kinds))
}

func newORAS(ctx context.Context, name string, opts oras.Options, with surroundings) (store, error) {
	identities := credential.NewClient(nil)
	with.atEnd(identities.CloseIdleConnections)
	return oras.New(ctx, name, opts, oras.Deps{
		Budget:      with.budget,
		Governor:    with.governor,
		Logger:      with.logger,
		Registerer:  with.registerer,
		Tracer:      with.tracer,
		Dir:         with.dir,
		ReadFile:    with.read,
		Credentials: credentialKinds(credential.Environment{HTTP: identities, Getenv: os.Getenv}),
	})
}

func newNotation(_ context.Context, name string, opts notation.Options, with surroundings) (verifier.Verifier, error) {
	dialer, err := guard.New(guard.Options{
		AllowPrivate: opts.Revocation.AllowPrivate,
		Where:        fmt.Sprintf("revocation.allowPrivate of verifier %q", name),
	})
	if err != nil {
		return nil, err
	}
	transport := dialer.Transport(nil)
	with.atEnd(transport.CloseIdleConnections)
	return notation.New(name, opts, notation.Deps{
		Trust:      with.trust,
		HTTPClient: &http.Client{Transport: transport},
		Logger:     with.logger,
		Registerer: with.registerer,
		Tracer:     with.tracer,
	})
}
