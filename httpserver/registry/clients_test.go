package registry_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/gatehouse-project/gatehouse/httpserver/registry"
)

func TestClients(t *testing.T) {
	t.Parallel()
	const token, wrong = "s3cret-token-of-a-node", "wr0ng-token-of-nobody"
	identity := func() string { return "gatehouse@up" }
	basic := func(password string) string {
		r := http.Request{Header: http.Header{}}
		r.SetBasicAuth("anybody", password)
		return r.Header.Get("Authorization")
	}
	for _, tt := range []struct {
		name          string
		private, any  bool
		tokens        bool
		authorization string
		status        int
	}{
		{"public", false, false, false, "", 200},
		{"public, credentials for somebody else", false, false, false, "Bearer " + wrong, 200},
		{"public, token", false, false, true, "Bearer " + token, 200},
		{"public, wrong token", false, false, true, "Bearer " + wrong, 401},
		{"private", true, false, false, "", 401},
		{"private, tokens", true, false, true, "", 401},
		{"private, bearer", true, false, true, "Bearer " + token, 200},
		{"private, bearer in lower case", true, false, true, "bearer " + token, 200},
		{"private, basic", true, false, true, basic(token), 200},
		{"private, wrong bearer", true, false, true, "Bearer " + wrong, 401},
		{"private, wrong basic", true, false, true, basic(wrong), 401},
		{"private, empty basic", true, false, true, basic(""), 401},
		{"private, no scheme", true, false, true, token, 401},
		{"private, half a token", true, false, true, "Bearer " + token[:5], 401},
		{"private, no tokens known", true, false, false, "Bearer " + token, 401},
		{"private for anybody", true, true, false, "", 200},
		{"private for anybody, wrong token", true, true, true, "Bearer " + wrong, 401},
	} {
		w := newWorld(t, func(s *registry.Snapshot) {
			u := s.Upstreams[upstream]
			if u.AnyClient = tt.any; tt.private {
				u.Identity = identity
			}
			s.Upstreams = map[string]registry.Upstream{upstream: u}
			if tt.tokens {
				s.Tokens = func() []registry.TokenHash {
					return []registry.TokenHash{registry.HashToken("another"), registry.HashToken(""), registry.HashToken(token)}
				}
			}
		})
		image := w.image(t, "v1")
		for _, path := range []string{manifests("v1"), manifests(image.Descriptor.Digest), "/v2/" + repo + "/tags/list", "/v2/" + repo + "/referrers/" + image.Descriptor.Digest.String(), "/v2/"} {
			for _, method := range []string{http.MethodGet, http.MethodHead} {
				var headers []string
				if tt.authorization != "" {
					headers = []string{"Authorization", tt.authorization}
				}
				a := w.do(t, method, path, headers...)
				if a.status != tt.status {
					t.Errorf("%s: %s %s: %d, want %d", tt.name, method, path, a.status, tt.status)
				}
				if a.status == 401 && a.header.Get("WWW-Authenticate") != `Basic realm="gatehouse"` {
					t.Errorf("%s: %v", tt.name, a.header)
				}
				if a.status == 401 && method == http.MethodGet {
					if code, _ := a.error(t); code != "UNAUTHORIZED" {
						t.Errorf("%s: %s", tt.name, code)
					}
				}
			}
		}
		for _, secret := range []string{token, wrong, basic(token), basic(wrong)} {
			if strings.Contains(w.logs.String(), secret) {
				t.Errorf("%s: %s is in the log", tt.name, secret)
			}
		}
	}
}
