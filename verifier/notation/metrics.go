package notation

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of one verifier. Outcomes are counted by whoever calls verifiers.
type metrics struct {
	lookups *prometheus.CounterVec
}

// newMetrics registers the metrics under the verifier's name. A verifier of
// the same name, as made by each reload of a configuration, goes on counting
// where the last one was.
func newMetrics(name string, reg prometheus.Registerer) (*metrics, error) {
	lookups := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name:        "gatehouse_notation_revocation_lookups_total",
		Help:        "Questions about the revocation of certificates, by protocol (ocsp, crl) and result (hit of the cache, fetched, failed).",
		ConstLabels: prometheus.Labels{"verifier": name},
	}, []string{"protocol", "result"})
	if reg == nil {
		return &metrics{lookups: lookups}, nil
	}
	err := reg.Register(lookups)
	if taken, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if existing, ok := taken.ExistingCollector.(*prometheus.CounterVec); ok {
			return &metrics{lookups: existing}, nil
		}
	}
	return &metrics{lookups: lookups}, err
}
