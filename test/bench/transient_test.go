package bench

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/test/process"
	"github.com/gatehouse-project/gatehouse/test/registry"
)

// TestNothingTransientIsKept lets a registry fail at random and asks all the
// while: for images that are signed, that nobody signed, and that do not exist.
// Whatever befalls a request, a verdict is the true one or there is none; and
// once the registry is well, every key gets its true verdict.
func TestNothingTransientIsKept(t *testing.T) {
	t.Parallel()
	for _, seed := range []uint64{1, 2, 3} {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			config := w.config(one)
			config.Timeout = 500 * time.Millisecond
			p := start(t, config, brief)
			w.registries[0].SetIntercept(mischief(seed))
			verdicts := 0
			for range 6 {
				verdicts += w.check(t, p)
			}
			t.Logf("%d verdicts while the registry failed", verdicts)
			w.registries[0].SetIntercept(nil)
			start := time.Now()
			for w.check(t, p) < len(w.keys) && !t.Failed() {
				if time.Since(start) > patience {
					t.Fatal("the registry is well, but not every key has a verdict")
				}
				time.Sleep(200 * time.Millisecond)
			}
		})
	}
}

// mischief answers some requests as registries and networks in trouble do. None
// of it is knowledge about an image, as a 404 would be.
func mischief(seed uint64) registry.Fault {
	faults := []registry.Fault{
		registry.Hang(),
		registry.Reset(),
		registry.Status(http.StatusTooManyRequests, http.Header{"Retry-After": {"1"}}, 1, seed),
		registry.Status(http.StatusServiceUnavailable, nil, 1, seed),
		registry.Status(http.StatusInternalServerError, nil, 1, seed),
		registry.Status(http.StatusForbidden, nil, 1, seed),
		registry.SlowBytes(5 * time.Millisecond),
		brokenOff(),
	}
	random := rand.New(rand.NewPCG(seed, seed))
	var mu sync.Mutex // guards random
	roll := func() int {
		mu.Lock()
		defer mu.Unlock()
		return random.IntN(3 * len(faults))
	}
	return func(w http.ResponseWriter, r *http.Request) bool {
		i := roll()
		return i < len(faults) && faults[i](w, r)
	}
}

// brokenOff announces more than it says.
func brokenOff() registry.Fault {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Length", "1000")
		_, _ = w.Write([]byte(`{"schemaVersion":2,`))
		panic(http.ErrAbortHandler)
	}
}

// world is a registry with images of which the truth is known.
type world struct {
	*site
	// truth is the code of a denial, empty for an image that is signed.
	truth map[string]string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	const each = 5
	w := &world{newSite(t, sign(t, each, quick), 1, registry.Options{BearerAuth: true}).spread(t, 2, false), map[string]string{}}
	r := w.registries[0]
	for _, key := range w.keys {
		w.truth[key] = ""
	}
	for i := range each {
		tag := fmt.Sprintf("unsigned-%d", i)
		must(r.PushImage(t.Context(), "team/plain", tag, tag))(t)
		unsigned, absent := r.Host()+"/team/plain:"+tag, fmt.Sprintf("%s/team/plain:absent-%d", r.Host(), i)
		w.truth[unsigned], w.truth[absent] = string(executor.CodeNoSignature), string(executor.CodeSubjectNotFound)
		w.keys = append(w.keys, unsigned, absent)
	}
	return w
}

// check asks for all keys at once, holds every verdict to the truth, and counts
// them. A key without a verdict is nothing wrong, nor is an answer that a
// starved machine breaks off.
func (w *world) check(t *testing.T, p *process.Process) (verdicts int) {
	t.Helper()
	answer, err := p.Ask(t.Context(), w.keys...)
	if err != nil {
		t.Logf("no answer: %v", err)
	}
	for _, item := range answer.Items {
		verdicts++
		if item.Value.IsSuccess != (w.truth[item.Key] == "") || item.Value.Code() != w.truth[item.Key] {
			t.Errorf("%s: allowed: %t, code %q, want code %q", item.Key, item.Value.IsSuccess, item.Value.Code(), w.truth[item.Key])
		}
	}
	return verdicts
}
