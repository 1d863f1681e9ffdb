package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Tools are the programs that a cluster is made of, and those to drive it with.
type Tools struct {
	Etcd, APIServer, Kubectl, Gatekeeper, Helm string
	// GatekeeperModule is the folder of Gatekeeper's source, with its manifests
	// and its chart.
	GatekeeperModule string
	// CRDs are files with the definitions of others' custom resources that our
	// chart can make objects of: cert-manager's and the Prometheus operator's.
	CRDs []string
}

// kubernetesVersion is that of the module in tools/kubernetes.
const kubernetesVersion = "v1.35.4"

// BuildTools builds what is not in Go's build cache already: minutes for the
// first time, seconds later. The folder holds the tools' modules, test/e2e/tools.
func BuildTools(ctx context.Context, folder string) (Tools, error) {
	var t Tools
	for _, tool := range []struct {
		module, name string
		path         *string
	}{
		{"etcd", "server", &t.Etcd},
		{"kubernetes", "kubectl", &t.Kubectl},
		{"gatekeeper", "gatekeeper", &t.Gatekeeper},
		{"helm", "helm", &t.Helm},
	} {
		var err error
		if *tool.path, err = output(ctx, filepath.Join(folder, tool.module), "tool", "-n", tool.name); err != nil {
			return Tools{}, fmt.Errorf("build %s: %w", tool.name, err)
		}
	}
	var err error
	if t.APIServer, err = buildAPIServer(ctx, folder); err != nil {
		return Tools{}, fmt.Errorf("build kube-apiserver: %w", err)
	}
	return t, t.findSources(ctx, folder)
}

// buildAPIServer builds the one tool that has to be linked with something: it
// tells the version that its linker was given, and charts ask for that. What is
// up to date in the folder bin is not linked again.
func buildAPIServer(ctx context.Context, folder string) (string, error) {
	path, err := filepath.Abs(filepath.Join(folder, "bin", "kube-apiserver"))
	if err != nil {
		return "", err
	}
	const version = "k8s.io/component-base/version."
	_, err = output(ctx, filepath.Join(folder, "kubernetes"), "build", "-o", path,
		"-ldflags", "-X "+version+"gitVersion="+kubernetesVersion+" -X "+version+"gitMajor=1 -X "+version+"gitMinor=35",
		"k8s.io/kubernetes/cmd/kube-apiserver")
	return path, err
}

// findSources finds what is read of modules, and fetches those of which nothing
// is built.
func (t *Tools) findSources(ctx context.Context, folder string) error {
	for _, source := range []struct{ tool, module, files string }{
		{"gatekeeper", "github.com/open-policy-agent/gatekeeper/v3", ""},
		{"crds", "github.com/cert-manager/cert-manager", "deploy/crds/cert-manager.io_*.yaml"},
		{"crds", "github.com/prometheus-operator/prometheus-operator", "example/prometheus-operator-crd/*s.yaml"},
	} {
		text, err := output(ctx, filepath.Join(folder, source.tool), "mod", "download", "-json", source.module)
		if err != nil {
			return fmt.Errorf("find the source of %s: %w", source.module, err)
		}
		var module struct{ Dir string }
		if err := json.Unmarshal([]byte(text), &module); err != nil {
			return fmt.Errorf("find the source of %s: %w", source.module, err)
		}
		if source.files == "" {
			t.GatekeeperModule = module.Dir
			continue
		}
		files, err := filepath.Glob(filepath.Join(module.Dir, filepath.FromSlash(source.files)))
		if err != nil || len(files) == 0 {
			return fmt.Errorf("%s has no %s: %w", source.module, source.files, err)
		}
		t.CRDs = append(t.CRDs, files...)
	}
	return nil
}

func output(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	// The race detector, tags and a workspace are for ours, not for these.
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return strings.TrimSpace(string(out)), nil
}
