package google

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/credential"
	"github.com/gatehouse-project/gatehouse/referrerstore/oras"
	"github.com/gatehouse-project/gatehouse/test/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	token    = "s3cret-access-token"
	subject  = "s3cret-subject"
	stsToken = "s3cret-sts"
	audience = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/pool/providers/provider"
)

// cloud stands in for the metadata service, STS and the service that lends the
// identity of a service account.
type cloud struct {
	*httptest.Server

	mu    sync.Mutex // guards the fields that follow it
	asked []string
	wrong []string
	fail  func(host string, w http.ResponseWriter) bool
}

func newCloud(t *testing.T) *cloud {
	t.Helper()
	c := &cloud{}
	c.Server = httptest.NewUnstartedServer(http.HandlerFunc(c.serve))
	c.Config.ErrorLog = log.New(io.Discard, "", 0)
	c.StartTLS()
	t.Cleanup(c.Close)
	return c
}

func (c *cloud) serve(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = append(c.asked, r.Host)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Metadata-Flavor", "Google")
	if c.fail != nil && c.fail(r.Host, w) {
		return
	}
	switch r.Host {
	case "169.254.169.254", "metadata.example":
		c.demand(r.Method == http.MethodGet && r.URL.Path == "/computeMetadata/v1/instance/service-accounts/default/token", r)
		c.demand(r.Header.Get("Metadata-Flavor") == "Google" && r.Header.Get("X-Was") == "http", r)
		fmt.Fprintf(w, `{"access_token":%q,"expires_in":3599,"token_type":"Bearer"}`, token)
	case "sts.example":
		_ = r.ParseForm()
		for name, value := range map[string]string{
			"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange", "audience": audience, "subject_token": subject,
			"subject_token_type": "urn:ietf:params:oauth:token-type:jwt", "scope": cloudScope,
		} {
			c.demand(r.PostForm.Get(name) == value, r)
		}
		fmt.Fprintf(w, `{"access_token":%q,"issued_token_type":"urn:ietf:params:oauth:token-type:access_token","token_type":"Bearer","expires_in":3599}`, stsToken)
	case "iam.example":
		c.demand(r.Header.Get("Authorization") == "Bearer "+stsToken && r.Method == http.MethodPost, r)
		fmt.Fprintf(w, `{"accessToken":%q,"expireTime":%q}`, token, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	default:
		c.demand(false, r)
	}
}

func (c *cloud) demand(ok bool, r *http.Request) {
	if !ok {
		c.wrong = append(c.wrong, fmt.Sprint(r.Method, " ", r.Host, r.URL, " ", r.Header, " ", r.PostForm))
	}
}

func (c *cloud) check(t *testing.T) string {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, wrong := range c.wrong {
		t.Errorf("Google Cloud was asked with %s", wrong)
	}
	asked := strings.Join(c.asked, " ")
	c.asked, c.wrong = nil, nil
	return asked
}

func (c *cloud) setFail(fail func(string, http.ResponseWriter) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fail = fail
}

// env leads all hosts that are asked to the stand-in.
func (c *cloud) env(t *testing.T, vars map[string]string) credential.Environment {
	t.Helper()
	inner, _ := c.Client().Transport.(*http.Transport)
	inner = inner.Clone()
	inner.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", c.Listener.Addr().String())
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

// federation is a file as Google's tools write it, changed by a test.
func federation(t *testing.T, change func(map[string]any)) string {
	t.Helper()
	subjectFile := filepath.Join(t.TempDir(), "subject")
	if err := os.WriteFile(subjectFile, []byte(subject+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := map[string]any{
		"type": "external_account", "audience": audience, "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
		"token_url": "https://sts.example/v1/token", "credential_source": map[string]any{"file": subjectFile},
		"service_account_impersonation_url": "https://iam.example/v1/projects/-/serviceAccounts/a@b:generateAccessToken",
	}
	change(file)
	text, err := json.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func find(t *testing.T, env credential.Environment, path, file string) (credential.Credential, error) {
	t.Helper()
	source, err := Kind(env).New(credential.Entry{Path: path}, credential.Deps{ReadFile: func(string) ([]byte, error) { return []byte(file), nil }})
	if err != nil {
		return credential.Credential{}, err
	}
	return source.Find(t.Context(), "europe-docker.pkg.dev")
}

func TestFind(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	whole := federation(t, func(map[string]any) {})
	direct := federation(t, func(file map[string]any) { delete(file, "service_account_impersonation_url") })
	for name, tt := range map[string]struct {
		vars       map[string]string
		path, file string
		asked      string
		password   string
	}{
		"metadata":           {nil, "", "", "169.254.169.254", token},
		"metadata elsewhere": {map[string]string{"GCE_METADATA_HOST": "metadata.example"}, "", "", "metadata.example", token},
		"file":               {nil, "account.json", whole, "sts.example iam.example", token},
		"file, direct":       {nil, "account.json", direct, "sts.example", stsToken},
		"file of the environment": {
			map[string]string{"GOOGLE_APPLICATION_CREDENTIALS": "account.json"}, "", whole, "sts.example iam.example", token,
		},
	} {
		cred, err := find(t, c.env(t, tt.vars), tt.path, tt.file)
		if left := time.Until(cred.Until); err != nil || cred.User != "oauth2accesstoken" || cred.Password != tt.password || left < 50*time.Minute || left > time.Hour {
			t.Errorf("%s: wrong credential until %s, %v", name, cred.Until, err)
		}
		if asked := c.check(t); asked != tt.asked {
			t.Errorf("%s: asked %s, want %s", name, asked, tt.asked)
		}
	}
}

func TestFindFails(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	write := func(at string, status int, text string) func(string, http.ResponseWriter) bool {
		return func(host string, w http.ResponseWriter) bool {
			if host != at {
				return false
			}
			w.WriteHeader(status)
			_, _ = io.WriteString(w, text)
			return true
		}
	}
	const metadata = "169.254.169.254"
	whole := federation(t, func(map[string]any) {})
	for name, tt := range map[string]struct {
		fail func(string, http.ResponseWriter) bool
		file string
		says string
	}{
		"no account":   {write(metadata, 404, "s3cret"), "", "no service account"},
		"broken":       {write(metadata, 500, "s3cret"), "", "answers 500"},
		"no JSON":      {write(metadata, 200, "s3cret"), "", "no access token"},
		"no token":     {write(metadata, 200, `{"expires_in":3599,"token_type":"Bearer","x":"s3cret"}`), "", "no access token"},
		"other type":   {write(metadata, 200, `{"access_token":"s3cret","expires_in":3599,"token_type":"mac"}`), "", "no access token"},
		"has ended":    {write(metadata, 200, `{"access_token":"s3cret","expires_in":0,"token_type":"Bearer"}`), "", "ended already"},
		"for a header": {write(metadata, 200, `{"access_token":"s3cret\r\nX: y","expires_in":3599,"token_type":"Bearer"}`), "", "no access token"},
		"too large":    {write(metadata, 200, `{"x":"`+strings.Repeat("s3cret", 1<<18)+`"}`), "", "is not valid"},
		"a proxy": {func(_ string, w http.ResponseWriter) bool {
			w.Header().Del("Metadata-Flavor")
			_, _ = io.WriteString(w, `{"access_token":"s3cret","expires_in":3599,"token_type":"Bearer"}`)
			return true
		}, "", "is not valid"},
		"redirect": {func(_ string, w http.ResponseWriter) bool {
			w.Header().Set("Location", "http://elsewhere.example/")
			w.WriteHeader(http.StatusFound)
			return true
		}, "", "answers 302"},
		"sts refuses":  {write("sts.example", 400, `{"error":"invalid_grant","error_description":"s3cret"}`), whole, "sts.example answers 400"},
		"sts no JSON":  {write("sts.example", 200, `s3cret`), whole, "sts.example is not valid"},
		"iam refuses":  {write("iam.example", 403, `s3cret`), whole, "iam.example answers 403"},
		"iam redirect": {write("iam.example", 307, `s3cret`), whole, "iam.example answers 307"},
		"sts no token": {write("sts.example", 200, `{"x":"s3cret"}`), federation(t, func(f map[string]any) { delete(f, "service_account_impersonation_url") }), "sts.example is not valid"},
		"no subject":   {nil, federation(t, func(f map[string]any) { f["credential_source"] = map[string]any{"file": "/nowhere"} }), "no request was made"},
		"no source":    {nil, federation(t, func(f map[string]any) { f["credential_source"] = map[string]any{} }), "no request was made"},
		"executable": {nil, federation(t, func(f map[string]any) {
			f["credential_source"] = map[string]any{"executable": map[string]any{"command": "/bin/s3cret"}}
		}), "program"},
		"key":         {nil, `{"type":"service_account","private_key":"s3cret"}`, "_json_key"},
		"not a file":  {nil, `s3cret`, "not a file of credentials"},
		"no audience": {nil, federation(t, func(f map[string]any) { delete(f, "audience") }), "audience"},
	} {
		c.setFail(tt.fail)
		path := ""
		if tt.file != "" {
			path = "account.json"
		}
		_, err := find(t, c.env(t, nil), path, tt.file)
		if err == nil || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v, want an error with %q without secrets", name, err, tt.says)
		}
		if asked := c.check(t); strings.Contains(asked, "elsewhere") {
			t.Errorf("%s: a redirect was followed", name)
		}
	}
	env := c.env(t, nil)
	c.Close()
	if _, err := find(t, env, "", ""); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("%v, want the connection's error", err)
	}
	if _, err := Kind(env).New(credential.Entry{Path: "x"}, credential.Deps{ReadFile: func(string) ([]byte, error) { return nil, os.ErrNotExist }}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v, want the file's error", err)
	}
}

func TestDomains(t *testing.T) {
	t.Parallel()
	env := credential.Environment{Getenv: func(string) string { return "" }}
	for host, good := range map[string]bool{
		"europe-docker.pkg.dev": true, "*.pkg.dev": true, "gcr.io": true, "eu.gcr.io": true, "*.gcr.io": true,
		"pkg.dev": false, "gcr.io.evil.example": false, "evilgcr.io": false, "*": false, "registry.corp.example": false,
	} {
		table, err := credential.NewTable(t.Context(), []credential.Entry{{Hosts: []string{host}, Type: Type}}, map[string]credential.Kind{Type: Kind(env)}, credential.Deps{})
		if err == nil {
			table.Close()
		}
		if (err == nil) != good {
			t.Errorf("%s: %v", host, err)
		}
	}
}

// From the metadata service to an image, through a store.
func TestStore(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	r, err := registry.Start(registry.Options{BearerAuth: true, Basic: &registry.Credentials{User: "oauth2accesstoken", Password: token}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	store, err := oras.New(context.WithoutCancel(t.Context()), "registry", oras.Options{
		PlainHTTP: []string{r.Host()}, Credentials: []credential.Entry{{Hosts: []string{r.Host()}, Type: Type, AnyHost: true}},
	}, oras.Deps{Credentials: map[string]credential.Kind{Type: Kind(c.env(t, nil))}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	for _, repo := range []string{"a", "b", "c"} {
		if _, err := r.PushImage(t.Context(), repo, "v1", repo); err != nil {
			t.Fatal(err)
		}
		ref, err := referrerstore.ParseReference(r.Host() + "/" + repo + ":v1")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := store.Resolve(t.Context(), ref); err != nil {
			t.Error(err)
		}
	}
	if asked := c.check(t); asked != "169.254.169.254" {
		t.Errorf("asked %s", asked)
	}
}

func FuzzToken(f *testing.F) {
	f.Add([]byte(`{"access_token":"x","expires_in":3599,"token_type":"Bearer"}`))
	begun := time.Unix(1e9, 0)
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := parseToken(data, begun)
		if err != nil {
			return
		}
		if !isToken(got.value) || !got.until.After(begun) || got.until.After(begun.Add(maxTokenLife)) {
			t.Errorf("a token until %s", got.until)
		}
	})
}

func FuzzAccount(f *testing.F) {
	f.Add([]byte(`{"type":"external_account","audience":"a","subject_token_type":"b","credential_source":{"file":"x"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if a, err := parseAccount(data); err == nil && (a.Source == nil || a.Source.Executable != nil) {
			t.Error("a file that leads nowhere, or to a program")
		}
	})
}
