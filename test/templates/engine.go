package templates

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"sync"

	"github.com/open-policy-agent/frameworks/constraint/pkg/apis/constraints"
	"github.com/open-policy-agent/frameworks/constraint/pkg/apis/externaldata/unversioned"
	"github.com/open-policy-agent/frameworks/constraint/pkg/client"
	"github.com/open-policy-agent/frameworks/constraint/pkg/client/drivers/rego"
	"github.com/open-policy-agent/frameworks/constraint/pkg/client/reviews"
	"github.com/open-policy-agent/frameworks/constraint/pkg/externaldata"
	"github.com/open-policy-agent/frameworks/constraint/pkg/handler"
	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// ProviderName is the name by which the templates ask their provider.
const ProviderName = "ratify-provider"

// providerTimeout is Gatekeeper's spec.timeout in seconds; long, because a slow
// test machine must not turn an admission into a denial.
const providerTimeout = 30

// Provider is where a template's questions go.
type Provider struct {
	// URL is https, with the path.
	URL string
	// CA is PEM, the only trust anchor of the call.
	CA []byte
}

// Question is one evaluation.
type Question struct {
	// Template is one of [Names].
	Template string
	// Parameters replace those of the sample constraint unless nil.
	Parameters map[string]any
	// Request is the admission request of a pod.
	Request *admissionv1.AdmissionRequest
	// Provider answers.
	Provider Provider
}

// Evaluate puts a template and a constraint in force, reviews the request and
// returns the messages of its violations; none means that the pod is admitted.
// The provider is asked through Gatekeeper's own client without a response
// cache. What Gatekeeper makes a violation (a query that fails, a provider that
// cannot be reached) is one here; an error means that nothing was evaluated.
//
// Evaluate is safe for concurrent use; evaluations take turns, because all
// templates name one provider. A wait for the turn ends with ctx.
func Evaluate(ctx context.Context, q Question) ([]string, error) {
	all, err := inTurn(ctx)
	if err != nil {
		return nil, err
	}
	defer all.endTurn()
	violations, err := all.evaluate(ctx, q)
	if err != nil {
		return nil, fmt.Errorf("evaluate %s: %w", q.Template, err)
	}
	return violations, nil
}

// inTurn is the engine, which is the caller's until it ends its turn.
func inTurn(ctx context.Context) (*engine, error) {
	all, err := shared()
	if err != nil {
		return nil, fmt.Errorf("build the engine: %w", err)
	}
	select {
	case all.turn <- struct{}{}:
		return all, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the engine: %w", context.Cause(ctx))
	}
}

func (e *engine) endTurn() { <-e.turn }

// shared is the one engine of the process: drivers register external_data in a
// table of the Rego library that has no lock, and the last one registered
// serves the templates of all.
var shared = sync.OnceValues(newEngine)

type engine struct {
	providers *externaldata.ProviderCache
	programs  map[string]program
	turn      chan struct{} // holds the one turn

	// shipped are clients with one of Ratify's templates and the chart's, by
	// its text. Whoever has the turn may change them.
	shipped map[string]*client.Client
}

// program is one compiled template. Each has a client of its own because two
// of them are of one kind.
type program struct {
	client *client.Client
	sample *unstructured.Unstructured
}

func newEngine() (*engine, error) {
	e := &engine{
		providers: externaldata.NewCache(),
		programs:  make(map[string]program),
		turn:      make(chan struct{}, 1),
		shipped:   make(map[string]*client.Client),
	}
	for _, name := range Names() {
		p, err := e.compile(context.Background(), name)
		if err != nil {
			return nil, err
		}
		e.programs[name] = p
	}
	return e, nil
}

func (e *engine) compile(ctx context.Context, name string) (program, error) {
	def, err := load(name)
	if err != nil {
		return program{}, err
	}
	c, err := e.client(podTarget{})
	if err != nil {
		return program{}, fmt.Errorf("make a client for %s: %w", name, err)
	}
	if _, err := c.AddTemplate(ctx, def.template); err != nil {
		return program{}, fmt.Errorf("compile %s: %w", name, err)
	}
	return program{client: c, sample: def.constraint}, nil
}

func (e *engine) client(target handler.TargetHandler) (*client.Client, error) {
	driver, err := rego.New(rego.AddExternalDataProviderCache(e.providers))
	if err != nil {
		return nil, fmt.Errorf("make a driver: %w", err)
	}
	return client.NewClient(
		client.Targets(target),
		client.Driver(driver),
		client.EnforcementPoints(WebhookPoint, AuditPoint),
	)
}

func (e *engine) evaluate(ctx context.Context, q Question) ([]string, error) {
	p, ok := e.programs[q.Template]
	if !ok {
		return nil, errors.New("no such template")
	}
	if err := e.providers.Upsert(providerOf(ProviderName, q.Provider)); err != nil {
		return nil, fmt.Errorf("add the provider: %w", err)
	}
	// Removal also closes the client's idle connections.
	defer e.providers.Remove(ProviderName)
	return p.review(ctx, q)
}

func (p program) review(ctx context.Context, q Question) (violations []string, err error) {
	constraint, err := p.constraint(q.Parameters)
	if err != nil {
		return nil, err
	}
	if _, err := p.client.AddConstraint(ctx, constraint); err != nil {
		return nil, fmt.Errorf("add the constraint: %w", err)
	}
	defer func() {
		_, removed := p.client.RemoveConstraint(context.WithoutCancel(ctx), constraint)
		err = errors.Join(err, removed)
	}()
	got, err := p.client.Review(ctx, q.Request, reviews.EnforcementPoint(constraints.WebhookEnforcementPoint))
	if err != nil {
		return nil, fmt.Errorf("review: %w", err)
	}
	for _, result := range got.Results() {
		violations = append(violations, result.Msg)
	}
	return violations, nil
}

func (p program) constraint(parameters map[string]any) (*unstructured.Unstructured, error) {
	constraint := p.sample.DeepCopy()
	if parameters == nil {
		return constraint, nil
	}
	if err := unstructured.SetNestedMap(constraint.Object, parameters, "spec", "parameters"); err != nil {
		return nil, fmt.Errorf("set the parameters: %w", err)
	}
	return constraint, nil
}

func providerOf(name string, p Provider) *unversioned.Provider {
	return &unversioned.Provider{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: unversioned.ProviderSpec{
			URL:      p.URL,
			Timeout:  providerTimeout,
			CABundle: base64.StdEncoding.EncodeToString(p.CA),
		},
	}
}
