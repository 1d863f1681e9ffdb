package e2e

import (
	"encoding/base64"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-project/gatehouse/test/e2e/cluster"
	"github.com/gatehouse-project/gatehouse/test/registry"
)

// TestAway takes the registry and the provider away: what is there already must
// stay manageable, what is new must be denied for a reason that a person can act
// on.
func TestAway(t *testing.T) {
	w := begin(t, settings{provider: 2, registries: 2})
	signed := w.signed(0, "app", "signed")
	unsigned, _ := w.image(0, "app", "unsigned")
	w.part("slow registry", w.playSlowRegistry)
	w.open(func() {
		for _, name := range []string{"old", "leaving"} {
			w.allowed("old", "Pod of an unsigned image, before anything is enforced", w.apply(w.guarded(name, unsigned)))
		}
	})
	w.allowed("old", "Pod of a signed image", w.apply(w.guarded("good", signed)))
	w.allowed("old", "Deployment of a signed image", w.applyObject(w.controllers("web", specOf(signed))[0]))
	w.part("update", func() { w.playUpdate(unsigned) })
	w.part("wrong provider", func() { w.playWrongProvider(signed) })

	w.ok(w.process.Stop())
	w.part("provider down", func() { w.playProviderDown(signed) })
	w.registries[0].Close()
	w.part("all down", func() { w.playOldPods(unsigned) })
	w.serve()
}

// open takes the constraints away for as long as something is played.
func (w *world) open(play func()) {
	w.t.Helper()
	if o := w.kubectl("", "delete", "gatehouseverification", "--all"); !o.OK() {
		w.t.Fatal(o)
	}
	image, _ := w.image(0, "probe/unsigned", "open")
	w.eventually("the gate is open", func() bool { return w.tryPod("probe", image).OK() })
	play()
	w.ok(w.Apply(w.t.Context(), manifests(w.t, "constraints")))
	w.eventually("the gate is closed", func() bool {
		return strings.Contains(w.tryPod("probe", image).Stderr, "denied the request")
	})
}

// guarded is a Pod with a finalizer.
func (w *world) guarded(name, image string) string {
	return strings.Replace(w.pod(name, image), "metadata: {", "metadata: {finalizers: [example.com/guard], ", 1)
}

// atOnce asserts that a command was allowed, in less time than the provider may
// take.
func (w *world) atOnce(section, about string, o cluster.Output) {
	w.t.Helper()
	w.allowed(section, about, o)
	if o.Elapsed > time.Duration(w.providerTimeout())*time.Second {
		w.t.Errorf("%s took %s", about, o.Elapsed)
	}
}

func (w *world) in(args ...string) cluster.Output {
	w.t.Helper()
	return w.kubectl("", append([]string{"--namespace", w.namespace}, args...)...)
}

// playUpdate has the provider at hand, which need not be asked of what is not
// new.
func (w *world) playUpdate(unsigned string) {
	before := w.calls()
	w.atOnce("update", "label of an old Pod with an unsigned image", w.in("label", "pod", "old", "a=b"))
	w.atOnce("update", "Deployment scaled", w.in("scale", "deployment", "web", "--replicas=2"))
	w.atOnce("update", "annotation in the template of a Deployment", w.in("patch", "deployment", "web", "--patch", `{"spec":{"template":{"metadata":{"annotations":{"a":"b"}}}}}`))
	if asked := w.calls() - before; asked != 0 {
		w.t.Errorf("the provider was asked %d times about images that are there", asked)
	}
	w.denied("update", "Deployment led to an unsigned image", w.in("set", "image", "deployment/web", "main="+unsigned), noSignature)
	w.denied("update", "Pod led to an unsigned image", w.in("set", "image", "pod/good", "c0="+unsigned), noSignature)
}

// playOldPods has neither the provider nor the registry.
func (w *world) playOldPods(unsigned string) {
	const section = "all down"
	for _, pod := range []string{"old", "good"} {
		w.atOnce(section, "label of the Pod "+pod, w.in("label", "pod", pod, "down=yes"))
		w.atOnce(section, "finalizer of the Pod "+pod+" removed", w.in("patch", "pod", pod, "--type=json", "--patch", `[{"op":"remove","path":"/metadata/finalizers"}]`))
		w.atOnce(section, "Pod "+pod+" deleted", w.in("delete", "pod", pod, "--grace-period=0", "--force"))
	}
	w.atOnce(section, "Pod with a finalizer deleted", w.in("delete", "pod", "leaving", "--wait=false", "--grace-period=0", "--force"))
	w.atOnce(section, "its finalizer removed", w.in("patch", "pod", "leaving", "--type=json", "--patch", `[{"op":"remove","path":"/metadata/finalizers"}]`))
	if o := w.in("get", "pods", "--output=name"); strings.TrimSpace(o.Stdout) != "" {
		w.t.Errorf("pods that should be gone: %s", o)
	}
	w.atOnce(section, "Deployment scaled", w.in("scale", "deployment", "web", "--replicas=3"))
	w.denied(section, "Deployment led to another image", w.in("set", "image", "deployment/web", "main="+unsigned), "connection refused")
	w.atOnce(section, "Deployment deleted", w.in("delete", "deployment", "web"))
}

// playProviderDown has no process at the provider's address.
func (w *world) playProviderDown(signed string) {
	w.denied("provider", "Pod of a signed image, provider down", w.apply(w.pod("down", signed)), "connection refused")
	w.denied("provider", "Deployment of a signed image, provider down", w.applyObject(w.controllers("down", specOf(signed))[0]), "connection refused")
}

// playSlowRegistry has a registry that takes longer for a verdict than there is
// time. The work goes on behind, so that the retry finds it done.
func (w *world) playSlowRegistry() {
	image := w.signed(1, "slow", "1")
	w.registries[1].SetIntercept(slowly(time.Second))
	defer w.registries[1].SetIntercept(nil)
	w.denied("provider", "Pod, registry answers each request after 1 s, provider has 2 s", w.apply(w.pod("slow", image)), "DEADLINE_EXCEEDED")
	w.heals("provider", "the same, tried again, registry as slow as before", w.pod("slow", image), 4*time.Second)
}

// slowly lets each answer take its time.
func slowly(d time.Duration) registry.Fault {
	return func(_ http.ResponseWriter, r *http.Request) bool {
		select {
		case <-time.After(d):
		case <-r.Context().Done():
		}
		return false
	}
}

// playWrongProvider leads the Provider astray.
func (w *world) playWrongProvider(signed string) {
	const name = "gatehouse-verify-pods"
	astray := func(about, provider, reason string) {
		w.ok(w.Apply(w.t.Context(), provider))
		var o cluster.Output
		w.eventually(about, func() bool {
			o = w.apply(w.pod("astray", signed))
			return strings.Contains(o.Stderr, reason)
		})
		w.denied("provider", "Pod of a signed image, "+about, o, reason)
	}
	ours := w.provider(name, "/ratify/gatekeeper/v1/verify")
	astray("its URL leads to a server without TLS", strings.ReplaceAll(ours, w.address, w.registries[0].Host()), "server gave HTTP response to HTTPS client")
	other := strings.ReplaceAll(ours, "https://"+w.address, w.Server())
	astray("its URL leads to a server that it does not trust", other, "failed to verify certificate")
	authority := must(os.ReadFile(filepath.Join(w.Dir(), "ca.crt")))(w.t)
	text := base64.StdEncoding.EncodeToString
	astray("its URL leads to a server that it trusts and that is no provider", strings.ReplaceAll(other, text(w.ca.PEM), text(authority)), "check its URL")
	astray("its URL has a path that nobody serves", strings.ReplaceAll(ours, "/v1/verify", "/v1/nowhere"), "NO_SUCH_PATH")
	mute := must((&net.ListenConfig{}).Listen(w.t.Context(), "tcp", "127.0.0.1:0"))(w.t)
	astray("its URL leads to where nobody answers", strings.ReplaceAll(ours, w.address, mute.Addr().String()), "deadline exceeded")
	w.ok(mute.Close())
	if o := w.kubectl("", "delete", "provider", name); !o.OK() {
		w.t.Fatal(o)
	}
	var o cluster.Output
	w.eventually("Gatekeeper has forgotten the Provider", func() bool {
		o = w.apply(w.pod("astray", signed))
		return strings.Contains(o.Stderr, "not found")
	})
	w.denied("provider", "Pod of a signed image, no such Provider", o, "not found")
	w.ok(w.Apply(w.t.Context(), ours))
	w.eventually("the Provider is back", func() bool { return w.tryPod("astray", signed).OK() })
}
