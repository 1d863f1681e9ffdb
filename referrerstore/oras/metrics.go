package oras

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics count what is asked of registries. Labels are from small fixed sets:
// the kinds, and classes of status. What is asked of us as a registry has other
// names.
type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

func newMetrics(registerer prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gatehouse_upstream_requests_total",
			Help: "Requests to registries and token services by kind (resolve, referrers, manifest, blob, token, challenge; for pulls pull_manifest, pull_blob, has_blob, tags) and class of status.",
		}, []string{"kind", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:                        "gatehouse_upstream_request_duration_seconds",
			Help:                        "Time from sending a request to the header of its answer, redirects included.",
			Buckets:                     []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
			NativeHistogramBucketFactor: 1.1,
		}, []string{"kind"}),
	}
	if registerer == nil {
		return m, nil
	}
	var err error
	if m.requests, err = register(registerer, m.requests); err != nil {
		return nil, err
	}
	if m.seconds, err = register(registerer, m.seconds); err != nil {
		return nil, err
	}
	return m, nil
}

// register registers a collector, or finds the one that another store did.
func register[C prometheus.Collector](registerer prometheus.Registerer, collector C) (C, error) {
	err := registerer.Register(collector)
	if taken, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if existing, ok := taken.ExistingCollector.(C); ok {
			return existing, nil
		}
	}
	if err != nil {
		return collector, fmt.Errorf("register metrics: %w", err)
	}
	return collector, nil
}

func (m *metrics) observe(k kind, resp *http.Response, took time.Duration) {
	m.requests.WithLabelValues(string(k), statusClass(resp)).Inc()
	m.seconds.WithLabelValues(string(k)).Observe(took.Seconds())
}

func statusClass(resp *http.Response) string {
	if resp == nil {
		return "error"
	}
	switch status := resp.StatusCode; {
	case status == http.StatusUnauthorized, status == http.StatusForbidden,
		status == http.StatusNotFound, status == http.StatusTooManyRequests:
		return fmt.Sprint(status)
	case status >= 200 && status < 600:
		return fmt.Sprintf("%dxx", status/100)
	default:
		return "other"
	}
}
