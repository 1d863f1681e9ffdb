package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/gatehouse-project/gatehouse/config"
	"github.com/gatehouse-project/gatehouse/httpserver/control"
	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
)

func cacheCommand(std stdio) *cobra.Command {
	var at cacheFlags
	cmd := &cobra.Command{
		Use:   "cache",
		Short: "Show, fill and empty the content cache",
		Long: `Cache works on the content cache of a serving gatehouse, by way of its control socket,
or on a folder that no process holds. Which cache it is stands in the configuration;
--directory names a folder instead, and --address a process that listens on loopback.`,
	}
	at.register(cmd)
	cmd.AddCommand(
		cacheListCommand(std, &at), cacheStatCommand(std, &at), cachePruneCommand(std, &at),
		cachePinCommand(std, &at), cacheUnpinCommand(std, &at), cacheScrubCommand(std, &at),
		cacheLoadCommand(std, &at), cacheExportCommand(std, &at),
	)
	return cmd
}

func cacheListCommand(std stdio, at *cacheFlags) *cobra.Command {
	var req control.ItemsRequest
	cmd := &cobra.Command{
		Use:   "list [PATTERN]",
		Short: "List the images that are held",
		Long: `List shows what the cache holds: images and other manifests that no held index lists,
the one that was pulled last first. PATTERN chooses by HOST/REPOSITORY, with :TAG or
@DIGEST or without: * is any text within a segment, ** any text.`,
		Example: `  gatehouse cache list
  gatehouse cache list 'registry.example.com/prod/**'
  gatehouse cache list --all -o json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				req.Match = args[0]
			}
			return with(cmd, at, func(ctx context.Context, k control.Keeper) error { return listItems(ctx, std, at, k, req) })
		},
	}
	cmd.Flags().BoolVar(&req.All, "all", false, "children of indexes, blobs and lists too")
	return cmd
}

// with finds the keeper, works with it and lets it go.
func with(cmd *cobra.Command, at *cacheFlags, work func(context.Context, control.Keeper) error) error {
	k, done, err := at.keeper(cmd.Context())
	if err != nil {
		return err
	}
	return errors.Join(gone(work(cmd.Context(), k)), done())
}

// gone says what it means if a process went away.
func gone(err error) error {
	switch {
	case errors.Is(err, control.ErrRefused):
		return fmt.Errorf("%w: name the file of cache.control.tokenFile with --token-file", err)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w: start gatehouse serve, or name cache.control.address with --address", err)
	default:
		return err
	}
}

func cacheStatCommand(std stdio, at *cacheFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "stat",
		Short: "Show how full the cache is and how it fares",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return with(cmd, at, func(ctx context.Context, k control.Keeper) error {
				stats, err := k.Stats(ctx)
				if err != nil {
					return err
				}
				return showStats(std.out, at.output, stats)
			})
		},
	}
}

type pruneFlags struct {
	unusedFor, olderThan, toBytes, toFree string
	req                                   control.PruneRequest
}

func cachePruneCommand(std stdio, at *cacheFlags) *cobra.Command {
	var flags pruneFlags
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Drop images from the cache",
		Long: `Prune drops images that meet all conditions, the longest unused first, with all that
nothing else refers to. It never drops what is pinned, being read, or was pulled
within the lease of ten minutes. Without a condition it needs --all.`,
		Example: `  gatehouse cache prune --unused-for 30d --dry-run
  gatehouse cache prune --match 'registry.example.com/dev/**' --older-than 7d
  gatehouse cache prune --to 8GiB`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			req, err := flags.request(time.Now())
			if err != nil {
				return err
			}
			return with(cmd, at, func(ctx context.Context, k control.Keeper) error { return prune(ctx, std, at, k, req) })
		},
	}
	cmd.Flags().StringVar(&flags.unusedFor, "unused-for", "", "not pulled for so long, such as 30d or 12h")
	cmd.Flags().StringVar(&flags.olderThan, "older-than", "", "came in so long ago")
	cmd.Flags().StringVar(&flags.req.Match, "match", "", "pattern of HOST/REPOSITORY[:TAG or @DIGEST]")
	cmd.Flags().StringVar(&flags.toBytes, "to", "", "until the cache has at most this size, such as 8GiB")
	cmd.Flags().StringVar(&flags.toFree, "free", "", "until the file system has so much free")
	cmd.Flags().BoolVar(&flags.req.All, "all", false, "everything that may be dropped")
	cmd.Flags().BoolVar(&flags.req.DryRun, "dry-run", false, "only say what would be dropped")
	return cmd
}

func (f pruneFlags) request(now time.Time) (req control.PruneRequest, err error) {
	req = f.req
	set := req.All || req.Match != ""
	for _, moment := range []struct {
		flag, text string
		into       *time.Time
	}{{"--unused-for", f.unusedFor, &req.PulledBefore}, {"--older-than", f.olderThan, &req.CreatedBefore}} {
		if moment.text == "" {
			continue
		}
		age, err := parseAge(moment.text)
		if err != nil {
			return req, fmt.Errorf("%s: %w", moment.flag, err)
		}
		*moment.into, set = now.Add(-age), true
	}
	for _, size := range []struct {
		flag, text string
		into       *int64
	}{{"--to", f.toBytes, &req.ToBytes}, {"--free", f.toFree, &req.ToFree}} {
		if size.text == "" {
			continue
		}
		if *size.into, err = config.ParseBytes(size.text); err != nil {
			return req, fmt.Errorf("%s: %w", size.flag, err)
		}
		set = true
	}
	if !set {
		return req, errors.New("say what to drop: --unused-for, --older-than, --match, --to, --free, or --all")
	}
	return req, nil
}

// parseAge reads a duration, of whole days too.
func parseAge(text string) (time.Duration, error) {
	const maxDays = 36500
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 32)
		if err != nil || n > maxDays {
			return 0, fmt.Errorf("%q is not a number of days", text)
		}
		return time.Duration(n) * 24 * time.Hour, nil
	}
	age, err := time.ParseDuration(text)
	if err != nil || age < 0 {
		return 0, fmt.Errorf("%q is not a time such as 30d, 12h or 90m", text)
	}
	return age, nil
}

func cachePinCommand(std stdio, at *cacheFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "pin [IMAGE...]",
		Short: "Keep images from being dropped, or list those that are kept",
		Long: `Pin keeps images, by tag wherever it leads or by digest, with all that they list, until
unpin. They need not be held yet. Without an image it lists what is pinned.`,
		Example: `  gatehouse cache pin registry.example.com/app:v1
  gatehouse cache pin`,
		RunE: func(cmd *cobra.Command, args []string) error {
			pins, err := parsePins(args)
			if err != nil {
				return err
			}
			return with(cmd, at, func(ctx context.Context, k control.Keeper) error {
				for _, pin := range pins {
					if err := k.Pin(ctx, pin); err != nil {
						return fmt.Errorf("pin %s: %w", pinName(pin), err)
					}
				}
				if len(pins) > 0 {
					return nil
				}
				return showPins(ctx, std, at, k)
			})
		},
	}
}

func cacheUnpinCommand(std stdio, at *cacheFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "unpin IMAGE...",
		Short: "Take pins back",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			pins, err := parsePins(args)
			if err != nil {
				return err
			}
			return with(cmd, at, func(ctx context.Context, k control.Keeper) error {
				for _, pin := range pins {
					was, err := k.Unpin(ctx, pin)
					if err != nil {
						return fmt.Errorf("unpin %s: %w", pinName(pin), err)
					}
					if !was {
						return fmt.Errorf("%s is not pinned: gatehouse cache pin lists what is", pinName(pin))
					}
				}
				return nil
			})
		},
	}
}

func parsePins(images []string) ([]cache.Pin, error) {
	pins := make([]cache.Pin, len(images))
	for i, image := range images {
		ref, err := referrerstore.ParseReference(image)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", image, err)
		}
		pins[i] = cache.Pin{Registry: ref.Registry, Repository: ref.Repository, Digest: ref.Digest}
		if ref.Digest == "" {
			pins[i].Tag = ref.Tag
		}
	}
	return pins, nil
}

func cacheScrubCommand(std stdio, at *cacheFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "scrub",
		Short: "Hash all content and put aside what is damaged",
		Long: `Scrub reads all content from the disk and hashes it. What is not what its name says is
put into the folder quarantine, and fetched anew when it is asked for. It exits with 1
if there was such content.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return with(cmd, at, func(ctx context.Context, k control.Keeper) error {
				bar := newBar(std, "hashing")
				found, err := k.Scrub(ctx, bar.show)
				bar.end()
				if err != nil {
					return err
				}
				return showScrubbed(std.out, at.output, found)
			})
		},
	}
}

func cacheLoadCommand(std stdio, at *cacheFlags) *cobra.Command {
	var req control.LoadRequest
	cmd := &cobra.Command{
		Use:   "load FILE",
		Short: "Take in an OCI layout or a docker-save archive",
		Long: `Load takes images into the cache: from an OCI layout (a folder, or a tar of one) or from
what docker save writes, compressed with gzip or not. - is standard input. Images get
the names that the archive gives them, or --name.`,
		Example: `  docker save registry.example.com/app:v1 | gatehouse cache load -
  gatehouse cache load --name registry.example.com/app:v1 --platform linux/amd64 layout.tar`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return with(cmd, at, func(ctx context.Context, k control.Keeper) error { return load(ctx, std, at, k, req, args[0]) })
		},
	}
	cmd.Flags().StringVar(&req.Name, "name", "", "reference of an image that the archive does not name")
	cmd.Flags().StringSliceVar(&req.Platforms, "platform", nil, "only these of an index, such as linux/amd64")
	return cmd
}

func cacheExportCommand(std stdio, at *cacheFlags) *cobra.Command {
	var req control.ExportRequest
	var file string
	cmd := &cobra.Command{
		Use:   "export IMAGE...",
		Short: "Write images as an OCI layout",
		Long: `Export writes images that are held as a tar of an OCI layout, which load, skopeo, crane
and docker load read.`,
		Example: `  gatehouse cache export --referrers -f app.tar registry.example.com/app:v1`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Images = args
			return with(cmd, at, func(ctx context.Context, k control.Keeper) error { return export(ctx, std, k, req, file) })
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "-", "file to write; - is standard output")
	cmd.Flags().StringSliceVar(&req.Platforms, "platform", nil, "only these of an index, such as linux/amd64")
	cmd.Flags().BoolVar(&req.Referrers, "referrers", false, "signatures and other artifacts too")
	return cmd
}

func export(ctx context.Context, std stdio, k control.Keeper, req control.ExportRequest, file string) error {
	if file == "-" {
		if terminal(std.out) {
			return errors.New("standard output is a terminal: name a file with --file")
		}
		return k.Export(ctx, req, std.out)
	}
	// Beside its name until it is whole.
	out, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-")
	if err != nil {
		return fmt.Errorf("--file: %w", err)
	}
	defer func() { _ = os.Remove(out.Name()) }() // gone already if all went well
	bar := newBar(std, "writing")
	err = k.Export(ctx, req, io.MultiWriter(out, bar))
	bar.end()
	if err = errors.Join(err, out.Close()); err != nil {
		return err
	}
	return os.Rename(out.Name(), file)
}
