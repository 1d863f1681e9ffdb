package registry

import (
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

const (
	hex256 = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
	sum256 = "sha256:" + hex256
)

func TestParsePath(t *testing.T) {
	t.Parallel()
	sum512 := digest.SHA512.FromString("x")
	for _, tt := range []struct {
		escaped string
		want    path
	}{
		{"/v2", path{kind: kindPing}},
		{"/v2/", path{kind: kindPing}},
		{"/v2/app/manifests/v1", path{kind: kindManifest, name: "app", tag: "v1"}},
		{"/v2/a/b/c/d/e/f/manifests/V1.x_-", path{kind: kindManifest, name: "a/b/c/d/e/f", tag: "V1.x_-"}},
		{"/v2/app/manifests/" + sum256, path{kind: kindManifest, name: "app", digest: sum256}},
		{"/v2/app/manifests/sha256%3A" + hex256, path{kind: kindManifest, name: "app", digest: sum256}},
		{"/v2/app/blobs/" + sum512.String(), path{kind: kindBlob, name: "app", digest: sum512}},
		{"/v2/127.0.0.1:5000/app/blobs/" + sum256, path{kind: kindBlob, name: "127.0.0.1:5000/app", digest: sum256}},
		{"/v2/127.0.0.1%3a5000/app/tags/list", path{kind: kindTags, name: "127.0.0.1:5000/app"}},
		{"/v2/[::1]:5000/app/tags/list", path{kind: kindTags, name: "[::1]:5000/app"}},
		{"/v2/app/referrers/" + sum256, path{kind: kindReferrers, name: "app", digest: sum256}},
		// Every word of the API may be part of a name.
		{"/v2/manifests/manifests/manifests", path{kind: kindManifest, name: "manifests", tag: "manifests"}},
		{"/v2/a/blobs/tags/list", path{kind: kindTags, name: "a/blobs"}},
		{"/v2/a/tags/manifests/list", path{kind: kindManifest, name: "a/tags", tag: "list"}},
		{"/v2/v2/tags/list", path{kind: kindTags, name: "v2"}},
	} {
		if got, err := parsePath(tt.escaped); err != nil || got != tt.want {
			t.Errorf("%s: %+v, %v; want %+v", tt.escaped, got, err, tt.want)
		}
	}
}

func TestParsePathRefuses(t *testing.T) {
	t.Parallel()
	for escaped, want := range map[string]struct {
		status int
		code   string
	}{
		"":                         {http.StatusNotFound, codeUnsupported},
		"/":                        {http.StatusNotFound, codeUnsupported},
		"/v1/app/manifests/v1":     {http.StatusNotFound, codeUnsupported},
		"/v2x/app/manifests/v1":    {http.StatusNotFound, codeUnsupported},
		"/v2/_catalog":             {http.StatusNotFound, codeUnsupported},
		"/v2/app":                  {http.StatusNotFound, codeUnsupported},
		"/v2/app/blobs/uploads/x":  {http.StatusNotFound, codeUnsupported},
		"/v2/manifests/v1":         {http.StatusBadRequest, codeNameInvalid},
		"/v2//manifests/v1":        {http.StatusBadRequest, codeNameInvalid},
		"/v2/a//b/manifests/v1":    {http.StatusBadRequest, codeNameInvalid},
		"/v2/../app/manifests/v1":  {http.StatusBadRequest, codeNameInvalid},
		"/v2/a/./b/manifests/v1":   {http.StatusBadRequest, codeNameInvalid},
		"/v2/a%2Fb/manifests/v1":   {http.StatusBadRequest, codeNameInvalid},
		"/v2/a%2e%2e/manifests/v1": {http.StatusBadRequest, codeNameInvalid},
		"/v2/a%00/manifests/v1":    {http.StatusBadRequest, codeNameInvalid},
		"/v2/a%0d%0ab/tags/list":   {http.StatusBadRequest, codeNameInvalid},
		`/v2/a\b/tags/list`:        {http.StatusBadRequest, codeNameInvalid},
		"/v2/" + strings.Repeat("a/", 300) + "tags/list":  {http.StatusBadRequest, codeNameInvalid},
		"/v2/app/manifests/.INVALID":                      {http.StatusNotFound, codeManifestUnknown},
		"/v2/app/manifests/":                              {http.StatusNotFound, codeManifestUnknown},
		"/v2/app/manifests/a%2fb":                         {http.StatusNotFound, codeManifestUnknown},
		"/v2/app/manifests/a%25":                          {http.StatusNotFound, codeManifestUnknown},
		"/v2/app/manifests/" + strings.Repeat("a", 129):   {http.StatusNotFound, codeManifestUnknown},
		"/v2/app/manifests/sha256:bad":                    {http.StatusBadRequest, codeDigestInvalid},
		"/v2/app/blobs/sha256:bad":                        {http.StatusBadRequest, codeDigestInvalid},
		"/v2/app/blobs/uploads":                           {http.StatusBadRequest, codeDigestInvalid},
		"/v2/app/blobs/md5:" + hex256[:32]:                {http.StatusBadRequest, codeDigestInvalid},
		"/v2/app/blobs/sha256:" + strings.ToUpper(hex256): {http.StatusBadRequest, codeDigestInvalid},
		"/v2/app/referrers/v1":                            {http.StatusBadRequest, codeDigestInvalid},
	} {
		_, err := parsePath(escaped)
		if f := asFailure(err); err == nil || f.status != want.status || f.code != want.code {
			t.Errorf("%q: %v, want %+v", escaped, err, want)
		}
	}
}

// Whatever comes through is made of what hosts, names, tags and digests are made
// of, and names the same thing when it is written again.
func FuzzParsePath(f *testing.F) {
	for _, seed := range []string{"/v2/", "/v2/a/b/manifests/v1", "/v2/a/blobs/" + sum256, "/v2/a/tags/list", "/v2/h:1/a/referrers/sha256%3A" + hex256, "/v2/a%2f/manifests/x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, escaped string) {
		p, err := parsePath(escaped)
		if err != nil {
			if fail := asFailure(err); fail.status != 400 && fail.status != 404 {
				t.Fatalf("%q: %v", escaped, err)
			}
			return
		}
		if p.kind == kindPing {
			return
		}
		if strings.ContainsAny(p.name+p.tag, "%\\ \x00") || strings.Contains("/"+p.name+"/", "/../") || strings.Contains("/"+p.name+"/", "//") {
			t.Fatalf("%q: %+v", escaped, p)
		}
		if p.digest != "" {
			if _, err := referrerstore.ParseDigest(p.digest.String()); err != nil || p.tag != "" {
				t.Fatalf("%q: %+v", escaped, p)
			}
		}
		word := map[kind]string{kindManifest: "manifests/" + p.tag + p.digest.String(), kindBlob: "blobs/" + p.digest.String(), kindTags: "tags/list", kindReferrers: "referrers/" + p.digest.String()}[p.kind]
		if again, err := parsePath("/v2/" + p.name + "/" + word); err != nil || again != p {
			t.Fatalf("%q: %+v, again %+v, %v", escaped, p, again, err)
		}
	})
}

func TestTargetOf(t *testing.T) {
	t.Parallel()
	snap := &Snapshot{AirGapped: true, Upstreams: map[string]Upstream{"docker.io": {}, "127.0.0.1:5000": {}, "quay.example": {Identity: func() string { return "who" }}, "team:443": {}}}
	withDefault := *snap
	withDefault.Default = "docker.io"
	for _, tt := range []struct {
		snap     *Snapshot
		name, ns string
		want     string // the reference, or a status
	}{
		{snap, "library/alpine", "docker.io", "docker.io/library/alpine:v1"},
		{snap, "alpine", "docker.io", "docker.io/library/alpine:v1"},
		{snap, "library/alpine", "registry-1.docker.io", "docker.io/library/alpine:v1"},
		{snap, "a/b", "QUAY.example:443", "quay.example/a/b:v1"},
		{snap, "127.0.0.1:5000/a", "", "127.0.0.1:5000/a:v1"},
		{snap, "index.docker.io/alpine", "", "docker.io/library/alpine:v1"},
		{snap, "quay.example/a", "", "quay.example/a:v1"},
		{&withDefault, "alpine", "", "docker.io/library/alpine:v1"},
		{&withDefault, "quay.example/a", "", "quay.example/a:v1"},
		{&withDefault, "other.example/a", "", "docker.io/other.example/a:v1"},
		{&withDefault, "team/app", "", "docker.io/team/app:v1"}, // not the host "team"
		{snap, "127.0.0.1:5000/a", "quay.example", "400"},       // a name has no colon
		{snap, "App", "quay.example", "400"},
		{snap, "a--b__c/x.y", "quay.example", "quay.example/a--b__c/x.y:v1"},
		{snap, "a..b", "quay.example", "400"},
		{snap, "-a", "quay.example", "400"},
		{snap, "a", "evil.example", "403"},
		{snap, "a", "169.254.169.254", "403"},
		{snap, "evil.example/a", "", "403"},
		{snap, "a", "not a host", "400"},
		{snap, "a", "host:0443", "400"},
		{snap, "a", "user@quay.example", "400"},
		{snap, "alpine", "", "404"},
	} {
		query := map[string][]string{}
		if tt.ns != "" {
			query["ns"] = []string{tt.ns}
		}
		target, err := targetOf(tt.snap, path{kind: kindManifest, name: tt.name, tag: "v1"}, query)
		got := ""
		if err != nil {
			got = map[int]string{400: "400", 403: "403", 404: "404"}[asFailure(err).status]
		} else {
			got = target.ref.String()
			if target.scope.Registry != target.ref.Registry || target.scope.Repository != target.ref.Repository || target.private() != (target.host == "quay.example") {
				t.Errorf("%s of %s: scope %+v", tt.name, tt.ns, target.scope)
			}
		}
		if got != tt.want {
			t.Errorf("%s of %q: %s (%v), want %s", tt.name, tt.ns, got, err, tt.want)
		}
	}
	if _, err := targetOf(snap, path{kind: kindTags, name: "a"}, map[string][]string{"ns": {"docker.io", "quay.example"}}); asFailure(err).status != 400 {
		t.Errorf("two upstreams: %v", err)
	}
}
