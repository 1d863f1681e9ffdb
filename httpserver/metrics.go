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
	mutations  *prometheus.CounterVec
	duration   *prometheus.HistogramVec
	inFlight   prometheus.Gauge
	generation prometheus.Gauge

	// Those of every request, found once.
	ok        [routeOther]prometheus.Counter
	durations [routeOther]prometheus.Observer
	decisions [3]prometheus.Counter // by executor.Decision
	outcomes  [3]prometheus.Counter // by mutated
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	m := &metrics{
		requests: f.NewCounterVec(prometheus.CounterOpts{
			Name: "gatehouse_http_requests_total",
			Help: "Requests to the webhook, by path (verify, mutate, audit or other) and HTTP status.",
		}, []string{"path", "status"}),
		keys: f.NewCounterVec(prometheus.CounterOpts{
			Name: "gatehouse_keys_total",
			Help: "Keys of verify and audit answered, by decision; undecided are those without a verdict.",
		}, []string{"decision"}),
		mutations: f.NewCounterVec(prometheus.CounterOpts{
			Name: "gatehouse_mutated_keys_total",
			Help: "Keys of mutate answered, by outcome: pinned to a digest, echoed as they were, or failed.",
		}, []string{"outcome"}),
		duration: f.NewHistogramVec(prometheus.HistogramOpts{
			Name: "gatehouse_http_duration_seconds", Buckets: prometheus.ExponentialBuckets(0.001, 2, 13),
			Help: "Time from a request to the last byte of its answer, by path: verify, mutate or audit.",
		}, []string{"path"}),
		inFlight: f.NewGauge(prometheus.GaugeOpts{
			Name: "gatehouse_http_in_flight",
			Help: "Requests to the webhook that are being answered.",
		}),
		generation: f.NewGauge(prometheus.GaugeOpts{
			Name: "gatehouse_config_generation",
			Help: "Number of the configuration that is live, counted from 1.",
		}),
	}
	for to := range routeOther {
		m.ok[to] = m.requests.WithLabelValues(to.String(), statusLabel(http.StatusOK))
		m.durations[to] = m.duration.WithLabelValues(to.String())
	}
	for _, outcome := range []mutated{mutatedPinned, mutatedEchoed, mutatedFailed} {
		m.outcomes[outcome] = m.mutations.WithLabelValues(outcome.String())
	}
	for _, decision := range []executor.Decision{executor.Undecided, executor.Denied, executor.Allowed} {
		m.decisions[decision] = m.keys.WithLabelValues(decision.String())
	}
	return m
}

// answered counts an answer.
func (m *metrics) answered(to route, took time.Duration) {
	m.ok[to].Inc()
	m.durations[to].Observe(took.Seconds())
}

// refused counts a request that was refused as a whole.
func (m *metrics) refused(to route, status int) {
	m.requests.WithLabelValues(to.String(), statusLabel(status)).Inc()
}

// mutated counts what became of a mutation's keys.
func (m *metrics) mutated(counts [3]int) {
	for outcome, n := range counts {
		if n > 0 {
			m.outcomes[outcome].Add(float64(n))
		}
	}
}

// decided counts the decisions of an answer.
func (m *metrics) decided(decisions [3]int) {
	for decision, n := range decisions {
		if n > 0 {
			m.decisions[decision].Add(float64(n))
		}
	}
}

func statusLabel(status int) string { return strconv.Itoa(status) }
