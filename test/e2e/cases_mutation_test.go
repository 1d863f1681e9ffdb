package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/gatehouse-project/gatehouse/test/e2e/cluster"
	"github.com/gatehouse-project/gatehouse/test/process"
	"github.com/gatehouse-project/gatehouse/test/registry"
	"github.com/gatehouse-project/gatehouse/test/signing"
)

// tagTTL is how long the process believes a tag in these cases.
const tagTTL = time.Second

// TestMutation pins images by tag to what their tags lead to as a pod is made.
func TestMutation(t *testing.T) {
	w := begin(t, settings{mutation: true, provider: 2, registries: 2, hooks: cluster.Webhooks{Validating: 5, Mutating: 2}, config: func(c *process.Config) {
		c.Sections = process.Map{"tags": process.Map{"ttl": tagTTL.String()}}
	}})
	signed := w.signed(0, "app", "signed")
	w.part("fields", func() { w.playPinned(signed) })
	w.part("ephemeral", func() { w.playPinnedEphemeral(signed) })
	w.part("hit", w.playPinnedHit)
	w.part("moved", w.playMovedTag)
	w.part("untouched", func() { w.playUntouched(signed) })
	w.part("denied", w.playUnpinnable)
	w.part("controllers", func() { w.playUnmutated(signed) })
	w.part("webhook down", func() { w.playNoMutation(signed) })
	w.part("stock", func() { w.playStockAssigns(signed) })
	w.part("all down", func() { w.playMutatedPod(signed) })
}

// digestOf is what a tag of the test's registry leads to.
func (w *world) digestOf(at int, name string) string {
	w.t.Helper()
	repository, tag, _ := strings.Cut(strings.TrimPrefix(name, w.registries[at].Host()+"/"), ":")
	req := must(http.NewRequestWithContext(w.t.Context(), http.MethodHead, w.registries[at].URL()+"/v2/"+repository+"/manifests/"+tag, nil))(w.t)
	resp := must(http.DefaultClient.Do(req))(w.t)
	w.ok(resp.Body.Close())
	return resp.Header.Get("Docker-Content-Digest")
}

// pinnedTo is what mutation makes of an image by tag.
func (w *world) pinnedTo(at int, name string) string {
	w.t.Helper()
	repository, _, _ := strings.Cut(strings.TrimPrefix(name, w.registries[at].Host()), ":")
	return w.registries[at].Host() + repository + "@" + w.digestOf(at, name)
}

// specAt reads the specification of a Pod in the cluster.
func (w *world) specAt(name string) corev1.PodSpec {
	w.t.Helper()
	var pod corev1.Pod
	w.ok(json.Unmarshal(w.do(http.MethodGet, w.podOf(name, corev1.PodSpec{}).path+"/"+name, nil).Body, &pod))
	return pod.Spec
}

// same asserts an image.
func (w *world) same(about, got, want string) {
	w.t.Helper()
	if got != want {
		w.t.Errorf("%s: %s, want %s", about, got, want)
	}
}

func (w *world) playPinned(signed string) {
	spec := corev1.PodSpec{
		InitContainers: []corev1.Container{{Name: "first", Image: signed}},
		Containers:     []corev1.Container{{Name: "main", Image: signed}, {Name: "second", Image: signed}},
		Volumes: []corev1.Volume{
			{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			{Name: "files", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: signed}}},
			{Name: "settings", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}}},
		},
	}
	w.allowed("mutation", "Pod by tag, in every field", w.applyObject(w.podOf("pinned", spec)))
	got, want := w.specAt("pinned"), w.pinnedTo(0, signed)
	w.same("init container", got.InitContainers[0].Image, want)
	w.same("container", got.Containers[0].Image, want)
	w.same("second container", got.Containers[1].Image, want)
	w.same("image volume", got.Volumes[1].Image.Reference, want)
	if got.Volumes[0].EmptyDir == nil || got.Volumes[0].Image != nil || got.Volumes[2].ConfigMap == nil || got.Volumes[2].Image != nil {
		w.t.Errorf("volumes that are no images have changed: %+v", got.Volumes)
	}
	table.add("mutation", "kubectl get of it", "all by "+want, 0)
	w.allowed("mutation", "Pod by tag", w.apply(w.pod("again", signed)))
	w.denied("mutation", "the same Pod, applied once more, which would lead it back to the tag", w.apply(w.pod("again", signed)), "IMAGE_NOT_PINNED")
}

func (w *world) playPinnedEphemeral(signed string) {
	unsigned, _ := w.image(0, "app", "unsigned")
	debug := func(image string) cluster.Output {
		return w.in("debug", "pinned", "--image", image, "--container", "debugger", "--profile=general")
	}
	w.denied("mutation", "kubectl debug by tag, unsigned", debug(unsigned), noSignature)
	w.allowed("mutation", "kubectl debug by tag, signed", debug(signed))
	w.same("ephemeral container", w.specAt("pinned").EphemeralContainers[0].Image, w.pinnedTo(0, signed))
}

// playPinnedHit looks at what the verification costs that follows a mutation.
func (w *world) playPinnedHit() {
	const answer = 20 * time.Millisecond
	for i, c := range []struct {
		about, repository string
		fault             registry.Fault
		// tag and all are how often the registry is asked for the tag, and asked.
		tag, all int64
	}{
		{"first Pod by a tag that nobody has asked about", "hit", nil, 1, 5},
		{"second Pod by the same tag, within its TTL", "hit", nil, 0, 0},
		{"third Pod by the same tag, after its TTL", "hit", nil, 1, 1},
		{fmt.Sprintf("first Pod by another tag, registry answers each request after %s", answer), "slow", slowly(answer), 1, 5},
	} {
		if i == 2 {
			time.Sleep(tagTTL)
		}
		if c.tag+c.all > 2 {
			w.signed(1, c.repository, "1")
		}
		w.registries[1].SetIntercept(c.fault)
		w.playHit(c.about, c.repository, c.tag, c.all)
	}
	w.registries[1].SetIntercept(nil)
}

// playHit makes a Pod of which the verification has to find all done, or on its
// way.
func (w *world) playHit(about, repository string, tag, all int64) {
	w.registries[1].ResetStats()
	hits, mutate, verify := w.metric("gatehouse_recalls_total", `"hit"`), w.took("mutate"), w.took("verify")
	pod := w.podOf("", specOf(w.registries[1].Host()+"/"+repository+":1"))
	pod.body.(*corev1.Pod).GenerateName = repository + "-"
	a := w.make(pod)
	w.verdict(about, a, "")
	hits, mutate, verify = w.metric("gatehouse_recalls_total", `"hit"`)-hits, w.took("mutate")-mutate, w.took("verify")-verify
	asked, ofTag := w.registries[1].Stats().Total, w.registries[1].Paths()["HEAD /v2/"+repository+"/manifests/1"]
	what := map[bool]string{true: "from memory", false: "by the work that mutation began"}[hits == 1]
	table.add("mutation", about, fmt.Sprintf("allowed; mutate took %.1f ms, verify %.1f ms, answered %s; requests to the registry: %d, of them %d for the tag", mutate*1000, verify*1000, what, asked, ofTag), a.Elapsed)
	if ofTag != tag || asked != all {
		w.t.Errorf("%s: the registry was asked %d times, %d times for the tag; want %d, %d", about, asked, ofTag, all, tag)
	}
	if all < 2 && hits != 1 {
		w.t.Errorf("%s: the verification was no hit", about)
	}
}

// took is how long the process has taken for all requests of a path, in seconds.
func (w *world) took(path string) float64 {
	w.t.Helper()
	return w.metric("gatehouse_http_duration_seconds_sum", `path="`+path+`"`)
}

// playMovedTag moves a tag between two pods, and while one is made.
func (w *world) playMovedTag() {
	image := w.signed(0, "moving", "v")
	before := w.pinnedTo(0, image)
	w.allowed("mutation", "Pod by a tag", w.apply(w.pod("before", image)))
	desc := must(w.registries[0].PushImage(w.t.Context(), "moving", "v", "another"))(w.t)
	w.sign(0, "moving", desc, w.people.acmeSigner, signing.SignOptions{})
	after := w.pinnedTo(0, image)
	time.Sleep(tagTTL)
	w.allowed("mutation", "another Pod by the tag, which has moved", w.apply(w.pod("after", image)))
	w.same("pod before the tag moved", w.specAt("before").Containers[0].Image, before)
	w.same("pod after the tag moved", w.specAt("after").Containers[0].Image, after)

	hasty := w.signed(0, "hasty", "v")
	good := w.pinnedTo(0, hasty)
	var once sync.Once
	w.registries[0].SetIntercept(only("hasty", registry.On(func(out http.ResponseWriter, r *http.Request) bool {
		registry.Honest(out, r)
		once.Do(func() { w.move("hasty", "v") })
		return true
	}, registry.Resolve)))
	defer w.registries[0].SetIntercept(nil)
	w.allowed("mutation", "Pod by a tag that moves to an unsigned image once it has been looked up", w.apply(w.pod("hasty", hasty)))
	w.same("the pod", w.specAt("hasty").Containers[0].Image, good)
	if w.pinnedTo(0, hasty) == good {
		w.t.Error("the tag did not move")
	}
}

// move leads a tag to an image that nobody signed.
func (w *world) move(repository, tag string) {
	must(w.registries[0].PushImage(w.t.Context(), repository, tag, "nobody signed this"))(w.t)
}

func (w *world) playUntouched(signed string) {
	digest := w.pinnedTo(0, signed)
	_, at, _ := strings.Cut(digest, "@")
	both := signed + "@" + at
	w.registries[0].ResetStats()
	w.allowed("mutation", "Pod by digest, and by tag and digest", w.apply(w.pod("untouched", digest, both)))
	spec := w.specAt("untouched")
	w.same("by digest", spec.Containers[0].Image, digest)
	w.same("by tag and digest", spec.Containers[1].Image, both)
	if n := w.registries[0].Stats().Total; n != 0 {
		w.t.Errorf("the registry was asked %d times", n)
	}
}

func (w *world) playUnpinnable() {
	unsigned, _ := w.image(0, "app", "unsigned")
	w.denied("mutation", "Pod by tag, unsigned", w.apply(w.pod("unsigned", unsigned)), noSignature)
	w.fails("mutation", "Pod by tag, no such image", w.apply(w.pod("unknown", w.registries[0].Host()+"/no/such:1")), "SUBJECT_NOT_FOUND")
	w.fails("mutation", "Pod by tag, no such repository name", w.apply(w.pod("nameless", w.registries[0].Host()+"/UPPER:1")), "INVALID_KEY")
	image := w.signed(1, "silent", "1")
	w.registries[1].SetIntercept(only("silent", registry.Hang()))
	w.fails("mutation", "Pod by tag, registry is silent", w.apply(w.pod("silent", image)), "DEADLINE_EXCEEDED")
	w.registries[1].SetIntercept(nil)
}

// fails asserts that a webhook failed a command for a reason, and tells it.
func (w *world) fails(section, about string, o cluster.Output, reason string) {
	w.t.Helper()
	table.saw(section, about, o)
	if o.OK() || !strings.Contains(o.Stderr, reason) {
		w.t.Errorf("%s: %s: should fail for %q: %s", section, about, reason, o)
	}
}

// playUnmutated has a Deployment, which stays as it is, and the pod of it, which
// does not.
func (w *world) playUnmutated(signed string) {
	w.allowed("mutation", "Deployment by tag", w.applyObject(w.controllers("web", specOf(signed))[0]))
	o := w.in("get", "deployment", "web", "--output=jsonpath={.spec.template.spec.containers[0].image}")
	w.same("Deployment", o.Stdout, signed)
	w.verdict("Pod of the Deployment", w.make(w.podOf("web-1", specOf(signed))), "")
	w.same("Pod of the Deployment", w.specAt("web-1").Containers[0].Image, w.pinnedTo(0, signed))
}

const mutating = "gatekeeper-mutating-webhook-configuration"

// playNoMutation has nobody where the API server calls Gatekeeper's mutating
// webhook, which then is passed over in silence.
func (w *world) playNoMutation(signed string) {
	url := w.kubectl("", "get", "mutatingwebhookconfiguration", mutating, "--output=jsonpath={.webhooks[0].clientConfig.url}").Stdout
	lead := func(to string) {
		o := w.kubectl("", "patch", "mutatingwebhookconfiguration", mutating, "--type=json", "--patch", `[{"op":"replace","path":"/webhooks/0/clientConfig/url","value":"`+to+`"}]`)
		if !o.OK() {
			w.t.Fatal(o)
		}
	}
	lead("https://" + freeAddress(w.t) + "/v1/mutate")
	const code = "IMAGE_NOT_PINNED"
	w.eventually("nobody mutates", func() bool { return strings.Contains(w.tryPod("unmutated", signed).Stderr, code) })
	w.denied("mutation", "Pod by tag, mutating webhook down", w.apply(w.pod("unmutated", signed)), code)
	w.allowed("mutation", "Pod by digest, mutating webhook down", w.apply(w.pod("unmutated", w.pinnedTo(0, signed))))
	w.allowed("mutation", "Deployment by tag, mutating webhook down", w.applyObject(w.controllers("unmutated", specOf(signed))[0]))
	lead(url)
	w.eventually("pods are mutated again", func() bool { return w.tryPod("mutated", signed).OK() })
}

// playMutatedPod has neither the provider nor the registry.
func (w *world) playMutatedPod(signed string) {
	w.allowed("mutation", "Pod by tag", w.apply(w.guarded("lasting", signed)))
	w.same("the pod", w.specAt("lasting").Containers[0].Image, w.pinnedTo(0, signed))
	w.ok(w.process.Stop())
	w.registries[0].Close()
	const section = "mutation, all down"
	w.atOnce(section, "label of a Pod that was pinned", w.in("label", "pod", "lasting", "a=b"))
	w.atOnce(section, "its finalizer removed", w.in("patch", "pod", "lasting", "--type=json", "--patch", `[{"op":"remove","path":"/metadata/finalizers"}]`))
	w.atOnce(section, "label of a Pod that was debugged", w.in("label", "pod", "pinned", "a=b"))
	w.atOnce(section, "both deleted", w.in("delete", "pod", "lasting", "pinned", "--grace-period=0", "--force"))
	w.fails(section, "Pod by tag", w.apply(w.pod("late", signed)), "connection refused")
	w.serve()
}

// playStockAssigns has the Assigns of Ratify's users in place of the library's.
func (w *world) playStockAssigns(signed string) {
	if o := w.kubectl("", "delete", "assign", "--all"); !o.OK() {
		w.t.Fatal(o)
	}
	w.eventually("the library's Assigns are gone", func() bool { return !w.tryPod("unmutated", signed).OK() })
	w.ok(w.Apply(w.t.Context(), w.provider("ratify-mutation-provider", "/ratify/gatekeeper/v1/mutate")))
	files := must(filepath.Glob(filepath.Join("..", "templates", "testdata", "assigns", "*.yaml")))(w.t)
	if len(files) != 9 {
		w.t.Fatalf("%d stock Assigns", len(files))
	}
	for _, file := range files {
		w.ok(w.Apply(w.t.Context(), string(must(os.ReadFile(file))(w.t))))
	}
	want := w.pinnedTo(0, signed)
	spec := specOf(signed)
	spec.InitContainers = []corev1.Container{{Name: "first", Image: signed}}
	pods := append([]object{w.podOf("stock", spec)}, w.controllers("stock", spec)...)
	w.eventually("all stock Assigns are in force", func() bool {
		for _, o := range pods {
			if o.kind != "ReplicationController" && strings.Count(string(w.try(o).Body), `"image":"`+want+`"`) != 2 {
				return false
			}
		}
		return true
	})
	for _, o := range pods {
		w.allowed("stock Assigns", o.kind+" by tag", w.applyObject(o))
	}
	w.allowed("stock Assigns", "kubectl debug by tag", w.in("debug", "stock", "--image", signed, "--container", "debugger", "--profile=general"))
	w.same("ephemeral container", w.specAt("stock").EphemeralContainers[0].Image, want)
	if o := w.kubectl("", "delete", "assign", "--all"); !o.OK() {
		w.t.Fatal(o)
	}
	w.ok(w.Apply(w.t.Context(), manifests(w.t, "assigns")))
	w.eventually("the library's Assigns are back", func() bool { return w.tryPod("mutated", signed).OK() })
}
