package credential

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

func encode(pair string) string { return base64.StdEncoding.EncodeToString([]byte(pair)) }

func TestDockerConfig(t *testing.T) {
	t.Parallel()
	file := `{
		"auths": {
			"registry.example": {"auth": "` + encode("a:b:c") + `"},
			"https://legacy.example/v1/": {"auth": "` + encode("l:p\x00") + `"},
			"https://index.docker.io/v1/": {"auth": "` + encode("hub:p") + `"},
			"REGISTRY.example:443/team": {"auth": "` + encode("team:p") + `"},
			"https://v2.example/v2/": {"auth": "` + encode("v:p") + `"},
			"part.example/team": {"auth": "` + encode("team:p") + `"},
			"https://part.example/v1/team": {"auth": "` + encode("team:p") + `"},
			"plain.example:5000": {"username": "u", "password": "p"},
			"identity.example": {"identitytoken": "i"},
			"token.example": {"registrytoken": "r"},
			"empty.example": {}
		},
		"credHelpers": {"helped.example/team": "x"},
		"HttpHeaders": {"User-Agent": "x"}
	}`
	d, err := ParseDockerConfig([]byte(file))
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]Credential{
		"registry.example":   {User: "a", Password: "b:c"},
		"legacy.example":     {User: "l", Password: "p"},
		"docker.io":          {User: "hub", Password: "p"},
		"plain.example:5000": {User: "u", Password: "p"},
		"identity.example":   {IdentityToken: "i"},
		"token.example":      {RegistryToken: "r"},
		"empty.example":      {},
		"v2.example":         {User: "v", Password: "p"},
	} {
		got, ok := d.Auths[host]
		if !ok || got != want {
			t.Errorf("%s: wrong credential", host)
		}
		delete(d.Auths, host)
	}
	if len(d.Auths) > 0 || len(d.Helpers) > 0 {
		t.Errorf("%v, %v are too many", d.Auths, d.Helpers)
	}
	want := []string{"REGISTRY.example:443/team", "helped.example/team", "https://part.example/v1/team", "part.example/team"}
	if diff := cmp.Diff(want, d.Ignored); diff != "" {
		t.Error(diff)
	}
}

func TestDockerHelpers(t *testing.T) {
	t.Parallel()
	d, err := ParseDockerConfig([]byte(`{"credHelpers":{"https://index.docker.io/v1/":"a","b.example/v2/":"b","b.example":"c"},"credsStore":"d"}`))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]DockerHelper{"docker.io": {"a", DockerHubServer}, "b.example": {"c", "b.example"}}
	if diff := cmp.Diff(want, d.Helpers); diff != "" || d.Store != "d" {
		t.Error(diff, d.Store)
	}
}

func TestOlderForm(t *testing.T) {
	t.Parallel()
	d, err := ParseDockerAuths([]byte(`{"https://a.example/v1/":{"auth":"` + encode("a:b") + `","email":"x"}}`))
	if err != nil || d.Auths["a.example"] != (Credential{User: "a", Password: "b"}) {
		t.Errorf("wrong credential, %v", err)
	}
	for _, text := range []string{`s3cret`, `{"a.example":"s3cret"}`, `{"a.example":{"auth":"s3cret!"}}`} {
		if _, err := ParseDockerAuths([]byte(text)); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%v, want an error that quotes nothing", err)
		}
	}
}

func TestDockerConfigErrorsQuoteNothing(t *testing.T) {
	t.Parallel()
	for name, file := range map[string]string{
		"no JSON":          `s3cret`,
		"wrong type":       `{"auths":{"a.example":"s3cret"}}`,
		"no base64":        `{"auths":{"a.example":{"auth":"s3cret!"}}}`,
		"no colon":         `{"auths":{"a.example":{"auth":"` + encode("s3cret") + `"}}}`,
		"no host":          `{"auths":{"not a host":{"auth":"` + encode("a:s3cret") + `"}}}`,
		"helper by path":   `{"credHelpers":{"a.example":"../../bin/sh"}}`,
		"store by path":    `{"credsStore":"/bin/sh"}`,
		"helper of no-one": `{"credHelpers":{"":"x"}}`,
	} {
		_, err := ParseDockerConfig([]byte(file))
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v, want an error that quotes nothing", name, err)
		}
	}
}

func FuzzDockerConfig(f *testing.F) {
	f.Add([]byte(`{"auths":{"a.example":{"auth":"YTpi"}},"credHelpers":{"b.example":"x"},"credsStore":"y"}`))
	f.Add([]byte(`{"https://index.docker.io/v1/":{"auth":"YTpi"},"b.example/team":{}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, parse := range []func([]byte) (DockerConfig, error){ParseDockerConfig, ParseDockerAuths} {
			d, err := parse(data)
			if err != nil {
				continue
			}
			for host := range d.Auths {
				if canonical, err := referrerstore.CanonicalHost(host); err != nil || canonical != host {
					t.Errorf("%q is not canonical", host)
				}
			}
			for _, h := range d.Helpers {
				if !isHelperName(h.Name) {
					t.Errorf("%q is a helper", h.Name)
				}
			}
		}
	})
}
