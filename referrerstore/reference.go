package referrerstore

import (
	_ "crypto/sha256" // both algorithms of digests must be linked in to be known
	_ "crypto/sha512"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// MaxReferenceBytes bounds the text of an image reference. The parts' own
// bounds (253 bytes of host name, 6 of port, 255 of repository, 128 of tag, 135
// of digest) stay below it, so that a canonical text can always be read back.
const MaxReferenceBytes = 1024

// maxHostName is the longest name that DNS can hold.
const maxHostName = 253

// ErrInvalidReference is in the chain of every error of [ParseReference]: the
// text can never name an image, whatever the registry holds.
var ErrInvalidReference = errors.New("invalid image reference")

// Docker Hub answers under several names; policy and caches know one of them.
const dockerHub = "docker.io"

var dockerHubAliases = map[string]bool{ //nolint:gochecknoglobals // a constant table
	"docker.io":               true,
	"index.docker.io":         true,
	"registry-1.docker.io":    true,
	"registry.hub.docker.com": true,
}

var (
	anchoredTag  = regexp.MustCompile(`^[\w][\w.-]{0,127}$`)
	anchoredHost = regexp.MustCompile(`^(?:` + reference.DomainRegexp.String() + `)$`)
	anchoredID   = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// Reference names an image: a registry host, a repository in it, and a tag, a
// digest or both. It is made by [ParseReference] alone, so that every holder
// sees the one canonical form; the zero value names nothing.
//
// Where both tag and digest are given the digest decides and the tag is only
// shown. References are comparable values.
type Reference struct {
	// Registry is the canonical host, with a port unless that is 443.
	Registry string
	// Repository is the path in the registry.
	Repository string
	// Tag may be empty if Digest is not.
	Tag string
	// Digest is empty, sha256 or sha512.
	Digest digest.Digest
}

// ParseReference reads an image reference as Docker does (a missing host is
// Docker Hub, a missing tag is "latest") and makes it canonical: the host in
// lower case without ":443" or a trailing dot, Docker Hub under one name.
//
// A ":443" stays where the host has neither dot nor other mark: without it
// the name would be read as a path on Docker Hub. Parsing the canonical text
// of a reference yields that reference again.
func ParseReference(text string) (Reference, error) {
	ref, err := parse(text)
	if err != nil {
		return Reference{}, fmt.Errorf("%w: %w", ErrInvalidReference, err)
	}
	return ref, nil
}

func parse(text string) (Reference, error) {
	if err := checkText(text); err != nil {
		return Reference{}, err
	}
	var ref Reference
	name, hex, pinned := strings.Cut(text, "@")
	if pinned {
		d, err := ParseDigest(hex)
		if err != nil {
			return Reference{}, err
		}
		ref.Digest = d
	}
	name, tag, tagged := cutTag(name)
	if isImageID(name) {
		// A node runs the local image with that ID, whatever a registry has.
		return Reference{}, fmt.Errorf("%q is read as the ID of an image on the node, not as a name", text)
	}
	if tagged {
		if !anchoredTag.MatchString(tag) {
			return Reference{}, errors.New("the tag is not of the form [A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
		}
		ref.Tag = tag
	}
	if !tagged && !pinned {
		ref.Tag = "latest"
	}
	written, path := splitHost(name)
	host, err := CanonicalHost(written)
	if err != nil {
		return Reference{}, err
	}
	if host == dockerHub && !strings.Contains(path, "/") {
		if !isOfficialSpelling(written) {
			// Nodes add "library/" under these spellings only; under another
			// they would pull something else than what was verified.
			return Reference{}, fmt.Errorf("under %q a repository has an owner: write docker.io/library/%s", written, path)
		}
		path = "library/" + path
	}
	if err := checkName(host, path); err != nil {
		return Reference{}, err
	}
	ref.Registry, ref.Repository = host, path
	return ref, nil
}

// isOfficialSpelling tells the hosts under which a repository without an owner
// is one of Docker's own.
func isOfficialSpelling(host string) bool {
	return host == "docker.io" || host == "index.docker.io"
}

// isImageID tells what stands before the colon of an image ID. Container
// runtimes look for such an ID, or the start of one, among local images before
// they read the text as a name.
func isImageID(name string) bool {
	return name == "sha256" || name == "sha384" || name == "sha512"
}

func checkText(text string) error {
	switch {
	case text == "":
		return errors.New("it is empty")
	case len(text) > MaxReferenceBytes:
		return fmt.Errorf("it is longer than %d bytes", MaxReferenceBytes)
	case !utf8.ValidString(text):
		return errors.New("it is not valid UTF-8")
	case anchoredID.MatchString(text):
		// Docker reads the ID of a local image, which no registry can resolve.
		return errors.New("it is an image ID of 64 hexadecimal digits, not a name")
	}
	for _, r := range text {
		if r <= ' ' || r >= 0x7f {
			return fmt.Errorf("it has the character %U; only printable ASCII is allowed", r)
		}
	}
	return nil
}

// ParseDigest reads a digest of the two algorithms that may name content here,
// sha256 and sha512, in lower-case hexadecimal.
func ParseDigest(text string) (digest.Digest, error) {
	d := digest.Digest(text)
	if err := d.Validate(); err != nil {
		return "", fmt.Errorf("the digest is not valid: %w", err)
	}
	if a := d.Algorithm(); a != digest.SHA256 && a != digest.SHA512 {
		return "", fmt.Errorf("the digest's algorithm %s is neither sha256 nor sha512", a)
	}
	return d, nil
}

func cutTag(name string) (rest, tag string, found bool) {
	colon := strings.LastIndexByte(name, ':')
	if colon < 0 || colon < strings.LastIndexByte(name, '/') {
		return name, "", false
	}
	// A lone "host:port" cannot be told from "name:tag": Docker reads a tag.
	return name[:colon], name[colon+1:], true
}

// splitHost tells a host from the first segment of a path by Docker's rule: it
// has a dot or a colon, is "localhost", or has an upper-case letter.
func splitHost(name string) (host, path string) {
	first, rest, found := strings.Cut(name, "/")
	if found && LooksLikeHost(first) {
		return first, rest
	}
	return dockerHub, name
}

// LooksLikeHost says whether Docker reads the first segment of a name as a
// host rather than as the start of a path on Docker Hub.
func LooksLikeHost(segment string) bool {
	return strings.ContainsAny(segment, ".:") || segment == "localhost" || strings.ToLower(segment) != segment
}

// CanonicalHost makes a registry host canonical as [ParseReference] does, or
// says why it is none.
func CanonicalHost(host string) (string, error) {
	name, port := splitPort(strings.ToLower(host))
	name = canonicalAddress(strings.TrimSuffix(name, "."))
	if port == ":443" {
		port = ""
	}
	if dockerHubAliases[name] && port == "" {
		return dockerHub, nil
	}
	// What upper case or a trailing dot alone marked as a host needs a mark
	// that survives: its port.
	if port == "" && !LooksLikeHost(name) {
		port = ":443"
	}
	if len(name) > maxHostName || !anchoredHost.MatchString(name+port) || !validPort(port) || hasPort(name) {
		return "", errors.New("the registry host is not a valid DNS name or address with an optional port")
	}
	return name + port, nil
}

// canonicalAddress gives an IPv6 address in brackets its one spelling, or "",
// which is no host, if it is none. Other names are left alone.
func canonicalAddress(name string) string {
	inner, bracketed := strings.CutPrefix(name, "[")
	if !bracketed {
		return name
	}
	inner, closed := strings.CutSuffix(inner, "]")
	address, err := netip.ParseAddr(inner)
	if !closed || err != nil || !address.Is6() {
		return ""
	}
	return "[" + address.String() + "]"
}

// hasPort says whether a name still has a port when its port was taken off.
func hasPort(name string) bool {
	_, port := splitPort(name)
	return port != ""
}

// validPort takes ":1" to ":65535" in their one spelling, or no port. With
// another ":0443" would escape the rules for ":443".
func validPort(port string) bool {
	if port == "" {
		return true
	}
	n, err := strconv.ParseUint(port[1:], 10, 16)
	return err == nil && n > 0 && port[1:] == strconv.FormatUint(n, 10)
}

func checkName(host, path string) error {
	if _, err := reference.WithName(host + "/" + path); err != nil {
		return fmt.Errorf("the repository %q is not valid: %w", path, err)
	}
	return nil
}

// Name is the repository with its registry, the unit by which policies choose.
func (r Reference) Name() string { return r.Registry + "/" + r.Repository }

// IsZero tells the zero value, which names nothing.
func (r Reference) IsZero() bool { return r == Reference{} }

// Pinned gives the same image under its digest alone.
func (r Reference) Pinned(d digest.Digest) Reference {
	return Reference{Registry: r.Registry, Repository: r.Repository, Digest: d}
}

// String is the canonical text; [ParseReference] reads it back.
func (r Reference) String() string {
	s := r.Name()
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest.String()
	}
	return s
}
