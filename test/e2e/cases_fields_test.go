package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const noSignature = "SIGNATURE_NOT_FOUND"

// TestFields puts an image that is signed, and one that is not, wherever an
// object can name one.
func TestFields(t *testing.T) {
	w := begin(t, settings{})
	signed := w.signed(0, "app", "signed")
	unsigned, _ := w.image(0, "app", "unsigned")
	w.part("pods", func() { w.playPods(signed, unsigned) })
	w.part("ephemeral", func() { w.playEphemeral(signed, unsigned) })
	w.part("controllers", func() { w.playControllers(signed, unsigned) })
	w.part("trace", w.playTrace)
}

func (w *world) playPods(signed, unsigned string) {
	for i, at := range places() {
		about := "Pod, in " + at.name + ", "
		w.allowed("fields", about+"signed", w.applyObject(w.podOf(fmt.Sprintf("good-%d", i), at.spec(signed, signed))))
		w.denied("fields", about+"unsigned", w.applyObject(w.podOf(fmt.Sprintf("bad-%d", i), at.spec(signed, unsigned))), noSignature)
	}
}

// playEphemeral adds containers to a pod that is there, as kubectl debug does and
// as a PUT does.
func (w *world) playEphemeral(signed, unsigned string) {
	w.allowed("fields", "Pod to be debugged", w.applyObject(w.podOf("debugged", specOf(signed))))
	debug := func(container, image string) []string {
		return []string{"debug", "--namespace", w.namespace, "debugged", "--image", image, "--container", container, "--profile=general"}
	}
	w.denied("fields", "kubectl debug, unsigned", w.kubectl("", debug("bad", unsigned)...), noSignature)
	w.allowed("fields", "kubectl debug, signed", w.kubectl("", debug("good", signed)...))

	path := "/api/v1/namespaces/" + w.namespace + "/pods/debugged"
	var pod corev1.Pod
	w.ok(json.Unmarshal(w.do(http.MethodGet, path, nil).Body, &pod))
	if got := pod.Spec.EphemeralContainers; len(got) != 1 || got[0].Image != signed {
		w.t.Errorf("ephemeral containers %v, want the signed one", got)
	}
	for _, c := range []struct{ about, image, reason string }{{"unsigned", unsigned, noSignature}, {"signed", signed, ""}} {
		next := pod.DeepCopy()
		next.Spec.EphemeralContainers = append(next.Spec.EphemeralContainers, corev1.EphemeralContainer{
			EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "put", Image: c.image},
		})
		w.told("fields", "PUT of ephemeralcontainers, "+c.about, w.do(http.MethodPut, path+"/ephemeralcontainers", next), c.reason)
	}
}

func (w *world) playControllers(signed, unsigned string) {
	for _, o := range w.controllers("good", specOf(signed)) {
		w.allowed("fields", o.kind+", signed", w.applyObject(o))
	}
	for _, o := range w.controllers("bad", specOf(unsigned)) {
		w.denied("fields", o.kind+", unsigned", w.applyObject(o), noSignature)
	}
	for _, at := range places()[1:] {
		for _, o := range w.controllers("other", at.spec(signed, signed)) {
			w.verdict(o.kind+", "+at.name+", signed", w.try(o), "")
		}
		for _, o := range w.controllers("bad", at.spec(signed, unsigned)) {
			w.verdict(o.kind+", "+at.name+", unsigned", w.try(o), noSignature)
		}
	}
}

var toldTrace = regexp.MustCompile(`trace ([0-9a-f]{32})`)

// playTrace finds what the user was told in the provider's log, by one word: the
// request, and the verdict if it is not what it was last time.
func (w *world) playTrace() {
	unsigned, _ := w.image(0, "traced", "1")
	for _, want := range [][]string{{`"msg":"request"`, `"msg":"verdict"`}, {`"msg":"request"`}} {
		o := w.tryPod("traced", unsigned)
		id := toldTrace.FindStringSubmatch(o.Stderr)
		if id == nil {
			w.t.Fatalf("no trace id in %s", o)
		}
		start := time.Now()
		var lines []string
		w.eventually("the log has the trace id", func() bool {
			lines = w.grep(id[1])
			return containsAll(strings.Join(lines, ""), want)
		})
		if len(lines) != len(want) {
			w.t.Errorf("the log says of trace %s:\n%s", id[1], strings.Join(lines, ""))
		}
		table.add("trace", "grep "+id[1]+" in the provider's log", strings.Join(want, ", "), time.Since(start))
	}
}

// grep finds lines of the provider's log.
func (w *world) grep(text string) (lines []string) {
	for line := range bytes.Lines(w.process.Log()) {
		if bytes.Contains(line, []byte(text)) {
			lines = append(lines, string(line))
		}
	}
	return lines
}
