package archive

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ErrPlatform says that a text names no platform.
var ErrPlatform = errors.New("archive: a platform is OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT, in lower case")

var platformPart = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]{0,31}$`)

// Platform chooses among the images of an index. The zero value matches nothing.
type Platform struct {
	OS, Architecture string
	// Variant of the architecture; empty matches any.
	Variant string
}

// ParsePlatform reads OS/ARCHITECTURE[/VARIANT], such as linux/arm64/v8. Errors
// are ErrPlatform.
func ParsePlatform(text string) (Platform, error) {
	parts := strings.Split(text, "/")
	if len(parts) < 2 || len(parts) > 3 || slices.ContainsFunc(parts, func(p string) bool { return !platformPart.MatchString(p) }) {
		return Platform{}, fmt.Errorf("%q: %w", text, ErrPlatform)
	}
	p := Platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	return p, nil
}

// UnmarshalText implements encoding.TextUnmarshaler, by which configurations are
// read.
func (p *Platform) UnmarshalText(text []byte) error {
	parsed, err := ParsePlatform(string(text))
	if err == nil {
		*p = parsed
	}
	return err
}

// String is what ParsePlatform reads.
func (p Platform) String() string {
	if p.Variant == "" {
		return p.OS + "/" + p.Architecture
	}
	return p.OS + "/" + p.Architecture + "/" + p.Variant
}

// Match says whether an index's entry for such a platform is meant. An arm64
// without a variant is v8, an arm without one v7, as image builders have it.
func (p Platform) Match(of ocispec.Platform) bool {
	return p.OS != "" && p.OS == of.OS && p.Architecture == of.Architecture &&
		(p.Variant == "" || p.Variant == variant(of))
}

func variant(of ocispec.Platform) string {
	switch {
	case of.Variant != "":
		return of.Variant
	case of.Architecture == "arm64":
		return "v8"
	case of.Architecture == "arm":
		return "v7"
	default:
		return ""
	}
}

// describes is the annotation by which BuildKit says which entry of the same index
// an attestation, whose own platform is unknown/unknown, is about.
const describes = "vnd.docker.reference.digest"

// choose says which entries of an index are meant by the platforms, none of which
// means all: those that match, those that are about them, and those that say no
// platform, which may be indexes themselves. matched says whether a platform did.
func choose(entries []descriptor, platforms []Platform) (chosen []descriptor, matched bool) {
	if len(platforms) == 0 {
		return entries, true
	}
	meant := make(map[string]bool)
	for _, e := range entries {
		if e.named(platforms) {
			meant[e.Digest] = true
			matched = true
		}
	}
	for _, e := range entries {
		if meant[e.Digest] || e.Platform == nil || meant[e.Annotations[describes]] {
			chosen = append(chosen, e)
			matched = matched || e.Platform == nil
		}
	}
	return chosen, matched
}

// named says whether the entry itself is of one of the platforms.
func (d descriptor) named(platforms []Platform) bool {
	return d.Platform != nil && matches(platforms, d.Platform)
}

func matches(platforms []Platform, of *platformField) bool {
	return slices.ContainsFunc(platforms, func(p Platform) bool { return p.Match(of.platform()) })
}
