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
	recalls    *prometheus.CounterVec
	refreshes  *prometheus.CounterVec
	held       *prometheus.CounterVec
	pins       *prometheus.CounterVec
	pinning    prometheus.Histogram

	// Those of every request, found once.
	durations [3]prometheus.Observer // by Decision
	hit, miss prometheus.Counter
}

// recalled counts a result that was read from a proof, which takes no time.
func (m *metrics) recalled(r Result, allowed prometheus.Counter) {
	m.hit.Inc()
	if r.Decision == Allowed {
		allowed.Inc()
		return
	}
	m.subjects.WithLabelValues(r.Rule, r.Decision.String(), string(Explain(r, nil).Code)).Inc()
}

// allowed counts what a rule allowed by reports.
func (m *metrics) allowed(rule string) prometheus.Counter {
	return m.subjects.WithLabelValues(rule, Allowed.String(), string(CodeAllowed))
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	buckets := prometheus.ExponentialBuckets(0.001, 2, 13)
	m := &metrics{
		subjects: f.NewCounterVec(prometheus.CounterOpts{
			Name: "gatehouse_subjects_total",
			Help: "Subjects decided on, by rule, decision and code; decision is undecided where no verdict was reached.",
		}, []string{"rule", "decision", "code"}),
		duration: f.NewHistogramVec(prometheus.HistogramOpts{
			Name: "gatehouse_subject_duration_seconds", Buckets: buckets,
			Help: "Time from a request for a subject to its decision, if it took work.",
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
		recalls: f.NewCounterVec(prometheus.CounterOpts{
			Name: "gatehouse_recalls_total",
			Help: "Subjects that were answered from a proof (hit), and those that took work (miss).",
		}, []string{"outcome"}),
		refreshes: f.NewCounterVec(prometheus.CounterOpts{
			Name: "gatehouse_refreshes_total",
			Help: "Proofs that were proven again in the background, by outcome: proven, or failed and so left as they were.",
		}, []string{"outcome"}),
		held: f.NewCounterVec(prometheus.CounterOpts{
			Name: "gatehouse_held_decisions_total",
			Help: "Subjects allowed by what their registry said before, because it did not answer, by the code of why.",
		}, []string{"reason"}),
		pins: f.NewCounterVec(prometheus.CounterOpts{
			Name: "gatehouse_pins_total",
			Help: "Digests looked for that a tag leads to, by outcome: known already, resolved, held from before, or failed.",
		}, []string{"outcome"}),
		pinning: f.NewHistogram(prometheus.HistogramOpts{
			Name: "gatehouse_pin_duration_seconds", Buckets: buckets,
			Help: "Time to find the digest that a tag leads to, if it was not known already.",
		}),
	}
	for _, decision := range []Decision{Undecided, Denied, Allowed} {
		m.durations[decision] = m.duration.WithLabelValues(decision.String())
	}
	m.hit, m.miss = m.recalls.WithLabelValues("hit"), m.recalls.WithLabelValues("miss")
	return m
}

// watch shows what the executor holds at the moment of a scrape.
func (m *metrics) watch(reg prometheus.Registerer, e *Executor) {
	f := promauto.With(reg)
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "gatehouse_proofs", Help: "Proofs in the replica.",
	}, func() float64 { return float64(e.memory.proofs.EstimatedSize()) })
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "gatehouse_proofs_bytes", Help: "Memory that the proofs in the replica are counted with.",
	}, func() float64 { return float64(e.memory.proofs.WeightedSize()) })
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "gatehouse_subjects_in_flight", Help: "Subjects that are worked on.",
	}, func() float64 { all, _ := e.subjects.Number(); return float64(all) })
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "gatehouse_subjects_in_background", Help: "Subjects that are worked on without anybody waiting.",
	}, func() float64 { _, alone := e.subjects.Number(); return float64(alone) })
}

// refreshed counts an attempt to prove a subject again.
func (m *metrics) refreshed(err error) {
	outcome := "proven"
	if err != nil {
		outcome = "failed"
	}
	m.refreshes.WithLabelValues(outcome).Inc()
}

func (m *metrics) observe(r Result, err error) {
	m.subjects.WithLabelValues(r.Rule, r.Decision.String(), string(codeOf(r, err))).Inc()
	if r.Proof != 0 {
		m.hit.Inc()
	} else {
		m.miss.Inc()
		m.durations[r.Decision].Observe(r.Timings.Total.Seconds())
	}
	if r.Held != nil && r.Held.Code() != CodeNotAsked {
		m.held.WithLabelValues(string(r.Held.Code())).Inc()
	}
	if r.Exemption != nil && r.Decision == Allowed {
		m.exemptions.WithLabelValues(r.Rule).Inc()
	}
}

func (m *metrics) judged(v verifier.Verifier, r verifier.Report) {
	m.artifacts.WithLabelValues(v.Name(), r.Outcome.String()).Inc()
	m.judging.WithLabelValues(v.Name()).Observe(r.Elapsed.Round(time.Microsecond).Seconds())
}

// codeOf is the code of the result's explanation, without its text where there
// is none to find out.
func codeOf(r Result, err error) verifier.Code {
	if err == nil && r.Decision == Allowed && r.Exemption == nil && r.Held == nil {
		return CodeAllowed
	}
	return Explain(r, err).Code
}
