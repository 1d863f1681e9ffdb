package canary

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics of a canary. Images are labels because the configuration names them, and
// bounds their number.
type metrics struct {
	ok       *prometheus.GaugeVec
	runs     *prometheus.CounterVec
	duration prometheus.Histogram
	last     prometheus.Gauge
}

// newMetrics counts from zero what can happen to the birds, so that the first time
// it does is a rise. That an image is ok is not said before it was proven.
func newMetrics(reg prometheus.Registerer, birds []*bird, interval time.Duration) *metrics {
	f := promauto.With(reg)
	m := &metrics{
		ok: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "gatehouse_canary_ok",
			Help: "1 if the canary image was as expected (pass or fail) when it was proven last, 0 if it was not or there was no verdict.",
		}, []string{"image", "expected"}),
		runs: f.NewCounterVec(prometheus.CounterOpts{
			Name: "gatehouse_canary_runs_total",
			Help: "Canary images proven, by what was expected (pass or fail) and outcome (expected, unexpected, no_verdict).",
		}, []string{"expected", "outcome"}),
		duration: f.NewHistogram(prometheus.HistogramOpts{
			Name: "gatehouse_canary_duration_seconds", Buckets: prometheus.ExponentialBuckets(0.005, 2, 12),
			Help: "Time to prove one canary image.",
		}),
		last: f.NewGauge(prometheus.GaugeOpts{
			Name: "gatehouse_canary_last_run_timestamp_seconds",
			Help: "When all canary images had last been proven, in Unix time; 0 before the first time.",
		}),
	}
	f.NewGauge(prometheus.GaugeOpts{
		Name: "gatehouse_canary_interval_seconds",
		Help: "Time from one round of canary images to the next, as configured.",
	}).Set(interval.Seconds())
	for _, b := range birds {
		for _, came := range []outcome{asExpected, unexpected, noVerdict} {
			m.runs.WithLabelValues(string(b.expected), string(came))
		}
	}
	return m
}

func (m *metrics) observe(b *bird, came outcome, took time.Duration) {
	ok := 0.0
	if came == asExpected {
		ok = 1
	}
	m.ok.WithLabelValues(b.image, string(b.expected)).Set(ok)
	m.runs.WithLabelValues(string(b.expected), string(came)).Inc()
	m.duration.Observe(took.Seconds())
}
