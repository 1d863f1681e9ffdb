package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-project/gatehouse/test/e2e/cluster"
	"github.com/gatehouse-project/gatehouse/test/process"
	"github.com/gatehouse-project/gatehouse/test/registry"
	"github.com/gatehouse-project/gatehouse/test/signing"
)

// The crowd of Ratify's load test: pods of ten images.
const (
	crowdPods    = 200
	ownPods      = 100 // where no two share an image
	crowdImages  = 10
	crowdClients = 20
)

// TestLoadPods makes 200 pods at once, every tenth of them with one image that
// nobody signed or that a stranger did.
func TestLoadPods(t *testing.T) {
	var rows [][]string
	for _, test := range []struct {
		name, about string
		settings    settings
		own         bool // also with images of their own
		defaults    bool // of Gatekeeper's
	}{
		{"cache-off", "10 s, 10 s; cache off", settings{}, true, false},
		{"cache-on", "10 s, 10 s; cache 3 min", settings{gatekeeper: cluster.GatekeeperOptions{CacheTTL: 3 * time.Minute}}, false, false},
		{"mutation", "10 s, 10 s; cache off; mutation", settings{mutation: true}, false, false},
		{"defaults", "3 s, 1 s, cache 3 min: Gatekeeper's defaults", settings{
			gatekeeper: cluster.GatekeeperOptions{CacheTTL: 3 * time.Minute}, hooks: cluster.Webhooks{Validating: 3, Mutating: 1}, provider: 2,
		}, false, true},
		{"defaults-threads", "3 s, 1 s, cache 3 min, but --max-serving-threads=64", settings{
			gatekeeper: cluster.GatekeeperOptions{CacheTTL: 3 * time.Minute, ServingThreads: 64}, hooks: cluster.Webhooks{Validating: 3, Mutating: 1}, provider: 2,
		}, false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.settings.config = func(c *process.Config) { c.Require = everySignature }
			w := begin(t, test.settings)
			rows = append(rows, w.playCrowd(test.about, w.crowdAsks(), test.defaults))
			if test.own {
				rows = append(rows, w.playCrowd(fmt.Sprintf("%s; %d pods, no two share an image, one signature each", test.about, ownPods), w.ownAsks(), false))
			}
			if test.defaults {
				rows = append(rows, w.floodHanging(test.about))
			}
		})
	}
	if enabled() {
		figures.add(t, "200 pods of ten images by 20 clients", `Ten images with five Notary signatures each, all of which have to be valid; 20 of the pods have one image more in place of one, which nobody signed or
which a stranger did. Nothing is known of any image at first. "Wrong" are pods admitted that must not be, and pods denied that must not be. "Gone by" are
calls of a webhook that took too long, which Gatekeeper's manifest lets pass (`+"`failurePolicy: Ignore`"+`).`,
			[]string{"Timeouts of the webhooks, validating and mutating", "All made after", "Pods a second", "A pod: median", "p95", "least", "most", "Wrong", "Gone by", "Provider's answers to verify; p50, p99 at most", "To mutate"}, rows...)
	}
}

// playCrowd makes the pods, asserts what came of them, and gives the row of the
// figures.
func (w *world) playCrowd(about string, asks []ask, defaults bool) []string {
	w.t.Helper()
	r := w.createPods(asks)
	if defaults {
		r.checkDefaults()
	} else {
		r.check()
	}
	table.add("200 pods", fmt.Sprintf("%d pods of %d images by %d clients; timeouts %s", len(asks), crowdImages, crowdClients, about),
		fmt.Sprintf("%s; %d calls gone by", r.all, r.failOpens), r.took)
	return r.row(about)
}

// podsRun is what came of a crowd.
type podsRun struct {
	w         *world
	all       outcomes
	took      time.Duration
	verify    answered
	mutate    answered
	failOpens int
	failures  int
	troubles  []string
}

// createPods lets the clients make the pods, each a share of them.
func (w *world) createPods(asks []ask) podsRun {
	w.t.Helper()
	apis := w.crowd(crowdClients)
	w.remove(w.podsPath())
	w.t.Cleanup(func() { w.remove(w.podsPath()) })
	verify, mutate := w.answered("verify"), w.answered("mutate")
	gauges, start := w.gauges(), time.Now()
	all := make(outcomes, len(asks))
	var group sync.WaitGroup
	for client, api := range apis {
		group.Go(func() {
			for i := client; i < len(asks); i += len(apis) {
				all[i] = w.create(w.t.Context(), api, fmt.Sprintf("crowd-%d", i), asks[i], false)
			}
		})
	}
	group.Wait()
	r := podsRun{w: w, all: all, took: time.Since(start), troubles: gauges.troubles()}
	r.verify, r.mutate = w.answered("verify").since(verify), w.answered("mutate").since(mutate)
	r.failOpens, r.failures = gauges.since()
	return r
}

// crowdAsks are the pods, each of them with all ten images but for those that are
// to be denied.
func (w *world) crowdAsks() []ask {
	w.t.Helper()
	images := make([]string, crowdImages)
	for i := range images {
		images[i] = w.signedOften(0, fmt.Sprintf("team%d/app", i), "1", 5)
	}
	return w.withBad(crowdPods, func(int) []string { return slices.Clone(images) })
}

// ownAsks are pods of images that no other has, with a signature each.
func (w *world) ownAsks() []ask {
	w.t.Helper()
	return w.withBad(ownPods, func(pod int) []string {
		images := make([]string, crowdImages)
		for i := range images {
			images[i] = w.signed(0, fmt.Sprintf("own%d/app", i), fmt.Sprint(pod))
		}
		return images
	})
}

// withBad are pods of which every tenth has one image that is not signed, or by a
// stranger.
func (w *world) withBad(pods int, images func(pod int) []string) []ask {
	w.t.Helper()
	unsigned, _ := w.image(0, "app", "unsigned")
	stranger := w.strange(0, "app", "stranger")
	asks := make([]ask, pods)
	for i := range asks {
		a := ask{about: "signed", images: images(i)}
		switch i % 20 {
		case 7:
			a.images[i/20] = unsigned
			a.about, a.denial = "one image unsigned", "SIGNATURE_NOT_FOUND"
		case 17:
			a.images[i/20] = stranger
			a.about, a.denial = "one image signed by a stranger", "SIGNER_UNTRUSTED"
		}
		asks[i] = a
	}
	return asks
}

// floodHanging has all clients ask at once for a pod with an unsigned image of a
// registry that hangs. Gatekeeper works on as many as it has cores, and each
// waits for the process's deadline: what is not answered in time is gone by.
func (w *world) floodHanging(about string) []string {
	w.t.Helper()
	asks := make([]ask, crowdClients)
	for i := range asks {
		name, _ := w.image(0, fmt.Sprintf("hanging/app%d", i), "1")
		asks[i] = ask{about: "unsigned, of a registry that hangs", images: []string{name}, denial: noVerdict}
	}
	w.registries[0].SetIntercept(registry.Hang())
	defer w.registries[0].SetIntercept(nil)
	r := w.createPods(asks)
	r.checkDefaults()
	table.add("200 pods", fmt.Sprintf("%d pods at once of a registry that hangs; timeouts %s", len(asks), about),
		fmt.Sprintf("%d admitted unjudged, as %d calls were gone by; %d denied", len(r.all.breaches()), r.failOpens, len(r.all)-len(r.all.breaches())), r.took)
	return r.row(fmt.Sprintf("%s; %d pods, unsigned, of a registry that hangs", about, len(asks)))
}

// strange pushes an image that a stranger signed.
func (w *world) strange(at int, repository, tag string) string {
	w.t.Helper()
	name, desc := w.image(at, repository, tag)
	w.sign(at, repository, desc, w.people.strangerSigner, signing.SignOptions{})
	return name
}

// check asserts that every pod came to what it had to, and that every call was
// answered.
func (r podsRun) check() {
	r.w.t.Helper()
	if wrong := r.all.wrong(); len(wrong) > 0 {
		r.w.t.Errorf("%s:%s", r.all, wrong.examples())
	}
	if r.failOpens != 0 || r.failures != 0 || len(r.troubles) > 0 {
		r.w.t.Errorf("calls of webhooks that failed: %d gone by, %d denied; Gatekeeper's log: %.3q", r.failOpens, r.failures, r.troubles)
	}
	if warned := r.all.where(func(o outcome) bool { return len(o.warnings) > 0 }); len(warned) > 0 {
		r.w.t.Errorf("%d pods with warnings: %q", len(warned), warned[0].warnings)
	}
	if got, want := r.w.countPods(), len(r.all.where(func(o outcome) bool { return o.denial == "" })); got != want {
		r.w.t.Errorf("%d pods exist, want %d", got, want)
	}
	if r.verify.count == 0 {
		r.w.t.Error("the provider was not asked")
	}
}

// checkDefaults asserts what holds even where Gatekeeper's webhooks fail open:
// what was admitted wrongly was never judged.
func (r podsRun) checkDefaults() {
	r.w.t.Helper()
	if breaches := r.all.breaches(); len(breaches) > r.failOpens {
		r.w.t.Errorf("%d pods admitted wrongly, and only %d calls were gone by:%s", len(breaches), r.failOpens, breaches.examples())
	}
}

func (r podsRun) row(about string) []string {
	row := append([]string{about, seconds(r.took), fmt.Sprintf("%.0f", float64(len(r.all))/r.took.Seconds())}, r.all.durations().spread()...)
	return append(row, fmt.Sprint(len(r.all.wrong())), fmt.Sprint(r.failOpens), r.verify.String(), r.mutate.String())
}

// String is how many answers, and how fast nearly all of them were.
func (a answered) String() string {
	if a.count == 0 {
		return "none"
	}
	return fmt.Sprintf("%.0f; %d ms, %d ms", a.count, a.within(0.5).Milliseconds(), a.within(0.99).Milliseconds())
}

// countPods is how many pods the namespace has.
func (w *world) countPods() int {
	w.t.Helper()
	answer := must(w.api.Do(w.t.Context(), http.MethodGet, w.podsPath(), nil))(w.t)
	var list struct {
		Items []json.RawMessage `json:"items"`
	}
	w.ok(json.Unmarshal(answer.Body, &list))
	return len(list.Items)
}
