package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// The times of a lease, those that Kubernetes' own controllers have.
const (
	leaseLasts = 15 * time.Second
	leaseRenew = 10 * time.Second
	leaseRetry = 2 * time.Second
)

// errLeaseLost ends the process: another one works now.
var errLeaseLost = errors.New("lease lost")

// whileLeading does work while the process holds the Lease of the Secret's name,
// or at once without --leader-elect. Two that work at once do no harm, as each
// write is on the version that was read; the lease only saves conflicts.
func whileLeading(ctx context.Context, config *rest.Config, s settings, logger *slog.Logger, work func(context.Context) error) error {
	if !s.leaderElect {
		return work(ctx)
	}
	lock, err := newLease(config, s)
	if err != nil {
		return err
	}
	within, stop := context.WithCancel(ctx)
	defer stop()
	var led atomic.Bool
	done := make(chan error, 1)
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: lock, LeaseDuration: leaseLasts, RenewDeadline: leaseRenew, RetryPeriod: leaseRetry, ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) {
				led.Store(true)
				logger.InfoContext(ctx, "leading", "identity", lock.Identity())
				defer stop() // work that fails gives the lease back
				done <- work(ctx)
			},
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return fmt.Errorf("leader election: %w", err)
	}
	elector.Run(within)
	if led.Load() {
		err = <-done
	}
	if err == nil && ctx.Err() == nil {
		return errLeaseLost
	}
	return err
}

func newLease(config *rest.Config, s settings) (resourcelock.Interface, error) {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("leader election: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("leader election: %w", err)
	}
	return &resourcelock.LeaseLock{
		LeaseMeta:  metav1.ObjectMeta{Namespace: s.namespace, Name: s.secret},
		Client:     client.CoordinationV1(),
		LockConfig: resourcelock.ResourceLockConfig{Identity: host + "_" + rand.Text()},
	}, nil
}
