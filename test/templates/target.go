package templates

import (
	"errors"
	"fmt"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/frameworks/constraint/pkg/core/constraints"
	"github.com/open-policy-agent/frameworks/constraint/pkg/handler"
	admissionv1 "k8s.io/api/admission/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

const targetName = "admission.k8s.gatekeeper.sh"

// podTarget stands for Gatekeeper's admission target, cut to what the samples
// use: constraints that match pods, and nothing but pods. A constraint that
// matches by more is refused, because one that matches nothing admits all.
type podTarget struct{}

var _ handler.TargetHandler = podTarget{}

// GetName is the target that the templates name.
func (podTarget) GetName() string { return targetName }

// ProcessData keeps nothing: the templates read no inventory.
func (podTarget) ProcessData(any) (bool, []string, any, error) { return false, nil, nil, nil }

// HandleReview gives Rego the admission request as it came.
func (podTarget) HandleReview(object any) (bool, any, error) {
	request, ok := object.(*admissionv1.AdmissionRequest)
	if !ok {
		return false, nil, fmt.Errorf("review of a %T, not of an admission request", object)
	}
	if request.Kind.Group != "" || request.Kind.Kind != "Pod" {
		return false, nil, fmt.Errorf("review of a %s, not of a pod", request.Kind.Kind)
	}
	return true, request, nil
}

// MatchSchema is the schema of a constraint's spec.match.
func (podTarget) MatchSchema() apiextensions.JSONSchemaProps {
	texts := apiextensions.JSONSchemaProps{Type: "array", Items: &apiextensions.JSONSchemaPropsOrArray{
		Schema: &apiextensions.JSONSchemaProps{Type: "string"},
	}}
	kind := apiextensions.JSONSchemaProps{
		Type:       "object",
		Properties: map[string]apiextensions.JSONSchemaProps{"apiGroups": texts, "kinds": texts},
	}
	return apiextensions.JSONSchemaProps{Type: "object", Properties: map[string]apiextensions.JSONSchemaProps{
		"kinds": {Type: "array", Items: &apiextensions.JSONSchemaPropsOrArray{Schema: &kind}},
	}}
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

// ToMatcher matches always, by what ValidateConstraint and HandleReview let in.
func (podTarget) ToMatcher(*unstructured.Unstructured) (constraints.Matcher, error) {
	return everyPod{}, nil
}

type everyPod struct{}

// Match is true.
func (everyPod) Match(any) (bool, error) { return true, nil }
