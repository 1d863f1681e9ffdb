package cluster

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Tools are the programs that a cluster is made of, and those to drive it with.
type Tools struct {
	Etcd, APIServer, Kubectl, Gatekeeper, Helm string
	// GatekeeperModule is the folder of Gatekeeper's source, with its manifests.
	GatekeeperModule string
}

// BuildTools builds what is not in Go's build cache already: minutes for the
// first time, seconds later. The folder holds the tools' modules, test/e2e/tools.
func BuildTools(ctx context.Context, folder string) (Tools, error) {
	var t Tools
	for _, tool := range []struct {
		module, name string
		path         *string
	}{
		{"etcd", "server", &t.Etcd},
		{"kubernetes", "kube-apiserver", &t.APIServer},
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
	t.GatekeeperModule, err = output(ctx, filepath.Join(folder, "gatekeeper"), "list", "-m", "-f", "{{.Dir}}", "github.com/open-policy-agent/gatekeeper/v3")
	if err != nil {
		return Tools{}, fmt.Errorf("find gatekeeper's source: %w", err)
	}
	return t, nil
}

func output(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	// The race detector and tags are for ours, not for these.
	cmd.Env = append(os.Environ(), "GOFLAGS=")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return strings.TrimSpace(string(out)), nil
}
