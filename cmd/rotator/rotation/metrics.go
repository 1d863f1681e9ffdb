package rotation

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics of the rotation. Labels come from the code alone.
type metrics struct {
	passes   *prometheus.CounterVec
	steps    *prometheus.CounterVec
	notAfter *prometheus.GaugeVec
	bundle   prometheus.Gauge
	told     prometheus.Gauge
}

// newMetrics registers with reg, which may be nil.
func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	return &metrics{
		passes: f.NewCounterVec(prometheus.CounterOpts{
			Name: "gatehouse_rotator_passes_total", Help: "Looks at the Secret and the Providers, by outcome: ok, conflict or error.",
		}, []string{"outcome"}),
		steps: f.NewCounterVec(prometheus.CounterOpts{
			Name: "gatehouse_rotator_steps_total", Help: "Changes made, by step: authority, trust, issue or retire.",
		}, []string{"step"}),
		notAfter: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "gatehouse_rotator_not_after_seconds", Help: "End of the Secret's certificates in Unix time: authority or server. 0 if there is none.",
		}, []string{"certificate"}),
		bundle: f.NewGauge(prometheus.GaugeOpts{
			Name: "gatehouse_rotator_trusted_authorities", Help: "Authorities in the bundle: more than one during a roll-over.",
		}),
		told: f.NewGauge(prometheus.GaugeOpts{
			Name: "gatehouse_rotator_providers_current", Help: "Whether all Providers have the Secret's bundle (1) or not (0).",
		}),
	}
}

// note records a pass.
func (m *metrics) note(status Status, s state) {
	outcome := "ok"
	switch {
	case errors.Is(status.Err, ErrConflict):
		outcome = "conflict"
	case status.Err != nil:
		outcome = "error"
	}
	m.passes.WithLabelValues(outcome).Inc()
	if s.secret.Version == "" {
		return // nothing is known
	}
	var authority, server float64
	if s.authority != nil {
		authority = float64(s.authority.Cert.NotAfter.Unix())
	}
	if s.leaf != nil {
		server = float64(s.leaf.NotAfter.Unix())
	}
	m.notAfter.WithLabelValues("authority").Set(authority)
	m.notAfter.WithLabelValues("server").Set(server)
	m.bundle.Set(float64(len(s.bundle)))
	m.told.Set(map[bool]float64{true: 1}[status.Told])
}
