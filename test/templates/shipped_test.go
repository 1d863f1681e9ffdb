package templates_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/frameworks/constraint/pkg/externaldata"
	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/gatehouse-project/gatehouse/test/templates"
)

// The Providers of the chart's constraints.
const (
	podsProvider        = "gatehouse-verify-pods"
	controllersProvider = "gatehouse-verify"
	auditProvider       = "gatehouse-audit"
)

// scene is one review by the chart's constraints.
type scene struct {
	// constraints are files of the chart; none is those that are enforced.
	constraints []string
	// parameters replace those of the constraints unless nil.
	parameters map[string]any
	request    *admissionv1.AdmissionRequest
	// point is the webhook unless it is set.
	point string
	// providers by name; nil is one for each name, and all prove everything.
	providers map[string]http.Handler
	// beside is a constraint of another template.
	beside *unstructured.Unstructured
	// alter changes the template.
	alter func(string) string
}

// seen is what came of a scene.
type seen struct {
	violations []templates.Violation
	// asked are the calls of each provider, with their keys in order.
	asked map[string][][]string
}

func (s seen) messages() []string {
	var texts []string
	for _, v := range s.violations {
		texts = append(texts, v.Message)
	}
	return texts
}

func (s scene) play(t *testing.T) seen {
	t.Helper()
	if s.providers == nil {
		s.providers = map[string]http.Handler{podsProvider: proving(), controllersProvider: proving(), auditProvider: proving()}
	}
	servers := make(map[string]*templates.Server)
	review := templates.Review{Request: s.request, Point: s.point, Providers: make(map[string]templates.Provider), Alter: s.alter}
	for name, handler := range s.providers {
		servers[name] = templates.Serve(t, handler, templates.VerifyPath)
		review.Providers[name] = servers[name].Provider
	}
	review.Constraints = s.inForce(t)
	if review.Point == "" {
		review.Point = templates.WebhookPoint
	}
	violations, err := review.Evaluate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range violations {
		checkMessage(t, v)
	}
	got := seen{violations: violations, asked: make(map[string][][]string)}
	for name, server := range servers {
		for _, call := range server.Stop() {
			got.asked[name] = append(got.asked[name], keysOf(t, call))
		}
	}
	return got
}

func (s scene) inForce(t *testing.T) []*unstructured.Unstructured {
	t.Helper()
	if s.constraints == nil {
		s.constraints = []string{"gatehouse-pods", "gatehouse-controllers"}
	}
	var all []*unstructured.Unstructured
	for _, name := range s.constraints {
		constraint, err := templates.ShippedConstraint(name)
		if err != nil {
			t.Fatal(err)
		}
		if s.parameters != nil {
			if err := unstructured.SetNestedMap(constraint.Object, s.parameters, "spec", "parameters"); err != nil {
				t.Fatal(err)
			}
		}
		all = append(all, constraint)
	}
	if s.beside != nil {
		all = append(all, s.beside)
	}
	return all
}

// checkMessage holds every message to what Gatekeeper's audit has room for.
func checkMessage(t *testing.T, v templates.Violation) {
	t.Helper()
	if !strings.HasPrefix(v.Constraint, "gatehouse-") {
		return // Ratify's
	}
	code, _, _ := strings.Cut(v.Message, ":")
	if len(v.Message) > 256 || code == "" || strings.Trim(code, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_") != "" {
		t.Errorf("a message of %d bytes that begins with %q: %q", len(v.Message), code, v.Message)
	}
}

func keysOf(t *testing.T, call templates.Exchange) []string {
	t.Helper()
	var request externaldata.ProviderRequest
	if err := json.Unmarshal(call.Request, &request); err != nil {
		t.Fatal(err)
	}
	return slices.Sorted(slices.Values(request.Request.Keys))
}

// proving is a provider that proves every key.
func proving() http.Handler {
	return provider(http.StatusOK, func(keys []string) externaldata.Response {
		var response externaldata.Response
		for _, key := range keys {
			response.Items = append(response.Items, externaldata.Item{Key: key, Value: map[string]any{"isSuccess": true}})
		}
		return response
	})
}

// request is the creation of an object, whose kind is that of the object.
func request(t testing.TB, object any) *admissionv1.AdmissionRequest {
	t.Helper()
	raw := rawOf(t, object)
	var head metav1.PartialObjectMetadata
	if err := json.Unmarshal(raw, &head); err != nil {
		t.Fatal(err)
	}
	kind := head.GroupVersionKind()
	return &admissionv1.AdmissionRequest{
		UID:       "00000000-0000-0000-0000-000000000001",
		Kind:      metav1.GroupVersionKind{Group: kind.Group, Version: kind.Version, Kind: kind.Kind},
		Name:      head.Name,
		Namespace: "prod",
		Operation: admissionv1.Create,
		Object:    runtime.RawExtension{Raw: raw},
	}
}

func rawOf(t testing.TB, object any) []byte {
	t.Helper()
	switch text := object.(type) {
	case string:
		return []byte(text)
	case []byte:
		return text
	}
	raw, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// podText is a pod whose spec is JSON.
func podText(spec string) string {
	return `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","namespace":"prod"},"spec":` + spec + `}`
}

func TestShippedOutcomes(t *testing.T) {
	t.Parallel()
	for name, row := range outcomes() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asked, err := row.pod.Request()
			if err != nil {
				t.Fatal(err)
			}
			got := scene{request: asked, providers: map[string]http.Handler{podsProvider: golden(t)}}.play(t)
			if admitted := len(got.violations) == 0; admitted != row.facts.Allowed {
				t.Errorf("admitted: %t, want %t: %q", admitted, row.facts.Allowed, got.messages())
			}
			keys := slices.Sorted(slices.Values(row.pod.Keys(templates.SBOM)))
			want := map[string][][]string{podsProvider: {slices.Compact(keys)}}
			if diff := cmp.Diff(want, got.asked); diff != "" {
				t.Errorf("asked (-want +got):\n%s", diff)
			}
		})
	}
}

// TestShippedBeside lets two templates ask one provider in one review.
func TestShippedBeside(t *testing.T) {
	t.Parallel()
	stock := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "constraints.gatekeeper.sh/v1beta1", "kind": "RatifyVerification",
		"metadata": map[string]any{"name": "ratify"},
		"spec": map[string]any{"match": map[string]any{"kinds": []any{
			map[string]any{"apiGroups": []any{""}, "kinds": []any{"Pod"}},
		}}},
	}}
	for verdict, want := range map[string]int{"verified": 0, "failed": 2, "missing": 2} {
		asked, err := templates.PodOf(image(verdict)).Request()
		if err != nil {
			t.Fatal(err)
		}
		got := scene{
			constraints: []string{"gatehouse-pods"},
			parameters:  map[string]any{"provider": templates.ProviderName},
			request:     asked,
			beside:      stock.DeepCopy(),
			providers:   map[string]http.Handler{templates.ProviderName: golden(t)},
		}.play(t)
		if len(got.violations) != want {
			t.Errorf("%s: %q", verdict, got.messages())
		}
		for _, keys := range got.asked[templates.ProviderName] {
			if !slices.Equal(keys, []string{image(verdict)}) {
				t.Errorf("%s: asked %q", verdict, keys)
			}
		}
	}
}

// TestShippedMatch is about which constraint is in force for what.
func TestShippedMatch(t *testing.T) {
	t.Parallel()
	pod := podText(`{"containers":[{"name":"a","image":"a"}]}`)
	audit := request(t, pod)
	audit.Operation = ""
	kubeSystem := request(t, pod)
	kubeSystem.Namespace = "kube-system"
	other := request(t, strings.ReplaceAll(pod, `"Pod"`, `"Widget"`))
	for name, tc := range map[string]struct {
		scene scene
		asks  []string
	}{
		"a pod":                         {scene{request: request(t, pod)}, []string{podsProvider}},
		"a pod's audit":                 {scene{request: audit, point: templates.AuditPoint}, []string{auditProvider}},
		"a pod's audit, audits only":    {scene{constraints: []string{"gatehouse-audit"}, request: audit, point: templates.AuditPoint}, []string{auditProvider}},
		"a pod at admission, as before": {scene{constraints: []string{"gatehouse-audit"}, request: request(t, pod)}, nil},
		"a namespace that is excluded":  {scene{request: kubeSystem}, nil},
		"a kind of somebody":            {scene{request: other}, nil},
		"without parameters":            {scene{parameters: map[string]any{}, request: request(t, pod)}, []string{controllersProvider}},
		"an audit without parameters":   {scene{parameters: map[string]any{}, request: audit, point: templates.AuditPoint}, []string{auditProvider}},
	} {
		got := tc.scene.play(t)
		if asks := slices.Sorted(maps.Keys(got.asked)); !slices.Equal(asks, tc.asks) || len(got.violations) > 0 {
			t.Errorf("%s: asked %q, want %q; violations %q", name, asks, tc.asks, got.messages())
		}
	}
}

// TestShippedParameters shows that the schema holds.
func TestShippedParameters(t *testing.T) {
	t.Parallel()
	for name, parameters := range map[string]map[string]any{
		"no text":    {"provider": int64(1)},
		"empty":      {"auditProvider": ""},
		"no boolean": {"namespacePrefix": "true"},
	} {
		review := templates.Review{
			Constraints: scene{constraints: []string{"gatehouse-pods"}, parameters: parameters}.inForce(t),
			Request:     request(t, podText(`{}`)),
			Point:       templates.WebhookPoint,
		}
		if _, err := review.Evaluate(t.Context()); err == nil {
			t.Errorf("%s: the constraint was taken", name)
		}
	}
}
