package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Output is what a person saw of a command.
type Output struct {
	Stdout, Stderr string
	// Code is the exit code.
	Code int
	// Elapsed is from start to end of the command.
	Elapsed time.Duration
}

// OK says that the command succeeded.
func (o Output) OK() bool { return o.Code == 0 }

// String is all that was printed.
func (o Output) String() string { return strings.TrimSpace(o.Stdout + o.Stderr) }

// Kubectl runs kubectl as an administrator with a standard input, empty for
// none. An error says that it could not be run; its own are in the output.
func (c *Cluster) Kubectl(ctx context.Context, stdin string, args ...string) (Output, error) {
	return c.KubectlAs(ctx, c.kubeconfig, stdin, args...)
}

// KubectlAs is Kubectl with a kubeconfig.
func (c *Cluster) KubectlAs(ctx context.Context, kubeconfig, stdin string, args ...string) (Output, error) {
	return c.command(ctx, stdin, c.tools.Kubectl, append([]string{"--kubeconfig", kubeconfig, "--cache-dir", c.dir + "/kubectl"}, args...)...)
}

// Helm runs helm as an administrator.
func (c *Cluster) Helm(ctx context.Context, args ...string) (Output, error) {
	return c.command(ctx, "", c.tools.Helm, append([]string{"--kubeconfig", c.kubeconfig}, args...)...)
}

func (c *Cluster) command(ctx context.Context, stdin, path string, args ...string) (Output, error) {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(environment(), "HOME="+c.dir)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	start := time.Now()
	err := cmd.Run()
	o := Output{Stdout: stdout.String(), Stderr: stderr.String(), Elapsed: time.Since(start)}
	var exit *exec.ExitError
	if errors.As(err, &exit) && ctx.Err() == nil {
		o.Code = exit.ExitCode()
		return o, nil
	}
	if err != nil {
		return o, fmt.Errorf("%s %s: %w: %s", filepath.Base(path), strings.Join(args, " "), err, o)
	}
	return o, nil
}

// Apply applies manifests as an administrator, on the server's side; what they
// say is then true, or there is an error.
func (c *Cluster) Apply(ctx context.Context, manifests string) error {
	o, err := c.Kubectl(ctx, manifests, "apply", "--server-side", "--force-conflicts", "-f", "-")
	if err != nil {
		return err
	}
	if !o.OK() {
		return fmt.Errorf("kubectl apply: %s", o)
	}
	return nil
}
