package adverse

import (
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/gatehouse-project/gatehouse/test/process"
	"github.com/gatehouse-project/gatehouse/test/registry"
)

// The secret that must not leave for elsewhere.
const user, password = "robot", "s3cr3t-of-the-robot"

// trap is a place to which a registry would lead its clients. It writes down
// who came, and with what.
type trap struct {
	*httptest.Server

	mu    sync.Mutex // guards the fields that follow it
	calls []string
}

// newTrap listens on another address of loopback than the registries, by which
// it is another host to everyone who compares hosts.
func newTrap(t *testing.T) *trap {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Skipf("there is no second address of loopback: %v", err)
	}
	trap := &trap{}
	trap.Server = httptest.NewUnstartedServer(http.HandlerFunc(trap.record))
	_ = trap.Listener.Close()
	trap.Listener = listener
	trap.Start()
	t.Cleanup(trap.Close)
	return trap
}

// record answers any request for a token, so that who asks goes on.
func (t *trap) record(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	t.mu.Lock()
	t.calls = append(t.calls, fmt.Sprint(r.Method, " ", r.URL, " ", r.Header, " ", r.Form))
	t.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprint(w, `{"token":"trapped"}`)
}

func (t *trap) seen() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.calls...)
}

// host is the trap's address, as a registry.
func (t *trap) host() string { return t.Listener.Addr().String() }

// withSecret gives the configuration credentials for the hosts.
func withSecret(t *testing.T, c process.Config, hosts ...string) process.Config {
	t.Helper()
	pair := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	var auths []string
	for _, host := range hosts {
		auths = append(auths, fmt.Sprintf(`%q:{"auth":%q}`, host, pair))
	}
	path := filepath.Join(t.TempDir(), "config.json")
	if err := process.Replace(path, []byte(`{"auths":{`+strings.Join(auths, ",")+`}}`)); err != nil {
		t.Fatal(err)
	}
	c.Store = process.Map{"credentials": []process.Map{{"hosts": []string{"*"}, "type": "dockerConfig", "path": path}}}
	return c
}

// checkSecret fails if credentials, or a token that they bought, came to the trap.
func checkSecret(t *testing.T, trap *trap) {
	t.Helper()
	pair := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	for _, call := range trap.seen() {
		for _, secret := range []string{password, pair, "Authorization", "Bearer"} {
			if strings.Contains(call, secret) {
				t.Errorf("%q came to a foreign host: %s", secret, call)
			}
		}
	}
}

// TestForeignRealm lets a registry send its client elsewhere for a token.
func TestForeignRealm(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		// plain names the foreign host in plainHTTP, which lets it be asked.
		plain, secret bool
		calls         bool // whether it may be asked at all
		code, says    string
	}{
		{name: "a host that is not named", code: "ADDRESS_REFUSED", says: "plainHTTP"},
		{name: "a host that is not named, with credentials", secret: true, code: "ADDRESS_REFUSED", says: "plainHTTP"},
		{name: "a host that is named, with credentials", plain: true, secret: true, code: "ADDRESS_REFUSED", says: "realms"},
		{name: "a host that is named, without credentials", plain: true, code: "ADDRESS_REFUSED", says: "realms"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			trap := newTrap(t)
			s := newSite(t, registry.Options{BearerAuth: true, Basic: &registry.Credentials{User: user, Password: password}})
			key := s.signed(t, "app")
			s.SetIntercept(registry.ForeignRealm(trap.URL + "/token"))
			c := config(t, s)
			if test.plain {
				c.PlainHTTP = append(c.PlainHTTP, trap.host())
			}
			if test.secret {
				c = withSecret(t, c, s.Host())
			}
			p := process.Start(t, c)
			answer := ask(t, p, key)
			end := endOf(t, answer, key)
			t.Logf("%d calls of the foreign host; %s", len(trap.seen()), end.text)
			if end.allowed || end.verdict || end.code != test.code || !strings.Contains(end.text, test.says) {
				t.Errorf("%+v, want %s with %q", end, test.code, test.says)
			}
			if calls := trap.seen(); len(calls) > 0 != test.calls {
				t.Errorf("calls of the foreign host: %q", calls)
			}
			checkSecret(t, trap)
		})
	}
}

// TestOwnRealm is the counterpart: what the registry's own realm demands is
// given, so that the tests above do not pass for want of credentials.
func TestOwnRealm(t *testing.T) {
	t.Parallel()
	s := newSite(t, registry.Options{BearerAuth: true, Basic: &registry.Credentials{User: user, Password: password}})
	key := s.signed(t, "app")
	p := process.Start(t, withSecret(t, config(t, s), s.Host()))
	if end := endOf(t, ask(t, p, key), key); !end.allowed {
		t.Errorf("%+v", end)
	}
	if strings.Contains(string(p.Log()), password) {
		t.Error("the password stands in the log")
	}
}

// TestRedirects lets a registry send its client to where it must not go.
func TestRedirects(t *testing.T) {
	t.Parallel()
	trap := newTrap(t)
	_, port, _ := net.SplitHostPort(trap.host())
	s := newSite(t, registry.Options{BearerAuth: true, Basic: &registry.Credentials{User: user, Password: password}})
	key := s.signed(t, "app")
	p := process.Start(t, withSecret(t, config(t, s), s.Host(), trap.host()))
	images := 0
	for _, to := range []string{
		"http://169.254.169.254", "http://[fd00:ec2::254]", "http://10.255.255.1", "http://192.168.255.1:80", "http://100.64.0.1",
		trap.URL, "http://[::ffff:127.0.0.2]:" + port, "http://0.0.0.0:" + port, "http://localhost:" + port, "https://127.0.0.2:" + port,
	} {
		for _, kind := range []registry.Kind{registry.Resolve, registry.Referrers, registry.Manifest, registry.Blob} {
			s.SetIntercept(registry.On(withToken(registry.RedirectTo(to)), kind))
			// What was proven once is not asked for again: each case has an image.
			fresh := s.signed(t, fmt.Sprintf("app%d", images))
			images++
			end := endOf(t, ask(t, p, fresh), fresh)
			if end.allowed || end.verdict || end.code != "ADDRESS_REFUSED" || !strings.Contains(end.text, "allowPrivate") {
				t.Errorf("to %s in kind %d: %+v", to, kind, end)
			}
		}
	}
	if calls := trap.seen(); len(calls) > 0 {
		t.Errorf("calls of the private host: %q", calls)
	}
	// The registry is asked again as if nothing had been.
	s.SetIntercept(nil)
	if end := endOf(t, ask(t, p, key), key); !end.allowed {
		t.Errorf("afterwards: %+v", end)
	}
}

// withToken limits a fault to requests that show a token.
func withToken(f registry.Fault) registry.Fault {
	return func(w http.ResponseWriter, r *http.Request) bool {
		return r.Header.Get("Authorization") != "" && f(w, r)
	}
}

// TestRedirectToNamedHost lets a registry redirect to a host that the
// configuration lets through: the token stays behind.
func TestRedirectToNamedHost(t *testing.T) {
	t.Parallel()
	trap := newTrap(t)
	s := newSite(t, registry.Options{BearerAuth: true, Basic: &registry.Credentials{User: user, Password: password}})
	key := s.signed(t, "app")
	c := withSecret(t, config(t, s), s.Host(), trap.host())
	c.PlainHTTP = append(c.PlainHTTP, trap.host())
	p := process.Start(t, c)
	for _, kind := range []registry.Kind{registry.Resolve, registry.Referrers, registry.Manifest, registry.Blob} {
		s.SetIntercept(registry.On(withToken(registry.RedirectTo(trap.URL)), kind))
		end := endOf(t, ask(t, p, key), key)
		t.Logf("kind %d: %s", kind, end.text)
		if end.allowed {
			t.Errorf("kind %d: allowed by what a foreign host says", kind)
		}
	}
	if len(trap.seen()) == 0 {
		t.Error("the redirects were not followed, so that nothing was tested")
	}
	checkSecret(t, trap)
}

// TestLinkElsewhere lets a list of referrers go on at another host.
func TestLinkElsewhere(t *testing.T) {
	t.Parallel()
	trap := newTrap(t)
	s := newSite(t, registry.Options{})
	key := s.signed(t, "app")
	s.SetIntercept(registry.On(header("Link", fmt.Sprintf(`<%s/v2/app/referrers/x>; rel="next"`, trap.URL)), registry.Referrers))
	c := config(t, s)
	c.PlainHTTP = append(c.PlainHTTP, trap.host())
	c.Require = "{verifier: notation, every: true}"
	p := process.Start(t, c)
	end := endOf(t, ask(t, p, key), key)
	if end.allowed || end.code != "REGISTRY_PROTOCOL" || len(trap.seen()) > 0 {
		t.Errorf("%+v; calls of the other host: %q", end, trap.seen())
	}
}
