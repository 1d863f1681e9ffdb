package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"github.com/gatehouse-project/gatehouse/cmd/rotator/rotation"
)

// startUp is what the first look at the cluster may take beyond a resync.
const startUp = 2 * time.Minute

// health answers the kubelet.
type health struct {
	status   func() rotation.Status
	standby  bool          // another replica may be the one that works
	patience time.Duration // without a look at the cluster before the process counts as stuck
}

// live fails if the loop has begun and then stood still.
func (h *health) live(w http.ResponseWriter, _ *http.Request) {
	if at := h.status().At; !at.IsZero() && time.Since(at) > h.patience {
		http.Error(w, fmt.Sprintf("last looked at the cluster at %s", at.Format(time.RFC3339)), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// ready fails unless the certificate is good and trusted. A replica that waits for
// the lease is ready.
func (h *health) ready(w http.ResponseWriter, _ *http.Request) {
	status := h.status()
	if err := status.Ready(); err != nil && (!h.standby || !status.At.IsZero()) {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// serveAdmin serves health and metrics in group until ctx ends. It fails if it cannot
// listen.
func serveAdmin(ctx context.Context, group *errgroup.Group, s settings, h *health, reg *prometheus.Registry) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", h.live)
	mux.HandleFunc("GET /readyz", h.ready)
	if err := serve(ctx, group, s.healthAddress, mux); err != nil {
		return err
	}
	mux = http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	return serve(ctx, group, s.metricsOn, mux)
}

// serve serves plain HTTP on an address; nothing if it is empty.
func serve(ctx context.Context, group *errgroup.Group, address string, handler http.Handler) error {
	if address == "" {
		return nil
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler, ReadTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10}
	group.Go(func() error {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		return server.Close()
	})
	return nil
}
