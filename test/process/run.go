package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"syscall"
	"time"
)

// RunOptions refine [Binary.Run]. The zero value runs in the test's folder,
// with its environment and without input.
type RunOptions struct {
	Dir   string
	Stdin io.Reader
}

// Outcome is a subcommand that has ended.
type Outcome struct {
	// Code is the exit code, -1 if a signal ended it.
	Code           int
	Stdout, Stderr string
}

// Run runs a subcommand to its end. An exit code is no error. When ctx ends,
// the command is interrupted, and killed after 5 s.
func (b Binary) Run(ctx context.Context, opts RunOptions, args ...string) (Outcome, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, b.path, args...)
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = opts.Dir, opts.Stdin, &stdout, &stderr
	cmd.SysProcAttr = endsWithParent()
	cmd.Cancel = func() error { return interrupt(cmd) }
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	outcome := Outcome{Code: cmd.ProcessState.ExitCode(), Stdout: stdout.String(), Stderr: stderr.String()}
	var exit *exec.ExitError
	if ctx.Err() != nil || (err != nil && !errors.As(err, &exit)) {
		return outcome, fmt.Errorf("gatehouse %q: %w", args, errors.Join(err, context.Cause(ctx)))
	}
	return outcome, nil
}

// Verify runs "verify" on a configuration.
func (b Binary) Verify(ctx context.Context, config string, args ...string) (Outcome, error) {
	return b.Run(ctx, RunOptions{}, append([]string{"verify", "--config", config}, args...)...)
}

func interrupt(cmd *exec.Cmd) error { return cmd.Process.Signal(syscall.SIGTERM) }
