package chart

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kubeyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// Options say what is rendered. The zero value is a release called gatehouse in
// Gatekeeper's namespace, of the chart's own values.
type Options struct {
	Release   string   // gatehouse if empty
	Namespace string   // gatekeeper-system if empty
	Values    []string // files of values, later ones over earlier ones
	Set       []string // single values over those, PATH=VALUE as helm's --set

	KubeVersion string // of Kubernetes, for templates that ask; helm's own default if empty
}

// arguments are those of helm for a command on the chart in dir.
func (o Options) arguments(dir string, command ...string) []string {
	namespace := o.Namespace
	if namespace == "" {
		namespace = "gatekeeper-system"
	}
	args := append(command, dir, "--namespace", namespace)
	for _, file := range o.Values {
		args = append(args, "--values", file)
	}
	for _, value := range o.Set {
		args = append(args, "--set", value)
	}
	if o.KubeVersion != "" {
		args = append(args, "--kube-version", o.KubeVersion)
	}
	return args
}

// RenderText gives what helm template writes: the objects as YAML, ready for kubectl
// apply. Nothing is asked of a cluster. The error of values that are refused holds the
// chart's message.
func RenderText(ctx context.Context, o Options) (string, error) {
	release := o.Release
	if release == "" {
		release = "gatehouse"
	}
	return onChart(ctx, o, "template", release)
}

// Notes gives what helm install would say at its end. Nothing is installed, and nothing is
// asked of a cluster.
func Notes(ctx context.Context, o Options) (string, error) {
	text, err := onChart(ctx, o, "install", "gatehouse", "--dry-run=client")
	if err != nil {
		return "", err
	}
	_, notes, found := strings.Cut(text, "\nNOTES:\n")
	if !found {
		return "", errors.New("helm install gave no notes")
	}
	return notes, nil
}

// Lint runs helm lint --strict, and gives what it writes.
func Lint(ctx context.Context, o Options) (string, error) {
	return onChart(ctx, o, "lint", "--strict")
}

func onChart(ctx context.Context, o Options, command ...string) (string, error) {
	helm, err := Helm(ctx)
	if err != nil {
		return "", err
	}
	dir, err := Dir(ctx)
	if err != nil {
		return "", err
	}
	if err := consult(dir); err != nil {
		return "", fmt.Errorf("read the chart: %w", err)
	}
	return run(ctx, helm, o.arguments(dir, command...)...)
}

// Render gives the objects that the values make, in helm's order. See [RenderText].
func Render(ctx context.Context, o Options) (Objects, error) {
	text, err := RenderText(ctx, o)
	if err != nil {
		return nil, err
	}
	return Parse(text)
}

// Parse reads a stream of YAML documents, each one object. A field that stands twice is an
// error.
func Parse(text string) (Objects, error) {
	var objects Objects
	reader := kubeyaml.NewYAMLReader(bufio.NewReader(strings.NewReader(text)))
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read objects: %w", err)
		}
		object, err := yaml.YAMLToJSONStrict(document)
		if err != nil {
			return nil, fmt.Errorf("read objects: %w in %q", err, document)
		}
		if string(object) == "null" {
			continue // nothing but comments
		}
		one := &unstructured.Unstructured{}
		if err := one.UnmarshalJSON(object); err != nil {
			return nil, fmt.Errorf("read objects: %w in %q", err, document)
		}
		objects = append(objects, one)
	}
}
