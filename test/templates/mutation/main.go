// Command mutation applies Assigns to objects as Gatekeeper's mutating webhook
// does: with Gatekeeper's own mutation system, and its own client of providers.
// It reads a [Task] as JSON from its standard input and writes a [Result] for
// each object, in their order.
//
// It is a module of its own so that the project does not depend on the whole of
// Gatekeeper; the tests of ../ build it and drive it.
package main

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/open-policy-agent/frameworks/constraint/pkg/apis/externaldata/unversioned"
	"github.com/open-policy-agent/frameworks/constraint/pkg/externaldata"
	mutations "github.com/open-policy-agent/gatekeeper/v3/apis/mutations/unversioned"
	mutationsv1 "github.com/open-policy-agent/gatekeeper/v3/apis/mutations/v1"
	"github.com/open-policy-agent/gatekeeper/v3/pkg/mutation"
	"github.com/open-policy-agent/gatekeeper/v3/pkg/mutation/mutators"
	"github.com/open-policy-agent/gatekeeper/v3/pkg/mutation/types"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/certwatcher"
	"sigs.k8s.io/yaml"
)

// Task is what is to be done.
type Task struct {
	// Assigns are the texts of Assigns in YAML. A field that Gatekeeper does
	// not know is an error.
	Assigns []string
	// Providers are those that the cluster has.
	Providers []Provider
	// CertFile and KeyFile are the client's certificate and key.
	CertFile, KeyFile string
	// Requests are what the API server asks about.
	Requests []Request
}

// Provider is a Provider as Gatekeeper knows it.
type Provider struct {
	Name, URL string
	// CA is PEM.
	CA []byte
	// Timeout is in seconds.
	Timeout int
}

// Request is an object under admission.
type Request struct {
	Operation admissionv1.Operation
	Object    json.RawMessage
}

// Result is what became of an object.
type Result struct {
	// Mutated says that Gatekeeper would send a patch.
	Mutated bool
	Object  json.RawMessage
	// Error is why Gatekeeper refuses the object.
	Error string
}

func main() {
	if err := run(context.Background(), os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, in io.Reader, out io.Writer) error {
	var task Task
	decoder := json.NewDecoder(in)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&task); err != nil {
		return fmt.Errorf("read the task: %w", err)
	}
	system, err := task.system()
	if err != nil {
		return err
	}
	results := make([]Result, len(task.Requests))
	for i, request := range task.Requests {
		if results[i], err = apply(ctx, system, request); err != nil {
			return fmt.Errorf("request %d: %w", i, err)
		}
	}
	return json.NewEncoder(out).Encode(results)
}

func (t Task) system() (*mutation.System, error) {
	providers := externaldata.NewCache()
	for _, p := range t.Providers {
		if err := providers.Upsert(&unversioned.Provider{
			ObjectMeta: metav1.ObjectMeta{Name: p.Name},
			Spec:       unversioned.ProviderSpec{URL: p.URL, Timeout: p.Timeout, CABundle: base64.StdEncoding.EncodeToString(p.CA)},
		}); err != nil {
			return nil, fmt.Errorf("add provider %s: %w", p.Name, err)
		}
	}
	certs, err := certwatcher.New(t.CertFile, t.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("read the client's certificate: %w", err)
	}
	system := mutation.NewSystem(mutation.SystemOpts{ProviderCache: providers, ClientCertWatcher: certs})
	for _, text := range t.Assigns {
		if err := add(system, text); err != nil {
			return nil, err
		}
	}
	return system, nil
}

func add(system *mutation.System, text string) error {
	var versioned mutationsv1.Assign
	if err := yaml.UnmarshalStrict([]byte(text), &versioned); err != nil {
		return fmt.Errorf("read an Assign: %w", err)
	}
	withDefaults(&versioned)
	var assign mutations.Assign
	if err := mutationsv1.Convert_v1_Assign_To_unversioned_Assign(&versioned, &assign, nil); err != nil {
		return fmt.Errorf("convert Assign %s: %w", versioned.Name, err)
	}
	mutator, err := mutators.MutatorForAssign(&assign)
	if err != nil {
		return fmt.Errorf("make a mutator of Assign %s: %w", versioned.Name, err)
	}
	if err := system.Upsert(mutator); err != nil {
		return fmt.Errorf("add Assign %s: %w", versioned.Name, err)
	}
	return nil
}

// withDefaults sets what the API server sets by the defaults of the Assigns'
// definition.
func withDefaults(assign *mutationsv1.Assign) {
	data := assign.Spec.Parameters.Assign.ExternalData
	if data == nil {
		return
	}
	data.DataSource = cmp.Or(data.DataSource, types.DataSourceValueAtLocation)
	data.FailurePolicy = cmp.Or(data.FailurePolicy, types.FailurePolicyFail)
}

// apply does as the webhook does with one request. Its error is one of ours;
// Gatekeeper's is in the result.
func apply(ctx context.Context, system *mutation.System, request Request) (Result, error) {
	object := &unstructured.Unstructured{}
	if err := object.UnmarshalJSON(request.Object); err != nil {
		return Result{}, fmt.Errorf("read the object: %w", err)
	}
	mutated, err := system.Mutate(ctx, &types.Mutable{
		Object:    object,
		Namespace: &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: object.GetNamespace()}},
		Username:  "tester",
		Source:    types.SourceTypeOriginal,
		Operation: request.Operation,
	})
	if err != nil {
		return Result{Object: request.Object, Error: err.Error()}, nil //nolint:nilerr // how the mutation ended is the result
	}
	after, err := object.MarshalJSON()
	if err != nil {
		return Result{}, fmt.Errorf("write the object: %w", err)
	}
	return Result{Mutated: mutated, Object: after}, nil
}
