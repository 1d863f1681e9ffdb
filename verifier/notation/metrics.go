package notation

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of one verifier. Outcomes are counted by whoever calls verifiers.
type metrics struct {
	lookups *prometheus.CounterVec
	seconds *prometheus.HistogramVec
}

// newMetrics registers the metrics under the verifier's name. A verifier of
// the same name, as made by each reload of a configuration, goes on counting
// where the last one was.
func newMetrics(name string, reg prometheus.Registerer) (*metrics, error) {
	of := prometheus.Labels{"verifier": name}
	lookups, err := register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name:        "gatehouse_notation_revocation_lookups_total",
		Help:        "Questions about the revocation of certificates, by protocol (ocsp, crl) and result (hit of the cache, fetched, failed).",
		ConstLabels: of,
	}, []string{"protocol", "result"}))
	if err != nil {
		return nil, err
	}
	seconds, err := register(reg, prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:        "gatehouse_notation_revocation_duration_seconds",
		Help:        "Time to ask a responder about revocation and read its answer, or to give up, by protocol.",
		Buckets:     prometheus.ExponentialBuckets(0.005, 2, 11),
		ConstLabels: of,
	}, []string{"protocol"}))
	if err != nil {
		return nil, err
	}
	for _, protocol := range []string{ocspKind.name, crlKind.name} { // from the start, so that the first one is a rise
		seconds.WithLabelValues(protocol)
		for _, result := range []string{"hit", "fetched", "failed"} {
			lookups.WithLabelValues(protocol, result)
		}
	}
	return &metrics{lookups: lookups, seconds: seconds}, nil
}

// register registers a collector, or finds the one that another verifier did.
func register[C prometheus.Collector](reg prometheus.Registerer, collector C) (C, error) {
	if reg == nil {
		return collector, nil
	}
	err := reg.Register(collector)
	if taken, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if existing, ok := taken.ExistingCollector.(C); ok {
			return existing, nil
		}
	}
	return collector, err
}
