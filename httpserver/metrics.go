package httpserver

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	requests   *prometheus.CounterVec
	keys       *prometheus.CounterVec
	duration   prometheus.Histogram
	inFlight   prometheus.Gauge
	generation prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	return &metrics{
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
}

func statusLabel(status int) string { return strconv.Itoa(status) }
