package aws

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
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
	webToken = "s3cret-web-identity"
	podToken = "s3cret-pod-identity"
	role     = "arn:aws:iam::111122223333:role/gatehouse"
	password = "s3cret-password"
	host     = "111122223333.dkr.ecr.eu-west-1.amazonaws.com"
)

// cloud stands in for STS, the agent of EKS pod identity, and ECR.
type cloud struct {
	*httptest.Server

	mu    sync.Mutex // guards the fields that follow it
	asked []string   // HOST ACTION
	wrong []string   // what was not as demanded
	fail  func(host string, w http.ResponseWriter) bool
	token string // of ECR
	until time.Time
}

func newCloud(t *testing.T) *cloud {
	t.Helper()
	c := &cloud{token: base64.StdEncoding.EncodeToString([]byte("AWS:" + password)), until: time.Now().Add(12 * time.Hour).Truncate(time.Second)}
	c.Server = httptest.NewUnstartedServer(http.HandlerFunc(c.serve))
	c.Config.ErrorLog = log.New(io.Discard, "", 0)
	c.StartTLS()
	t.Cleanup(c.Close)
	return c
}

var signature = regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=ASIA(WEB|POD)/[0-9]{8}/([a-z0-9-]+)/ecr/aws4_request, SignedHeaders=[a-z0-9;-]*host[a-z0-9;-]*, Signature=[0-9a-f]{64}$`)

func (c *cloud) serve(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = r.ParseForm()
	name, _, _ := strings.Cut(r.Host, ":")
	c.asked = append(c.asked, name)
	if c.fail != nil && c.fail(name, w) {
		return
	}
	until := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	switch {
	case strings.HasPrefix(name, "sts."):
		c.demand(r.Form.Get("Action") == "AssumeRoleWithWebIdentity" && r.Form.Get("RoleArn") == role && r.Form.Get("WebIdentityToken") == webToken, r)
		c.demand(r.Header.Get("Authorization") == "", r)
		fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials>
			<AccessKeyId>ASIAWEB</AccessKeyId><SecretAccessKey>s3cret-key</SecretAccessKey><SessionToken>session</SessionToken><Expiration>%s</Expiration>
			</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`, until)
	case name == "169.254.170.23":
		c.demand(r.URL.Path == "/v1/credentials" && r.Header.Get("Authorization") == podToken && r.Header.Get("X-Was") == "http", r)
		fmt.Fprintf(w, `{"AccessKeyId":"ASIAPOD","SecretAccessKey":"s3cret-key","Token":"session","AccountId":"111122223333","Expiration":%q}`, until)
	case strings.HasPrefix(name, "api.ecr"):
		c.serveECR(w, r, name)
	default:
		c.demand(false, r)
	}
}

func (c *cloud) serveECR(w http.ResponseWriter, r *http.Request, name string) {
	c.demand(r.Header.Get("X-Amz-Target") == "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken", r)
	c.demand(r.Header.Get("X-Amz-Security-Token") == "session" && r.Header.Get("X-Amz-Date") != "", r)
	signed := signature.FindStringSubmatch(r.Header.Get("Authorization"))
	c.demand(signed != nil && strings.Contains(name, "."+signed[2]+"."), r)
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	fmt.Fprintf(w, `{"authorizationData":[{"authorizationToken":%q,"expiresAt":%d,"proxyEndpoint":"https://%s"}]}`, c.token, c.until.Unix(), host)
}

func (c *cloud) demand(ok bool, r *http.Request) {
	if !ok {
		c.wrong = append(c.wrong, fmt.Sprint(r.Method, " ", r.Host, r.URL, " ", r.Header, " ", r.Form))
	}
}

func (c *cloud) check(t *testing.T) []string {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, wrong := range c.wrong {
		t.Errorf("AWS was asked with %s", wrong)
	}
	asked := c.asked
	c.asked, c.wrong = nil, nil
	return asked
}

func (c *cloud) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

// env leads all hosts that are asked to the stand-in. The environment is that
// of the process, because the SDK reads it: tests are not parallel.
func (c *cloud) env(t *testing.T, vars map[string]string) credential.Environment {
	t.Helper()
	for _, entry := range os.Environ() {
		if name, _, _ := strings.Cut(entry, "="); strings.HasPrefix(name, "AWS_") {
			t.Setenv(name, "")
		}
	}
	t.Setenv("AWS_CONFIG_FILE", "/nowhere")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	for name, value := range vars {
		t.Setenv(name, value)
	}
	inner, _ := c.Client().Transport.(*http.Transport)
	inner = inner.Clone()
	inner.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", c.Listener.Addr().String())
	}
	inner.TLSClientConfig.ServerName = "example.com" // httptest's certificate is for that name
	client := credential.NewClient(upgrade{inner})
	t.Cleanup(client.CloseIdleConnections)
	return credential.Environment{HTTP: client, Getenv: os.Getenv}
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

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func irsa(t *testing.T) map[string]string {
	t.Helper()
	return map[string]string{"AWS_ROLE_ARN": role, "AWS_WEB_IDENTITY_TOKEN_FILE": file(t, webToken), "AWS_REGION": "us-east-1"}
}

func find(t *testing.T, env credential.Environment, entry credential.Entry, host string) (credential.Credential, error) {
	t.Helper()
	source, err := Kind(env).New(entry, credential.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	return source.Find(t.Context(), host)
}

func TestFind(t *testing.T) { //nolint:paralleltest // changes the environment
	for name, vars := range map[string]map[string]string{
		"169.254.170.23": {
			"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/v1/credentials", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": file(t, podToken),
		},
		"sts.us-east-1.amazonaws.com": irsa(t),
	} {
		c := newCloud(t)
		cred, err := find(t, c.env(t, vars), credential.Entry{}, host)
		if err != nil || cred.User != "AWS" || cred.Password != password || !cred.Until.Equal(c.until) {
			t.Errorf("%s: wrong credential until %s, %v", name, cred.Until, err)
		}
		if asked := strings.Join(c.check(t), " "); asked != name+" api.ecr.eu-west-1.amazonaws.com" {
			t.Errorf("%s: asked %s", name, asked)
		}
	}
}

// Each region is asked at its own place, FIPS and other domains included.
func TestPlaces(t *testing.T) { //nolint:paralleltest // changes the environment
	c := newCloud(t)
	env := c.env(t, irsa(t))
	for host, want := range map[string]string{
		"111122223333.dkr.ecr.us-gov-west-1.amazonaws.com":  "api.ecr.us-gov-west-1.amazonaws.com",
		"111122223333.dkr.ecr-fips.us-east-1.amazonaws.com": "api.ecr-fips.us-east-1.amazonaws.com",
		"111122223333.dkr.ecr.cn-north-1.amazonaws.com.cn":  "api.ecr.cn-north-1.amazonaws.com.cn",
		"111122223333.dkr-ecr.ap-southeast-2.on.aws":        "api.ecr.ap-southeast-2.amazonaws.com",
	} {
		if _, err := find(t, env, credential.Entry{}, host); err != nil {
			t.Errorf("%s: %v", host, err)
		}
		if asked := c.check(t); asked[len(asked)-1] != want {
			t.Errorf("%s: asked %v, want %s", host, asked, want)
		}
	}
}

func TestFindFails(t *testing.T) { //nolint:paralleltest // changes the environment
	c := newCloud(t)
	write := func(at string, status int, text string) func(string, http.ResponseWriter) bool {
		return func(name string, w http.ResponseWriter) bool {
			if !strings.HasPrefix(name, at) {
				return false
			}
			w.Header().Set("Content-Type", "application/x-amz-json-1.1")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, text)
			return true
		}
	}
	vars := irsa(t)
	for name, tt := range map[string]struct {
		fail func(string, http.ResponseWriter) bool
		says string
	}{
		"sts refuses": {write("sts", 403, `<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>s3cret</Message></Error></ErrorResponse>`), "sts.us-east-1.amazonaws.com answers 403 AccessDenied"},
		"sts expired": {write("sts", 400, `<ErrorResponse><Error><Code>ExpiredTokenException</Code><Message>s3cret</Message></Error></ErrorResponse>`), "answers 400 ExpiredToken"},
		"ecr refuses": {write("api.ecr", 400, `{"__type":"AccessDeniedException","message":"s3cret"}`), "api.ecr.eu-west-1.amazonaws.com answers 400 AccessDeniedException"},
		"code":        {write("api.ecr", 400, `{"__type":"s3cret-1","message":"s3cret"}`), "answers 400"},
		"no JSON":     {write("api.ecr", 200, `s3cret`), "is not valid"},
		"nothing":     {write("api.ecr", 200, `{}`), "no password"},
		"no token":    {write("api.ecr", 200, `{"authorizationData":[{}]}`), "is not the base64"},
		"other user":  {write("api.ecr", 200, `{"authorizationData":[{"authorizationToken":"`+base64.StdEncoding.EncodeToString([]byte("other:s3cret"))+`"}]}`), "is not the base64"},
		"no base64":   {write("api.ecr", 200, `{"authorizationData":[{"authorizationToken":"s3cret!"}]}`), "is not the base64"},
		"too large":   {write("api.ecr", 200, `{"x":"`+strings.Repeat("s3cret", 1<<18)+`"}`), "is not valid"},
		"redirect": {func(name string, w http.ResponseWriter) bool {
			w.Header().Set("Location", "https://elsewhere.example/")
			w.WriteHeader(http.StatusTemporaryRedirect)
			return true
		}, "answers 307"},
	} {
		c.set(func() { c.fail = tt.fail })
		_, err := find(t, c.env(t, vars), credential.Entry{}, host)
		if err == nil || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v, want an error with %q without secrets", name, err, tt.says)
		}
		for _, asked := range c.check(t) {
			if strings.Contains(asked, "elsewhere") {
				t.Errorf("%s: a redirect was followed", name)
			}
		}
	}
	// What has ended already is for the keeper to refuse.
	c.set(func() { c.fail, c.until = nil, time.Unix(1e9, 0) })
	if cred, err := find(t, c.env(t, vars), credential.Entry{}, host); err != nil || cred.Until.Unix() != 1e9 {
		t.Errorf("until %s, %v", cred.Until, err)
	}
	// No identity at all.
	if _, err := find(t, c.env(t, nil), credential.Entry{}, host); err == nil {
		t.Error("no error without an identity")
	}
	env := c.env(t, vars)
	c.Close()
	if _, err := find(t, env, credential.Entry{}, host); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("%v, want the connection's error", err)
	}
}

func TestHosts(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]place{
		"111122223333.dkr.ecr.eu-west-1.amazonaws.com":                {region: "eu-west-1"},
		"111122223333.dkr.ecr.us-gov-east-1.amazonaws.com":            {region: "us-gov-east-1"},
		"111122223333.dkr.ecr-fips.us-east-1.amazonaws.com":           {region: "us-east-1", fips: true},
		"111122223333.dkr.ecr.cn-northwest-1.amazonaws.com.cn":        {region: "cn-northwest-1"},
		"111122223333.dkr-ecr.eu-west-1.on.aws":                       {region: "eu-west-1"},
		"111122223333.dkr-ecr.cn-north-1.on.amazonwebservices.com.cn": {region: "cn-north-1"},
		"11112222333.dkr.ecr.eu-west-1.amazonaws.com":                 {},
		"team.dkr.ecr.eu-west-1.amazonaws.com":                        {},
		"111122223333.dkr.ecr.eu-west-1.amazonaws.com.evil.example":   {},
		"111122223333.dkr.ecr.eu-west-1.amazonaws.com:5000":           {},
		"111122223333.dkr.ecr.evil.amazonaws.com":                     {},
		"111122223333.dkr.ecr.x.example/eu-west-1.amazonaws.com":      {},
		"evil.example.111122223333.dkr.ecr.eu-west-1.amazonaws.com":   {},
		"public.ecr.aws": {},
	} {
		got, ok := placeOf(host)
		if got != want || ok != (want.region != "") {
			t.Errorf("%s: %+v, %t", host, got, ok)
		}
	}
	// A name that no registry has gets nothing, rather than going on as nobody.
	source := &source{}
	if _, known := source.Key("team.dkr.ecr.eu-west-1.amazonaws.com"); !known {
		t.Error("it is left to another")
	}
	if _, err := source.Find(t.Context(), "team.dkr.ecr.eu-west-1.amazonaws.com"); err == nil {
		t.Error("no error")
	}
	a, _ := source.Key("111122223333.dkr.ecr.eu-west-1.amazonaws.com")
	b, _ := source.Key("444455556666.dkr.ecr.eu-west-1.amazonaws.com")
	c, _ := source.Key("111122223333.dkr.ecr.eu-west-2.amazonaws.com")
	if a != b || a == c {
		t.Errorf("keys %q %q %q", a, b, c)
	}
}

func TestDomains(t *testing.T) {
	t.Parallel()
	env := credential.Environment{Getenv: func(string) string { return "" }}
	for host, good := range map[string]bool{
		host: true, "*.dkr.ecr.*.amazonaws.com": true, "111122223333.dkr.ecr.*.amazonaws.com": true, "*.dkr-ecr.eu-west-1.on.aws": true,
		"*.amazonaws.com": false, "public.ecr.aws": false, "registry.corp.example": false, "*": false,
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

// From the role to an image, through a store.
func TestStore(t *testing.T) { //nolint:paralleltest // changes the environment
	c := newCloud(t)
	r, err := registry.Start(registry.Options{Basic: &registry.Credentials{User: "AWS", Password: password}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	if _, err := r.PushImage(t.Context(), "a", "v1", "a"); err != nil {
		t.Fatal(err)
	}
	store, err := oras.New(context.WithoutCancel(t.Context()), "registry", oras.Options{
		PlainHTTP: []string{r.Host()}, Credentials: []credential.Entry{{Hosts: []string{r.Host()}, Type: Type, AnyHost: true}},
	}, oras.Deps{Credentials: map[string]credential.Kind{Type: Kind(c.env(t, irsa(t)))}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	ref, err := referrerstore.ParseReference(r.Host() + "/a:v1")
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := store.Resolve(t.Context(), ref); err != nil {
			t.Error(err)
		}
	}
	if asked := strings.Join(c.check(t), " "); asked != "sts.us-east-1.amazonaws.com api.ecr.us-east-1.amazonaws.com" {
		t.Errorf("asked %s", asked)
	}
	// A password that has ended is an error, and nobody goes on without.
	c.set(func() { c.until = time.Now().Add(-time.Hour) })
	late, err := oras.New(context.WithoutCancel(t.Context()), "registry", oras.Options{
		PlainHTTP: []string{r.Host()}, Credentials: []credential.Entry{{Hosts: []string{r.Host()}, Type: Type, AnyHost: true}},
	}, oras.Deps{Credentials: map[string]credential.Kind{Type: Kind(c.env(t, irsa(t)))}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(late.Close)
	if _, err := late.Resolve(t.Context(), ref); !errors.Is(err, referrerstore.ErrAuthDenied) || !strings.Contains(err.Error(), "aws[0]: what it answers has ended") {
		t.Errorf("%v, want ErrAuthDenied", err)
	}
}

func FuzzHost(f *testing.F) {
	f.Add(host)
	f.Add("111122223333.dkr-ecr-fips.us-gov-west-1.on.aws")
	f.Fuzz(func(t *testing.T, text string) {
		at, ok := placeOf(text)
		if !ok {
			return
		}
		if canonical, err := referrerstore.CanonicalHost(text); err != nil || canonical != text {
			t.Errorf("%q is not canonical", text)
		}
		if strings.Trim(at.region, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || len(at.region) > 60 {
			t.Errorf("region %q", at.region)
		}
	})
}

func FuzzToken(f *testing.F) {
	f.Add(base64.StdEncoding.EncodeToString([]byte("AWS:x")))
	f.Fuzz(func(t *testing.T, text string) {
		cred, err := parseToken(text, time.Time{})
		if (err == nil) != (cred.User == "AWS" && cred.Password != "") {
			t.Error("an error and a credential, or neither")
		}
	})
}
