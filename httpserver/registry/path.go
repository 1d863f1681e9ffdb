package registry

import (
	"regexp"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// kind is what a request asks for.
type kind uint8

const (
	kindOther kind = iota
	kindPing
	kindManifest
	kindBlob
	kindTags
	kindReferrers
)

// String is the kind as metrics and log lines name it.
func (k kind) String() string {
	return [...]string{"other", "ping", "manifest", "blob", "tags", "referrers"}[k]
}

// path is what the path of a request says. Of tag and digest at most one is set.
type path struct {
	kind   kind
	name   string // a repository, maybe behind a host; not checked any further
	tag    string
	digest digest.Digest
}

// maxName bounds a name with a host in it.
const maxName = 512

var (
	tagPattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)
	// mediaTypePattern is a media type without parameters.
	mediaTypePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]*/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]*$`)
	// textPattern is all that hosts and repositories consist of.
	textPattern = regexp.MustCompile(`^[A-Za-z0-9._:/\[\]-]+$`)
)

// parsePath reads the path of a request as it was sent, still encoded. Names have
// slashes, and any word of the API may be part of one, so it is read from its
// end. Nothing in it may be encoded but the colon of a digest.
func parsePath(escaped string) (path, error) {
	rest, ok := strings.CutPrefix(escaped, "/v2")
	if ok && (rest == "" || rest == "/") {
		return path{kind: kindPing}, nil
	}
	if !ok || rest[0] != '/' {
		return path{}, errNoSuchPath()
	}
	if rest = rest[1:]; strings.Contains(rest, "%3") { // rare, and a replacer costs more than all else here
		rest = strings.NewReplacer("%3A", ":", "%3a", ":").Replace(rest)
	}
	if name, ok := strings.CutSuffix(rest, "/tags/list"); ok {
		return named(path{kind: kindTags}, name)
	}
	rest, last := cutLast(rest)
	name, word := cutLast(rest)
	switch word {
	case "manifests":
		return manifestPath(name, last)
	case "blobs":
		return digestPath(kindBlob, name, last)
	case "referrers":
		return digestPath(kindReferrers, name, last)
	default:
		return path{}, errNoSuchPath()
	}
}

func manifestPath(name, ref string) (path, error) {
	if strings.Contains(ref, ":") {
		return digestPath(kindManifest, name, ref)
	}
	p, err := named(path{kind: kindManifest, tag: ref}, name)
	if err == nil && !tagPattern.MatchString(ref) {
		err = errNoSuchTag()
	}
	return p, err
}

func digestPath(k kind, name, ref string) (path, error) {
	p, err := named(path{kind: k}, name)
	if err != nil {
		return p, err
	}
	if p.digest, err = referrerstore.ParseDigest(ref); err != nil {
		return p, errBadDigest(err)
	}
	return p, nil
}

// named gives a path its name if that can be one at all.
func named(p path, name string) (path, error) {
	if len(name) > maxName || !textPattern.MatchString(name) {
		return path{kind: p.kind}, errBadName()
	}
	for segment := range strings.SplitSeq(name, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return path{kind: p.kind}, errBadName()
		}
	}
	p.name = name
	return p, nil
}

func cutLast(text string) (before, last string) {
	at := strings.LastIndexByte(text, '/')
	if at < 0 {
		return "", text
	}
	return text[:at], text[at+1:]
}
