package cache

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// What became of a request, as metrics name it.
const (
	outcomeHit       = "hit"       // held, and granted in the scope
	outcomeShared    = "shared"    // another caller's pull was joined
	outcomePulled    = "pulled"    // the registry was asked for the content
	outcomeConfirmed = "confirmed" // held, and the registry would hand it out
	outcomePassed    = "passed"    // pulled, and not kept
	outcomeFailed    = "failed"
)

// name is a kind's label.
func (k Kind) name() string {
	switch k {
	case Manifest:
		return "manifest"
	case List:
		return "list"
	default:
		return "blob"
	}
}

// metrics count what a cache does. Labels are of the small sets above.
type metrics struct {
	requests map[string][kinds]prometheus.Counter // by outcome
	ingested prometheus.Counter
	locks    prometheus.Observer

	all []prometheus.Collector
	reg prometheus.Registerer
}

func newMetrics(c *Cache, reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{reg: reg, requests: make(map[string][kinds]prometheus.Counter)}
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "gatehouse_cache_requests_total", Help: "Requests for content, by what became of them.",
	}, []string{"kind", "outcome"})
	for _, outcome := range []string{outcomeHit, outcomeShared, outcomePulled, outcomeConfirmed, outcomePassed, outcomeFailed} {
		var all [kinds]prometheus.Counter
		for kind := range all {
			all[kind] = requests.WithLabelValues(Kind(kind).name(), outcome)
		}
		m.requests[outcome] = all
	}
	ingested := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "gatehouse_cache_ingest_bytes_total", Help: "Bytes that came from registries and were proven.",
	})
	locks := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "gatehouse_cache_lock_seconds", Help: "How long pruning held a lock.",
		Buckets: []float64{1e-6, 1e-5, 1e-4, 5e-4, 1e-3, 5e-3, 5e-2},
	})
	m.ingested, m.locks = ingested, locks
	m.all = append([]prometheus.Collector{requests, ingested, locks}, c.gauges()...)
	return m, m.register()
}

func (m *metrics) register() error {
	if m.reg == nil {
		return nil
	}
	for i, collector := range m.all {
		if err := m.reg.Register(collector); err != nil {
			m.all = m.all[:i]
			m.unregister()
			return fmt.Errorf("register metrics: %w", err)
		}
	}
	return nil
}

// unregister lets a later cache of this process register its own.
func (m *metrics) unregister() {
	if m.reg == nil {
		return
	}
	for _, collector := range m.all {
		m.reg.Unregister(collector)
	}
}

// gauges are read from the cache when they are scraped.
func (c *Cache) gauges() []prometheus.Collector {
	gauge := func(name, help string, labels prometheus.Labels, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "gatehouse_cache_" + name, Help: help, ConstLabels: labels}, value)
	}
	all := []prometheus.Collector{
		gauge("bytes", "Bytes of all objects that are held.", nil, func() float64 { return float64(c.index.bytes.Load()) }),
		gauge("pulls_in_flight", "Pulls from registries under way.", nil, func() float64 { return float64(c.pulls()) }),
		gauge("write_queue_bytes", "Bytes in memory on their way to the disk.", nil, func() float64 { return float64(c.unwritten()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "gatehouse_cache_quarantined_total", Help: "Files put aside because they were not what their names said.",
		}, func() float64 { return float64(c.quarantined.Load()) }),
	}
	for kind := range kinds {
		labels := prometheus.Labels{"kind": Kind(kind).name()}
		all = append(all, gauge("objects", "Objects that are held.", labels, func() float64 { return float64(c.index.objects[kind].Load()) }))
	}
	for _, state := range states() {
		all = append(all, gauge("state", "1 for the state that the disk is in.", prometheus.Labels{"state": state}, func() float64 {
			if now, _ := c.health.state(); now == state {
				return 1
			}
			return 0
		}))
	}
	return all
}

// count notes what became of a request.
func (c *Cache) count(kind Kind, outcome string) {
	if kind < kinds {
		c.metrics.requests[outcome][kind].Inc()
	}
}

// lockHeld notes how long pruning held a lock.
func (c *Cache) lockHeld(since time.Time) { c.metrics.locks.Observe(time.Since(since).Seconds()) }
