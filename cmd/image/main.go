// Command image makes the release image of Gatehouse as an OCI image layout, for
// several platforms at once, without Docker and without a base image from anywhere.
//
// options.go has what can be asked for, source.go what git says of the sources,
// compile.go runs the go command, layer.go and certificates.go make the file system,
// image.go the images and their index, sbom.go and provenance.go the documents about
// them, referrer.go the manifests that attach those, layout.go writes it all.
//
// The same sources, toolchain and flags make the same bytes: every time in the layout
// is the commit's, or SOURCE_DATE_EPOCH. Nothing is pushed and nothing is signed here.
//
// It prints the digest of the index to standard output, and what is in it to
// standard error.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"text/tabwriter"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
	default:
		fmt.Fprintf(os.Stderr, "image: %s\n", err)
		os.Exit(1) //nolint:forbidigo // main exits
	}
}

// run is main without the process around it.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	start := time.Now()
	opts, err := parseOptions(args, stderr)
	if err != nil {
		return err
	}
	src, err := readSource(ctx, opts)
	if err != nil {
		return err
	}
	compiled, err := compileAll(ctx, opts, src)
	if err != nil {
		return err
	}
	release, err := newRelease(opts, src, compiled)
	if err != nil {
		return err
	}
	if err := release.write(opts.out); err != nil {
		return fmt.Errorf("write %s: %w", opts.out, err)
	}
	if err := release.show(stderr, time.Since(start)); err != nil {
		return err
	}
	_, err = fmt.Fprintln(stdout, release.descriptor.Digest)
	return err
}

// show prints what was made: a line for each layer and each document.
func (r *release) show(w io.Writer, took time.Duration) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "index\t%s\t%s:%s\n", r.descriptor.Digest, r.opts.name, r.src.version)
	for _, p := range r.platforms {
		manifest, err := p.image.Manifest()
		if err != nil {
			return err
		}
		fmt.Fprintf(table, "%s\t%s\t%s compressed\n", p.platform, p.descriptor.Digest, mebibytes(size(manifest.Layers)))
		for _, layer := range manifest.Layers {
			fmt.Fprintf(table, "  layer\t%s\t%s %s\n", layer.Digest, mebibytes(layer.Size), layer.Annotations[titleKey])
		}
	}
	for _, a := range r.referrers {
		fmt.Fprintf(table, "%s\t%s\trefers to %s\n", a.artifactType, a.descriptor.Digest, a.subject.Digest)
	}
	fmt.Fprintf(table, "written to %s in %s\n", r.opts.out, took.Round(time.Millisecond))
	return table.Flush()
}

func size(layers []v1.Descriptor) (sum int64) {
	for _, layer := range layers {
		sum += layer.Size
	}
	return sum
}

func mebibytes(n int64) string { return fmt.Sprintf("%.2f MiB", float64(n)/(1<<20)) }
