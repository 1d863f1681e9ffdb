package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/gatehouse-project/gatehouse/test/bench/results"
	"github.com/gatehouse-project/gatehouse/test/process"
	"github.com/gatehouse-project/gatehouse/test/registry"
)

// restart is a cluster that starts anew: pods, pinned by digest, each of which
// asks until it is admitted, and processes that know nothing yet.
type restart struct {
	pods, digests int
	// repositories of each registry hold the digests.
	repositories int
	processes    int
	registry     registry.Options
	// sections are added to the configuration, in YAML.
	sections string
	// retry passes between an answer that does not admit a pod and its next
	// question; the first questions are spread over as much time.
	retry time.Duration
	// until is when the experiment is given up.
	until time.Duration
	// connections to each process are kept and shared by the pods. Too few
	// would let pods wait for each other here instead of there; Gatehouse takes
	// 1024 by default.
	connections int
}

// mostRestart is how long a cluster may take.
const mostRestart = 60 * time.Second

// BenchmarkRestart lets a cluster of 10,000 pods start anew, with the defaults
// and with a rate that was told to Gatehouse instead of learnt.
func BenchmarkRestart(b *testing.B) {
	opts := far()
	opts.Rate, opts.Burst = 100, 100
	for _, v := range []struct{ name, sections string }{
		{"defaults", ""},
		{"rate45", "governor: {perHost: {rate: 45}}"},
	} {
		b.Run(v.name, func(b *testing.B) {
			c := restart{
				pods: size(b, "PODS", 10_000), digests: 300, repositories: 50, processes: 2, registry: opts,
				sections: v.sections, retry: 2 * time.Second, until: span(b, "GIVE_UP", 3*mostRestart/2), connections: size(b, "CONNECTIONS", 500),
			}
			for b.Loop() {
				r := c.result(c.run(b))
				r.Name = "restart/" + v.name
				publish(b, r)
			}
		})
	}
}

// TestRestart is the same in small: everybody is admitted, nothing is asked for
// twice by a process, and nobody is denied.
func TestRestart(t *testing.T) {
	t.Parallel()
	opts := far()
	opts.Rate, opts.Burst = 20, 5
	c := restart{
		pods: 200, digests: 20, repositories: 5, processes: 2, registry: opts,
		retry: 500 * time.Millisecond, until: 40 * time.Second, connections: 8,
	}
	found := c.run(t)
	t.Logf("%+v, all admitted after %s", found.stats, found.last())
	if len(found.admitted) != c.pods {
		t.Errorf("%d of %d pods admitted", len(found.admitted), c.pods)
	}
	if found.denied > 0 || found.failed > 0 {
		t.Errorf("%d denied, %d answers that were none: %v", found.denied, found.failed, found.failure)
	}
	if asked := found.stats.Total - found.stats.Throttled; asked > c.floor() {
		t.Errorf("%d requests that were answered, want %d at most: %+v", asked, c.floor(), found.stats)
	}
}

// floor is what the protocol demands: of each process for each digest a
// resolution, a list, a manifest and an envelope, for each repository a token,
// for each registry a challenge.
func (c restart) floor() int64 {
	return int64(c.processes) * int64(4*c.digests+registries*c.repositories+registries)
}

// registries hold the digests, half and half.
const registries = 2

// admission is what came of the experiment.
type admission struct {
	admitted []time.Duration // sorted
	answers  []time.Duration // how long each took, sorted
	asked    int
	denied   int   // wrong denials
	failed   int   // no answers at all
	failure  error // of the first of these
	// waited is the longest that a pod waited for a connection.
	waited time.Duration
	stats  registry.Stats
}

// last is when the last pod was admitted.
func (a admission) last() time.Duration {
	if len(a.admitted) == 0 {
		return 0
	}
	return a.admitted[len(a.admitted)-1]
}

func (c restart) run(tb testing.TB) admission {
	tb.Helper()
	m := sign(tb, c.digests, quick)
	s := newSite(tb, m, registries, c.registry).spread(tb, c.repositories, true)
	q := &queue{retry: c.retry, doors: make([]chan *pod, c.processes)}
	requests := make([][][]byte, c.processes)
	processes := make([]*process.Process, c.processes)
	for i := range q.doors {
		q.doors[i] = make(chan *pod, c.pods)
		processes[i] = start(tb, s.config(one), c.sections)
		for _, key := range s.keys {
			requests[i] = append(requests[i], request(tb, processes[i].Address(), key))
		}
	}
	ctx, cancel := context.WithTimeout(tb.Context(), c.until)
	defer cancel()
	q.open(c.pods, c.digests)
	defer q.close()
	var group errgroup.Group
	for i, p := range processes {
		for range c.connections {
			group.Go(func() error { return q.serve(ctx, cancel, i, p.Address(), requests[i]) })
		}
	}
	if err := group.Wait(); err != nil {
		tb.Fatal(err)
	}
	found := q.found
	slices.Sort(found.admitted)
	slices.Sort(found.answers)
	found.stats = s.stats()
	for _, p := range processes {
		if !p.Alive() {
			tb.Error("a process died")
		}
	}
	return found
}

// pod asks until it is admitted.
type pod struct {
	digest int
	tries  int
	due    time.Time // when it comes to its door
	timer  *time.Timer
}

// queue holds the pods that may ask, at the door of the process that they ask
// next, as a service that balances would send them. A pod is at one door at
// most, so that doors with room for all never block.
type queue struct {
	doors []chan *pod
	retry time.Duration
	start time.Time
	pods  []*pod
	left  atomic.Int64

	mu    sync.Mutex // guards found
	found admission
}

// open lets the pods come, spread over the time of a retry.
func (q *queue) open(pods, digests int) {
	q.start = time.Now()
	q.left.Store(int64(pods))
	for i := range pods {
		after := q.retry * time.Duration(i) / time.Duration(pods)
		p := &pod{digest: i % digests, due: q.start.Add(after)}
		q.pods = append(q.pods, p)
		p.timer = time.AfterFunc(after, func() {
			q.doors[(i+p.tries)%len(q.doors)] <- p
		})
	}
}

// close sends away who still waits.
func (q *queue) close() {
	for _, p := range q.pods {
		p.timer.Stop()
	}
}

// serve is one connection to a process, over which pods ask one after the
// other. The last admission ends all.
func (q *queue) serve(ctx context.Context, done context.CancelFunc, door int, address string, requests [][]byte) error {
	w, err := dial(ctx, address)
	if err != nil {
		return err
	}
	defer w.close()
	for {
		var p *pod
		select {
		case p = <-q.doors[door]:
		case <-ctx.Done():
			return nil
		}
		began := time.Now()
		body, err := w.exchange(ctx, requests[p.digest])
		v := unanswered
		if err == nil {
			v, err = verdictOf(body)
		}
		if err != nil {
			q.fail(err)
			if err := w.redial(ctx); err != nil {
				return err
			}
		}
		q.note(v, began, began.Sub(p.due))
		if v != admitted {
			p.tries++
			p.due = time.Now().Add(q.retry)
			p.timer.Reset(q.retry)
		} else if q.left.Add(-1) == 0 {
			done()
		}
	}
}

// fail keeps the first reason for which an answer was none.
func (q *queue) fail(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.found.failure == nil {
		q.found.failure = err
	}
}

func (q *queue) note(v verdict, began time.Time, waited time.Duration) {
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.found.asked++
	q.found.waited = max(q.found.waited, waited)
	q.found.answers = append(q.found.answers, now.Sub(began))
	switch v {
	case admitted:
		q.found.admitted = append(q.found.admitted, now.Sub(q.start))
	case denied:
		q.found.denied++
	case unanswered:
		q.found.failed++
	case undecided:
	}
}

// verdict is what an answer about one key says.
type verdict int

const (
	undecided  verdict = iota // a systemError: retry
	admitted                  // a success
	denied                    // an item that is no success
	unanswered                // nothing that Gatekeeper could read
)

func verdictOf(body []byte) (verdict, error) {
	var answer struct {
		Response struct {
			Items []struct {
				Value struct {
					IsSuccess bool `json:"isSuccess"`
				} `json:"value"`
			} `json:"items"`
			SystemError string `json:"systemError"`
		} `json:"response"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return unanswered, err
	}
	items := answer.Response.Items
	switch {
	case len(items) == 0 && answer.Response.SystemError == "":
		return unanswered, fmt.Errorf("neither an item nor a systemError: %s", body)
	case len(items) == 0:
		return undecided, nil
	case items[0].Value.IsSuccess:
		return admitted, nil
	default:
		return denied, nil
	}
}

// result is the table and the curve.
func (c restart) result(found admission) results.Result {
	r := results.Result{Note: fmt.Sprintf("%d pods over %d digests, %d processes, %d registries of %v requests a second with bursts of %d, %s away; %q",
		c.pods, c.digests, c.processes, registries, c.registry.Rate, c.registry.Burst, c.registry.Latency, c.sections)}
	if found.failure != nil {
		r.Note += fmt.Sprintf("; first answer that was none: %v", found.failure)
	}
	seconds := 0.0
	curve := results.Series{Name: "admitted"}
	for at := 0; at < len(found.admitted); seconds += 0.25 {
		for at < len(found.admitted) && found.admitted[at].Seconds() <= seconds {
			at++
		}
		curve.Points = append(curve.Points, [2]float64{seconds, float64(at)})
	}
	r.Series = append(r.Series, curve)
	limited := float64(found.stats.Total-found.stats.Throttled-found.stats.Token) / (registries * c.registry.Rate)
	floor, answers := float64(c.floor()), found.answers
	r.Add(
		results.Figure{Name: "pods admitted", Value: float64(len(found.admitted)), AtLeast: new(float64(c.pods))},
		results.Figure{Name: "last pod admitted after", Value: found.last().Seconds(), Unit: "s", AtMost: new(mostRestart.Seconds())},
		results.Figure{Name: "least for what was answered, at the registries' rate", Value: limited, Unit: "s"},
		results.Figure{Name: "requests answered", Value: float64(found.stats.Total - found.stats.Throttled), Floor: &floor, AtMost: &floor},
		results.Figure{Name: "answered 429", Value: float64(found.stats.Throttled)},
		results.Figure{Name: "requests with 429", Value: float64(found.stats.Total), Floor: &floor, AtMost: &floor},
		results.Figure{Name: "tokens and 401", Value: float64(found.stats.Token + found.stats.Challenge)},
		results.Figure{Name: "wrong denials", Value: float64(found.denied), AtMost: new(0.0)},
		results.Figure{Name: "answers that were none", Value: float64(found.failed), AtMost: new(0.0)},
		results.Figure{Name: "longest wait for a connection", Value: millis(found.waited), Unit: "ms"},
		results.Figure{Name: "questions of pods", Value: float64(found.asked)},
		results.Figure{Name: "median answer", Value: millis(answers[len(answers)/2]), Unit: "ms"},
		results.Figure{Name: "p99 answer", Value: millis(answers[len(answers)*99/100]), Unit: "ms"},
		results.Figure{Name: "longest answer", Value: millis(answers[len(answers)-1]), Unit: "ms", AtMost: new(millis(answerDeadline))},
	)
	return r
}
