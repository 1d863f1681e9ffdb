package templates_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// TestAssignsFields: there is one Assign for each field of a pod that names an
// image, as TestImageFields finds them, and no other.
func TestAssignsFields(t *testing.T) {
	t.Parallel()
	var got, want []string
	for _, text := range shippedAssigns(t) {
		var assign struct {
			Spec struct{ Location string }
		}
		if err := yaml.Unmarshal([]byte(text), &assign); err != nil {
			t.Fatal(err)
		}
		got = append(got, assign.Spec.Location)
	}
	for _, field := range imageFields() {
		want = append(want, "spec."+strings.ReplaceAll(field, "[]", "[name:*]"))
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("locations (-want +got):\n%s", diff)
	}
}

// full is a pod with two images in every field, and one volume of each kind
// that the API knows, as the API server writes it.
func full(t *testing.T) *corev1.Pod {
	t.Helper()
	pod := &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "prod"},
	}
	for i := range 2 {
		image := func(field string) string { return fmt.Sprintf("registry.example.com/%s:v%d", field, i) }
		name := fmt.Sprintf("x%d", i)
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: name, Image: image("main"), Command: []string{"run"}})
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, corev1.Container{Name: name, Image: image("init"), ImagePullPolicy: corev1.PullAlways})
		pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, corev1.EphemeralContainer{
			EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: name, Image: image("debug")},
		})
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
			Image: &corev1.ImageVolumeSource{Reference: image("volume"), PullPolicy: corev1.PullNever},
		}})
	}
	pod.Spec.Volumes = append(pod.Spec.Volumes, otherVolumes(t)...)
	return pod
}

// otherVolumes are a volume of each kind, each with every text set.
func otherVolumes(t *testing.T) (volumes []corev1.Volume) {
	t.Helper()
	typ := reflect.TypeFor[corev1.VolumeSource]()
	for i := range typ.NumField() {
		if typ.Field(i).Name == "Image" {
			continue
		}
		var source corev1.VolumeSource
		fill(reflect.ValueOf(&source).Elem().Field(i))
		volumes = append(volumes, corev1.Volume{Name: strings.ToLower(typ.Field(i).Name), VolumeSource: source})
	}
	if len(volumes) < 29 { // of Kubernetes 1.36
		t.Fatalf("%d kinds of volumes", len(volumes))
	}
	return append(volumes, corev1.Volume{Name: "none"})
}

// fill sets every text within a value to what would be pinned as an image.
func fill(value reflect.Value) {
	switch value.Kind() {
	case reflect.String:
		value.SetString("registry.example.com/no-image:v1")
	case reflect.Pointer:
		value.Set(reflect.New(value.Type().Elem()))
		fill(value.Elem())
	case reflect.Slice:
		value.Set(reflect.MakeSlice(value.Type(), 1, 1))
		fill(value.Index(0))
	case reflect.Struct:
		if reflect.PointerTo(value.Type()).Implements(reflect.TypeFor[json.Marshaler]()) {
			return
		}
		for _, field := range value.Fields() {
			if field.CanSet() {
				fill(field)
			}
		}
	}
}

// pinAll replaces the images of a pod as pinning does.
func pinAll(pod *corev1.Pod, created bool) *corev1.Pod {
	pod = pod.DeepCopy()
	for i := range 2 {
		if !created {
			pod.Spec.EphemeralContainers[i].Image = pinned(pod.Spec.EphemeralContainers[i].Image)
			continue
		}
		pod.Spec.Containers[i].Image = pinned(pod.Spec.Containers[i].Image)
		pod.Spec.InitContainers[i].Image = pinned(pod.Spec.InitContainers[i].Image)
		pod.Spec.Volumes[i].Image.Reference = pinned(pod.Spec.Volumes[i].Image.Reference)
	}
	return pod
}

// TestAssigns: tags become digests, of ephemeral containers when the pod is
// updated and of all others when it is made; nothing else changes.
func TestAssigns(t *testing.T) {
	t.Parallel()
	pod := full(t)
	results, asked := mutation{
		assigns: shippedAssigns(t), name: shippedMutator, provider: pinning(),
		requests: []mutationRequest{
			created(t, pod),
			{"UPDATE", rawOf(t, pod)},
			created(t, pinAll(pod, true)),
			{"UPDATE", rawOf(t, pinAll(pod, false))},
		},
	}.run(t)
	for i, want := range []*corev1.Pod{pinAll(pod, true), pinAll(pod, false), pinAll(pod, true), pinAll(pod, false)} {
		same(t, fmt.Sprintf("request %d", i), results[i], want)
	}
	onCreate := []string{"registry.example.com/init:v0", "registry.example.com/init:v1", "registry.example.com/main:v0", "registry.example.com/main:v1", "registry.example.com/volume:v0", "registry.example.com/volume:v1"}
	onUpdate := []string{"registry.example.com/debug:v0", "registry.example.com/debug:v1"}
	want := [][]string{onCreate, onUpdate, allPinned(onCreate), allPinned(onUpdate)}
	if diff := cmp.Diff(want, asked); diff != "" {
		t.Errorf("asked (-want +got):\n%s", diff)
	}
}

func allPinned(keys []string) (all []string) {
	for _, key := range keys {
		all = append(all, pinned(key))
	}
	return all
}

// same compares an object with what it was to become, field by field.
func same(t *testing.T, name string, got mutationResult, want any) {
	t.Helper()
	var gotObject, wantObject any
	if err := json.Unmarshal(got.Object, &gotObject); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(rawOf(t, want), &wantObject); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wantObject, gotObject); diff != "" || got.Error != "" {
		t.Errorf("%s: error %q (-want +got):\n%s", name, got.Error, diff)
	}
}

// TestAssignsLeave is about pods with nothing to pin: nobody is asked, and they
// stay as they are to the byte.
func TestAssignsLeave(t *testing.T) {
	t.Parallel()
	bare := full(t)
	bare.Spec = corev1.PodSpec{Volumes: otherVolumes(t), Containers: []corev1.Container{{Name: "no-image"}}}
	var requests []mutationRequest
	for _, object := range []any{
		bare,
		podText(`{}`),
		podText(`{"containers":[],"volumes":[{"name":"v","image":{"pullPolicy":"Always"}},{"name":"w","image":{}}]}`),
		podText(`{"containers":[{"name":"a"}],"initContainers":[{"name":"b"}]}`),
		`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d","namespace":"prod"},"spec":{"template":{"spec":{"containers":[{"name":"a","image":"a:v1"}]}}}}`,
		strings.Replace(podText(`{"containers":[{"name":"a","image":"a:v1"}]}`), `"prod"`, `"kube-system"`, 1),
	} {
		requests = append(requests, created(t, object))
	}
	labelled := podText(`{"containers":[{"name":"a","image":"a:v1"}],"volumes":[{"name":"v","image":{"reference":"b:v1"}}]}`)
	requests = append(requests, mutationRequest{"UPDATE", []byte(labelled)})
	// One that the API server would refuse with another image.
	kept := strings.Replace(podText(`{"containers":[{"name":"a","image":"a:v1"}],"ephemeralContainers":[{"name":"b","image":"b:v1"}]}`),
		`"name":"p"`, `"name":"p","labels":{"gatehouse/keep-ephemeral-tags":""}`, 1)
	requests = append(requests, mutationRequest{"UPDATE", []byte(kept)})
	results, asked := mutation{assigns: shippedAssigns(t), name: shippedMutator, provider: pinning(), requests: requests}.run(t)
	for i, result := range results {
		same(t, fmt.Sprintf("object %d", i), result, requests[i].Object)
	}
	if len(asked) > 0 {
		t.Errorf("asked %q", asked)
	}
}

// TestAssignsFail is about answers without a value. A pod that is made is
// refused, by Ratify's Assigns as by the chart's; where those are told to
// ignore it, and where an ephemeral container is added, the image stays as it
// is, for verification to decide.
func TestAssignsFail(t *testing.T) {
	t.Parallel()
	pod := podText(`{"containers":[{"name":"a","image":"a:v1"},{"name":"b","image":"b:v2"}]}`)
	debugged := podText(`{"ephemeralContainers":[{"name":"a","image":"a:v1"},{"name":"b","image":"b:v2"}]}`)
	pin := func(text string) string { return strings.Replace(text, "a:v1", pinned("a:v1"), 1) }
	ignoring := shippedAssigns(t)
	for i := range ignoring {
		ignoring[i] = strings.Replace(ignoring[i], "failurePolicy: Fail", "failurePolicy: Ignore", 1)
	}
	for name, tc := range map[string]struct {
		provider http.Handler
		down     bool
		error    string
		keeps    func(string) string // what is left of a pod that is let through
	}{
		"one key fails":      {pinning("b:v2"), false, "REGISTRY_UNAVAILABLE: it is down", pin},
		"a system error":     {raw(200, `{"response":{"idempotent":true,"systemError":"X: y"}}`), false, "X: y", strings.Clone},
		"not idempotent":     {raw(200, `{"response":{"items":[{"key":"a:v1","value":"z"},{"key":"b:v2","value":"z"}]}}`), false, "idempotent", strings.Clone},
		"no items":           {raw(200, `{"response":{"idempotent":true}}`), false, "item", strings.Clone},
		"a value of no text": {raw(200, `{"response":{"idempotent":true,"items":[{"key":"a:v1","value":1},{"key":"b:v2","value":{}}]}}`), false, "string", strings.Clone},
		"a page":             {raw(502, `<html>`), false, "unmarshal", strings.Clone},
		"down":               {pinning(), true, "connection refused", strings.Clone},
	} {
		run := mutation{assigns: shippedAssigns(t), name: shippedMutator, provider: tc.provider, down: tc.down}
		run.requests = []mutationRequest{created(t, pod), {"UPDATE", []byte(debugged)}}
		results, _ := run.run(t)
		if !strings.Contains(results[0].Error, tc.error) || results[0].Error == "" {
			t.Errorf("%s: refused with %q, want %q", name, results[0].Error, tc.error)
		}
		same(t, name+", an ephemeral container", results[1], tc.keeps(debugged))
		run.requests = run.requests[:1]
		run.assigns = ignoring
		results, _ = run.run(t)
		same(t, name+", ignored", results[0], tc.keeps(pod))
		run.assigns, run.name = assignsIn(t, filepath.Join("testdata", "assigns")), stockMutator
		if results, _ := run.run(t); !strings.Contains(results[0].Error, tc.error) || results[0].Error == "" {
			t.Errorf("%s: Ratify's Assigns refused with %q, want %q", name, results[0].Error, tc.error)
		}
	}
}

// TestStockAssigns: the nine of Ratify's chart, unchanged, over our answers.
func TestStockAssigns(t *testing.T) {
	t.Parallel()
	assigns := assignsIn(t, filepath.Join("testdata", "assigns"))
	if len(assigns) != 9 {
		t.Fatalf("%d Assigns, want 9", len(assigns))
	}
	var requests []mutationRequest
	var want []any
	for _, k := range kinds(t) {
		if k.Kind == "PodTemplate" || k.Kind == "ReplicationController" {
			continue // they have no Assign
		}
		for _, list := range []string{"containers", "initContainers", "ephemeralContainers"} {
			place := k.at + "." + list + "[].image"
			tag := "registry.example.com/" + strings.ToLower(k.Kind) + ":v7"
			requests = append(requests, created(t, k.withContainers(t, place, tag)))
			want = append(want, k.withContainers(t, place, pinned(tag)))
		}
	}
	for _, operation := range []string{"CREATE", "UPDATE"} {
		for i := range requests {
			requests[i].Operation = operation
		}
		results, asked := mutation{assigns: assigns, name: stockMutator, provider: pinning(), requests: requests}.run(t)
		for i, result := range results {
			same(t, fmt.Sprintf("%s %d", operation, i), result, want[i])
		}
		if len(asked) != len(requests) {
			t.Errorf("%d calls for %d objects", len(asked), len(requests))
		}
	}
}

// withContainers is object with a list of containers, which the API server
// demands, and which Gatekeeper's mutators of containers would stumble over if
// it were null.
func (k kind) withContainers(t *testing.T, place, text string) any {
	t.Helper()
	object := k.object(t, place, text)
	if !strings.HasSuffix(place, ".containers[].image") {
		plant(t, reflect.ValueOf(object), append(strings.Split(k.at, "."), "containers[]", "image"), "registry.example.com/pinned@sha256:"+strings.Repeat("1", 64))
	}
	return object
}
