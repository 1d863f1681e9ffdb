package executor

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/gatehouse-project/gatehouse/verifier"
)

// metrics of the executor. Labels come from small fixed sets and from names in
// the configuration, never from a request.
type metrics struct {
	subjects   *prometheus.CounterVec
	duration   *prometheus.HistogramVec
	artifacts  *prometheus.CounterVec
	judging    *prometheus.HistogramVec
	exemptions *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	buckets := prometheus.ExponentialBuckets(0.001, 2, 13)
	return &metrics{
		subjects: f.NewCounterVec(prometheus.CounterOpts{
			Name: "gatehouse_subjects_total",
			Help: "Subjects decided on, by rule, decision and code; decision is undecided where no verdict was reached.",
		}, []string{"rule", "decision", "code"}),
		duration: f.NewHistogramVec(prometheus.HistogramOpts{
			Name: "gatehouse_subject_duration_seconds", Buckets: buckets,
			Help: "Time from a request for a subject to its decision.",
		}, []string{"decision"}),
		artifacts: f.NewCounterVec(prometheus.CounterOpts{
			Name: "gatehouse_artifacts_total",
			Help: "Artifacts judged, by verifier and outcome.",
		}, []string{"verifier", "outcome"}),
		judging: f.NewHistogramVec(prometheus.HistogramOpts{
			Name: "gatehouse_artifact_duration_seconds", Buckets: buckets,
			Help: "Time to fetch and judge one artifact, by verifier.",
		}, []string{"verifier"}),
		exemptions: f.NewCounterVec(prometheus.CounterOpts{
			Name: "gatehouse_exemptions_total",
			Help: "Subjects that an exemption allowed without proof, by rule.",
		}, []string{"rule"}),
	}
}

func (m *metrics) observe(r Result, err error) {
	m.subjects.WithLabelValues(r.Rule, r.Decision.String(), string(Explain(r, err).Code)).Inc()
	m.duration.WithLabelValues(r.Decision.String()).Observe(r.Timings.Total.Seconds())
	if r.Exemption != nil && r.Decision == Allowed {
		m.exemptions.WithLabelValues(r.Rule).Inc()
	}
}

func (m *metrics) judged(v verifier.Verifier, r verifier.Report) {
	m.artifacts.WithLabelValues(v.Name(), r.Outcome.String()).Inc()
	m.judging.WithLabelValues(v.Name()).Observe(r.Elapsed.Round(time.Microsecond).Seconds())
}
