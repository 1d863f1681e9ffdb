package templates_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// TestShippedForms is about objects that are not as the API server makes them,
// and about images that are no texts: nothing of it is dropped.
func TestShippedForms(t *testing.T) {
	t.Parallel()
	template := func(spec string) string {
		return `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d"},"spec":{"template":{"spec":` + spec + `}}}`
	}
	const code = "IMAGE_MALFORMED"
	for name, tc := range map[string]struct {
		object string
		denies string // a code
		asks   []string
	}{
		"a pod without containers":        {podText(`{}`), "", nil},
		"lists that are null":             {podText(`{"containers":null,"volumes":null}`), "", nil},
		"lists that are empty":            {podText(`{"containers":[],"volumes":[]}`), "", nil},
		"a volume of another kind":        {podText(`{"volumes":[{"name":"v","emptyDir":{}},{"name":"r","rbd":{"image":"disk"}}]}`), "", nil},
		"an image volume":                 {podText(`{"volumes":[{"name":"v","image":{"reference":"a"}}]}`), "", []string{"a"}},
		"one image everywhere":            {podText(`{"containers":[{"image":"a"},{"image":"a"}],"initContainers":[{"image":"a"}],"volumes":[{"image":{"reference":"a"}}]}`), "", []string{"a"}},
		"a number":                        {podText(`{"containers":[{"image":1},{"image":"a"}]}`), code, []string{"a"}},
		"null":                            {podText(`{"containers":[{"image":null},{"image":"a"}]}`), code, []string{"a"}},
		"true":                            {podText(`{"containers":[{"image":true}]}`), code, nil},
		"false":                           {podText(`{"initContainers":[{"image":false}]}`), code, nil},
		"a list":                          {podText(`{"ephemeralContainers":[{"image":["a"]}]}`), code, nil},
		"an object":                       {podText(`{"containers":[{"image":{"image":"a"}}]}`), code, nil},
		"a container that is a text":      {podText(`{"containers":["a"]}`), code, nil},
		"a container that is null":        {podText(`{"containers":[null]}`), code, nil},
		"containers that are an object":   {podText(`{"containers":{"x":{"image":"a"}}}`), code, nil},
		"containers that are a text":      {podText(`{"containers":"a"}`), code, nil},
		"a volume that is a text":         {podText(`{"volumes":["a"]}`), code, nil},
		"volumes that are a number":       {podText(`{"volumes":1}`), code, nil},
		"an image volume of a text":       {podText(`{"volumes":[{"image":"a"}]}`), code, nil},
		"an image volume of null":         {podText(`{"volumes":[{"image":null}]}`), code, nil},
		"a reference that is a number":    {podText(`{"volumes":[{"image":{"reference":1}}]}`), code, nil},
		"a number in a controller":        {template(`{"containers":[{"image":1}]}`), code, nil},
		"a spec that is a text":           {podText(`"a"`), "OBJECT_MALFORMED", nil},
		"a spec that is null":             {podText(`null`), "OBJECT_MALFORMED", nil},
		"no spec":                         {`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"}}`, "OBJECT_MALFORMED", nil},
		"a controller without a template": {`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d"},"spec":{}}`, "", nil},

		"a pod's container without an image":        {podText(`{"containers":[{"name":"c"},{"image":"a"}]}`), "IMAGE_MISSING", []string{"a"}},
		"a pod's container with an empty image":     {podText(`{"initContainers":[{"image":""}]}`), "IMAGE_MISSING", nil},
		"a pod's image volume without a reference":  {podText(`{"volumes":[{"image":{}}]}`), "IMAGE_MISSING", nil},
		"a pod's image volume, empty":               {podText(`{"volumes":[{"image":{"reference":""}}]}`), "IMAGE_MISSING", nil},
		"a controller's container without an image": {template(`{"containers":[{"name":"c"},{"image":"a"}]}`), "", []string{"a"}},
		"a controller's image volume without one":   {template(`{"volumes":[{"image":{}}]}`), "", nil},

		"a namespace before the image": {podText(`{"containers":[{"image":"[other]a"},{"image":"b"}]}`), "INVALID_KEY", []string{"b"}},
		"a bracket in the image":       {podText(`{"volumes":[{"image":{"reference":"a]"}}]}`), "INVALID_KEY", nil},
		"a bracket in a controller":    {template(`{"containers":[{"image":"a:[x]"}]}`), "INVALID_KEY", nil},
	} {
		for _, prefixed := range []bool{false, true} {
			review := scene{request: request(t, tc.object), parameters: map[string]any{"provider": podsProvider, "namespacePrefix": prefixed}}
			got := review.play(t)
			review.alter = wordless(t)
			if silent := review.play(t); (len(silent.violations) == 0) != (tc.denies == "") {
				t.Errorf("%s, prefixed %t, by the proof alone: %q, want %q", name, prefixed, silent.messages(), tc.denies)
			}
			var want [][]string
			if tc.asks != nil {
				want = [][]string{slices.Clone(tc.asks)}
				for i := range want[0] {
					if prefixed {
						want[0][i] = "[prod]" + want[0][i]
					}
				}
			}
			if diff := cmp.Diff(want, got.asked[podsProvider]); diff != "" {
				t.Errorf("%s, prefixed %t: asked (-want +got):\n%s", name, prefixed, diff)
			}
			if text := strings.Join(got.messages(), "\n"); !strings.HasPrefix(text, tc.denies) || (text == "") != (tc.denies == "") {
				t.Errorf("%s, prefixed %t: %q, want %q", name, prefixed, text, tc.denies)
			}
		}
	}
}

// TestShippedNamespace is about keys with a namespace where there is none.
func TestShippedNamespace(t *testing.T) {
	t.Parallel()
	parameters := map[string]any{"provider": podsProvider, "namespacePrefix": true}
	for namespace, want := range map[string]int{"prod": 0, "": 1, "a]b": 1, "[x]": 1} {
		of := request(t, podText(`{"containers":[{"image":"a"}]}`))
		of.Namespace = namespace
		for _, alter := range []func(string) string{nil, wordless(t)} {
			got := scene{request: of, parameters: parameters, alter: alter}.play(t)
			if len(got.violations) != want || len(got.asked) != 1-want {
				t.Errorf("%q: violations %q, asked %q", namespace, got.messages(), got.asked)
			}
		}
		of.Object.Raw = rawOf(t, podText(`{}`))
		if got := (scene{request: of, parameters: parameters}).play(t); len(got.violations) > 0 {
			t.Errorf("%q, without images: %q", namespace, got.messages())
		}
	}
}

// TestShippedUpdates shows that only what is new is asked about. There is no
// provider: one that is asked is one that denies.
func TestShippedUpdates(t *testing.T) {
	t.Parallel()
	const (
		spec     = `{"containers":[{"name":"a","image":"a"}],"initContainers":[{"name":"b","image":"b"}],"volumes":[{"name":"c","image":{"reference":"c"}}]}`
		debugged = `{"containers":[{"name":"a","image":"a"}],"initContainers":[{"name":"b","image":"b"}],"volumes":[{"name":"c","image":{"reference":"c"}}],"ephemeralContainers":[{"name":"d","image":"d"}]}`
	)
	all, none, onlyD := []string{"a", "b", "c"}, []string(nil), []string{"d"}
	for name, tc := range map[string]struct {
		operation admissionv1.Operation
		old, new  string
		asks      []string
	}{
		"created":                      {"CREATE", "", podText(spec), all},
		"created, with an old object":  {"CREATE", podText(spec), podText(spec), all},
		"a label":                      {"UPDATE", podText(spec), strings.Replace(podText(spec), `"name":"p"`, `"name":"p","labels":{"x":"y"}`, 1), none},
		"a finalizer removed":          {"UPDATE", strings.Replace(podText(spec), `"name":"p"`, `"name":"p","finalizers":["x/y"]`, 1), podText(spec), none},
		"an ephemeral container":       {"UPDATE", podText(spec), podText(debugged), onlyD},
		"debugged before":              {"UPDATE", podText(debugged), podText(debugged), none},
		"an image in another field":    {"UPDATE", podText(`{"containers":[{"image":"b"}],"initContainers":[{"image":"c"}],"volumes":[{"image":{"reference":"a"}}]}`), podText(spec), none},
		"an image changed":             {"UPDATE", podText(spec), strings.Replace(podText(spec), `"image":"a"`, `"image":"d"`, 1), onlyD},
		"a pod with a bracket, before": {"UPDATE", podText(`{"containers":[{"image":"[x]a"}]}`), podText(`{"containers":[{"image":"[x]a"}]}`), none},
		"no old object":                {"UPDATE", "", podText(spec), all},
		"an old object that is null":   {"UPDATE", "null", podText(spec), all},
		"an old object that is a text": {"UPDATE", `"x"`, podText(spec), all},
		"an old object of a list":      {"UPDATE", `[` + podText(spec) + `]`, podText(spec), all},
		"an old object of wrong forms": {"UPDATE", podText(`{"containers":{"x":{"image":"a"}},"initContainers":"b","volumes":[{"image":"c"}]}`), podText(spec), all},
		"deleted":                      {"DELETE", podText(spec), "", none},
		"deleted, of no form":          {"DELETE", podText(`"x"`), "", none},
		"connected":                    {"CONNECT", "", podText(spec), none},
		"an operation to come":         {"ATTACH", podText(spec), podText(spec), all},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			of := request(t, podText(spec))
			of.Operation = tc.operation
			of.Object, of.OldObject = extension(tc.new), extension(tc.old)
			got := scene{request: of}.play(t)
			var want [][]string
			if tc.asks != nil {
				want = [][]string{tc.asks}
			}
			if diff := cmp.Diff(want, got.asked[podsProvider]); diff != "" || len(got.violations) > 0 {
				t.Errorf("violations %q; asked (-want +got):\n%s", got.messages(), diff)
			}
			down := scene{request: of, providers: map[string]http.Handler{}}.play(t)
			if len(down.violations) != len(tc.asks) {
				t.Errorf("without a provider: %q", down.messages())
			}
		})
	}
}

// extension is an object of a request; none if the text is empty.
func extension(text string) runtime.RawExtension {
	if text == "" {
		return runtime.RawExtension{}
	}
	return runtime.RawExtension{Raw: []byte(text)}
}

// TestShippedControllerUpdates is the same for a controller.
func TestShippedControllerUpdates(t *testing.T) {
	t.Parallel()
	job := `{"apiVersion":"batch/v1","kind":"CronJob","metadata":{"name":"j"},"spec":{"jobTemplate":{"spec":{"template":{"spec":{"containers":[{"image":"a"}]}}}}}}`
	of := request(t, strings.Replace(job, `"j"`, `"j","labels":{"x":"y"}`, 1))
	of.Operation = admissionv1.Update
	of.OldObject.Raw = []byte(job)
	if got := (scene{request: of}).play(t); len(got.asked) > 0 || len(got.violations) > 0 {
		t.Errorf("a label: asked %q, violations %q", got.asked, got.messages())
	}
	of.Object.Raw = []byte(strings.Replace(job, `"a"`, `"b"`, 1))
	if got := (scene{request: of}).play(t); fmt.Sprint(got.asked) != "map["+controllersProvider+":[[b]]]" {
		t.Errorf("an image: asked %q", got.asked)
	}
}

// TestShippedNoObject has a review of nothing.
func TestShippedNoObject(t *testing.T) {
	t.Parallel()
	for _, object := range []string{"", "null", "1", `"x"`, "[]"} {
		of := request(t, podText(`{}`))
		of.Object = extension(object)
		if got := (scene{request: of}).play(t); len(got.violations) == 0 {
			t.Errorf("%q is admitted", object)
		}
	}
}

// FuzzShippedPod compares what is asked about a pod with what Go's types say
// that it names.
func FuzzShippedPod(f *testing.F) {
	f.Add(`{"containers":[{"name":"a","image":"a"}],"initContainers":[{"image":"b"}],"ephemeralContainers":[{"image":"c"}],"volumes":[{"image":{"reference":"d"}}]}`)
	f.Add(`{"containers":[{"image":1}],"volumes":[{"image":{}}]}`)
	f.Add(`{"containers":[{"image":"a"}],"volumes":[{"name":"x","emptyDir":{}}]}`)
	f.Fuzz(func(t *testing.T, spec string) {
		var typed corev1.PodSpec
		if !strings.HasPrefix(spec, "{") || !json.Valid([]byte(spec)) || json.Unmarshal([]byte(spec), &typed) != nil {
			return // the API server lets no such pod through
		}
		clean := rawOf(t, typed) // as the API server passes it on
		got := scene{request: request(t, podText(string(clean)))}.play(t)
		if len(got.violations) > 0 {
			return
		}
		var asked []string
		for _, keys := range got.asked[podsProvider] {
			asked = append(asked, keys...)
		}
		if diff := cmp.Diff(imagesOf(typed), asked); diff != "" {
			t.Errorf("admitted, and asked (-want +got):\n%s", diff)
		}
	})
}

// imagesOf lists a pod's images by its types, each once.
func imagesOf(spec corev1.PodSpec) (images []string) {
	for _, c := range slices.Concat(spec.Containers, spec.InitContainers) {
		images = append(images, c.Image)
	}
	for _, c := range spec.EphemeralContainers {
		images = append(images, c.Image)
	}
	for _, v := range spec.Volumes {
		if v.Image != nil {
			images = append(images, v.Image.Reference)
		}
	}
	slices.Sort(images)
	return slices.Compact(images)
}
