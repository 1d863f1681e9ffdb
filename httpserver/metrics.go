package httpserver

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/gatehouse-project/gatehouse/executor"
)

type metrics struct {
	requests   *prometheus.CounterVec
	keys       *prometheus.CounterVec
	duration   prometheus.Histogram
	inFlight   prometheus.Gauge
	generation prometheus.Gauge

	// Those of every request, found once.
	ok        prometheus.Counter
	decisions [3]prometheus.Counter // by executor.Decision
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	m := &metrics{
		requests: f.NewCounterVec(prometheus.CounterOpts{
			Name: "gatehouse_http_requests_total",
			Help: "Requests to the webhook, by HTTP status.",
		}, []string{"status"}),
		keys: f.NewCounterVec(prometheus.CounterOpts{
			Name: "gatehouse_keys_total",
			Help: "Keys answered, by decision; undecided are those without a verdict.",
		}, []string{"decision"}),
		duration: f.NewHistogram(prometheus.HistogramOpts{
			Name: "gatehouse_http_duration_seconds", Buckets: prometheus.ExponentialBuckets(0.001, 2, 13),
			Help: "Time from a request to the last byte of its answer.",
		}),
		inFlight: f.NewGauge(prometheus.GaugeOpts{
			Name: "gatehouse_http_in_flight",
			Help: "Requests to the webhook that are being answered.",
		}),
		generation: f.NewGauge(prometheus.GaugeOpts{
			Name: "gatehouse_config_generation",
			Help: "Number of the configuration that is live, counted from 1.",
		}),
	}
	m.ok = m.requests.WithLabelValues(statusLabel(http.StatusOK))
	for _, decision := range []executor.Decision{executor.Undecided, executor.Denied, executor.Allowed} {
		m.decisions[decision] = m.keys.WithLabelValues(decision.String())
	}
	return m
}

// answered counts an answer and the decisions in it.
func (m *metrics) answered(decisions [3]int, took time.Duration) {
	m.ok.Inc()
	m.duration.Observe(took.Seconds())
	for decision, n := range decisions {
		if n > 0 {
			m.decisions[decision].Add(float64(n))
		}
	}
}

func statusLabel(status int) string { return strconv.Itoa(status) }
