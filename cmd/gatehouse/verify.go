package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"github.com/gatehouse-project/gatehouse/config"
	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/verifier"
)

// verdict is one image with what became of it.
type verdict struct {
	image   string
	invalid error
	result  executor.Result
	err     error

	trace trace.TraceID // of its spans
	spans []step        // in the order in which they began, if they were asked for
}

type verifyFlags struct {
	config, file, output, namespace string
	timeout                         time.Duration
	verbose, timings                bool
}

func verifyCommand(std stdio) *cobra.Command {
	var flags verifyFlags
	cmd := &cobra.Command{
		Use:   "verify IMAGE... | -f FILE",
		Short: "Decide on images as serve would",
		Long: `Verify decides on images with the same policy, stores and verifiers as serve, and
prints for each the artifacts that were judged and why.

It exits with 0 if all are allowed, 1 if one is denied, and 2 if none is denied but
one could not be told, or if the command could not run.`,
		Example: `  gatehouse verify registry.example.com/app:v1
  gatehouse verify --timings registry.example.com/app:v1
  gatehouse verify -o json -f images.txt
  kubectl get pods -A -o jsonpath='{..image}' | tr ' ' '\n' | gatehouse verify -f -`,
		RunE: func(cmd *cobra.Command, args []string) error { return verify(cmd.Context(), std, flags, args) },
	}
	configFlag(cmd, &flags.config)
	cmd.Flags().StringVarP(&flags.file, "file", "f", "", "read images from a file, one a line; - is standard input")
	cmd.Flags().StringVarP(&flags.output, "output", "o", "text", "text or json")
	cmd.Flags().StringVarP(&flags.namespace, "namespace", "n", "", "Kubernetes namespace that the images are to run in")
	cmd.Flags().DurationVar(&flags.timeout, "timeout", 30*time.Second, "time for all images")
	cmd.Flags().BoolVar(&flags.timings, "timings", false, "show where the time went: each step as a bar on a timeline")
	cmd.Flags().BoolVarP(&flags.verbose, "verbose", "v", false, "log to standard error")
	return cmd
}

func verify(ctx context.Context, std stdio, flags verifyFlags, images []string) error {
	if flags.output != "text" && flags.output != "json" {
		return fmt.Errorf("--output: %q is neither text nor json", flags.output)
	}
	images, err := imagesOf(std, flags.file, images)
	if err != nil {
		return err
	}
	var spans *recorder
	if flags.timings {
		spans = &recorder{}
	}
	tracer, endSpans := spans.provider(ctx)
	defer endSpans()
	l, err := openLive(ctx, std, flags.config, flags.verbose, tracer)
	if err != nil {
		return err
	}
	defer l.close()
	ctx, cancel := context.WithTimeout(ctx, flags.timeout)
	defer cancel()
	verdicts := decideAll(ctx, l.executor, images, flags.namespace, tracer)
	if dropped := spans.share(verdicts); dropped > 0 {
		fmt.Fprintf(std.err, "of %d steps beyond the first %d there are no timings\n", dropped, maxSpans)
	}
	if flags.output == "json" {
		err = printJSON(std.out, verdicts)
	} else {
		err = printVerdicts(std.out, verdicts)
	}
	if err != nil {
		return err
	}
	if code := exitCode(verdicts); code != exitOK {
		return exitError(code)
	}
	return nil
}

// openLive loads a configuration for a command that runs once.
func openLive(ctx context.Context, std stdio, path string, verbose bool, tracer trace.TracerProvider) (*live, error) {
	cfg, err := config.Load(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: name a configuration with --config, or write one: gatehouse config example > %s", err, path)
	}
	if err != nil {
		return nil, err
	}
	logger := slog.New(slog.DiscardHandler)
	if verbose {
		logger = slog.New(slog.NewTextHandler(std.err, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return build(ctx, cfg, surroundings{logger: logger, tracer: tracer, read: config.ReadFile}, nil)
}

// The bounds on a list of images.
const (
	maxImages    = 100_000
	imagesAtOnce = 64
)

func imagesOf(std stdio, file string, args []string) ([]string, error) {
	if file == "" {
		if len(args) == 0 {
			return nil, errors.New("no image: name some, or a file of them with -f")
		}
		return args, nil
	}
	if len(args) > 0 {
		return nil, errors.New("images come from the command line or from -f, not from both")
	}
	if file == "-" {
		return readImages(std.in)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readImages(f)
}

// readImages takes one image a line; blank lines and those that begin with #
// are left out.
func readImages(from io.Reader) ([]string, error) {
	var images []string
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if len(images) == maxImages {
			return nil, fmt.Errorf("more than %d images", maxImages)
		}
		images = append(images, line)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read images: %w", err)
	}
	if len(images) == 0 {
		return nil, errors.New("the list of images is empty")
	}
	return images, nil
}

func decideAll(ctx context.Context, e *executor.Executor, images []string, namespace string, tracer trace.TracerProvider) []verdict {
	verdicts := make([]verdict, len(images))
	var group errgroup.Group
	group.SetLimit(imagesAtOnce)
	for i, image := range images {
		group.Go(func() error {
			v := verdict{image: image}
			ref, err := referrerstore.ParseReference(image)
			if err != nil {
				v.invalid = err
			} else {
				ctx, span := startImage(ctx, tracer)
				v.trace = span.SpanContext().TraceID()
				v.result, v.err = e.Verify(ctx, executor.Request{Reference: ref, Namespace: namespace})
				span.End()
			}
			verdicts[i] = v
			return nil
		})
	}
	_ = group.Wait() // its functions return nil
	return verdicts
}

func (v verdict) decision() executor.Decision {
	switch {
	case v.invalid != nil:
		return executor.Denied
	case v.err != nil:
		return executor.Undecided
	default:
		return v.result.Decision
	}
}

func (v verdict) explanation() executor.Explanation {
	if v.invalid != nil {
		return executor.ExplainInvalidKey(v.invalid)
	}
	return executor.Explain(v.result, v.err)
}

func exitCode(verdicts []verdict) int {
	code := exitOK
	for _, v := range verdicts {
		switch v.decision() {
		case executor.Denied:
			return exitDenied
		case executor.Undecided:
			code = exitUnknown
		case executor.Allowed:
		}
	}
	return code
}

// printVerdicts draws each image as a tree of its artifacts.
func printVerdicts(out io.Writer, verdicts []verdict) error {
	w := bufio.NewWriter(out)
	for _, v := range verdicts {
		fmt.Fprintf(w, "%-9s %s  %s\n", strings.ToUpper(v.decision().String()), executor.OneLine(v.image), elapsed(v.result.Timings.Total))
		var lines []string
		if d := v.result.Subject.Descriptor.Digest; d != "" {
			lines = append(lines, fmt.Sprintf("subject %s  resolved %s, referrers %s", d, elapsed(v.result.Timings.Resolve), elapsed(v.result.Timings.Referrers)))
		}
		for _, r := range v.result.Reports {
			lines = append(lines, artifactLines(r)...)
		}
		drawTree(w, append(lines, v.conclusion()))
		drawTimeline(w, v.spans)
	}
	return w.Flush()
}

// conclusion explains the decision, without repeating what the artifact said.
func (v verdict) conclusion() string {
	x := v.explanation()
	for _, r := range v.result.Reports {
		if v.invalid == nil && executor.ExplainReport(r) == x {
			return fmt.Sprintf("%s: rule %q is not met", x.Code, v.result.Rule)
		}
	}
	return x.Line()
}

// artifactLines are one for the artifact and, marked by a tab, one for why.
func artifactLines(r verifier.Report) []string {
	x := executor.ExplainReport(r)
	lines := []string{fmt.Sprintf("%s by %s  %s  %s", r.Outcome, r.Verifier, r.Artifact.Digest, elapsed(r.Elapsed)), "\t" + x.Line()}
	for _, warning := range r.Warnings {
		lines = append(lines, "\twarning: "+executor.OneLine(warning))
	}
	return lines
}

// drawTree draws lines as branches; those that begin with a tab hang below the
// one before them.
func drawTree(w io.Writer, lines []string) {
	last := len(lines) - 1
	for last > 0 && strings.HasPrefix(lines[last], "\t") {
		last--
	}
	for i, line := range lines {
		detail, isDetail := strings.CutPrefix(line, "\t")
		switch {
		case isDetail && i > last:
			fmt.Fprintf(w, "       %s\n", detail)
		case isDetail:
			fmt.Fprintf(w, "│      %s\n", detail)
		case i == last:
			fmt.Fprintf(w, "└── %s\n", line)
		default:
			fmt.Fprintf(w, "├── %s\n", line)
		}
	}
}

func elapsed(d time.Duration) string {
	switch {
	case d <= 0:
		return "-"
	case d < 10*time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	default:
		return d.Round(time.Millisecond).String()
	}
}

// imageJSON is the machine-readable form of a verdict. Fields are only added.
type imageJSON struct {
	Image     string         `json:"image"`
	Decision  string         `json:"decision"`
	Code      string         `json:"code"`
	Message   string         `json:"message"`
	Rule      string         `json:"rule,omitempty"`
	Subject   string         `json:"subject,omitempty"`
	Millis    float64        `json:"durationMs"`
	Artifacts []artifactJSON `json:"artifacts"`
	Spans     []step         `json:"spans,omitempty"`
}

type artifactJSON struct {
	Digest       string            `json:"digest"`
	ArtifactType string            `json:"artifactType"`
	Verifier     string            `json:"verifier"`
	Outcome      string            `json:"outcome"`
	Code         string            `json:"code"`
	Message      string            `json:"message"`
	Warnings     []string          `json:"warnings,omitempty"`
	Extensions   map[string]string `json:"extensions,omitempty"`
	Millis       float64           `json:"durationMs"`
}

func printJSON(out io.Writer, verdicts []verdict) error {
	images := make([]imageJSON, len(verdicts))
	for i, v := range verdicts {
		x := v.explanation()
		images[i] = imageJSON{
			Image: v.image, Decision: v.decision().String(), Code: string(x.Code), Message: x.Line(),
			Rule: v.result.Rule, Millis: millis(v.result.Timings.Total), Artifacts: []artifactJSON{}, Spans: v.spans,
		}
		if v.result.Subject.Descriptor.Digest != "" {
			images[i].Subject = v.result.Subject.String()
		}
		for _, r := range v.result.Reports {
			x := executor.ExplainReport(r)
			images[i].Artifacts = append(images[i].Artifacts, artifactJSON{
				Digest: r.Artifact.Digest.String(), ArtifactType: r.Artifact.ArtifactType, Verifier: r.Verifier,
				Outcome: r.Outcome.String(), Code: string(x.Code), Message: x.Line(), Warnings: r.Warnings,
				Extensions: r.Extensions, Millis: millis(r.Elapsed),
			})
		}
	}
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(map[string]any{"images": images})
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
