package bench

import (
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/gatehouse-project/gatehouse/test/bench/results"
	"github.com/gatehouse-project/gatehouse/test/process"
	"github.com/gatehouse-project/gatehouse/test/registry"
)

// BenchmarkPulls measures pulls of small images through Gatehouse, beside the same
// clients pulling from go-containerregistry's registry in memory, which is also
// the upstream: cached, while pruning runs, and cold.
func BenchmarkPulls(b *testing.B) {
	n, lasting := size(b, "IMAGES", 300), span(b, "ROUND", 5*time.Second)
	images := makeImages(b, n)
	upstream := launch(b, besideCommand(b, "registry"))
	pushAll(b, upstream.address, images)
	for b.Loop() {
		publish(b, coldPulls(b, upstream, images))
		publish(b, farPulls(b, images[:min(n, 100)]))
		publish(b, cachedPulls(b, upstream, images, lasting))
	}
}

// TestPulls pulls the way that the benchmark does, for a moment.
func TestPulls(t *testing.T) {
	t.Parallel()
	images := makeImages(t, 20)
	upstream := must(registry.Start(registry.Options{}))(t)
	t.Cleanup(upstream.Close)
	pushTo(t, upstream, images)
	gate, _ := pullGate(t, upstream.Host(), process.Map{})
	pullEach(t, gate.pulls, images)
	for path, n := range upstream.Paths() {
		if n != 1 && !strings.HasSuffix(path, "/v2/") {
			t.Errorf("%s: %d times", path, n)
		}
	}
	upstream.ResetStats()
	pullFor(t, gate.pulls, images, 300*time.Millisecond)
	if got := upstream.Stats().Total; got != 0 {
		t.Errorf("%d requests upstream for what is held", got)
	}
}

// coldPulls pulls each image once, straight from upstream and through processes that
// hold nothing, in turns.
func coldPulls(b *testing.B, upstream launched, images []pulledImage) results.Result {
	b.Helper()
	var straight, through []float64
	for range pairs {
		straight = append(straight, pullEach(b, upstream.address, images).rate)
		gate, _ := pullGate(b, upstream.address, process.Map{})
		through = append(through, pullEach(b, gate.pulls, images).rate)
	}
	r := results.Result{Name: "pulls/cold", Note: fmt.Sprintf("%d images of %d blobs of %d bytes, %d clients, upstream on loopback, every commit synced; %d rounds in turns", len(images), blobsEach, blobBytes, pullers, pairs)}
	r.Add(
		results.Figure{Name: "images", Value: median(through), Unit: "/s", Floor: new(median(straight))},
		results.Figure{Name: "straight", Value: median(straight), Unit: "/s"},
		results.Figure{Name: "share", Value: median(through) / median(straight), AtLeast: new(0.12)},
	)
	return r
}

// farPulls does the same with the upstream 25 ms away.
func farPulls(b *testing.B, images []pulledImage) results.Result {
	b.Helper()
	upstream := must(registry.Start(registry.Options{Latency: 25 * time.Millisecond}))(b)
	defer upstream.Close()
	pushTo(b, upstream, images)
	straight := pullEach(b, upstream.Host(), images)
	gate, _ := pullGate(b, upstream.Host(), process.Map{})
	through := pullEach(b, gate.pulls, images)
	r := results.Result{Name: "pulls/far", Note: fmt.Sprintf("%d images, %d clients, upstream 25 ms away", len(images), pullers)}
	r.Add(
		results.Figure{Name: "images", Value: through.rate, Unit: "/s", Floor: new(straight.rate)},
		results.Figure{Name: "straight", Value: straight.rate, Unit: "/s"},
		results.Figure{Name: "share", Value: through.rate / straight.rate, AtLeast: new(0.8)},
	)
	return r
}

// cachedPulls pulls at random what is held, and once more while other images come in
// and are pruned.
func cachedPulls(b *testing.B, upstream launched, images []pulledImage, lasting time.Duration) results.Result {
	b.Helper()
	gate, config := pullGate(b, upstream.address, process.Map{"lease": "1s"})
	half := len(images) / 2 // the other half comes and goes
	kept, passing := images[:half], images[half:]
	pullEach(b, gate.pulls, kept)
	pullFor(b, upstream.address, kept, lasting/5)
	pullFor(b, gate.pulls, kept, lasting/5)
	var beside, ours, pruning []pulls
	for range pairs {
		beside = append(beside, pullFor(b, upstream.address, kept, lasting))
		ours = append(ours, pullFor(b, gate.pulls, kept, lasting))
		pruning = append(pruning, whilePruning(b, gate, config, kept, passing, lasting))
	}
	rate := func(p pulls) float64 { return p.rate }
	p99 := func(p pulls) float64 { return millis(p.p99) }
	worst := func(p pulls) float64 { return millis(p.worst) }
	r := results.Result{Name: "pulls/cached", Note: fmt.Sprintf("%d images of %d blobs, %d clients, %d rounds of %s in turns with go-containerregistry's registry in memory", len(kept), blobsEach, pullers, pairs, lasting)}
	r.Add(
		results.Figure{Name: "images", Value: of(ours, rate), Unit: "/s", Floor: new(of(beside, rate))},
		results.Figure{Name: "registry in memory", Value: of(beside, rate), Unit: "/s"},
		results.Figure{Name: "share", Value: of(ours, rate) / of(beside, rate), AtLeast: new(0.6)},
		results.Figure{Name: "p99", Value: of(ours, p99), Unit: "ms", Floor: new(of(beside, p99)), AtMost: new(1.5 * of(beside, p99))},
		results.Figure{Name: "images while pruning", Value: of(pruning, rate), Unit: "/s"},
		results.Figure{Name: "p99 while pruning", Value: of(pruning, p99), Unit: "ms"},
		results.Figure{Name: "worst", Value: of(ours, worst), Unit: "ms"},
		results.Figure{Name: "worst while pruning", Value: of(pruning, worst), Unit: "ms"},
		results.Figure{Name: "worst of the registry in memory", Value: of(beside, worst), Unit: "ms"},
	)
	return r
}

func of(all []pulls, value func(pulls) float64) float64 {
	values := make([]float64, len(all))
	for i, p := range all {
		values[i] = value(p)
	}
	return median(values)
}

// whilePruning pulls what is kept while other images are pulled and dropped.
func whilePruning(b *testing.B, gate launched, config string, kept, passing []pulledImage, lasting time.Duration) pulls {
	b.Helper()
	binary := must(process.Build(b.Context()))(b)
	done := make(chan struct{})
	var group errgroup.Group
	group.Go(func() error {
		p := newPuller(gate.pulls)
		defer p.close()
		for {
			for _, image := range passing {
				select {
				case <-done:
					return nil
				default:
				}
				if err := p.pull(b.Context(), image); err != nil {
					return err
				}
				time.Sleep(5 * time.Millisecond)
			}
			out, err := exec.Command(binary.Path(), "cache", "prune", "--config", config, "--unused-for", "1s").CombinedOutput()
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
		}
	})
	found := pullFor(b, gate.pulls, kept, lasting)
	close(done)
	if err := group.Wait(); err != nil {
		b.Fatal(err)
	}
	return found
}

// crowdSize is how many clients want one image at once.
const crowdSize = 200

// BenchmarkPullCrowd lets 200 clients pull one image that is not held.
func BenchmarkPullCrowd(b *testing.B) {
	for b.Loop() {
		most, requests := pullCrowd(b, crowdSize)
		r := results.Result{Name: "pulls/crowd", Note: fmt.Sprintf("%d clients at once on one cold image of %d blobs, upstream 25 ms away", crowdSize, blobsEach)}
		r.Add(
			results.Figure{Name: "requests for one object", Value: float64(most), Floor: new(1.0), AtMost: new(1.0)},
			results.Figure{Name: "requests upstream", Value: float64(requests), Floor: new(float64(blobsEach + 1))},
		)
		publish(b, r)
	}
}

// TestPullCrowd is the same, with fewer.
func TestPullCrowd(t *testing.T) {
	t.Parallel()
	if most, requests := pullCrowd(t, 50); most != 1 || requests > blobsEach+2 {
		t.Errorf("%d requests, %d for one object", requests, most)
	}
}

// pullCrowd says how often the upstream was asked for one object, and for all.
func pullCrowd(tb testing.TB, n int) (most, requests int64) {
	tb.Helper()
	images := makeImages(tb, 1)
	upstream := must(registry.Start(registry.Options{Latency: 25 * time.Millisecond}))(tb)
	defer upstream.Close()
	pushTo(tb, upstream, images)
	gate, _ := pullGate(tb, upstream.Host(), process.Map{})
	var group errgroup.Group
	ready := make(chan struct{})
	for range n {
		group.Go(func() error {
			p := newPuller(gate.pulls)
			defer p.close()
			<-ready
			return p.pull(tb.Context(), images[0])
		})
	}
	close(ready)
	if err := group.Wait(); err != nil {
		tb.Fatal(err)
	}
	for path, count := range upstream.Paths() {
		if strings.HasPrefix(path, http.MethodGet) && !strings.HasSuffix(path, "/v2/") {
			most = max(most, count)
		}
		requests += count
	}
	return most, requests
}
