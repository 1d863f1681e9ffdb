package registry_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gatehouse-project/gatehouse/test/registry"
)

func decode[T any](t testing.TB, body string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	return v
}

type tokenAnswer struct {
	Token     string    `json:"token"`
	Access    string    `json:"access_token"`
	ExpiresIn int       `json:"expires_in"`
	IssuedAt  time.Time `json:"issued_at"`
}

func bearer(t testing.TB, c *http.Client, r *registry.Registry, scopes ...string) http.Header {
	t.Helper()
	a := get(t, c, "http://"+r.TokenHost()+"/token?"+url.Values{"scope": scopes}.Encode())
	return http.Header{"Authorization": {"Bearer " + decode[tokenAnswer](t, a.body).Token}}
}

func TestChallengeNamesScopeAndRealm(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Options{BearerAuth: true, SeparateTokenHost: true})
	c := client(t, r)
	head := `Bearer realm="http://` + r.TokenHost() + `/token",service="` + r.Host() + `"`
	for _, test := range []struct{ method, path, want string }{
		{"GET", "", head},
		{"GET", "team/app/manifests/v1", head + `,scope="repository:team/app:pull"`},
		{"HEAD", "team/app/blobs/sha256:00", head + `,scope="repository:team/app:pull"`},
		{"POST", "team/app/blobs/uploads/", head + `,scope="repository:team/app:pull,push"`},
		{"PUT", "team/app/blobs/uploads/id", head + `,scope="repository:team/app:pull,push"`},
		{"POST", "a/blobs/uploads/?mount=d&from=b", head + `,scope="repository:a:pull,push repository:b:pull"`},
		{"DELETE", "a/manifests/v1", head + `,scope="repository:a:delete"`},
	} {
		a := do(t, c, test.method, r.URL()+"/v2/"+test.path, nil)
		if diff := cmp.Diff(test.want, a.header.Get("WWW-Authenticate")); a.status != 401 || diff != "" {
			t.Errorf("%s %s: %d\n%s", test.method, test.path, a.status, diff)
		}
	}
	for host, path := range map[string]string{r.Host(): "/token", r.TokenHost(): "/v2/"} {
		if a := get(t, c, "http://"+host+path); a.status != http.StatusNotFound {
			t.Errorf("%s%s: %d", host, path, a.status)
		}
	}
}

func TestTokenCoversItsScopeOnly(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Options{BearerAuth: true})
	c := client(t, r)
	for _, repo := range []string{"a", "a/b", "c"} {
		must(t)(r.PushImage(t.Context(), repo, "v1", "seed"))
	}
	for _, test := range []struct {
		scopes []string
		repo   string
		want   int
	}{
		{[]string{"repository:a:pull"}, "a", 200},
		{[]string{"repository:a:pull,push"}, "a", 200},
		{[]string{"repository:a:pull", "repository:c:pull"}, "c", 200},
		{[]string{"repository:a:pull repository:c:pull"}, "c", 200},
		{[]string{"repository:a:pull"}, "a/b", 401},
		{[]string{"repository:a/b:pull"}, "a", 401},
		{[]string{"repository:a:push"}, "a", 401},
		{[]string{"registry:a:pull"}, "a", 401},
		{[]string{"repository:a"}, "a", 401},
		{nil, "a", 401},
	} {
		header := bearer(t, c, r, test.scopes...)
		a := do(t, c, http.MethodGet, r.URL()+"/v2/"+test.repo+"/manifests/v1", header)
		if a.status != test.want {
			t.Errorf("%v for %s: %d, want %d", test.scopes, test.repo, a.status, test.want)
		}
		challenge := a.header.Get("WWW-Authenticate")
		if test.want == 401 && !strings.Contains(challenge, `error="insufficient_scope"`) {
			t.Errorf("%v: %s", test.scopes, challenge)
		}
	}
	if a := do(t, c, http.MethodGet, r.URL()+"/v2/", bearer(t, c, r)); a.status != 200 {
		t.Errorf("ping with any token: %d", a.status)
	}
	push := do(t, c, http.MethodPost, r.URL()+"/v2/a/blobs/uploads/", bearer(t, c, r, "repository:a:pull"))
	if push.status != 401 {
		t.Errorf("push with a pull token: %d", push.status)
	}
	if got := r.Stats().Unauthorized; got != 7 {
		t.Errorf("unauthorized: %d", got)
	}
}

func TestTokensEnd(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Options{BearerAuth: true, TokenLifetime: time.Hour})
	c := client(t, r)
	a := get(t, c, r.URL()+"/token")
	if got := decode[tokenAnswer](t, a.body); got.ExpiresIn != 3600 || got.Token != got.Access || got.IssuedAt.IsZero() {
		t.Errorf("%+v", got)
	}
	ping := func(header http.Header) string {
		return do(t, c, http.MethodGet, r.URL()+"/v2/", header).header.Get("WWW-Authenticate")
	}
	header := bearer(t, c, r)
	if challenge := ping(header); challenge != "" {
		t.Error(challenge)
	}
	r.RevokeTokens()
	if challenge := ping(header); !strings.Contains(challenge, `error="invalid_token"`) {
		t.Error(challenge)
	}
	brief := start(t, registry.Options{BearerAuth: true, TokenLifetime: time.Nanosecond})
	if a := do(t, c, http.MethodGet, brief.URL()+"/v2/", bearer(t, c, brief)); a.status != 401 {
		t.Errorf("expired token: %d", a.status)
	}
}
