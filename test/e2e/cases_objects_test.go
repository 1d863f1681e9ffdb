package e2e

import (
	"encoding/json"
	"net/http"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gatehouse-project/gatehouse/test/e2e/cluster"
)

// place is a field of a pod's specification that names an image, filled; what a
// pod needs beside it names good.
type place struct {
	name string
	spec func(good, image string) corev1.PodSpec
}

// places are those that can be there from the beginning. Ephemeral containers
// come later, through a subresource.
func places() []place {
	return []place{
		{"containers", func(_, image string) corev1.PodSpec {
			return corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: image}}}
		}},
		{"initContainers", func(good, image string) corev1.PodSpec {
			spec := specOf(good)
			spec.InitContainers = []corev1.Container{{Name: "first", Image: image}}
			return spec
		}},
		{"volumes.image", func(good, image string) corev1.PodSpec {
			spec := specOf(good)
			spec.Volumes = []corev1.Volume{
				{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
				{Name: "files", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: image}}},
			}
			return spec
		}},
	}
}

func specOf(image string) corev1.PodSpec { return places()[0].spec("", image) }

// object is one that can be created: where, and what.
type object struct {
	kind, path string
	body       any
}

// podOf is a Pod with a specification.
func (w *world) podOf(name string, spec corev1.PodSpec) object {
	return object{"Pod", "/api/v1/namespaces/" + w.namespace + "/pods", &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: w.meta(name), Spec: spec,
	}}
}

func (w *world) meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Namespace: w.namespace}
}

// controllers are one of each kind that has a template of pods.
func (w *world) controllers(name string, spec corev1.PodSpec) []object {
	labels := map[string]string{"app": name}
	always := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: spec}
	once := always
	once.Spec.RestartPolicy = corev1.RestartPolicyNever
	selector := &metav1.LabelSelector{MatchLabels: labels}
	kind := func(version, kind string) metav1.TypeMeta { return metav1.TypeMeta{APIVersion: version, Kind: kind} }
	meta := w.meta(name)
	apps, batch := "/apis/apps/v1/namespaces/"+w.namespace, "/apis/batch/v1/namespaces/"+w.namespace
	return []object{
		{"Deployment", apps + "/deployments", &appsv1.Deployment{TypeMeta: kind("apps/v1", "Deployment"), ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Selector: selector, Template: always}}},
		{"StatefulSet", apps + "/statefulsets", &appsv1.StatefulSet{TypeMeta: kind("apps/v1", "StatefulSet"), ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Selector: selector, Template: always}}},
		{"DaemonSet", apps + "/daemonsets", &appsv1.DaemonSet{TypeMeta: kind("apps/v1", "DaemonSet"), ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{Selector: selector, Template: always}}},
		{"ReplicaSet", apps + "/replicasets", &appsv1.ReplicaSet{TypeMeta: kind("apps/v1", "ReplicaSet"), ObjectMeta: meta, Spec: appsv1.ReplicaSetSpec{Selector: selector, Template: always}}},
		{"Job", batch + "/jobs", &batchv1.Job{TypeMeta: kind("batch/v1", "Job"), ObjectMeta: meta, Spec: batchv1.JobSpec{Template: once}}},
		{"CronJob", batch + "/cronjobs", &batchv1.CronJob{TypeMeta: kind("batch/v1", "CronJob"), ObjectMeta: meta, Spec: batchv1.CronJobSpec{
			Schedule: "@daily", JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: once}},
		}}},
		{"ReplicationController", "/api/v1/namespaces/" + w.namespace + "/replicationcontrollers", &corev1.ReplicationController{
			TypeMeta: kind("v1", "ReplicationController"), ObjectMeta: meta, Spec: corev1.ReplicationControllerSpec{Selector: labels, Template: &always},
		}},
	}
}

// applyObject is "kubectl apply" of an object.
func (w *world) applyObject(o object) cluster.Output {
	w.t.Helper()
	return w.apply(string(must(json.Marshal(o.body))(w.t)))
}

// try asks the API server whether an object may be, without making it.
func (w *world) try(o object) cluster.Answer {
	w.t.Helper()
	return w.do(http.MethodPost, o.path+"?dryRun=All", o.body)
}

// make asks the API server for an object.
func (w *world) make(o object) cluster.Answer {
	w.t.Helper()
	return w.do(http.MethodPost, o.path, o.body)
}

// do asks the API server.
func (w *world) do(method, path string, body any) cluster.Answer {
	w.t.Helper()
	return must(w.api.Do(w.t.Context(), method, path, body))(w.t)
}

// told asserts what the API server answered, an empty reason for a success, and
// enters it.
func (w *world) told(section, about string, a cluster.Answer, reason string) {
	w.t.Helper()
	saw := a.Message()
	if reason == "" {
		saw = "allowed"
	}
	table.add(section, about, gist(saw), a.Elapsed)
	w.verdict(about, a, reason)
}

// verdict asserts what the API server answered, an empty reason for a success.
func (w *world) verdict(about string, a cluster.Answer, reason string) {
	w.t.Helper()
	text := a.Message()
	switch {
	case reason == "" && !a.OK():
		w.t.Errorf("%s: should be allowed: %s", about, text)
	case reason != "" && (!strings.Contains(text, "denied the request") || !strings.Contains(text, reason)):
		w.t.Errorf("%s: should be denied for %q: %d %s", about, reason, a.Code, text)
	}
}

// metric adds up a metric of the process over those of its labels that contain
// all of the given texts.
func (w *world) metric(name string, labels ...string) float64 {
	w.t.Helper()
	var sum float64
	for series, value := range must(w.process.Metrics(w.t.Context()))(w.t) {
		base, rest, _ := strings.Cut(series, "{")
		if base == name && containsAll(rest, labels) {
			sum += value
		}
	}
	return sum
}

func containsAll(text string, parts []string) bool {
	for _, part := range parts {
		if !strings.Contains(text, part) {
			return false
		}
	}
	return true
}

// calls counts the requests that the process has answered.
func (w *world) calls() int {
	w.t.Helper()
	return int(w.metric("gatehouse_http_requests_total"))
}
