package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/gatehouse-project/gatehouse/test/e2e/cluster"
)

// TestLimits is about pods that the gate could be worn out with, and about pods
// that mutation could keep from ever changing again.
func TestLimits(t *testing.T) {
	w := begin(t, settings{mutation: true})
	signed := w.signed(0, "app", "signed")
	if o := w.kubectl("", "delete", "assign", "--all"); !o.OK() {
		t.Fatal(o)
	}
	w.eventually("images are pinned no more", func() bool { return strings.Contains(w.tryPod("probe", signed).Stderr, "IMAGE_NOT_PINNED") })
	w.part("crowded", func() {
		w.playCrowded("the rule, webhook has 10 s", 5000, "denied the request: [gatehouse-pods] TOO_MANY_IMAGES")
	})
	w.part("crowded, bounded", w.playBounded)
	w.part("debugged before", func() { w.playDebuggedBefore(signed) })
}

// playCrowded hides an unsigned image among many. What is not answered in time
// would be let through.
func (w *world) playCrowded(by string, containers int, denial string) {
	w.t.Helper()
	_, desc := w.image(0, "app", "unsigned")
	images := make([]string, containers)
	for i := range images {
		images[i] = fmt.Sprintf("r/%d", i)
	}
	images[0] = w.pinned(0, "app", desc)
	o := w.create(w.t.Context(), w.api, "crowded", ask{about: "crowded", images: images, denial: regexp.QuoteMeta(denial)}, false)
	table.add("limits", fmt.Sprintf("Pod with %d containers, one of them unsigned; %s", containers, by), gist(o.message), o.elapsed())
	if !o.right() {
		w.t.Errorf("should be denied for %q: %.300s", denial, o)
	}
}

// playBounded has the API server bound pods, as the library's README says, which
// holds where Gatekeeper is late: it is given the least time that there is.
func (w *world) playBounded() {
	text := string(must(os.ReadFile(filepath.Join(library, "README.md")))(w.t))
	_, rest, _ := strings.Cut(text, "```yaml\n")
	policy, _, found := strings.Cut(rest, "```")
	if !found {
		w.t.Fatal("the README has no manifest")
	}
	w.ok(w.Apply(w.t.Context(), policy))
	defer func() {
		if o := w.kubectl("", "delete", "validatingadmissionpolicy,validatingadmissionpolicybinding", "gatehouse-limits"); !o.OK() {
			w.t.Error(o)
		}
	}()
	w.ok(w.InstallGatekeeper(w.t.Context(), plane.at, cluster.Webhooks{Validating: 1, Mutating: 1}))
	many := w.podObject("bounded", slices.Repeat([]string{w.signed(0, "app", "bounded")}, 501))
	w.eventually("pods are bounded", func() bool {
		return strings.Contains(w.do(http.MethodPost, w.podsPath()+"?dryRun=All", many).Message(), "ValidatingAdmissionPolicy 'gatehouse-limits'")
	})
	w.playCrowded("the API server, webhooks have 1 s", 20000, "TOO_MANY_IMAGES")
	w.ok(w.InstallGatekeeper(w.t.Context(), plane.at, cluster.Webhooks{Validating: 10, Mutating: 10}))
}

// playDebuggedBefore has a pod with an ephemeral container by tag, from before
// there were Assigns. The API server lets nobody exchange its image.
func (w *world) playDebuggedBefore(signed string) {
	const label = "gatehouse/keep-ephemeral-tags"
	w.open(func() {
		w.allowed("limits", "Pod by tag, before there are Assigns", w.apply(w.guarded("debugged", signed)))
		w.allowed("limits", "kubectl debug of it, by tag", w.in("debug", "debugged", "--image", signed, "--container", "debugger", "--profile=general"))
	})
	w.ok(w.Apply(w.t.Context(), manifests(w.t, "assigns")))
	var o cluster.Output
	w.eventually("ephemeral containers are pinned", func() bool {
		o = w.in("label", "pod", "debugged", fmt.Sprint("a=", time.Now().UnixNano()), "--overwrite")
		return !o.OK()
	})
	w.fails("limits", "label of it, once there are", o, "pod updates may not change fields")
	w.allowed("limits", "kubectl label pod debugged "+label+"=", w.in("label", "pod", "debugged", label+"="))
	w.allowed("limits", "its finalizer removed", w.in("patch", "pod", "debugged", "--type=json", "--patch", `[{"op":"remove","path":"/metadata/finalizers"}]`))
	w.denied("limits", "kubectl debug of it, by another tag", w.in("debug", "debugged", "--image", w.signed(0, "app", "other"), "--container", "again", "--profile=general"), "IMAGE_NOT_PINNED")
	pod := w.podOf("debugged", corev1.PodSpec{})
	w.told("limits", "Pod deleted", w.do(http.MethodDelete, pod.path+"/debugged?gracePeriodSeconds=0", nil), "")
}
