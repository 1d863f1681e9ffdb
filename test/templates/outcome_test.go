package templates_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/gatehouse-project/gatehouse/test/templates"
)

// The images of these tests are named after the files under testdata/values
// that hold the provider's verdict on them; one named "missing" gets none.
func image(verdict string) string { return "registry.example.com/" + verdict + ":v1" }

func images(verdicts ...string) []string {
	var names []string
	for _, v := range verdicts {
		names = append(names, image(v))
	}
	return names
}

type outcome struct {
	pod    templates.Pod
	facts  templates.Outcome
	admits []string
}

// byVerdict are the templates that ask for the policy's verdict alone.
func byVerdict() []string { return []string{templates.RatifyVerification, templates.MultiTenancy} }

// bySignature are those that ask for signatures alone.
func bySignature() []string { return []string{templates.Notation, templates.NotationNested} }

// outcomes is what a provider can come to. Which templates admit is written
// out beside the facts, so that neither Outcome.Want nor a template is judged
// by itself.
func outcomes() map[string]outcome {
	verified := slices.Concat(byVerdict(), bySignature(), []string{templates.NotationIssuer})
	attached := templates.Verified()
	attached.Described, attached.Scanned = true, true
	pod := func(verdicts ...string) templates.Pod { return templates.PodOf(images(verdicts...)...) }

	return map[string]outcome{
		"allowed by a signature": {pod("verified"), templates.Verified(), verified},
		"allowed by another issuer's signature": {
			pod("other-issuer"),
			templates.Outcome{Allowed: true, Signed: true, NestedSigned: true},
			slices.Concat(byVerdict(), bySignature()),
		},
		"allowed beside an anonymous failure": {pod("beside-failed"), templates.Verified(), verified},
		"allowed beside a failure of the issuer": {
			pod("beside-failed-issuer"),
			templates.Outcome{Allowed: true, Signed: true, NestedSigned: true},
			slices.Concat(byVerdict(), bySignature()),
		},
		"allowed with everything attached and signed": {
			pod("attached"),
			attached,
			templates.Names(),
		},
		"SBOM whose own signature failed": {
			pod("unsigned-sbom"),
			templates.Outcome{Allowed: true, Signed: true, ByIssuer: true, Described: true},
			slices.Concat(byVerdict(), []string{templates.Notation, templates.NotationIssuer, templates.SBOM}),
		},
		"SBOM failed": {
			pod("failed-sbom"),
			templates.Outcome{Signed: true, NestedSigned: true, ByIssuer: true},
			bySignature(),
		},
		"first SBOM failed":        {pod("second-sbom"), templates.Verified(), verified},
		"newest scan failed":       {pod("newest-scan-failed"), templates.Verified(), verified},
		"two scans of one instant": {pod("scans-of-one-instant"), templates.Verified(), verified},

		"denied, no signature":              {pod("no-signature"), templates.Outcome{}, nil},
		"denied, signature failed":          {pod("failed"), templates.Outcome{}, nil},
		"denied, issuer's signature failed": {pod("failed-issuer"), templates.Outcome{}, nil},
		"denied, invalid key":               {pod("invalid-key"), templates.Outcome{}, nil},
		"denied by policy though signed": {
			pod("denied-though-signed"),
			templates.Outcome{Signed: true, NestedSigned: true, ByIssuer: true},
			bySignature(),
		},
		"no verdict":                  {pod("missing"), templates.Outcome{}, nil},
		"no verdict, as a value":      {pod("no-verdict-value"), templates.Outcome{}, nil},
		"no verdict, with its report": {pod("inconclusive"), templates.Outcome{}, nil},
		"exempt":                      {pod("exempt"), templates.Exempt(), byVerdict()},

		"one of two without a verdict":    {pod("attached", "missing"), templates.Outcome{}, nil},
		"one of two without, other order": {pod("missing", "attached"), templates.Outcome{}, nil},
		"one of two denied":               {pod("attached", "no-signature"), templates.Outcome{}, nil},
		"one of two failed":               {pod("failed", "attached"), templates.Outcome{}, nil},
		"one of two exempt":               {pod("attached", "exempt"), templates.Exempt(), byVerdict()},
		"one image twice":                 {pod("attached", "attached"), attached, templates.Names()},
		"one denied image twice":          {pod("failed", "failed"), templates.Outcome{}, nil},
		"one missing image twice":         {pod("missing", "missing", "attached"), templates.Outcome{}, nil},
		"init container denied": {
			templates.Pod{Namespace: "prod", Containers: images("attached"), Init: images("failed")},
			templates.Outcome{},
			nil,
		},
		"ephemeral container denied": {
			templates.Pod{Namespace: "prod", Containers: images("attached"), Ephemeral: images("no-signature")},
			templates.Outcome{},
			nil,
		},
		"only an ephemeral container without a verdict": {
			templates.Pod{Namespace: "prod", Containers: images("attached"), Ephemeral: images("missing")},
			templates.Outcome{},
			nil,
		},
		"every kind of container verified": {
			templates.Pod{Namespace: "prod", Containers: images("verified"), Init: images("verified"), Ephemeral: images("beside-failed")},
			templates.Verified(), verified,
		},
	}
}

func TestOutcomes(t *testing.T) {
	t.Parallel()
	for name, row := range outcomes() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, template := range templates.Names() {
				admits := slices.Contains(row.admits, template)
				if got := row.facts.Want(template) == templates.Admitted; got != admits {
					t.Errorf("Want(%s) admits: %t, want %t", template, got, admits)
				}
			}
			templates.CheckAll(t, golden(t), row.pod, row.facts)
		})
	}
}

// TestParameters shows that the issuer is read from the constraint, for those
// who bring certificates of their own.
func TestParameters(t *testing.T) {
	t.Parallel()
	other := templates.Options{Parameters: map[string]any{"issuer": "CN=other root,O=other,C=US"}}
	other.Check(t, templates.NotationIssuer, golden(t), templates.PodOf(image("other-issuer")), templates.Admitted)
	other.Check(t, templates.NotationIssuer, golden(t), templates.PodOf(image("verified")), templates.Denied)
}

// TestOutcomeOfNothing holds the zero value to its word.
func TestOutcomeOfNothing(t *testing.T) {
	t.Parallel()
	for _, template := range append(templates.Names(), "unknown") {
		if got := (templates.Outcome{}).Want(template); got != templates.Denied {
			t.Errorf("%s: %s", template, got)
		}
	}
}

func ExampleOutcome_Want() {
	exempt := templates.Exempt()
	fmt.Println(exempt.Want(templates.RatifyVerification))
	fmt.Println(exempt.Want(templates.Notation))
	// Output:
	// admitted
	// denied
}
