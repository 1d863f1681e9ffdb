package referrerstore_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/distribution/reference"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

const (
	hex64  = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	sha256 = "sha256:" + hex64
	sha384 = "sha384:" + hex64 + "0123456789abcdef0123456789abcdef"
	sha512 = "sha512:" + hex64 + hex64
)

func TestParseReference(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 255)
	for _, test := range []struct{ text, host, repo, tag, digest string }{
		// Docker Hub, under all its names.
		{"app", "docker.io", "library/app", "latest", ""},
		{"app:v1", "docker.io", "library/app", "v1", ""},
		{"team/app", "docker.io", "team/app", "latest", ""},
		{"team/deep/app:v1", "docker.io", "team/deep/app", "v1", ""},
		{"docker.io/app", "docker.io", "library/app", "latest", ""},
		{"docker.io/library/app", "docker.io", "library/app", "latest", ""},
		{"index.docker.io/app", "docker.io", "library/app", "latest", ""},
		{"registry-1.docker.io/library/app", "docker.io", "library/app", "latest", ""},
		{"registry.hub.docker.com/team/app", "docker.io", "team/app", "latest", ""},
		{"Docker.IO:443/library/app", "docker.io", "library/app", "latest", ""},
		{"index.docker.io./library/app", "docker.io", "library/app", "latest", ""},
		{"docker.io:5000/app", "docker.io:5000", "app", "latest", ""},
		{"hub.docker.io/app", "hub.docker.io", "app", "latest", ""},
		// A name without a slash is never a host.
		{"example.com", "docker.io", "library/example.com", "latest", ""},
		{"localhost:5000", "docker.io", "library/localhost", "5000", ""},
		{"example.com:443", "docker.io", "library/example.com", "443", ""},
		// Hosts.
		{"example.com/app", "example.com", "app", "latest", ""},
		{"EXAMPLE.com/app:V1", "example.com", "app", "V1", ""},
		{"example.com:443/app", "example.com", "app", "latest", ""},
		{"example.com:80/app", "example.com:80", "app", "latest", ""},
		{"example.com:65535/app", "example.com:65535", "app", "latest", ""},
		{"example.com./app", "example.com", "app", "latest", ""},
		{"example.com.:443/app", "example.com", "app", "latest", ""},
		{"example.com.:5000/a/b:c", "example.com:5000", "a/b", "c", ""},
		{"localhost/app", "localhost", "app", "latest", ""},
		{"localhost:443/app", "localhost", "app", "latest", ""},
		{"LOCALHOST/app", "localhost", "app", "latest", ""},
		{"localhost./app", "localhost", "app", "latest", ""},
		{"localhost:5000/app", "localhost:5000", "app", "latest", ""},
		{"127.0.0.1/app", "127.0.0.1", "app", "latest", ""},
		{"127.0.0.1:5000/app:v1", "127.0.0.1:5000", "app", "v1", ""},
		{"xn--bcher-kva.example/app", "xn--bcher-kva.example", "app", "latest", ""},
		// A host that only its spelling marks as one keeps a port as its mark.
		{"myhost:443/app", "myhost:443", "app", "latest", ""},
		{"MyHost/app", "myhost:443", "app", "latest", ""},
		{"MYHOST:443/app", "myhost:443", "app", "latest", ""},
		{"myhost./app", "myhost:443", "app", "latest", ""},
		{"myhost:80/app", "myhost:80", "app", "latest", ""},
		{"myhost/app", "docker.io", "myhost/app", "latest", ""},
		// IPv6.
		{"[::1]/app", "[::1]", "app", "latest", ""},
		{"[::1]:443/app", "[::1]", "app", "latest", ""},
		{"[::1]:5000/x", "[::1]:5000", "x", "latest", ""},
		{"[0:0:0::1]:5000/x", "[::1]:5000", "x", "latest", ""},
		{"[2001:DB8::A]/x:v1", "[2001:db8::a]", "x", "v1", ""},
		// Digests.
		{"app@" + sha256, "docker.io", "library/app", "", sha256},
		{"app:v1@" + sha256, "docker.io", "library/app", "v1", sha256},
		{"example.com:5000/a/b:v1@" + sha512, "example.com:5000", "a/b", "v1", sha512},
		// At the bounds.
		{"example.com/" + long, "example.com", long, "latest", ""},
		{"app:" + long[:128], "docker.io", "library/app", long[:128], ""},
		{"a__b-c--d/e_f.g:_-.", "docker.io", "a__b-c--d/e_f.g", "_-.", ""},
		{hex64 + ":v1", "docker.io", "library/" + hex64, "v1", ""},
		{"team/" + hex64, "docker.io", "team/" + hex64, "latest", ""},
		{hex64[1:], "docker.io", "library/" + hex64[1:], "latest", ""},
	} {
		want := referrerstore.Reference{
			Registry: test.host, Repository: test.repo, Tag: test.tag, Digest: digest.Digest(test.digest),
		}
		got, err := referrerstore.ParseReference(test.text)
		if err != nil {
			t.Errorf("%s: %v", test.text, err)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: -want +got\n%s", test.text, diff)
		}
		checkCanonical(t, got)
	}
}

func TestParseReferenceRefuses(t *testing.T) {
	t.Parallel()
	host253 := strings.Repeat("a.", 126) + "a"
	for name, text := range map[string]string{
		"empty":                     "",
		"only a tag":                ":v1",
		"only a digest":             "@" + sha256,
		"only a host":               "example.com/",
		"empty tag":                 "app:",
		"empty digest":              "app@",
		"empty tag before digest":   "app:@" + sha256,
		"two digests":               "app@" + sha256 + "@" + sha256,
		"two tags":                  "team/app:a:b",
		"digest then tag":           "app@" + sha256 + ":v1",
		"a lone image id":           hex64,
		"an image id":               sha256,
		"a port before :443":        "example.com:5000:443/app",
		"port zero before :443":     "h:0:443/x",
		"an image id by sha512":     sha512,
		"the start of an image id":  "sha256:0a1b",
		"an algorithm":              "sha256",
		"hub alias without owner":   "registry-1.docker.io/app",
		"hub in upper case":         "Docker.io/app",
		"hub with a port":           "docker.io:443/app",
		"leading slash":             "/app",
		"trailing slash":            "team/app/",
		"double slash":              "team//app",
		"double slash after host":   "example.com//app",
		"dot segment":               "team/./app",
		"dot dot segment":           "team/../app",
		"dot dot after host":        "example.com/../app",
		"dot dot alone":             "..",
		"dot as host":               "./app",
		"dots as host":              "../app",
		"two trailing dots":         "example.com../app",
		"empty label":               "example..com/app",
		"leading dot":               ".example.com/app",
		"label starts with hyphen":  "-a.example/app",
		"label ends with hyphen":    "a-.example/app",
		"underscore in host":        "a_b.example/app",
		"upper case in path":        "example.com/App",
		"upper case in hub path":    "App",
		"upper case in second part": "team/App",
		"three underscores":         "a___b",
		"ends in separator":         "app-",
		"scheme":                    "https://example.com/app",
		"userinfo":                  "user@example.com/app",
		"user and password":         "user:pw@example.com/app",
		"query":                     "example.com/app?x=1",
		"fragment":                  "example.com/app#x",
		"percent":                   "example.com/a%2fb",
		"backslash":                 `example.com\app`,
		"space":                     "example.com/a b",
		"leading space":             " app",
		"newline":                   "app\n",
		"newline in the middle":     "app:v1\nother",
		"carriage return":           "app\r",
		"tab":                       "\tapp",
		"nul":                       "app\x00",
		"delete":                    "app\x7f",
		"not UTF-8":                 "app\xff",
		"umlaut":                    "bücher.example/app",
		"full width":                "ａpp",
		"cyrillic a":                "example.com/\u0430pp",
		"right-to-left override":    "app:\u202egal",
		"zero width space":          "ap\u200bp",
		"soft hyphen":               "ap\u00adp",
		"kelvin sign":               "\u212aube.example/app",
		"ideographic full stop":     "example\u3002com/app",
		"empty port":                "example.com:/app",
		"port with letters":         "example.com:5o/app",
		"port zero":                 "example.com:0/app",
		"port over the end":         "example.com:65536/app",
		"port with a leading zero":  "example.com:0443/app",
		"huge port":                 "example.com:99999999999999999999/app",
		"two ports":                 "example.com:1:2/app",
		"open bracket":              "[::1/app",
		"close bracket":             "::1]/app",
		"two brackets":              "[[::1]]/app",
		"no brackets":               "::1/app",
		"not an address":            "[1:2]/app",
		"too many groups":           "[1:2:3:4:5:6:7:8:9]/app",
		"only colons":               "[:::::]/app",
		"empty brackets":            "[]/app",
		"zone":                      "[fe80::1%eth0]/app",
		"IPv4 in IPv6":              "[::ffff:127.0.0.1]/app",
		"IPv4 in IPv6, hexadecimal": "[::ffff:7f00:1]/app",
		"name in brackets":          "[example.com]/app",
		"after brackets":            "[::1]x/app",
		"sha384":                    "app@" + sha384,
		"md5":                       "app@md5:" + hex64[:32],
		"unknown algorithm":         "app@blake3:" + hex64,
		"no algorithm":              "app@" + hex64,
		"upper-case algorithm":      "app@SHA256:" + hex64,
		"upper-case digest":         "app@sha256:" + strings.ToUpper(hex64),
		"one upper-case digit":      "app@sha256:" + strings.Replace(hex64, "a", "A", 1),
		"short digest":              "app@sha256:" + hex64[1:],
		"long digest":               "app@sha256:" + hex64 + "0",
		"sha256 in sha512's length": "app@sha256:" + hex64 + hex64,
		"no hexadecimal":            "app@sha256:" + strings.Replace(hex64, "a", "g", 1),
		"tag too long":              "app:" + strings.Repeat("a", 129),
		"tag starts with dot":       "app:.v1",
		"tag starts with hyphen":    "app:-v1",
		"tag with plus":             "app:v1+1",
		"repository too long":       "example.com/" + strings.Repeat("a", 256),
		"too long with library/":    strings.Repeat("a", 248),
		"host too long":             host253 + "a.a/app",
		"text too long":             "app:" + strings.Repeat("a", referrerstore.MaxReferenceBytes),
		"namespace prefix":          "[team]app",
	} {
		got, err := referrerstore.ParseReference(text)
		if !errors.Is(err, referrerstore.ErrInvalidReference) || !got.IsZero() {
			t.Errorf("%s: %q: %+v, %v", name, text, got, err)
		}
		if err != nil && strings.ContainsAny(err.Error(), "\n\r\x00") {
			t.Errorf("%s: the error carries control characters: %q", name, err)
		}
	}
}

// The bound is checked before anything that costs more the longer the text is.
func TestParseReferenceBoundsItsText(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a/", referrerstore.MaxReferenceBytes/2)
	if _, err := referrerstore.ParseReference(long + "a"); err == nil || !strings.Contains(err.Error(), "longer than 1024 bytes") {
		t.Errorf("%.200v", err)
	}
	if _, err := referrerstore.ParseReference(long[2:] + "a"); err == nil || strings.Contains(err.Error(), "longer than 1024 bytes") {
		t.Errorf("%.200v", err)
	}
}

// checkCanonical is what holds for every reference that the parser made.
func checkCanonical(t interface {
	Helper()
	Errorf(string, ...any)
}, ref referrerstore.Reference,
) {
	t.Helper()
	text := ref.String()
	again, err := referrerstore.ParseReference(text)
	if err != nil || again != ref {
		t.Errorf("%s: parsed again: %+v, %v; was %+v", text, again, err, ref)
	}
	if host, err := referrerstore.CanonicalHost(ref.Registry); err != nil || host != ref.Registry {
		t.Errorf("%s: host is not canonical: %s, %v", text, host, err)
	}
	if ref.Tag == "" && ref.Digest == "" {
		t.Errorf("%s: names neither tag nor digest", text)
	}
	// Whoever runs the image reads the canonical text as we do.
	docker, err := reference.ParseDockerRef(text)
	if err != nil {
		t.Errorf("%s: Docker refuses it: %v", text, err)
		return
	}
	if reference.Domain(docker) != ref.Registry || reference.Path(docker) != ref.Repository {
		t.Errorf("%s: Docker reads %s / %s", text, reference.Domain(docker), reference.Path(docker))
	}
}

func TestCanonicalHostKeepsTheTrapShut(t *testing.T) {
	t.Parallel()
	ref, err := referrerstore.ParseReference("myhost:443/app")
	if err != nil {
		t.Fatal(err)
	}
	// Without its port the name would be read as a path on Docker Hub.
	for range 3 {
		if ref.Registry != "myhost:443" || ref.Repository != "app" {
			t.Fatalf("went to %s", ref)
		}
		if ref, err = referrerstore.ParseReference(ref.Pinned(sha256).String()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReferenceParts(t *testing.T) {
	t.Parallel()
	ref, err := referrerstore.ParseReference("Example.com:443/team/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	subject := referrerstore.Subject{Reference: ref, Descriptor: ocispec.Descriptor{Digest: sha256}}
	for _, test := range []struct{ name, got, want string }{
		{"Name", ref.Name(), "example.com/team/app"},
		{"String", ref.String(), "example.com/team/app:v1"},
		{"Pinned", ref.Pinned(sha512).String(), "example.com/team/app@" + sha512},
		{"Subject", subject.String(), "example.com/team/app@" + sha256},
	} {
		if test.got != test.want {
			t.Errorf("%s: %s, want %s", test.name, test.got, test.want)
		}
	}
	if ref.IsZero() || !(referrerstore.Reference{}).IsZero() {
		t.Error("IsZero")
	}
}

func TestParseDigest(t *testing.T) {
	t.Parallel()
	for text, ok := range map[string]bool{
		sha256: true, sha512: true, sha384: false, "": false, "sha256:": false, ":" + hex64: false,
		"sha256:" + strings.ToUpper(hex64): false, sha256 + "\n": false, "sha256+b64:" + hex64: false,
	} {
		if got, err := referrerstore.ParseDigest(text); (err == nil) != ok || ok && got.String() != text {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}
