package governor

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// maxLabelled bounds the hosts that are labels. A configuration may name hosts
// by a pattern, and who fits it is up to whoever writes images.
const maxLabelled = 100

// The lanes, as metrics name them.
const (
	laneAdmission  = "admission"
	laneBackground = "background"
)

// labels are what a series is told by: from small sets, or other.
type labels struct{ host, kind string }

// counts are what only grows. They outlive the hosts that they count for.
type counts struct{ throttled, opened atomic.Uint64 }

// collector reads the state of its governors when it is scraped.
type collector struct {
	limit, inFlight, waiting, rate, paused, broken, throttled, opened *prometheus.Desc
	waits                                                             *prometheus.HistogramVec // by lane

	mu        sync.Mutex // guards the fields that follow it; taken inside a governor's
	governors []*Governor
	counts    map[labels]*counts
	hosts     map[string]struct{}
}

func newCollector() *collector {
	desc := func(name, help string, more ...string) *prometheus.Desc {
		return prometheus.NewDesc("gatehouse_governor_"+name, help, append([]string{"host", "kind"}, more...), nil)
	}
	c := &collector{
		limit:     desc("limit", "Requests at once that the host is given at most."),
		inFlight:  desc("in_flight", "Requests under way."),
		waiting:   desc("waiting", "Requests that wait for their turn.", "lane"),
		rate:      desc("rate", "Requests a second that the host is given, 0 without limit."),
		paused:    desc("paused", "1 while the host has everybody wait."),
		broken:    desc("breaker_open", "1 while the host's breaker is open or half-open."),
		throttled: desc("throttled_total", "Answers of 429."),
		opened:    desc("breaker_opened_total", "Times that the host's breaker opened."),
		waits: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "gatehouse_governor_wait_seconds", Buckets: prometheus.ExponentialBuckets(0.001, 4, 9),
			Help: "Time that requests waited for their turn, by lane, without those that got it at once.",
		}, []string{"lane"}),
		counts: make(map[labels]*counts), hosts: make(map[string]struct{}),
	}
	for _, lane := range []string{laneAdmission, laneBackground} {
		c.waits.WithLabelValues(lane) // from the start
	}
	return c
}

// join makes a collector for g, or finds the one that another Governor
// registered.
func join(registerer prometheus.Registerer, g *Governor) (*collector, error) {
	c := newCollector()
	if registerer != nil {
		err := registerer.Register(c)
		if taken, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
			if existing, ok := taken.ExistingCollector.(*collector); ok {
				c, err = existing, nil
			}
		}
		if err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.governors = append(c.governors, g)
	return c, nil
}

func (c *collector) leave(g *Governor) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.governors = slices.DeleteFunc(c.governors, func(other *Governor) bool { return other == g })
}

// countsFor are the counts of the series that a host belongs to.
func (c *collector) countsFor(key Key, named bool) *counts {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.hosts[key.Host]; named && !known && len(c.hosts) < maxLabelled {
		c.hosts[key.Host] = struct{}{}
	}
	l := c.labelsOf(key, named)
	if c.counts[l] == nil {
		c.counts[l] = new(counts)
	}
	return c.counts[l]
}

// labelsOf needs mu.
func (c *collector) labelsOf(key Key, named bool) labels {
	l := labels{host: other, kind: other}
	if _, labelled := c.hosts[key.Host]; named && labelled {
		l.host = key.Host
	}
	switch key.Kind {
	case "", "token", "pull", "pull-lookup", "pull-token": // others would be labels without a bound
		l.kind = kindOf(key)
	}
	return l
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.limit, c.inFlight, c.waiting, c.rate, c.paused, c.broken, c.throttled, c.opened} {
		out <- d
	}
	c.waits.Describe(out)
}

// waited notes how long a request waited for its turn.
func (c *collector) waited(lane referrerstore.Lane, since time.Time) {
	name := laneAdmission
	if lane == referrerstore.LaneBackground {
		name = laneBackground
	}
	c.waits.WithLabelValues(name).Observe(time.Since(since).Seconds())
}

// gauges are the sums of the hosts that share labels; paused and broken are of
// any of them.
type gauges struct {
	limit, inFlight, admission, background int
	rate                                   float64
	paused, broken                         float64
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, l labels, more ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, append([]string{l.host, l.kind}, more...)...)
	}
	for l, sum := range c.sums() {
		gauge(c.limit, float64(sum.limit), l)
		gauge(c.inFlight, float64(sum.inFlight), l)
		gauge(c.waiting, float64(sum.admission), l, laneAdmission)
		gauge(c.waiting, float64(sum.background), l, laneBackground)
		gauge(c.rate, sum.rate, l)
		gauge(c.paused, sum.paused, l)
		gauge(c.broken, sum.broken, l)
	}
	c.waits.Collect(out)
	c.mu.Lock()
	defer c.mu.Unlock()
	for l, n := range c.counts {
		out <- prometheus.MustNewConstMetric(c.throttled, prometheus.CounterValue, float64(n.throttled.Load()), l.host, l.kind)
		out <- prometheus.MustNewConstMetric(c.opened, prometheus.CounterValue, float64(n.opened.Load()), l.host, l.kind)
	}
}

func (c *collector) sums() map[labels]*gauges {
	c.mu.Lock()
	governors := slices.Clone(c.governors)
	c.mu.Unlock()
	sums := make(map[labels]*gauges)
	now := time.Now()
	for _, g := range governors {
		g.mu.Lock()
		hosts := append(g.named.all(), g.unnamed.all()...)
		g.mu.Unlock()
		for _, h := range hosts {
			c.mu.Lock()
			l := c.labelsOf(h.key, h.named)
			c.mu.Unlock()
			if sums[l] == nil {
				sums[l] = new(gauges)
			}
			sums[l].add(h.status(now))
		}
	}
	return sums
}

func (s *gauges) add(h HostStatus) {
	s.limit += h.Limit
	s.inFlight += h.InFlight
	s.admission += h.Waiting.Admission
	s.background += h.Waiting.Background
	s.rate += h.Rate
	if !h.PausedUntil.IsZero() {
		s.paused = 1
	}
	if h.Breaker.State != breakerClosed.String() {
		s.broken = 1
	}
}
