package cluster

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// GatekeeperNamespace is where Gatekeeper's manifest puts it.
const GatekeeperNamespace = "gatekeeper-system"

// Webhooks say how the API server calls Gatekeeper.
type Webhooks struct {
	// Validating and Mutating are timeouts in seconds; Gatekeeper's own, 3 and 1,
	// if zero.
	Validating, Mutating int
}

// InstallGatekeeper applies Gatekeeper's manifest: its custom resources, rights
// and webhooks. The workloads are left out, and the webhooks call loopback, where
// [Cluster.StartGatekeeper] listens. The webhooks match what its Helm chart
// matches: the ephemeral containers of pods too.
func (c *Cluster) InstallGatekeeper(ctx context.Context, at *GatekeeperPlace, hooks Webhooks) error {
	objects, err := c.gatekeeperManifest()
	if err != nil {
		return err
	}
	var first, rest bytes.Buffer
	for _, o := range objects {
		into := &rest
		switch kind := o["kind"]; kind {
		case "Deployment", "ResourceQuota", "PodDisruptionBudget", "Service", "Secret":
			continue
		case "Namespace", "CustomResourceDefinition":
			into = &first
		case "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration":
			lead(o, at, hooks)
		}
		text, err := yaml.Marshal(o)
		if err != nil {
			return err
		}
		fmt.Fprintf(into, "---\n%s", text)
	}
	if err := c.Apply(ctx, first.String()); err != nil {
		return err
	}
	return c.ApplyWhenKnown(ctx, rest.String())
}

// InstallCRDs applies the definitions of others' custom resources that the chart
// can make objects of.
func (c *Cluster) InstallCRDs(ctx context.Context) error {
	for _, file := range c.tools.CRDs {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := c.Apply(ctx, string(text)); err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(file), err)
		}
	}
	return nil
}

// ApplyWhenKnown applies, again while the API server does not serve the kinds of
// custom resources yet that were just made.
func (c *Cluster) ApplyWhenKnown(ctx context.Context, manifests string) error {
	for {
		err := c.Apply(ctx, manifests)
		if err == nil || !strings.Contains(err.Error(), "no matches for kind") {
			return err
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
	}
}

func (c *Cluster) gatekeeperManifest() ([]map[string]any, error) {
	text, err := os.ReadFile(filepath.Join(c.tools.GatekeeperModule, "deploy", "gatekeeper.yaml"))
	if err != nil {
		return nil, fmt.Errorf("gatekeeper's manifest: %w", err)
	}
	var objects []map[string]any
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var o map[string]any
		err := decoder.Decode(&o)
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, fmt.Errorf("gatekeeper's manifest: %w", err)
		}
		if o != nil {
			objects = append(objects, o)
		}
	}
}

// lead points a webhook configuration to where Gatekeeper listens.
func lead(configuration map[string]any, at *GatekeeperPlace, hooks Webhooks) {
	mutating := configuration["kind"] == "MutatingWebhookConfiguration"
	for _, entry := range configuration["webhooks"].([]any) {
		hook := entry.(map[string]any)
		client := hook["clientConfig"].(map[string]any)
		path := client["service"].(map[string]any)["path"]
		delete(client, "service")
		client["url"] = fmt.Sprintf("https://127.0.0.1:%d%s", at.port, path)
		client["caBundle"] = base64.StdEncoding.EncodeToString(at.Authority.PEM)
		if mutating {
			setTimeout(hook, hooks.Mutating)
			matchEphemeralContainers(hook)
		} else {
			setTimeout(hook, hooks.Validating)
		}
	}
}

func setTimeout(hook map[string]any, seconds int) {
	if seconds > 0 {
		hook["timeoutSeconds"] = seconds
	}
}

func matchEphemeralContainers(hook map[string]any) {
	const resource = "pods/ephemeralcontainers"
	for _, entry := range hook["rules"].([]any) {
		rule := entry.(map[string]any)
		resources := rule["resources"].([]any)
		if !slices.Contains(resources, any(resource)) {
			rule["resources"] = append(resources, resource)
		}
	}
}
