// Command gatehouse-rotator keeps the serving certificate of Gatehouse in a Secret and
// the trust in it in Gatekeeper's Providers, for clusters without cert-manager.
//
// Package rotation has the order in which certificates are exchanged, package
// cluster reaches the API server; here are flags (flags.go), leadership (lead.go)
// and what others ask the process (admin.go). rbac.yaml has the rights.
//
// It is a module of its own: Kubernetes' and controller-runtime's code stays out of
// gatehouse, and gatehouse needs no right to write anything.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/gatehouse-project/gatehouse/cmd/rotator/cluster"
	"github.com/gatehouse-project/gatehouse/cmd/rotator/rotation"
)

// version is set by the linker.
var version = "devel"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := command(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code) //nolint:forbidigo // this is main
}

// command is main without the process around it: 0 if it ended because ctx did, 2 for a
// wrong command line, 1 for all else.
func command(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	s, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "gatehouse-rotator: %s\n", err)
		return 2
	case s.version:
		fmt.Fprintln(stdout, version)
		return 0
	}
	logger := slog.New(slog.NewJSONHandler(stderr, &slog.HandlerOptions{Level: s.level}))
	klog.SetSlogLogger(logger) // client-go's
	logf.SetLogger(logr.FromSlogHandler(logger.Handler()))
	if err := run(ctx, s, logger); err != nil {
		logger.Error("the rotator ends", "error", err)
		return 1
	}
	return 0
}

// run keeps the certificate until ctx ends.
func run(ctx context.Context, s settings, logger *slog.Logger) error {
	config, err := access(s.kubeconfig)
	if err != nil {
		return err
	}
	return runWith(ctx, config, s, logger)
}

// runWith is run with an access to the API server.
func runWith(ctx context.Context, config *rest.Config, s settings, logger *slog.Logger) error {
	there, err := cluster.New(config, s.namespace, s.secret)
	if err != nil {
		return err
	}
	reg := prometheus.NewRegistry()
	options := s.rotation
	options.Logger, options.Registerer = logger, reg
	keeper, err := rotation.New(there, s.providers, s.dnsNames(), options)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	health := &health{status: keeper.Status, standby: s.leaderElect, patience: 5*s.rotation.Resync + startUp}
	if err := serveAdmin(ctx, group, s, health, reg); err != nil {
		return err
	}
	logger.InfoContext(ctx, "keeping a certificate", "version", version, "namespace", s.namespace, "secret", s.secret,
		"dns_names", s.dnsNames(), "providers", s.providers)
	group.Go(func() error {
		return whileLeading(ctx, config, s, logger, func(ctx context.Context) error {
			return keep(ctx, there, keeper, s.providers, logger)
		})
	})
	return group.Wait()
}

// keep watches and rotates until ctx ends.
func keep(ctx context.Context, there *cluster.Cluster, keeper *rotation.Rotator, providers []string, logger *slog.Logger) error {
	wake := make(chan struct{}, 1)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		there.Watch(ctx, providers, wake, logger)
		return nil
	})
	group.Go(func() error { return keeper.Run(ctx, wake) })
	return group.Wait()
}

// access finds the API server as kubectl does: the flag, KUBECONFIG, the pod's
// service account.
func access(kubeconfig string) (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("access to the API server: %w", err)
	}
	config.UserAgent = "gatehouse-rotator/" + version
	return config, nil
}
