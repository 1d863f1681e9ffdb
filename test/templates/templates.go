// Package templates evaluates the ConstraintTemplates that Ratify's users have
// over a provider's answers, with Gatekeeper's own Rego driver and its own
// HTTPS client, so that a change of the wire format that makes one of them
// admit what was not proven fails a test.
//
// The rules are written anew under testdata, one file for each template with a
// sample constraint behind it. They decide as Ratify's do, gaps included: which
// keys they ask, which fields they read and what they do where one is missing.
//
//   - [Evaluate] asks one template about one admission request.
//   - [Outcome] says what a provider came to about the images of a pod, and by
//     [Outcome.Want] what each template has to make of it.
//   - [Check] and [CheckAll] serve any http.Handler over TLS 1.3, let the
//     templates ask it, and compare; they also hold each answer against
//     [Conforms], the rules of the wire format that the templates rest on.
//
// The policies that the chart ships, in charts/gatehouse/policy, are read from
// there and tested here too: [Review] is one request under review by their
// Constraints, and the module in the folder mutation applies Assigns with
// Gatekeeper's mutation system, as a process that the tests build and drive.
//
// What Ratify's templates read, beside system_error, errors and responses (every
// path is relative to an item's value; r is one of verifierReports):
//
//	ratifyverification            isSuccess, timestamp, traceID
//	multitenancy                  isSuccess, timestamp, traceID
//	notationvalidation            r.type, r.isSuccess (never errors)
//	notationissuervalidation      isSuccess, r.type, r.isSuccess, r.message,
//	                              r.extensions.Issuer
//	notationnestedvalidation      r.isSuccess, r.artifactType, r.subject and the
//	                              same of everything in any nestedResults
//	sbomvalidation                r.type, r.isSuccess
//	vulnerabilityreportvalidation r.type, r.isSuccess, r.extensions.createdAt
//
// None of these checks that every key it asked was answered.
package templates

import (
	"embed"
	"fmt"
	"strings"

	templatesv1 "github.com/open-policy-agent/frameworks/constraint/pkg/apis/templates/v1"
	"github.com/open-policy-agent/frameworks/constraint/pkg/core/templates"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// The templates, by the name that this package gives them.
const (
	// RatifyVerification is the default: a verdict for each image.
	RatifyVerification = "ratifyverification"
	// MultiTenancy is the default with keys of the form "[namespace]image". In
	// a cluster it bears the default's name.
	MultiTenancy = "multitenancy"
	// Notation wants one passing notation report for each image.
	Notation = "notationvalidation"
	// NotationIssuer wants a verdict, and notation reports of one issuer.
	NotationIssuer = "notationissuervalidation"
	// NotationNested wants a signature in each list of reports.
	NotationNested = "notationnestedvalidation"
	// SBOM wants the first SBOM report to have passed.
	SBOM = "sbomvalidation"
	// VulnerabilityReport wants the newest scan to have passed.
	VulnerabilityReport = "vulnerabilityreportvalidation"
)

// SampleIssuer is the parameter "issuer" of the sample constraint of
// [NotationIssuer], in the form in which certificates print their issuers.
const SampleIssuer = "CN=acme root,O=acme,C=US"

// Names lists the templates.
func Names() []string {
	return []string{
		RatifyVerification, MultiTenancy, Notation, NotationIssuer,
		NotationNested, SBOM, VulnerabilityReport,
	}
}

//go:embed testdata/*.yaml
var files embed.FS

// definition is one file under testdata.
type definition struct {
	template   *templates.ConstraintTemplate
	constraint *unstructured.Unstructured
}

func load(name string) (definition, error) {
	text, err := files.ReadFile("testdata/" + name + ".yaml")
	if err != nil {
		return definition{}, fmt.Errorf("load template %s: %w", name, err)
	}
	def, err := parse(string(text))
	if err != nil {
		return definition{}, fmt.Errorf("parse template %s: %w", name, err)
	}
	return def, nil
}

func parse(text string) (definition, error) {
	head, tail, found := strings.Cut(text, "\n---\n")
	if !found {
		return definition{}, fmt.Errorf("no sample constraint behind the template")
	}
	var versioned templatesv1.ConstraintTemplate
	if err := yaml.UnmarshalStrict([]byte(head), &versioned); err != nil {
		return definition{}, fmt.Errorf("template: %w", err)
	}
	template, err := versioned.ToVersionless()
	if err != nil {
		return definition{}, fmt.Errorf("template: %w", err)
	}
	sample := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(tail), &sample.Object); err != nil {
		return definition{}, fmt.Errorf("constraint: %w", err)
	}
	return definition{template: template, constraint: sample}, nil
}
