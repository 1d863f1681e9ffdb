// Command gatehouse stands at the gate of a Kubernetes cluster: Gatekeeper asks
// it whether images may run, and it proves their signatures.
//
// main.go starts, one file each holds a subcommand, components.go has the tables
// of stores and verifiers, live.go turns a configuration into what answers.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/gatehouse-project/gatehouse/executor"
)

// The exit codes of every subcommand.
const (
	exitOK      = 0 // all allowed
	exitDenied  = 1 // one denied
	exitUnknown = 2 // one could not be told, or the command could not run
)

// exitError ends the process with a code, without a further word.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], stdio{os.Stdin, os.Stdout, os.Stderr})
	stop()
	os.Exit(code)
}

// stdio is what a command reads and writes.
type stdio struct {
	in       io.Reader
	out, err io.Writer
}

// run is main without the process around it.
func run(ctx context.Context, args []string, std stdio) int {
	root := rootCommand(std)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var code exitError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &code):
		return int(code)
	default:
		fmt.Fprintf(std.err, "gatehouse: %s\n", printable(err.Error()))
		return exitUnknown
	}
}

// printable is a text of several lines without what a terminal would obey: it may
// quote what came from elsewhere.
func printable(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		indent := len(line) - len(strings.TrimLeft(line, " "))
		lines = append(lines, line[:indent]+executor.OneLine(line))
	}
	return strings.Join(lines, "\n")
}

func rootCommand(std stdio) *cobra.Command {
	root := &cobra.Command{
		Use:   "gatehouse",
		Short: "Verify what images carry before they run in a Kubernetes cluster",
		Long: `Gatehouse answers Gatekeeper's external-data requests: may these images run?
It finds the signatures that each image carries in its registry, proves them,
and decides by policy, inside the webhook's deadline.

Try it without a cluster:   gatehouse demo
Ask it yourself:            gatehouse verify --config FILE IMAGE...
Serve Gatekeeper:           gatehouse serve --config FILE`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetIn(std.in)
	root.SetOut(std.out)
	root.SetErr(std.err)
	root.AddCommand(
		serveCommand(std),
		verifyCommand(std),
		statusCommand(std),
		cacheCommand(std),
		discoverCommand(std),
		resolveCommand(std),
		configCommand(std),
		demoCommand(std),
		versionCommand(std),
	)
	return root
}

// configFlag adds --config, which the environment may set for all commands.
func configFlag(cmd *cobra.Command, path *string) {
	fallback := os.Getenv("GATEHOUSE_CONFIG")
	if fallback == "" {
		fallback = "gatehouse.yaml"
	}
	cmd.Flags().StringVarP(path, "config", "c", fallback, "configuration file (also GATEHOUSE_CONFIG)")
}
