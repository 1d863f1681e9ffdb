package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// The bounds of a tree of referrers.
const (
	maxDiscoverDepth = 4
	maxDiscovered    = 1000
)

func discoverCommand(std stdio) *cobra.Command {
	return lookCommand(std, "discover IMAGE", "Show what refers to an image, as a tree", func(ctx context.Context, stores []store, subject referrerstore.Subject) error {
		fmt.Fprintln(std.out, subject)
		d := &discovery{out: std.out, stores: stores, left: maxDiscovered}
		return d.below(ctx, subject, "", maxDiscoverDepth)
	})
}

func resolveCommand(std stdio) *cobra.Command {
	return lookCommand(std, "resolve IMAGE", "Print an image's name with its digest", func(_ context.Context, _ []store, subject referrerstore.Subject) error {
		_, err := fmt.Fprintln(std.out, subject)
		return err
	})
}

// lookCommand is a command that resolves one image and looks at it.
func lookCommand(std stdio, use, short string, look func(context.Context, []store, referrerstore.Subject) error) *cobra.Command {
	var path string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: use, Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			ref, err := referrerstore.ParseReference(args[0])
			if err != nil {
				return err
			}
			l, err := openLive(ctx, std, path, false, nil)
			if err != nil {
				return err
			}
			defer l.close()
			stores := servingStores(l.stores, ref.Registry)
			if len(stores) == 0 {
				return fmt.Errorf("%w: %s", executor.ErrNoStore, ref.Registry)
			}
			subject, err := stores[0].Resolve(ctx, ref)
			if err == nil {
				err = look(ctx, stores, subject)
			}
			return explained(ref, err)
		},
	}
	configFlag(cmd, &path)
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "time for all of it")
	return cmd
}

// explained says what a store's error means as verify would.
func explained(ref referrerstore.Reference, err error) error {
	if err == nil {
		return nil
	}
	result := executor.Result{Request: executor.Request{Reference: ref}}
	if errors.Is(err, referrerstore.ErrNotFound) {
		result.Decision, result.Denial, err = executor.Denied, err, nil
	}
	return errors.New(executor.Explain(result, err).Line())
}

func servingStores(stores []store, host string) []store {
	var serving []store
	for _, s := range stores {
		if s.Serves(host) {
			serving = append(serving, s)
		}
	}
	return serving
}

// discovery draws a tree while it asks for it.
type discovery struct {
	out    io.Writer
	stores []store
	left   int
}

func (d *discovery) below(ctx context.Context, subject referrerstore.Subject, indent string, depth int) error {
	referrers, err := d.referrers(ctx, subject)
	for i, r := range referrers {
		branch, deeper := "├── ", "│   "
		if i == len(referrers)-1 && err == nil {
			branch, deeper = "└── ", "    "
		}
		fmt.Fprintf(d.out, "%s%s%s  %s  %d bytes\n", indent, branch, r.Digest, executor.OneLine(artifactType(r)), r.Size)
		if depth > 1 {
			next := referrerstore.Subject{Reference: subject.Reference, Descriptor: r}
			if err := d.below(ctx, next, indent+deeper, depth-1); err != nil {
				return err
			}
		}
	}
	return err
}

func artifactType(d ocispec.Descriptor) string {
	if d.ArtifactType != "" {
		return d.ArtifactType
	}
	return d.MediaType
}

// referrers are those of all stores, each digest once; what was listed before
// an error comes with it.
func (d *discovery) referrers(ctx context.Context, subject referrerstore.Subject) ([]ocispec.Descriptor, error) {
	seen := make(map[digest.Digest]bool)
	var found []ocispec.Descriptor
	for _, s := range d.stores {
		for r, err := range s.Referrers(ctx, subject) {
			if err != nil {
				return found, err
			}
			if seen[r.Digest] {
				continue
			}
			if d.left == 0 {
				return found, fmt.Errorf("%w: the tree is cut at %d", referrerstore.ErrTooManyReferrers, maxDiscovered)
			}
			d.left--
			seen[r.Digest] = true
			found = append(found, r)
		}
	}
	return found, nil
}
