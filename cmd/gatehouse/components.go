package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gatehouse-project/gatehouse/config"
	"github.com/gatehouse-project/gatehouse/referrerstore"
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

// store is what the process needs of a store beside its role.
type store interface {
	referrerstore.Store
	// Scheme is http or https, for a canonical host.
	Scheme(host string) string
	// PlainHosts are the hosts for which Scheme is http.
	PlainHosts() []string
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
	logger     *slog.Logger
	registerer prometheus.Registerer
}

// kind builds a component of one type from its entry in the configuration.
type kind[T any] struct {
	options any // zero options, for the schema
	build   func(context.Context, config.Component, surroundings) (T, error)
}

func newKind[O, T any](build func(context.Context, string, O, surroundings) (T, error)) kind[T] {
	var zero O
	return kind[T]{options: zero, build: func(ctx context.Context, c config.Component, with surroundings) (T, error) {
		var options O
		var none T
		if err := c.Decode(&options); err != nil {
			return none, err
		}
		built, err := build(ctx, c.Name, options, with)
		if err != nil {
			return none, c.Pos.At(err)
		}
		return built, nil
	}}
}

func buildComponent[T any](ctx context.Context, kinds map[string]kind[T], c config.Component, with surroundings) (T, error) {
	k, ok := kinds[c.Type]
	if !ok {
		var none T
		return none, c.Pos.At(fmt.Errorf("type %q is none of %v", c.Type, names(kinds)))
	}
	return k.build(ctx, c, with)
}

func newORAS(ctx context.Context, name string, opts oras.Options, with surroundings) (store, error) {
	return oras.New(ctx, name, opts, oras.Deps{
		Budget:     with.budget,
		Logger:     with.logger,
		Registerer: with.registerer,
		Dir:        with.dir,
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
	return notation.New(name, opts, notation.Deps{
		Trust:      with.trust,
		HTTPClient: &http.Client{Transport: dialer.Transport(nil)},
		Logger:     with.logger,
		Registerer: with.registerer,
	})
}
