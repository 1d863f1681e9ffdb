package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

func serveCommand(std stdio) *cobra.Command {
	var path, level, format string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Answer Gatekeeper",
		Long: `Serve answers Gatekeeper's external-data requests on server.address, and health,
readiness, metrics and status on admin.address. An edit of the configuration or of a file
that it names takes effect within seconds if it is valid; if not, the former state
stays and the log, /readyz and the metrics say so.

If the environment names a collector of OpenTelemetry (OTEL_EXPORTER_OTLP_ENDPOINT
or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, over HTTP), spans of each request that takes
work are sent there.`,
		Example: "  gatehouse serve --config gatehouse.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			lines := newSink(std.err)
			defer func() { _ = lines.Flush() }() // there is nowhere to tell
			logger, err := newLogger(lines, level, format)
			if err != nil {
				return err
			}
			return serve(cmd.Context(), path, logger)
		},
	}
	configFlag(cmd, &path)
	cmd.Flags().StringVar(&level, "log-level", "info", "debug, info, warn or error")
	cmd.Flags().StringVar(&format, "log-format", "json", "json or text")
	return cmd
}

// newLogger logs into lines, which are written at once where somebody should
// look.
func newLogger(lines *sink, level, format string) (*slog.Logger, error) {
	var at slog.Level
	if err := at.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log-level: %q is none of debug, info, warn and error", level)
	}
	opts := &slog.HandlerOptions{Level: at}
	switch strings.ToLower(format) {
	case "json":
		return slog.New(prompt{slog.NewJSONHandler(lines, opts), lines}), nil
	case "text":
		return slog.New(prompt{slog.NewTextHandler(lines, opts), lines}), nil
	default:
		return nil, fmt.Errorf("--log-format: %q is neither json nor text", format)
	}
}

// serve runs until ctx ends.
func serve(ctx context.Context, path string, logger *slog.Logger) error {
	tracer, endSpans, err := exportSpans(ctx, logger)
	if err != nil {
		return err
	}
	defer endSpans() // after the gate's work has ended
	g, err := newGate(ctx, path, logger, gateOptions{tracer: tracer})
	if err != nil {
		return err
	}
	defer g.close()
	on, err := g.listen(ctx)
	if err != nil {
		return err
	}
	err = g.run(ctx, on)
	logger.Info("stopped")
	return err
}

// listen opens what the configuration names, and says so in one line of the log.
func (g *gate) listen(ctx context.Context) (on listeners, err error) {
	cfg := g.current().config
	attrs := []any{"version", versionText(), "config", g.path, "pid", os.Getpid()}
	open := func(use string, wanted bool, address string) (net.Listener, error) {
		if !wanted || err != nil {
			return nil, err
		}
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		if err != nil {
			return nil, fmt.Errorf("%s.address: %w", use, err)
		}
		name := map[string]string{"server": "address"}[use]
		attrs = append(attrs, cmp.Or(name, use), listener.Addr().String())
		return listener, nil
	}
	on.webhook, err = open("server", cfg.Serves(), cfg.Server.Address)
	on.admin, err = open("admin", true, cfg.Admin.Address)
	if cfg.Registry != nil {
		on.pulls, err = open("registry", true, cfg.Registry.Address)
	}
	if err == nil && g.holding != nil {
		err = g.holding.listen(ctx, cfg, g.identity)
	}
	if err != nil {
		on.close()
		return listeners{}, err
	}
	g.logger.Info("serving", attrs...)
	return on, nil
}

// identity names as whom the live configuration asks a host.
func (g *gate) identity(host string) string { return identityAt(g.current().stores, host) }

func (l listeners) close() {
	for _, one := range []net.Listener{l.webhook, l.admin, l.pulls} {
		if one != nil {
			_ = one.Close() // the process ends anyway
		}
	}
}
