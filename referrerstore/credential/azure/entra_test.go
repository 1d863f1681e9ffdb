package azure

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore/credential"
)

const (
	assertion  = "s3cret-assertion"
	entraToken = "s3cret-entra"
	clientID   = "11111111-1111-1111-1111-111111111111"
	tenantID   = "22222222-2222-2222-2222-222222222222"
)

// entra stands in for Entra ID and for the metadata service of a machine: it
// answers as they do, and only to who asks as they demand.
type entra struct {
	*httptest.Server

	mu    sync.Mutex // guards the fields that follow it
	asked []string   // METHOD HOST/PATH
	wrong []string   // what was not as demanded
	fail  func(http.ResponseWriter) bool
	life  int // of tokens, in seconds
}

func newEntra(t *testing.T) *entra {
	t.Helper()
	e := &entra{life: 3600}
	e.Server = httptest.NewUnstartedServer(http.HandlerFunc(e.serve))
	e.Config.ErrorLog = log.New(io.Discard, "", 0)
	e.StartTLS()
	t.Cleanup(e.Close)
	return e
}

func (e *entra) serve(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.asked = append(e.asked, r.Method+" "+r.Host+r.URL.Path)
	w.Header().Set("Content-Type", "application/json")
	host := r.Host
	if at, err := url.Parse(r.FormValue("authorization_endpoint")); err == nil && at.Host != "" {
		host = at.Host // somebody asks what is to be known of that one
	}
	authority := "https://" + host + "/" + tenantID
	switch r.URL.Path {
	case "/common/discovery/instance":
		fmt.Fprintf(w, `{"tenant_discovery_endpoint":"%s/v2.0/.well-known/openid-configuration","api-version":"1.1","metadata":[{"preferred_network":%q,"preferred_cache":%q,"aliases":[%q]}]}`,
			authority, host, host, host)
	case "/" + tenantID + "/v2.0/.well-known/openid-configuration":
		fmt.Fprintf(w, `{"token_endpoint":"%s/oauth2/v2.0/token","authorization_endpoint":"%s/oauth2/v2.0/authorize","issuer":"%s/v2.0"}`, authority, authority, authority)
	case "/" + tenantID + "/oauth2/v2.0/token":
		e.demand(r.ParseForm() == nil && r.PostForm.Get("grant_type") == "client_credentials", "grant_type", r)
		e.demand(r.PostForm.Get("client_id") == clientID, "client_id", r)
		e.demand(r.PostForm.Get("client_assertion") == assertion, "client_assertion", r)
		e.demand(r.PostForm.Get("client_assertion_type") == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer", "client_assertion_type", r)
		e.demand(slices.Contains(strings.Fields(r.PostForm.Get("scope")), audience), "scope", r)
		if e.fail == nil || !e.fail(w) {
			fmt.Fprintf(w, `{"token_type":"Bearer","expires_in":%d,"access_token":%q}`, e.life, entraToken)
		}
	case "/metadata/identity/oauth2/token":
		e.demand(r.Host == "169.254.169.254" && r.TLS == nil || r.Header.Get("X-Was") == "http", "address", r)
		e.demand(r.Method == http.MethodGet && r.Header.Get("Metadata") == "true", "Metadata", r)
		e.demand(r.FormValue("resource") == strings.TrimSuffix(audience, "/.default"), "resource", r)
		e.demand(strings.HasPrefix(r.FormValue("client_id"), "managed-"), "client_id", r)
		if e.fail == nil || !e.fail(w) {
			fmt.Fprintf(w, `{"token_type":"Bearer","expires_in":"%d","expires_on":"%d","resource":"x","access_token":%q}`, e.life, time.Now().Unix()+int64(e.life), entraToken)
		}
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func (e *entra) demand(ok bool, what string, r *http.Request) {
	if !ok {
		e.wrong = append(e.wrong, fmt.Sprint(what, ": ", r.Method, " ", r.URL, " ", r.PostForm))
	}
}

// check fails for what was not as demanded, and returns and forgets the paths
// that were asked for.
func (e *entra) check(t *testing.T) []string {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, wrong := range e.wrong {
		t.Errorf("Entra ID was asked with another %s", wrong)
	}
	asked := e.asked
	e.asked, e.wrong = nil, nil
	return asked
}

func (e *entra) setFail(fail func(http.ResponseWriter) bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fail = fail
}

// env leads all hosts that are asked to the stand-in.
func (e *entra) env(t *testing.T, vars map[string]string) credential.Environment {
	t.Helper()
	inner, _ := e.Client().Transport.(*http.Transport)
	inner = inner.Clone()
	inner.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", e.Listener.Addr().String())
	}
	inner.TLSClientConfig.ServerName = "example.com" // httptest's certificate is for that name
	client := credential.NewClient(upgrade{inner})
	t.Cleanup(client.CloseIdleConnections)
	return credential.Environment{HTTP: client, Getenv: func(name string) string { return vars[name] }}
}

// upgrade sends over https what was for http, because the stand-in knows only
// that, and says so.
type upgrade struct{ *http.Transport }

func (u upgrade) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme == "http" {
		req = req.Clone(req.Context())
		req.Host, req.URL.Scheme = req.URL.Host, "https"
		req.Header.Set("X-Was", "http")
	}
	return u.Transport.RoundTrip(req)
}

func workload(t *testing.T) map[string]string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(assertion), 0o600); err != nil {
		t.Fatal(err)
	}
	return map[string]string{
		"AZURE_CLIENT_ID": clientID, "AZURE_TENANT_ID": tenantID, "AZURE_FEDERATED_TOKEN_FILE": path,
		"AZURE_AUTHORITY_HOST": "https://login.example/",
	}
}

// managedIdentity is one that no other test has: the SDK keeps tokens of
// managed identities for the whole process.
func managedIdentity() map[string]string {
	return map[string]string{"AZURE_CLIENT_ID": "managed-" + rand.Text()}
}

// jwt is a token that says when it ends.
func jwt(until time.Time) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"none"}`)) + "." + encode(fmt.Appendf(nil, `{"exp":%d}`, until.Unix())) + "." + encode([]byte("s3cret"))
}
