package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-project/gatehouse/test/e2e/cluster"
	"github.com/gatehouse-project/gatehouse/test/registry"
	"github.com/gatehouse-project/gatehouse/test/signing"
)

// keptFor is for how long Gatekeeper keeps answers in these cases.
const keptFor = 15 * time.Second

// TestResponseCache has Gatekeeper's cache of answers on: what failed must not be
// kept by anybody, what changed is seen once the time is up. And then off.
func TestResponseCache(t *testing.T) {
	w := begin(t, settings{provider: 2, registries: 4, gatekeeper: cluster.GatekeeperOptions{CacheTTL: keptFor}})
	unavailable := registry.Status(http.StatusServiceUnavailable, nil, 1, 1)
	for i, c := range []transient{
		{about: "status 503", fault: unavailable, reason: "REGISTRY_UNAVAILABLE", within: 2 * time.Second},
		{about: "a reset", fault: registry.Reset(), reason: "REGISTRY_UNAVAILABLE", within: 2 * time.Second},
		{about: "silence", fault: registry.Hang(), reason: "DEADLINE_EXCEEDED", within: 2 * time.Second},
	} {
		w.part("transient/"+c.about, func() { w.playTransient(i, c) })
	}
	w.part("on", func() { w.playTen(fmt.Sprintf("Gatekeeper keeps answers for %s", keptFor), 1) })
	w.part("change", w.playChange)
	w.part("off", func() {
		w.ok(w.gatekeeper.Stop())
		w.gatekeeper = must(w.StartGatekeeper(t.Context(), plane.at, cluster.GatekeeperOptions{}))(w.t)
		w.playTen("Gatekeeper keeps no answers", 10)
	})
}

// transient is how a registry fails for one of two images of a pod, and how soon
// after that the pod has to be allowed.
type transient struct {
	about, reason string
	fault         registry.Fault
	within        time.Duration
}

// only limits a fault to a repository.
func only(repository string, f registry.Fault) registry.Fault {
	return func(w http.ResponseWriter, r *http.Request) bool {
		return strings.HasPrefix(r.URL.Path, "/v2/"+repository+"/") && f(w, r)
	}
}

func (w *world) playTransient(at int, c transient) {
	good, flaky := w.signed(at, "good", "1"), w.signed(at, "flaky", "1")
	w.verdict("Pod by which the registry gets known", w.try(w.podOf("known", specOf(w.signed(at, "known", "1")))), "")
	w.registries[at].SetIntercept(only("flaky", c.fault))
	o := w.apply(w.pod("flaky", good, flaky))
	w.denied("transient", "Pod with a good image and one for which the registry answers with "+c.about, o, c.reason)
	if strings.Contains(o.Stderr, "image "+good) {
		w.t.Errorf("the good image is blamed: %s", o)
	}
	w.registries[at].SetIntercept(nil)
	w.heals("transient", "the same, tried again, from when the registry is well after "+c.about, w.pod("flaky", good, flaky), c.within)
	w.allowed("transient", "the same, applied", w.apply(w.pod(fmt.Sprintf("flaky-%d", at), good, flaky)))
}

// heals tries to make a pod again and again until it is allowed, which has to be
// within a time.
func (w *world) heals(section, about, pod string, within time.Duration) {
	w.t.Helper()
	start := time.Now()
	for tries := 1; ; tries++ {
		o := w.kubectl(pod, "create", "--dry-run=server", "-f", "-")
		after := time.Since(start)
		if o.OK() {
			table.add(section, about, fmt.Sprintf("allowed at try %d", tries), after)
			if after > within {
				w.t.Errorf("%s: allowed only after %s", about, after)
			}
			return
		}
		if after > time.Minute {
			w.t.Fatalf("%s: still denied: %s", about, o)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// playTen makes ten same pods and counts how often the provider is asked.
func (w *world) playTen(about string, want int) {
	image := w.signed(3, "ten", about[len(about)-3:])
	before, start := w.calls(), time.Now()
	for i := range 10 {
		w.verdict("one of ten pods", w.try(w.podOf(fmt.Sprintf("ten-%d", i), specOf(image))), "")
	}
	asked := w.calls() - before
	table.add("response cache", "ten Pods of one image; "+about, fmt.Sprintf("all allowed; the provider was asked %d times", asked), time.Since(start))
	if asked != want {
		w.t.Errorf("%s: the provider was asked %d times, want %d", about, asked, want)
	}
}

// playChange lets one image get the signature that it lacks, and another lose
// what it needs, at one time, with both verdicts kept by Gatekeeper.
func (w *world) playChange() {
	gains, desc := w.image(3, "gains", "1")
	loses := w.signed(3, "loses", "1")
	pods := map[string]object{gains: w.podOf("gains", specOf(gains)), loses: w.podOf("loses", specOf(loses))}
	w.verdict("unsigned", w.try(pods[gains]), noSignature)
	w.verdict("signed", w.try(pods[loses]), "")

	start := time.Now()
	w.sign(3, "gains", desc, w.people.acmeSigner, signing.SignOptions{})
	w.config.Rules = fmt.Sprintf(`[{name: strict, images: [%q], require: {verifier: notation, atLeast: 2}}, {name: all, images: ["**"], require: {verifier: notation}}]`, w.registries[3].Host()+"/loses")
	must(w.config.Write(w.dir))(w.t)

	want := map[string]bool{gains: true, loses: false}
	after := make(map[string]time.Duration)
	w.eventually("both verdicts have changed", func() bool {
		for image, pod := range pods {
			if _, done := after[image]; !done && w.try(pod).OK() == want[image] {
				after[image] = time.Since(start)
			}
		}
		return len(after) == len(pods)
	})
	// What the provider itself takes: absentTTL, and until an edit is seen.
	const itself = 6 * time.Second
	for image, about := range map[string]string{gains: "an unsigned image is signed: allowed", loses: "a rule now wants two signatures: denied"} {
		table.add("response cache", fmt.Sprintf("%s; Gatekeeper keeps answers for %s", about, keptFor), "the change is seen", after[image])
		if after[image] > keptFor+itself {
			w.t.Errorf("%s only after %s", about, after[image])
		}
	}
}
