package templates

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	templatesv1 "github.com/open-policy-agent/frameworks/constraint/pkg/apis/templates/v1"
	"github.com/open-policy-agent/frameworks/constraint/pkg/client"
	"github.com/open-policy-agent/frameworks/constraint/pkg/client/reviews"
	"github.com/open-policy-agent/frameworks/constraint/pkg/core/templates"
	admissionv1 "k8s.io/api/admission/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// Shipped is the kind of constraint of the template that the chart ships.
const Shipped = "GatehouseVerification"

// Gatekeeper's enforcement points: the webhook, and the audit.
const (
	WebhookPoint = "validation.gatekeeper.sh"
	AuditPoint   = "audit.gatekeeper.sh"
)

// shippedFile is its template below [PolicyDir].
const shippedFile = "templates/gatehouseverification.yaml"

// Review is one request under review by constraints of [Shipped], and beside
// them of Ratify's default template.
type Review struct {
	// Constraints in force.
	Constraints []*unstructured.Unstructured
	// Request is an admission request. One without an operation is an audit's.
	Request *admissionv1.AdmissionRequest
	// Point is the enforcement point, [WebhookPoint] or [AuditPoint].
	Point string
	// Providers are those that the cluster has, by their names.
	Providers map[string]Provider
	// Alter changes the text of the chart's template before it is compiled,
	// unless it is nil. It is for tests that take a rule out of it.
	Alter func(template string) string
}

// Violation is what one constraint has against a request.
type Violation struct {
	Constraint, Message, Action string
}

// Evaluate is what [Evaluate] is for one of Ratify's templates: it puts the
// constraints in force and reviews the request. It asks without a response
// cache. An error means that nothing was evaluated.
func (r Review) Evaluate(ctx context.Context) (violations []Violation, err error) {
	all, err := inTurn(ctx)
	if err != nil {
		return nil, err
	}
	defer all.endTurn()
	in, err := all.clientOf(ctx, r.Alter)
	if err != nil {
		return nil, err
	}
	for name, provider := range r.Providers {
		if err := all.providers.Upsert(providerOf(name, provider)); err != nil {
			return nil, fmt.Errorf("add provider %s: %w", name, err)
		}
		defer all.providers.Remove(name)
	}
	defer func() { err = errors.Join(err, lift(context.WithoutCancel(ctx), in, r.Constraints)) }()
	for _, constraint := range r.Constraints {
		if _, err := in.AddConstraint(ctx, constraint); err != nil {
			return nil, fmt.Errorf("add constraint %s: %w", constraint.GetName(), err)
		}
	}
	got, err := in.Review(ctx, r.Request, reviews.EnforcementPoint(r.Point))
	if err != nil {
		return nil, fmt.Errorf("review: %w", err)
	}
	for _, result := range got.Results() {
		violations = append(violations, Violation{result.Constraint.GetName(), result.Msg, result.EnforcementAction})
	}
	return violations, nil
}

func lift(ctx context.Context, from *client.Client, constraints []*unstructured.Unstructured) (err error) {
	for _, constraint := range constraints {
		_, failed := from.RemoveConstraint(ctx, constraint)
		err = errors.Join(err, failed)
	}
	return err
}

// clientOf is the client that has the chart's template as it is altered.
func (e *engine) clientOf(ctx context.Context, alter func(string) string) (*client.Client, error) {
	text, err := readPolicy(shippedFile)
	if err != nil {
		return nil, err
	}
	if alter != nil {
		text = []byte(alter(string(text)))
	}
	if known := e.shipped[string(text)]; known != nil {
		return known, nil
	}
	c, err := e.compileShipped(ctx, text)
	if err != nil {
		return nil, err
	}
	e.shipped[string(text)] = c
	return c, nil
}

func (e *engine) compileShipped(ctx context.Context, text []byte) (*client.Client, error) {
	c, err := e.client(anyTarget{})
	if err != nil {
		return nil, err
	}
	stock, err := load(RatifyVerification)
	if err != nil {
		return nil, err
	}
	var versioned templatesv1.ConstraintTemplate
	if err := yaml.UnmarshalStrict(text, &versioned); err != nil {
		return nil, fmt.Errorf("parse %s: %w", shippedFile, err)
	}
	shipped, err := versioned.ToVersionless()
	if err != nil {
		return nil, fmt.Errorf("convert %s: %w", shippedFile, err)
	}
	for _, template := range []*templates.ConstraintTemplate{shipped, stock.template} {
		if _, err := c.AddTemplate(ctx, template); err != nil {
			return nil, fmt.Errorf("compile %s: %w", template.GetName(), err)
		}
	}
	return c, nil
}

// ShippedConstraint reads one of the chart's constraints, by its file's name
// without the end.
func ShippedConstraint(name string) (*unstructured.Unstructured, error) {
	text, err := readPolicy(filepath.Join("constraints", name+".yaml"))
	if err != nil {
		return nil, err
	}
	constraint := &unstructured.Unstructured{}
	if err := yaml.UnmarshalStrict(text, &constraint.Object); err != nil {
		return nil, fmt.Errorf("parse constraint %s: %w", name, err)
	}
	return constraint, nil
}

// PolicyDir is the folder of the chart's policies. It is found from the working
// directory, which has to be within the repository, as tests are.
func PolicyDir() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	for {
		policy := filepath.Join(dir, "charts", "gatehouse", "policy")
		if info, err := os.Stat(policy); err == nil && info.IsDir() {
			return policy, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("find charts/gatehouse/policy: the working directory is not within the repository")
		}
		dir = parent
	}
}

func readPolicy(file string) ([]byte, error) {
	dir, err := PolicyDir()
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return nil, fmt.Errorf("read a policy: %w", err)
	}
	return text, nil
}
