package governor

import (
	"cmp"
	"slices"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

const (
	// maxUnnamedListed bounds the unnamed hosts in a status; the others are
	// summed up as one, called other, as in the metrics.
	maxUnnamedListed = 20
	other            = "other"
)

// HostStatus is a host's state at a moment, for people to read.
type HostStatus struct {
	Host     string `json:"host"`
	Identity string `json:"identity,omitempty"`
	// Kind is "registry" or as in [Key].
	Kind string `json:"kind"`
	// Named says that the configuration names the host.
	Named bool `json:"named"`

	// Limit on requests at once, and how many there are and wait.
	Limit    int     `json:"limit"`
	InFlight int     `json:"inFlight"`
	Waiting  Waiting `json:"waiting"`

	// Rate in requests a second, 0 for no limit, and whether it is
	// "unlimited", "learned" or "fixed".
	Rate       float64 `json:"rate"`
	RateSource string  `json:"rateSource"`

	PausedUntil time.Time     `json:"pausedUntil,omitzero"`
	Breaker     BreakerStatus `json:"breaker"`

	// LastError is one line of at most 200 bytes, without URLs' queries.
	LastError   string    `json:"lastError,omitempty"`
	LastErrorAt time.Time `json:"lastErrorAt,omitzero"`

	// UsualLatencyMillis of an answer's header; 0 is unknown.
	UsualLatencyMillis float64 `json:"usualLatencyMillis"`
}

// Waiting counts requests that wait, by lane.
type Waiting struct {
	Admission  int `json:"admission"`
	Background int `json:"background"`
}

// BreakerStatus is a breaker's state: "closed", "open" or "half-open".
type BreakerStatus struct {
	State string    `json:"state"`
	Until time.Time `json:"until,omitzero"`
}

// Status lists the hosts that are remembered, by name: all that the
// configuration names, the 20 others that were used last, and what is left in
// sum as one of the name "other".
func (g *Governor) Status() []HostStatus {
	g.mu.Lock()
	named, unnamed := g.named.all(), g.unnamed.all()
	g.mu.Unlock()
	now := time.Now()
	list := make([]HostStatus, 0, len(named)+min(len(unnamed), maxUnnamedListed+1))
	for _, h := range append(named, unnamed[:min(len(unnamed), maxUnnamedListed)]...) {
		list = append(list, h.status(now))
	}
	slices.SortFunc(list, func(a, b HostStatus) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Identity, b.Identity))
	})
	if len(unnamed) > maxUnnamedListed {
		list = append(list, fold(unnamed[maxUnnamedListed:], now))
	}
	return list
}

func fold(hosts []*Host, now time.Time) HostStatus {
	sum := HostStatus{Host: other, Kind: other, RateSource: other, Limit: poolPlaces, Breaker: BreakerStatus{State: other}}
	for _, h := range hosts {
		s := h.status(now)
		sum.InFlight += s.InFlight
		sum.Waiting.Admission += s.Waiting.Admission
		sum.Waiting.Background += s.Waiting.Background
	}
	return sum
}

func (h *Host) status(now time.Time) HostStatus {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.settle(now)
	s := HostStatus{
		Host: h.key.Host, Identity: h.key.Identity, Kind: kindOf(h.key), Named: h.named,
		Limit: h.limiter.limit, InFlight: h.inFlight, Waiting: h.waiting(),
		Rate: h.pacer.rate(now), RateSource: h.pacer.source(),
		Breaker:   BreakerStatus{State: h.breaker.state.String()},
		LastError: h.lastError, LastErrorAt: h.lastErrAt,
		UsualLatencyMillis: h.limiter.latency.usual().Seconds() * 1000,
	}
	if h.pause.on {
		s.PausedUntil = h.pause.until
	}
	if h.breaker.state == breakerOpen {
		s.Breaker.Until = h.breaker.until
	}
	return s
}

func (h *Host) waiting() Waiting {
	var count Waiting
	for _, w := range h.waiters {
		if w.work.Lane() == referrerstore.LaneBackground {
			count.Background++
		} else {
			count.Admission++
		}
	}
	return count
}

func (p *pacer) source() string {
	switch {
	case p.fixed:
		return "fixed"
	case p.base == 0:
		return "unlimited"
	default:
		return "learned"
	}
}

func kindOf(key Key) string {
	if key.Kind == "" {
		return "registry"
	}
	return key.Kind
}
