package azure

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/credential"
	"github.com/gatehouse-project/gatehouse/referrerstore/oras"
	"github.com/gatehouse-project/gatehouse/test/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// exchange answers as a registry does that lets Entra's token in.
func exchange(t *testing.T, host, refresh string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil || r.Method != http.MethodPost || r.URL.RawQuery != "" ||
			r.PostForm.Encode() != (url.Values{"grant_type": {"access_token"}, "service": {host}, "access_token": {entraToken}}).Encode() {
			t.Errorf("the exchange was asked for with %s %s %s", r.Method, r.URL, r.PostForm)
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"refresh_token":%q}`, refresh)
	}
}

func TestStore(t *testing.T) {
	t.Parallel()
	e := newEntra(t)
	for name, vars := range map[string]map[string]string{"workload identity": workload(t), "managed identity": managedIdentity()} {
		refresh := jwt(time.Now().Add(3 * time.Hour))
		r, err := registry.Start(registry.Options{BearerAuth: true, Basic: &registry.Credentials{User: "u", Password: "p", IdentityToken: refresh}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.Close)
		exchanges := 0
		answer := exchange(t, r.Host(), refresh)
		r.SetIntercept(func(w http.ResponseWriter, req *http.Request) bool {
			if req.URL.Path != "/oauth2/exchange" {
				return false
			}
			exchanges++ // one at a time, or the race detector tells
			answer(w, req)
			return true
		})
		store := newStore(t, r.Host(), e.env(t, vars), true)
		for _, repo := range []string{"a", "b", "c"} {
			if _, err := r.PushImage(t.Context(), repo, "v1", repo); err != nil {
				t.Fatal(err)
			}
			if err := resolve(t, store, r.Host()+"/"+repo+":v1"); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		tokens := 0
		for _, asked := range e.check(t) {
			if strings.HasSuffix(asked, "/token") {
				tokens++
			}
			if host := strings.Fields(asked)[1]; !strings.HasPrefix(host, "login.") && !strings.HasPrefix(host, "169.254.169.254/") {
				t.Errorf("%s: asked %s", name, asked)
			}
		}
		if exchanges != 1 || tokens != 1 {
			t.Errorf("%s: %d tokens of Entra ID and %d exchanges for three images", name, tokens, exchanges)
		}
	}
}

func newStore(t *testing.T, host string, env credential.Environment, anyHost bool) *oras.Store {
	t.Helper()
	store, err := oras.New(context.WithoutCancel(t.Context()), "registry", oras.Options{
		PlainHTTP:   []string{host},
		Credentials: []credential.Entry{{Hosts: []string{host}, Type: Type, AnyHost: anyHost}},
	}, oras.Deps{Credentials: map[string]credential.Kind{Type: Kind(env)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	return store
}

func resolve(t *testing.T, store *oras.Store, text string) error {
	t.Helper()
	ref, err := referrerstore.ParseReference(text)
	if err != nil {
		t.Fatal(err)
	}
	_, err = store.Resolve(t.Context(), ref)
	return err
}

// An identity that fails is an error, and nobody goes on without.
func TestStoreFails(t *testing.T) {
	t.Parallel()
	e := newEntra(t)
	e.setFail(func(w http.ResponseWriter) bool {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, `{"error":"invalid_request","error_description":"AADSTS700213: No matching federated identity record found for %s"}`, assertion)
		return true
	})
	r, err := registry.Start(registry.Options{BearerAuth: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	store := newStore(t, r.Host(), e.env(t, workload(t)), true)
	err = resolve(t, store, r.Host()+"/a:v1")
	if !errors.Is(err, referrerstore.ErrAuthDenied) || !strings.Contains(err.Error(), "azure[0]: identity of Azure: login.example answers 400 AADSTS700213") || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("%v, want ErrAuthDenied with Entra's code and no secret", err)
	}
	if n := r.Stats().Token; n != 0 {
		t.Errorf("%d tokens were asked for as nobody", n)
	}
}

// service is a registry that only exchanges; get asks a source for it.
func get(t *testing.T, env credential.Environment, handler http.HandlerFunc) (credential.Credential, error) {
	t.Helper()
	server := httptest.NewTLSServer(handler)
	t.Cleanup(server.Close)
	inner, _ := server.Client().Transport.(*http.Transport)
	client := credential.NewClient(inner)
	t.Cleanup(client.CloseIdleConnections)
	return find(t, env, client, url.URL{Scheme: "https", Host: server.Listener.Addr().String()}, false)
}

func find(t *testing.T, env credential.Environment, client *http.Client, base url.URL, anyHost bool) (credential.Credential, error) {
	t.Helper()
	source, err := Kind(env).New(credential.Entry{AnyHost: anyHost}, credential.Deps{
		Registry: client, Base: func(string) url.URL { return base },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	return source.Find(ctx, "team.azurecr.io")
}

func TestIdentityFails(t *testing.T) {
	t.Parallel()
	e := newEntra(t)
	noExchange := func(_ http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		t.Errorf("the registry was asked with %s", r.PostForm)
	}
	write := func(status int, text string) func(http.ResponseWriter) bool {
		return func(w http.ResponseWriter) bool {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, text)
			return true
		}
	}
	for name, tt := range map[string]struct {
		fail func(http.ResponseWriter) bool
		says string
	}{
		"no JSON":   {write(200, "s3cret"), "is not valid"},
		"no token":  {write(200, `{"token_type":"Bearer","expires_in":3600,"x":"s3cret"}`), "is not valid"},
		"too large": {write(200, `{"token_type":"Bearer","expires_in":3600,"access_token":"`+strings.Repeat("s3cret", 1<<18)+`"}`), "is not valid"},
		"refused":   {write(401, `{"error":"invalid_client","error_description":"s3cret"}`), "answers 401"},
		"redirect": {func(w http.ResponseWriter) bool {
			w.Header().Set("Location", "https://elsewhere.example/"+tenantID+"/oauth2/v2.0/token")
			w.WriteHeader(http.StatusTemporaryRedirect)
			return true
		}, "answers 307"},
	} {
		e.setFail(tt.fail)
		for kind, vars := range map[string]map[string]string{"workload": workload(t), "managed": managedIdentity()} {
			_, err := get(t, e.env(t, vars), noExchange)
			if err == nil || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("%s, %s: %v, want an error without secrets", name, kind, err)
			}
			if kind == "workload" && err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%s: %v, want %q", name, err, tt.says)
			}
		}
		for _, asked := range e.check(t) {
			if strings.Contains(asked, "elsewhere") {
				t.Errorf("%s: a redirect was followed", name)
			}
		}
	}
	// Nobody there at all.
	env := e.env(t, workload(t))
	e.Close()
	if _, err := get(t, env, noExchange); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("%v, want the connection's error", err)
	}
	// No token to show.
	vars := workload(t)
	vars["AZURE_FEDERATED_TOKEN_FILE"] = "/nowhere"
	if _, err := get(t, env, noExchange); err == nil {
		t.Error("without the file")
	}
}

func TestExchange(t *testing.T) {
	t.Parallel()
	e := newEntra(t)
	env := e.env(t, workload(t))
	until := time.Now().Add(3 * time.Hour).Truncate(time.Second)
	refresh := jwt(until)
	cred, err := get(t, env, exchange(t, "team.azurecr.io", refresh))
	if err != nil || cred.IdentityToken != refresh || !cred.Until.Equal(until) || cred.User != "" {
		t.Errorf("wrong credential until %s, %v", cred.Until, err)
	}
	cred, err = get(t, env, exchange(t, "team.azurecr.io", "opaque"))
	if err != nil || cred.IdentityToken != "opaque" || !cred.Until.IsZero() {
		t.Errorf("wrong credential until %s, %v", cred.Until, err)
	}
	e.check(t)

	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") }))
	t.Cleanup(elsewhere.Close)
	for name, tt := range map[string]struct {
		answer http.HandlerFunc
		want   error
	}{
		"401":  {func(w http.ResponseWriter, r *http.Request) { echo(w, r, 401) }, referrerstore.ErrAuthDenied},
		"403":  {func(w http.ResponseWriter, r *http.Request) { echo(w, r, 403) }, referrerstore.ErrAuthDenied},
		"404":  {func(w http.ResponseWriter, r *http.Request) { echo(w, r, 404) }, referrerstore.ErrProtocol},
		"429":  {func(w http.ResponseWriter, r *http.Request) { echo(w, r, 429) }, referrerstore.ErrRateLimited},
		"503":  {func(w http.ResponseWriter, r *http.Request) { echo(w, r, 503) }, referrerstore.ErrUnavailable},
		"echo": {func(w http.ResponseWriter, r *http.Request) { echo(w, r, 200) }, referrerstore.ErrProtocol},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		}, referrerstore.ErrProtocol},
		"empty":  {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"refresh_token":""}`) }, referrerstore.ErrProtocol},
		"header": {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"refresh_token":"a\r\nb"}`) }, referrerstore.ErrProtocol},
		"large": {func(w http.ResponseWriter, _ *http.Request) {
			_ = json.NewEncoder(w).Encode(map[string]string{"x": strings.Repeat("s3cret", maxAnswerBytes), "refresh_token": "a"})
		}, referrerstore.ErrProtocol},
		"breaks off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, `{"refresh`)
		}, referrerstore.ErrUnavailable},
	} {
		_, err := get(t, env, tt.answer)
		if !errors.Is(err, tt.want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v, want %v without secrets", name, err, tt.want)
		}
	}
	// The guard's refusal stays one.
	refused := &referrerstore.RefusedError{What: "it is private"}
	client := credential.NewClient(refuse{refused})
	if _, err := find(t, env, client, url.URL{Scheme: "https", Host: "team.azurecr.io"}, false); !errors.Is(err, referrerstore.ErrRefused) || errors.Is(err, referrerstore.ErrUnavailable) {
		t.Errorf("%v, want ErrRefused", err)
	}
}

// echo answers what it was sent.
func echo(w http.ResponseWriter, r *http.Request, status int) {
	w.WriteHeader(status)
	_, _ = io.Copy(w, r.Body)
}

type refuse struct{ err error }

func (r refuse) RoundTrip(*http.Request) (*http.Response, error) { return nil, r.err }

// Entra's token goes over https only, and only to hosts of the entry.
func TestWhere(t *testing.T) {
	t.Parallel()
	e := newEntra(t)
	env := e.env(t, workload(t))
	client := credential.NewClient(refuse{errors.New("it was asked")})
	plain := url.URL{Scheme: "http", Host: "team.azurecr.io"}
	if _, err := find(t, env, client, plain, false); !errors.Is(err, referrerstore.ErrRefused) {
		t.Errorf("%v, want ErrRefused", err)
	}
	if asked := e.check(t); len(asked) != 0 {
		t.Errorf("%v were asked in vain", asked)
	}
	for _, tt := range []struct {
		host    string
		anyHost bool
		good    bool
	}{
		{"team.azurecr.io", false, true},
		{"team.azurecr.cn", false, true},
		{"*.azurecr.us", false, true},
		{"team-*.azurecr.io", false, true},
		{"azurecr.io", false, false},
		{"a.b.azurecr.io", false, false},
		{"team.azurecr.io.evil.example", false, false},
		{"team.azurecr.io:5000", false, false},
		{"*.corp.example", false, false},
		{"registry.corp.example", true, true},
		{"*", false, false},
		{"**", true, false},
	} {
		table, err := credential.NewTable(t.Context(), []credential.Entry{{Hosts: []string{tt.host}, Type: Type, AnyHost: tt.anyHost}},
			map[string]credential.Kind{Type: Kind(env)}, credential.Deps{})
		if err == nil {
			table.Close()
		}
		if (err == nil) != tt.good {
			t.Errorf("%s, anyHost %t: %v", tt.host, tt.anyHost, err)
		}
	}
}

func TestBadEnvironment(t *testing.T) {
	t.Parallel()
	with := func(change map[string]string) credential.Environment {
		vars := workload(t)
		maps.Copy(vars, change)
		return credential.Environment{HTTP: http.DefaultClient, Getenv: func(name string) string { return vars[name] }}
	}
	for _, tt := range []struct {
		entry  credential.Entry
		change map[string]string
		says   string
	}{
		{credential.Entry{}, map[string]string{"AZURE_CLIENT_ID": ""}, "clientID and tenantID"},
		{credential.Entry{}, map[string]string{"AZURE_TENANT_ID": ""}, "clientID and tenantID"},
		{credential.Entry{ClientID: clientID, TenantID: tenantID}, map[string]string{"AZURE_TENANT_ID": "", "AZURE_CLIENT_ID": ""}, ""},
		{credential.Entry{}, map[string]string{"AZURE_AUTHORITY_HOST": "http://login.example"}, "https"},
		{credential.Entry{TenantID: "../x"}, nil, "tenant"},
		{credential.Entry{TenantID: tenantID}, map[string]string{"AZURE_FEDERATED_TOKEN_FILE": ""}, "tenantID is for a workload identity"},
		{credential.Entry{}, map[string]string{"AZURE_FEDERATED_TOKEN_FILE": "", "AZURE_CLIENT_ID": ""}, ""},
	} {
		_, err := Kind(with(tt.change)).New(tt.entry, credential.Deps{})
		if (tt.says == "") != (err == nil) || (err != nil && !strings.Contains(err.Error(), tt.says)) {
			t.Errorf("%+v, %v: %v, want %q", tt.entry, tt.change, err, tt.says)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"refresh_token":"` + jwt(time.Unix(2e9, 0)) + `"}`))
	f.Add([]byte(`{"refresh_token":"a.b.c"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		cred, err := parseAnswer(data)
		if err != nil {
			if !cred.Empty() || !errors.Is(err, referrerstore.ErrProtocol) {
				t.Errorf("%v with a credential", err)
			}
			return
		}
		if strings.ContainsAny(cred.IdentityToken, " \r\n\x00") || cred.IdentityToken == "" {
			t.Error("a token that no form should carry")
		}
		if y := cred.Until.Year(); !cred.Until.IsZero() && (y < 1970 || y > 2300) {
			t.Errorf("it ends in %d", y)
		}
	})
}
