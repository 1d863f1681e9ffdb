// Package process runs cmd/gatehouse as its users do: as a process of the
// operating system, on a configuration in a file, with sockets between it and
// the test.
//
//   - [Build] compiles the command once for a test binary, [Exit] removes it.
//   - [Config] writes a configuration with all that it names.
//   - [Binary.Serve] and [Start] run "serve" and wait until it listens; a
//     [Process] says where, what it logged, what memory it took, and ends.
//   - [Process.Ask] and [Client.Ask] send what Gatekeeper sends and read its
//     [Answer].
//   - [Binary.Run] runs any other subcommand to its end.
//
// What a process reports of itself is read from its /metrics and, for memory,
// from Linux's /proc. A process ends with the test binary that started it,
// even one that is killed, and nothing here ends a process that it did not
// start.
package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/gatehouse-project/gatehouse/httpserver"
)

const (
	startTimeout = 30 * time.Second
	// stopTimeout is how long a process may drain before it is killed. What it
	// drains is bounded by its own verifyTimeout.
	stopTimeout = 15 * time.Second
)

// ErrKilled says that a process did not end by itself in time.
var ErrKilled = errors.New("it did not stop within 15s and was killed")

// Process is a running "gatehouse serve". Its methods are safe for concurrent
// use.
type Process struct {
	cmd    *exec.Cmd
	log    *journal
	secure bool
	ready  serving
	exited chan struct{} // closed when the process has ended
	result error         // of the end; read after exited
}

// Serve starts "serve" on a configuration and returns once it listens. ctx
// bounds the start alone; the process runs until Stop. The error of a process
// that ends before it listens holds what it logged.
func (b Binary) Serve(ctx context.Context, config string) (*Process, error) {
	return b.ServeWith(ctx, config, nil, "serve", "--config", config)
}

// ServeWith is Serve with the whole command line, as a manifest has it, and with
// environment beside the test's own, NAME=VALUE. The configuration is the one
// that the command line names.
func (b Binary) ServeWith(ctx context.Context, config string, env []string, args ...string) (*Process, error) {
	secure, err := servesTLS(config)
	if err != nil {
		return nil, fmt.Errorf("serve: %w", err)
	}
	p := &Process{log: newJournal(), secure: secure, exited: make(chan struct{})}
	p.cmd = exec.Command(b.path, args...)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stderr = p.log
	p.cmd.SysProcAttr = endsWithParent()
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("serve %s: %w", config, err)
	}
	go func() { // ends with the process
		defer close(p.exited)
		p.result = p.cmd.Wait()
	}()
	if err := p.await(ctx); err != nil {
		return nil, fmt.Errorf("serve %s: %w; log:\n%s", config, errors.Join(err, p.Stop()), p.Log())
	}
	return p, nil
}

func (p *Process) await(ctx context.Context) error {
	timer := time.NewTimer(startTimeout)
	defer timer.Stop()
	select {
	case p.ready = <-p.log.serving:
		return nil
	case <-p.exited:
		return errors.New("it ended before it listened")
	case <-timer.C:
		return fmt.Errorf("it does not listen after %s", startTimeout)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Start builds, writes the configuration into a folder of the test, serves it,
// and stops when the test ends. A test that fails shows the end of the log.
func Start(tb testing.TB, config Config) *Process {
	tb.Helper()
	binary, err := Build(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	path, err := config.Write(tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	return binary.Start(tb, path)
}

// Start is the function of that name for a configuration that is written
// already.
func (b Binary) Start(tb testing.TB, config string) *Process {
	tb.Helper()
	p, err := b.Serve(tb.Context(), config)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := p.Stop(); err != nil {
			tb.Errorf("stop gatehouse: %v", err)
		}
		if tb.Failed() {
			tb.Logf("end of the log of gatehouse:\n%s", lastLines(p.Log(), 40))
		}
	})
	return p
}

func lastLines(log []byte, n int) []byte {
	lines := bytes.Split(bytes.TrimSpace(log), []byte("\n"))
	return bytes.Join(lines[max(len(lines)-n, 0):], []byte("\n"))
}

// Address is where the webhook listens, host:port.
func (p *Process) Address() string { return p.ready.Address }

// VerifyURL is where Gatekeeper would be pointed.
func (p *Process) VerifyURL() string {
	scheme := "http"
	if p.secure {
		scheme = "https"
	}
	return scheme + "://" + p.ready.Address + httpserver.VerifyPath
}

// PullAddress is where the pull-through registry listens, host:port; empty if none
// is configured.
func (p *Process) PullAddress() string { return p.ready.Pulls }

// AdminURL is the base of /healthz, /readyz and /metrics, without a slash.
func (p *Process) AdminURL() string { return "http://" + p.ready.Admin }

// Log is all that the process logged so far, at most the last 4 MiB.
func (p *Process) Log() []byte { return p.log.bytes() }

// Alive says whether the process runs.
func (p *Process) Alive() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// Stop asks the process to end, waits for it, and says how it ended: nil for
// an exit with code 0. A process that does not end in time is killed. It may
// be called more than once.
func (p *Process) Stop() error {
	// An error says that it has ended already, which the wait finds out.
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-p.exited:
		return p.result
	case <-timer.C:
		_ = p.cmd.Process.Kill() // as above
		<-p.exited
		return ErrKilled
	}
}

// Kill ends the process at once, as kill -9 does, and waits until it is gone.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // an error says that it has ended already
	<-p.exited
}
