package main

import (
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
	listen := func(address string) (net.Listener, error) {
		return (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	}
	cfg := g.current().config
	webhook, err := listen(cfg.Server.Address)
	if err != nil {
		return fmt.Errorf("server.address: %w", err)
	}
	admin, err := listen(cfg.Admin.Address)
	if err != nil {
		_ = webhook.Close() // the process ends anyway
		return fmt.Errorf("admin.address: %w", err)
	}
	logger.Info("serving", "version", versionText(), "address", webhook.Addr().String(), "admin", admin.Addr().String(), "config", path, "pid", os.Getpid())
	err = g.run(ctx, webhook, admin)
	logger.Info("stopped")
	return err
}
