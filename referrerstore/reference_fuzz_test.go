package referrerstore_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/distribution/reference"
	"pgregory.net/rapid"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// genReference draws texts that mostly parse, in all spellings of hosts.
func genReference() *rapid.Generator[string] {
	host := rapid.OneOf(
		rapid.Just(""),
		rapid.StringMatching(`[a-zA-Z0-9]{1,3}(-[a-z]{1,2})?\.?/`),
		rapid.StringMatching(`[a-zA-Z]{1,3}(\.[a-zA-Z0-9]{1,3}){1,3}\.?(:(443|80|5000|0443))?/`),
		rapid.SampledFrom([]string{
			"localhost/", "localhost:443/", "Localhost:1/", "docker.io/", "index.docker.io:443/",
			"registry-1.docker.io./", "[::1]:443/", "[A::B]:5/", "10.0.0.1:443/", "myhost:443/",
		}),
	)
	path := rapid.StringMatching(`[a-z0-9]{1,4}([._]|__|-{1,3})?[a-z0-9]{1,4}(/[a-z0-9]{1,3}){0,3}`)
	tag := rapid.StringMatching(`(:\w[\w.-]{0,5})?`)
	pin := rapid.SampledFrom([]string{"", "@" + sha256, "@" + sha512})
	return rapid.Custom(func(t *rapid.T) string {
		return host.Draw(t, "host") + path.Draw(t, "path") + tag.Draw(t, "tag") + pin.Draw(t, "digest")
	})
}

func TestParseReferenceProperties(t *testing.T) {
	t.Parallel()
	var parsed int
	rapid.Check(t, func(t *rapid.T) {
		text := genReference().Draw(t, "text")
		ref, err := referrerstore.ParseReference(text)
		if err != nil {
			return
		}
		parsed++
		checkCanonical(t, ref)
		agreesWithDocker(t, text)
	})
	if parsed < 50 {
		t.Errorf("only %d of the drawn texts parse", parsed)
	}
}

// agreesWithDocker holds the parser against the library that container
// runtimes use: what that accepts we accept as the same image, but for what we
// refuse on purpose.
func agreesWithDocker(t interface {
	Helper()
	Errorf(string, ...any)
}, text string,
) {
	t.Helper()
	docker, dockerErr := reference.ParseDockerRef(text)
	ref, err := referrerstore.ParseReference(text)
	if dockerErr != nil {
		return
	}
	host, hostErr := referrerstore.CanonicalHost(reference.Domain(docker))
	pinned, isPinned := docker.(reference.Digested)
	stricter := hostErr != nil || len(text) > referrerstore.MaxReferenceBytes
	if isPinned {
		_, digestErr := referrerstore.ParseDigest(pinned.Digest().String())
		stricter = stricter || digestErr != nil
	}
	path := reference.Path(docker)
	if host == "docker.io" && !strings.Contains(path, "/") {
		stricter = true // Docker adds "library/" under two spellings only
	}
	if name, _, _ := strings.Cut(text, "@"); readsAsID(name) {
		stricter = true // a node looks for a local image first
	}
	if stricter != (err != nil) {
		t.Errorf("%q: Docker reads %s, we: %v", text, docker, err)
	}
	if err != nil {
		return
	}
	if ref.Registry != host || ref.Repository != path {
		t.Errorf("%q: Docker reads %s, we %s", text, docker, ref)
	}
	if isPinned && ref.Digest != pinned.Digest() {
		t.Errorf("%q: digest %s, Docker %s", text, ref.Digest, pinned.Digest())
	}
	if tagged, ok := docker.(reference.Tagged); ok && ref.Tag != tagged.Tag() {
		t.Errorf("%q: tag %s, Docker %s", text, ref.Tag, tagged.Tag())
	}
}

func readsAsID(name string) bool {
	algorithm, _, _ := strings.Cut(name, ":")
	return algorithm == "sha256" || algorithm == "sha384" || algorithm == "sha512"
}

func FuzzParseReference(f *testing.F) {
	for _, text := range []string{
		"app", "team/app:v1", "Example.com:443/a", "myhost:443/app", "[::1]:5000/x", "a.b./c",
		"sha256:" + hex64, "sha256:ab", "docker.io/library/sha256:ab", "app:v@" + sha256, "h:1/a@" + sha512, hex64, "docker.io/x", "registry-1.docker.io/" + hex64,
		"a..b/c", "a//b", "app:\u202e", "\x00", "localhost:5000", "A/b", "h:0443/x", "h:0:443/x", "[0::0]/x",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ref, err := referrerstore.ParseReference(text)
		agreesWithDocker(t, text)
		if err != nil {
			if !errors.Is(err, referrerstore.ErrInvalidReference) || !ref.IsZero() {
				t.Errorf("%+v, %v", ref, err)
			}
			return
		}
		checkCanonical(t, ref)
	})
}
