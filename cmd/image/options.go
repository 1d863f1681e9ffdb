package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// The defaults of a release.
const (
	defaultName   = "ghcr.io/gatehouse-project/gatehouse"
	defaultSource = "https://github.com/gatehouse-project/gatehouse"
)

// options are what the command line asks for. Paths are as the caller wrote them.
type options struct {
	root, out     string
	name, version string
	source        string // URL of the git repository
	revision      string // empty: git says it
	builderID     string
	binaries      []binary
	platforms     []v1.Platform
}

// binary is an executable of the image.
type binary struct {
	name   string // of the file, at the root of the image
	folder string // of the Go module, below options.root
	pkg    string // within the module
}

// binaryForm is NAME=DIR:PKG. The file's name is one segment of a path, and none of
// the base's folders.
var binaryForm = regexp.MustCompile(`^([a-z][a-z0-9-]*)=([^:]+):([^:]+)$`)

// parseBinary reads NAME=DIR:PKG.
func parseBinary(text string) (binary, error) {
	m := binaryForm.FindStringSubmatch(text)
	if m == nil || !filepath.IsLocal(m[2]) || !strings.HasPrefix(m[3], ".") {
		return binary{}, fmt.Errorf("%q is not NAME=DIR:PKG, such as gatehouse=.:./cmd/gatehouse", text)
	}
	if slices.Contains([]string{"etc", "home", "tmp"}, m[1]) {
		return binary{}, fmt.Errorf("%q is a folder of the image", m[1])
	}
	return binary{name: m[1], folder: m[2], pkg: m[3]}, nil
}

// parsePlatforms reads OS/ARCHITECTURE, separated by commas.
func parsePlatforms(text string) ([]v1.Platform, error) {
	var platforms []v1.Platform
	for part := range strings.SplitSeq(text, ",") {
		p, err := v1.ParsePlatform(part)
		if err != nil {
			return nil, err
		}
		if p.OS != "linux" || p.Architecture == "" || p.Variant != "" || p.OSVersion != "" {
			return nil, fmt.Errorf("%q is not a platform such as linux/amd64", part)
		}
		if slices.ContainsFunc(platforms, p.Equals) {
			return nil, fmt.Errorf("%q is named twice", part)
		}
		platforms = append(platforms, *p)
	}
	return platforms, nil
}

// parseOptions reads the command line. Errors name the flag.
func parseOptions(args []string, stderr io.Writer) (options, error) {
	opts := options{binaries: []binary{{name: "gatehouse", folder: ".", pkg: "./cmd/gatehouse"}}}
	asked := false
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&opts.root, "root", "../..", "folder of the sources")
	flags.StringVar(&opts.out, "out", "", "folder to write the layout to; a layout that is there is replaced")
	flags.StringVar(&opts.name, "name", defaultName, "name of the image, without a tag")
	flags.StringVar(&opts.version, "version", "", "version to stamp, and the tag of the layout; default: git describe")
	flags.StringVar(&opts.source, "source", defaultSource, "URL of the sources")
	flags.StringVar(&opts.revision, "revision", "", "commit of the sources; default: git's HEAD, with -dirty if files differ")
	flags.StringVar(&opts.builderID, "builder-id", "local", "who builds, for the provenance: a URI")
	flags.Func("binary", "`NAME=DIR:PKG` to put at /NAME: the package PKG of the module in DIR; may be repeated; the first is the entry point (default gatehouse=.:./cmd/gatehouse)", func(text string) error {
		b, err := parseBinary(text)
		if !asked {
			asked, opts.binaries = true, nil
		}
		opts.binaries = append(opts.binaries, b)
		return err
	})
	platforms := flags.String("platforms", "linux/amd64,linux/arm64", "what to build for")
	if err := flags.Parse(args); err != nil {
		return options{}, err
	}
	var err error
	if opts.platforms, err = parsePlatforms(*platforms); err != nil {
		return options{}, fmt.Errorf("-platforms: %w", err)
	}
	return opts, errors.Join(opts.check(), noneLeft(flags.Args()))
}

func noneLeft(args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("unexpected %q", args)
	}
	return nil
}

// check finds what no flag alone can tell.
func (o options) check() error {
	var errs []error
	if o.out == "" {
		errs = append(errs, errors.New("-out: say where to write the layout"))
	}
	if _, err := name.NewRepository(o.name, name.StrictValidation); err != nil {
		errs = append(errs, fmt.Errorf("-name: %w", err))
	}
	if !strings.HasPrefix(o.source, "https://") {
		errs = append(errs, fmt.Errorf("-source: %q is not an https URL", o.source))
	}
	if o.builderID == "" {
		errs = append(errs, errors.New("-builder-id: must not be empty"))
	}
	seen := make(map[string]bool)
	for _, b := range o.binaries {
		if seen[b.name] {
			errs = append(errs, fmt.Errorf("-binary: %s is named twice", b.name))
		}
		seen[b.name] = true
	}
	return errors.Join(errs...)
}
