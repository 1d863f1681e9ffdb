// Package governor decides, for each registry host and identity, when a request
// may be sent: as many at once and as fast as the host bears, and in an order
// in which something gets done when it bears little.
//
// A [Governor] hands out a [Host] for each [Key]. Whoever wants to send takes a
// [Permit] with [Host.Acquire], says what came of it with [Permit.Answered]
// when the answer's header or an error is there, and gives the place back with
// [Permit.Release] when the body is closed. What a host has taught is kept in
// five parts, each of which can hold a request back:
//
//   - limiter: how many requests at once. It grows by one for each limit's
//     worth of answers and shrinks on 503 and on rising latency.
//   - pacer: how many a second. Without bound until the first 429, then what
//     the host was seen to admit between two of them, probed upwards gently.
//   - pause: a Retry-After, or the moment after a first 429, holds everybody
//     together; then one probe goes before the others.
//   - breaker: after failures in a row requests fail at once, and probes find
//     out when the host is back.
//   - lanes: admission before background, and among admissions the oldest and
//     nearest to done first, read anew for each grant from the request's
//     [referrerstore.Work].
//
// Hosts that the configuration does not name share one small pool of places
// and are refused background work.
//
// The package sends nothing and retries nothing. It starts no goroutine of its
// own: a host has one timer, armed only while somebody waits. No lock is held
// while waiting or while a Work's watchers are told.
package governor

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// defaultStart and defaultMax are the requests at once to begin with and at
	// most. 16 round trips at once hide a latency of 25 ms well enough for the
	// work of one admission; more only multiplies the 429 that are on their way
	// back when a registry's bucket runs dry.
	defaultStart, defaultMax = 16, 64
	// maxStart bounds what a configuration may begin with: nothing is known of
	// the host then.
	maxStart = 32
	// defaultMaxRetryAfter is longer than any admission waits and shorter than
	// an operator does.
	defaultMaxRetryAfter = time.Minute
	// maxNamed and maxUnnamed bound the hosts that are remembered. They are
	// apart so that names out of tenants' images cannot wash away what is known
	// of hosts that matter.
	maxNamed, maxUnnamed = 768, 256
)

// Options shape a Governor. The zero value works.
type Options struct {
	// StartInFlight is the limit on requests at once to a host of which nothing
	// is known, 1 to 32; 0 stands for 16. More than 32 counts as 32.
	StartInFlight int
	// MaxInFlight is the most that the limit grows to; 0 stands for 64.
	MaxInFlight int
	// Rate, in requests a second for each host and identity, is kept to from
	// the start and never changed. 0 lets the first 429 teach it.
	Rate float64
	// MaxRetryAfter caps what a host may ask its clients to wait; 0 stands for
	// one minute.
	MaxRetryAfter time.Duration
	// Named says which canonical hosts the configuration names; nil stands for
	// all. It is called once for each host that is not remembered.
	Named func(host string) bool
	// Registerer receives the metrics; nil for none.
	Registerer prometheus.Registerer
}

func (o Options) withDefaults() (Options, error) {
	if o.StartInFlight < 0 || o.MaxInFlight < 0 || o.MaxRetryAfter < 0 {
		return o, errors.New("governor: limits and durations must not be negative")
	}
	if o.Rate < 0 || math.IsNaN(o.Rate) || math.IsInf(o.Rate, 0) {
		return o, fmt.Errorf("governor: rate %v is none", o.Rate)
	}
	if o.StartInFlight == 0 {
		o.StartInFlight = defaultStart
	}
	if o.MaxInFlight == 0 {
		o.MaxInFlight = defaultMax
	}
	if o.MaxRetryAfter == 0 {
		o.MaxRetryAfter = defaultMaxRetryAfter
	}
	if o.Named == nil {
		o.Named = func(string) bool { return true }
	}
	o.StartInFlight = min(o.StartInFlight, o.MaxInFlight, maxStart)
	return o, nil
}

// Key is what has a limit, a rate and a state of its own.
type Key struct {
	// Host is canonical, with its port if that is not the scheme's.
	Host string
	// Identity names who asks, since registries count clients apart. It is
	// shown in the status: a name, never a secret.
	Identity string
	// Kind is "" for the registry, "token" for a token service, and "pull",
	// "pull-lookup" and "pull-token" for what is pulled rather than judged.
	Kind string
}

// Governor remembers hosts. Use [New]; all methods are safe for concurrent use.
type Governor struct {
	options   Options
	pool      pool
	collector *collector

	mu      sync.Mutex // guards the fields that follow it; taken before any host's
	closed  bool
	named   *table
	unnamed *table
}

// New makes a Governor. It fails for options that mean nothing and if the
// metrics collide with foreign ones; a second Governor at the same Registerer
// joins the first one's metrics.
func New(options Options) (*Governor, error) {
	options, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	g := &Governor{options: options, named: newTable(maxNamed), unnamed: newTable(maxUnnamed)}
	if g.collector, err = join(options.Registerer, g); err != nil {
		return nil, err
	}
	return g, nil
}

// Host is the state of the key, made when it is new. It costs a look-up: call
// it for each request rather than keeping what it returns, because a host that
// nobody used for long is forgotten to make room for others.
func (g *Governor) Host(key Key) *Host {
	g.mu.Lock()
	defer g.mu.Unlock()
	if h := g.named.get(key); h != nil {
		return h
	}
	if h := g.unnamed.get(key); h != nil {
		return h
	}
	named := g.options.Named(key.Host)
	h := newHost(g, key, named)
	h.closed = g.closed
	if named {
		g.named.put(h)
	} else {
		g.unnamed.put(h)
	}
	return h
}

// Close ends all waiting with [referrerstore.ErrUnavailable], refuses what
// comes, and takes the Governor out of the metrics. Permits that are out stay
// valid. Closing twice does nothing more.
func (g *Governor) Close() {
	g.mu.Lock()
	g.closed = true
	hosts := append(g.named.all(), g.unnamed.all()...)
	g.mu.Unlock()
	for _, h := range hosts {
		h.close()
	}
	g.collector.leave(g)
}
