package cache

import (
	"errors"
	"fmt"
	"strings"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// ErrPattern says that a text is no pattern of names.
var ErrPattern = errors.New("cache: invalid pattern")

// ParseMatch reads a pattern of names and makes of it what [Filter] and
// [PruneRequest] take as Match. It is HOST/REPOSITORY, with :TAG or @DIGEST behind
// it, or neither, which takes all tags and digests:
//
//   - HOST as in [referrerstore.ParseHostPattern]: "*" stays within a label, "**"
//     is every host.
//   - in REPOSITORY "*" stays within a segment, and a segment "**" stands for one
//     or more.
//   - in TAG and DIGEST "*" stands for any characters.
//   - "**" alone is every repository, and @DIGEST is that of any.
//
// Whoever chooses by :TAG does not choose what is known by its digest only.
// Everything else is ErrPattern.
func ParseMatch(text string) (match func(name string) bool, err error) {
	if len(text) > referrerstore.MaxReferenceBytes {
		return nil, fmt.Errorf("%w: it is longer than %d bytes", ErrPattern, referrerstore.MaxReferenceBytes)
	}
	name, mark, version := cutVersion(text)
	if mark != "" && version == "" {
		return nil, fmt.Errorf("%w %q: nothing stands behind its %q", ErrPattern, text, mark)
	}
	of, err := parseRepositories(name, mark == "@")
	if err != nil {
		return nil, fmt.Errorf("%w %q: %w", ErrPattern, text, err)
	}
	return func(full string) bool {
		name, kind, is := cutVersion(full)
		return (mark == "" || mark == kind && referrerstore.MatchGlob(version, is)) && of.match(name)
	}, nil
}

// cutVersion cuts :TAG or @DIGEST from a name. A colon before a slash is that of a
// port.
func cutVersion(text string) (name, mark, version string) {
	if name, version, found := strings.Cut(text, "@"); found {
		return name, "@", version
	}
	if colon := strings.LastIndexByte(text, ':'); colon > strings.LastIndexByte(text, '/') {
		return text[:colon], ":", text[colon+1:]
	}
	return text, "", ""
}

// repositories is a pattern of HOST/REPOSITORY.
type repositories struct {
	any  bool
	host referrerstore.HostPattern
	path []string
}

func parseRepositories(text string, digestFollows bool) (repositories, error) {
	if text == "**" || text == "" && digestFollows {
		return repositories{any: true}, nil
	}
	hostText, path, found := strings.Cut(text, "/")
	if !found {
		return repositories{}, errors.New("it is not HOST/REPOSITORY")
	}
	host, err := referrerstore.ParseHostPattern(hostText)
	if err != nil {
		return repositories{}, err
	}
	of := repositories{host: host, path: strings.Split(path, "/")}
	for _, segment := range of.path {
		if segment == "" || segment != "**" && strings.Contains(segment, "**") {
			return repositories{}, fmt.Errorf(`a segment is %q: "**" stands only alone`, segment)
		}
	}
	return of, nil
}

func (r repositories) match(name string) bool {
	if r.any {
		return true
	}
	host, path, found := strings.Cut(name, "/")
	return found && r.host.Match(host) && matchSegments(r.path, strings.Split(path, "/"))
}

// matchSegments matches a path against patterns of its segments, in time linear in
// the product of their numbers: of several "**" only the last needs another try.
func matchSegments(globs, path []string) bool {
	star, mark := -1, 0
	g, p := 0, 0
	for p < len(path) {
		switch {
		case g < len(globs) && globs[g] == "**":
			star, mark = g, p+1 // it takes at least one
			g, p = g+1, p+1
		case g < len(globs) && referrerstore.MatchGlob(globs[g], path[p]):
			g, p = g+1, p+1
		case star >= 0 && mark < len(path):
			mark++
			g, p = star+1, mark
		default:
			return false
		}
	}
	return g == len(globs)
}
