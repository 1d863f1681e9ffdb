package templates

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/frameworks/constraint/pkg/core/constraints"
	"github.com/open-policy-agent/frameworks/constraint/pkg/handler"
	admissionv1 "k8s.io/api/admission/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

const targetName = "admission.k8s.gatekeeper.sh"

// podTarget stands for Gatekeeper's admission target, cut to what the samples
// use: constraints that match pods, and nothing but pods. A constraint that
// matches by more is refused, because one that matches nothing admits all.
type podTarget struct{ anyTarget }

var _ handler.TargetHandler = podTarget{}

// HandleReview refuses the review of anything but a pod.
func (t podTarget) HandleReview(object any) (bool, any, error) {
	request, ok := object.(*admissionv1.AdmissionRequest)
	if ok && (request.Kind.Group != "" || request.Kind.Kind != "Pod") {
		return false, nil, fmt.Errorf("review of a %s, not of a pod", request.Kind.Kind)
	}
	return t.anyTarget.HandleReview(object)
}

// ValidateConstraint refuses any match but that of pods.
func (podTarget) ValidateConstraint(constraint *unstructured.Unstructured) error {
	match, _, err := unstructured.NestedMap(constraint.Object, "spec", "match")
	if err != nil {
		return err
	}
	pods := map[string]any{"kinds": []any{
		map[string]any{"apiGroups": []any{""}, "kinds": []any{"Pod"}},
	}}
	if !cmp.Equal(match, pods) {
		return errors.New("the constraint must match pods by kind, and by nothing else")
	}
	return nil
}

// anyTarget stands for Gatekeeper's admission target with objects of any kind,
// and constraints that match by kinds and by namespaces that are excluded, each
// written out.
type anyTarget struct{}

var _ handler.TargetHandler = anyTarget{}

// GetName is the target that the templates name.
func (anyTarget) GetName() string { return targetName }

// ProcessData keeps nothing: the templates read no inventory.
func (anyTarget) ProcessData(any) (bool, []string, any, error) { return false, nil, nil, nil }

// HandleReview gives Rego the admission request as it came, but for deletions:
// as Gatekeeper does, it shows the old object as the object too.
func (anyTarget) HandleReview(object any) (bool, any, error) {
	request, ok := object.(*admissionv1.AdmissionRequest)
	if !ok {
		return false, nil, fmt.Errorf("review of a %T, not of an admission request", object)
	}
	if request.Operation == admissionv1.Delete {
		request = request.DeepCopy()
		request.Object = runtime.RawExtension{Raw: request.OldObject.Raw}
	}
	return true, request, nil
}

// MatchSchema is the schema of a constraint's spec.match.
func (anyTarget) MatchSchema() apiextensions.JSONSchemaProps {
	texts := apiextensions.JSONSchemaProps{Type: "array", Items: &apiextensions.JSONSchemaPropsOrArray{
		Schema: &apiextensions.JSONSchemaProps{Type: "string"},
	}}
	kind := apiextensions.JSONSchemaProps{
		Type:       "object",
		Properties: map[string]apiextensions.JSONSchemaProps{"apiGroups": texts, "kinds": texts},
	}
	return apiextensions.JSONSchemaProps{Type: "object", Properties: map[string]apiextensions.JSONSchemaProps{
		"kinds": {Type: "array", Items: &apiextensions.JSONSchemaPropsOrArray{Schema: &kind}},

		"excludedNamespaces": texts,
		"source":             {Type: "string"},
	}}
}

// ValidateConstraint refuses a match that could not be honoured.
func (anyTarget) ValidateConstraint(constraint *unstructured.Unstructured) error {
	_, err := matchOf(constraint)
	return err
}

// ToMatcher is the constraint's spec.match.
func (anyTarget) ToMatcher(constraint *unstructured.Unstructured) (constraints.Matcher, error) {
	return matchOf(constraint)
}

// match is a spec.match.
type match struct {
	Kinds []struct {
		APIGroups []string `json:"apiGroups"`
		Kinds     []string `json:"kinds"`
	} `json:"kinds"`
	ExcludedNamespaces []string `json:"excludedNamespaces"`
	// Source is all, or what users make; nothing here is of Gatekeeper's making.
	Source string `json:"source"`
}

func matchOf(constraint *unstructured.Unstructured) (*match, error) {
	fields, found, err := unstructured.NestedMap(constraint.Object, "spec", "match")
	if err != nil || !found {
		return nil, errors.Join(errors.New("the constraint matches by nothing"), err)
	}
	m := &match{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(fields, m, true); err != nil {
		return nil, fmt.Errorf("spec.match: %w", err)
	}
	if len(m.Kinds) == 0 || !slices.Contains([]string{"", "All", "Original"}, m.Source) {
		return nil, errors.New("spec.match names no kinds, or another source than Original")
	}
	return m, nil
}

// Match says whether the constraint is about the request.
func (m *match) Match(review any) (bool, error) {
	request, ok := review.(*admissionv1.AdmissionRequest)
	if !ok {
		return false, fmt.Errorf("match of a %T", review)
	}
	if slices.Contains(m.ExcludedNamespaces, request.Namespace) {
		return false, nil
	}
	for _, k := range m.Kinds {
		if slices.Contains(k.APIGroups, request.Kind.Group) && slices.Contains(k.Kinds, request.Kind.Kind) {
			return true, nil
		}
	}
	return false, nil
}
