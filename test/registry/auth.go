package registry

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"cuelabs.dev/go/oci/ociregistry"
)

// refusal is why a request is answered 401.
type refusal struct {
	challenge string
	presented bool // there were credentials, but they do not do
}

// authorize returns nil for a request that may pass.
func (r *Registry) authorize(kind Kind, req *http.Request) *refusal {
	presented := req.Header.Get("Authorization") != ""
	switch {
	case kind == Token:
		if r.opts.BearerAuth && !r.mayHaveToken(req) {
			return &refusal{`Basic realm="token service"`, presented || req.Method == http.MethodPost}
		}
		return nil
	case r.opts.BearerAuth:
		return r.checkToken(req, presented)
	case r.opts.Basic != nil && !r.opts.Basic.inHeader(req):
		return &refusal{`Basic realm="registry"`, presented}
	}
	return nil
}

func (r *Registry) checkToken(req *http.Request, presented bool) *refusal {
	token, bearer := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
	wanted := scopesOf(req)
	problem := ""
	if bearer {
		if problem = r.tokens.check(token, wanted); problem == "" {
			return nil
		}
	}
	challenge := fmt.Sprintf(`Bearer realm="%s://%s%s",service="%s"`, r.scheme(), r.tokenHost, tokenPath, r.host)
	if len(wanted) > 0 {
		challenge += `,scope="` + joinScopes(wanted) + `"`
	}
	if problem != "" {
		challenge += `,error="` + problem + `"`
	}
	return &refusal{challenge, presented}
}

// mayHaveToken checks the credentials in a request to the token service: basic
// authentication, or OAuth2's password and refresh_token grants.
func (r *Registry) mayHaveToken(req *http.Request) bool {
	want := r.opts.Basic
	if want == nil || want.inHeader(req) {
		return true
	}
	if req.Method != http.MethodPost {
		return false
	}
	switch req.PostFormValue("grant_type") {
	case "password":
		return want.match(req.PostFormValue("username"), req.PostFormValue("password"))
	case "refresh_token":
		return want.IdentityToken != "" && equal(want.IdentityToken, req.PostFormValue("refresh_token"))
	}
	return false
}

func (c *Credentials) inHeader(req *http.Request) bool {
	user, password, ok := req.BasicAuth()
	return ok && c.match(user, password)
}

func (c *Credentials) match(user, password string) bool {
	return equal(c.User, user) && equal(c.Password, password)
}

func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// scope is one resource and what may be done with it.
type scope struct {
	repo    string
	actions []string
}

// scopesOf is what a request needs; none for a ping, which any token covers.
func scopesOf(req *http.Request) []scope {
	repo, section, _ := splitPath(req.URL.Path)
	if section == "uploads" {
		repo = strings.TrimSuffix(repo, "/blobs")
	}
	if repo == "" {
		return nil
	}
	needed := []scope{{repo, []string{"pull"}}}
	switch req.Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodDelete:
		needed[0].actions = []string{"delete"}
	default:
		needed[0].actions = []string{"pull", "push"}
		if from := req.URL.Query().Get("from"); from != "" {
			needed = append(needed, scope{from, []string{"pull"}})
		}
	}
	return needed
}

func joinScopes(scopes []scope) string {
	texts := make([]string, len(scopes))
	for i, s := range scopes {
		texts[i] = "repository:" + s.repo + ":" + strings.Join(s.actions, ",")
	}
	return strings.Join(texts, " ")
}

// parseScopes reads scopes as clients send them: one or many, in one or many
// values. What is no repository scope grants nothing.
func parseScopes(values []string) []scope {
	var scopes []scope
	for text := range strings.FieldsSeq(strings.Join(values, " ")) {
		kind, rest, _ := strings.Cut(text, ":")
		repo, actions, ok := strings.Cut(rest, ":")
		if ok && kind == "repository" {
			scopes = append(scopes, scope{repo, strings.Split(actions, ",")})
		}
	}
	return scopes
}

// tokenService knows the tokens that it gave out.
type tokenService struct {
	mu     sync.RWMutex // guards grants
	grants map[string]grant
}

type grant struct {
	scopes []scope
	until  time.Time
}

func (t *tokenService) issue(scopes []scope, lifetime time.Duration) string {
	token := rand.Text()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.grants == nil {
		t.grants = make(map[string]grant)
	}
	t.grants[token] = grant{scopes, time.Now().Add(lifetime)}
	return token
}

// check returns the error code of a challenge, empty if the token covers all
// that is wanted.
func (t *tokenService) check(token string, wanted []scope) string {
	t.mu.RLock()
	g, ok := t.grants[token]
	t.mu.RUnlock()
	if !ok || time.Now().After(g.until) {
		return "invalid_token"
	}
	for _, w := range wanted {
		if !slices.ContainsFunc(g.scopes, w.coveredBy) {
			return "insufficient_scope"
		}
	}
	return ""
}

func (s scope) coveredBy(granted scope) bool {
	return granted.repo == s.repo && !slices.ContainsFunc(s.actions, func(action string) bool {
		return !slices.Contains(granted.actions, action)
	})
}

// RevokeTokens makes all tokens given out so far invalid before their time.
func (r *Registry) RevokeTokens() {
	r.tokens.mu.Lock()
	defer r.tokens.mu.Unlock()
	clear(r.tokens.grants)
}

// serveToken answers GET as Docker's token specification says and POST as its
// OAuth2 variant.
func (r *Registry) serveToken(w http.ResponseWriter, req *http.Request) {
	if err := req.ParseForm(); err != nil {
		_ = ociregistry.WriteError(w, ociregistry.NewHTTPError(err, http.StatusBadRequest, nil, nil))
		return
	}
	lifetime := r.opts.TokenLifetime
	if lifetime == 0 {
		lifetime = 5 * time.Minute
	}
	token := r.tokens.issue(parseScopes(req.Form["scope"]), lifetime)
	answer := map[string]any{
		"token": token, "access_token": token,
		"expires_in": int(lifetime / time.Second),
		"issued_at":  time.Now().UTC().Format(time.RFC3339),
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}
