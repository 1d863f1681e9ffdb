package adverse

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/gatehouse-project/gatehouse/httpserver"
	"github.com/gatehouse-project/gatehouse/test/process"
	"github.com/gatehouse-project/gatehouse/test/registry"
)

// badRequest is a request that is refused as a whole.
type badRequest struct {
	name   string
	body   string
	status int
	says   string // must stand in systemError

	method, path, contentType string // POST, the right path, JSON if empty
	chunked                   bool
}

func badRequests() []badRequest {
	request := func(keys string) string {
		return `{"apiVersion":"externaldata.gatekeeper.sh/v1beta1","kind":"ProviderRequest","request":{"keys":` + keys + `}}`
	}
	tenMB := request(`["` + strings.Repeat("x", 10_000_000) + `"]`)
	return []badRequest{
		{name: "no body", status: 400, says: "JSON"},
		{name: "cut off", body: request(`["a"`)[:40], status: 400, says: "JSON"},
		{name: "two values", body: request(`[]`) + request(`[]`), status: 400, says: "JSON"},
		{name: "not JSON", body: "\x00\x01\x02", status: 400, says: "JSON"},
		{name: "list", body: "[]", status: 400, says: "JSON"},
		{name: "text", body: `"ProviderRequest"`, status: 400, says: "JSON"},
		{name: "keys no list", body: request(`"a"`), status: 400, says: "JSON"},
		{name: "keys no texts", body: request(`[1, {}, null]`), status: 400, says: "JSON"},
		{name: "wrong kind", body: `{"kind":"ProviderResponse","request":{"keys":["a"]}}`, status: 400, says: "kind"},
		{name: "hostile kind", body: `{"kind":"` + strings.Repeat(`\u202e\u0007`, 10_000) + `"}`, status: 400, says: "kind"},
		{name: "wrong version", body: `{"apiVersion":"v1","kind":"ProviderRequest"}`, status: 400, says: "apiVersion"},
		{name: "not UTF-8", body: request("[\"\xff\xfe\"]"), status: 400, says: "UTF-8"},
		{name: "deep", body: strings.Repeat("[", 1_000_000), status: 400, says: "JSON"},
		{name: "10 MB", body: tenMB, status: 413, says: "server.limits.bodyBytes"},
		{name: "10 MB, chunked", body: tenMB, chunked: true, status: 413, says: "server.limits.bodyBytes"},
		{name: "100,000 keys", body: request("[" + strings.Repeat(`"app",`, 99_999) + `"app"]`), status: 413, says: "server.limits.keys"},
		{name: "not for JSON", body: request(`["a"]`), contentType: "text/plain", status: 415, says: "application/json"},
		{name: "GET", method: http.MethodGet, status: 405, says: "POST"},
		{name: "DELETE", method: http.MethodDelete, status: 405, says: "POST"},
		{name: "other path", path: "/", body: request(`["a"]`), status: 404, says: httpserver.VerifyPath},
		{name: "path upwards", path: httpserver.VerifyPath + "/../../../../metrics", body: request(`["a"]`), status: 404, says: httpserver.VerifyPath},
		{name: "namespace in the path", path: httpserver.VerifyPath + "/namespaces/prod", body: request(`["a"]`), status: 404, says: "server.namespaceFrom"},
	}
}

// send goes past net/http's care for paths.
func (r badRequest) send(t *testing.T, p *process.Process) process.Answer {
	t.Helper()
	var body io.Reader = strings.NewReader(r.body)
	if r.chunked {
		body = io.MultiReader(body) // of a length that the client does not know
	}
	method, contentType := r.method, r.contentType
	if method == "" {
		method = http.MethodPost
	}
	if contentType == "" {
		contentType = "application/json"
	}
	req := must(http.NewRequestWithContext(t.Context(), method, p.VerifyURL(), body))(t)
	req.Header.Set("Content-Type", contentType)
	if r.path != "" {
		req.URL.Path = r.path
	}
	return must(process.Client{}.Do(req))(t)
}

// TestBadRequests sends what is no request, again and again, and finds the
// process as it was before.
func TestBadRequests(t *testing.T) {
	t.Parallel()
	s := newSite(t, registry.Options{})
	good := s.signed(t, "good")
	p := process.Start(t, config(t, s))
	ask(t, p, good)
	idle := levelOf(t, p)
	growth := grown(t, p, func() {
		for range 3 {
			for _, r := range badRequests() {
				checkRefused(t, r, r.send(t, p))
			}
		}
	})
	if growth > 64<<20 {
		t.Errorf("memory grew by %d MiB", growth>>20)
	}
	returnsTo(t, p, idle)
	if end := endOf(t, ask(t, p, good), good); !end.allowed {
		t.Errorf("a good request afterwards: %+v", end)
	}
}

func checkRefused(t *testing.T, r badRequest, answer process.Answer) {
	t.Helper()
	if answer.Status != r.status || !strings.Contains(answer.SystemError, r.says) || len(answer.Items) > 0 {
		t.Errorf("%s: status %d, want %d; %.300s", r.name, answer.Status, r.status, answer.Body)
	}
	checkLine(t, r.name, answer.SystemError)
}

// checkLine asserts that a text is one line, short, and safe to show.
func checkLine(t *testing.T, name, text string) {
	t.Helper()
	if text == "" || len(text) > 300 || strings.IndexFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) >= 0 {
		t.Errorf("%s: not one short printable line: %.400q", name, text)
	}
}

// TestLargeBodyOfClosingClient sends too much and says that it will close the
// connection: it must be told why all the same, not be cut off.
func TestLargeBodyOfClosingClient(t *testing.T) {
	t.Parallel()
	p := process.Start(t, config(t))
	for range 20 { // the answer may win the race with the end of the connection
		req := must(http.NewRequestWithContext(t.Context(), http.MethodPost, p.VerifyURL(), strings.NewReader(strings.Repeat(" ", 10_000_000))))(t)
		req.Header.Set("Content-Type", "application/json")
		req.Close = true
		answer, err := process.Client{}.Do(req)
		if err != nil || answer.Status != http.StatusRequestEntityTooLarge {
			t.Fatalf("status %d, want 413; %v", answer.Status, err)
		}
	}
}

// badKeys can never name an image.
func badKeys() []string {
	return []string{
		"", " ", "\x00", "app\x00", "app\n", "app\r\nX-Injected: 1", "app\x1b[2J", "app\u202egnp", "\ufeffapp",
		"app latest", "APP", "/", "//", "app/", "/app", "a//b", "../../etc/passwd", "a/../b", "a/./b", "app:", ":", "::",
		"app:tag:tag", "app:" + strings.Repeat("t", 129), "app:-", "@", "app@", "app@sha256", "app@sha256:",
		"app@sha256:" + strings.Repeat("0", 63), "app@sha256:" + strings.Repeat("G", 64), "app@md5:" + strings.Repeat("0", 32),
		"app@sha256:" + strings.Repeat("0", 64) + "@sha256:" + strings.Repeat("1", 64),
		strings.Repeat("0", 64), "http://127.0.0.1/app", "https://registry.example.com/app:v1", "oci://app", "file:///etc/passwd",
		"127.0.0.1:99999/app", "127.0.0.1:-1/app", "127.0.0.1:0x50/app", "user:password@127.0.0.1/app", "[::1/app", "[]/app",
		"[prod]app", "[prod][prod]app", "%2e%2e/app", "app%00", "app?x=1", "app#x", "app;id", "$(id)", "`id`", "app|id",
		"--help", "-rf", "\u0430pp", "\U0001f642", strings.Repeat("a", 1025), strings.Repeat("a/", 600) + "a",
		strings.Repeat("a.", 200) + "com/app", "{{.}}", "${jndi:ldap://127.0.0.1/x}", `"`, `\`, `'`, "<script>",
	}
}

// TestBadKeys asks about what is no image, in one request and one by one.
func TestBadKeys(t *testing.T) {
	t.Parallel()
	s := newSite(t, registry.Options{})
	good := s.signed(t, "good")
	c := config(t, s)
	c.Rules = fmt.Sprintf(`[{name: ours, images: ["%s/**"], require: {verifier: notation}}]`, s.Host())
	p := process.Start(t, c)
	keys := append(badKeys(), good)
	answer := ask(t, p, keys...)
	checkBadKeys(t, keys, answer)
	if end := endOf(t, answer, good); !end.allowed {
		t.Errorf("the good key among them: %+v", end)
	}
	s.ResetStats()
	for _, key := range badKeys() {
		checkBadKeys(t, []string{key}, ask(t, p, key))
	}
	// Names that are valid, and that no rule lets through, cost no packet.
	for _, key := range []string{"alpine", "localhost/app", "169.254.169.254/latest/meta-data", strings.ToUpper(s.Host()) + "x.invalid/app"} {
		if end := endOf(t, ask(t, p, key), key); !end.verdict || end.allowed {
			t.Errorf("%q: %+v", key, end)
		}
	}
	if total := s.Stats().Total; total != 0 {
		t.Errorf("%d requests to the registry for keys that can never name an image", total)
	}
}

func checkBadKeys(t *testing.T, keys []string, answer process.Answer) {
	t.Helper()
	if answer.Status != http.StatusOK || answer.SystemError != "" || len(answer.Items) != len(keys) {
		t.Fatalf("status %d, %d items of %d; %.500s", answer.Status, len(answer.Items), len(keys), answer.Body)
	}
	for i, item := range answer.Items {
		if item.Key != keys[i] {
			t.Errorf("item %d is for %q, want %q", i, item.Key, keys[i])
		}
		if item.Value.IsSuccess {
			continue // the good key, which its test looks at
		}
		if code := item.Value.Code(); code != "INVALID_KEY" {
			t.Errorf("%q: code %q", item.Key, code)
		}
		for _, r := range item.Value.Reports {
			checkLine(t, item.Key, r.Message)
		}
	}
}

// TestSlowRequests holds connections whose requests never come whole.
func TestSlowRequests(t *testing.T) {
	t.Parallel()
	const timeout = time.Second
	s := newSite(t, registry.Options{})
	good := s.signed(t, "good")
	c := config(t, s)
	c.Timeout = timeout
	p := process.Start(t, c)
	ask(t, p, good)
	idle := levelOf(t, p)
	const half = "POST " + httpserver.VerifyPath + " HTTP/1.1\r\nHost: gatehouse\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
	conns := make([]net.Conn, 50)
	for i := range conns {
		conns[i] = must(net.Dial("tcp", p.Address()))(t)
		defer conns[i].Close()
		must(io.WriteString(conns[i], half))(t)
	}
	start := time.Now()
	if end := endOf(t, ask(t, p, good), good); !end.allowed {
		t.Errorf("a good request beside them: %+v", end)
	}
	for _, conn := range conns {
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		reply, err := io.ReadAll(io.LimitReader(conn, 4096))
		if err != nil && len(reply) == 0 {
			t.Fatalf("no answer: %v", err)
		}
		if !bytes.HasPrefix(reply, []byte("HTTP/1.1 400")) || !bytes.Contains(reply, []byte("systemError")) {
			t.Fatalf("answer %q", reply)
		}
		_ = conn.Close()
	}
	took := time.Since(start)
	t.Logf("50 half requests were answered within %s", took.Round(time.Millisecond))
	if took > timeout+noise {
		t.Errorf("half requests were answered after %s, the timeout is %s", took, timeout)
	}
	returnsTo(t, p, idle)
}

// TestAbandonedConnections asks as old Gatekeepers do, which open a connection
// a call and leave it open.
func TestAbandonedConnections(t *testing.T) {
	t.Parallel()
	const calls, most = 200, 40
	s := newSite(t, registry.Options{})
	good := s.signed(t, "good")
	p := process.Start(t, config(t, s))
	idle := levelOf(t, p)
	var left []*http.Transport
	for range calls {
		transport := &http.Transport{}
		left = append(left, transport)
		client := process.Client{HTTP: &http.Client{Transport: transport}, URL: p.VerifyURL()}
		must(client.Ask(t.Context(), good))(t)
	}
	held := levelOf(t, p)
	t.Logf("idle: %+v, after %d calls that leave their connection: %+v", idle, calls, held)
	if held.files > idle.files+most {
		t.Errorf("%v files are open after %d calls, %v when idle", held.files, calls, idle.files)
	}
	for _, transport := range left {
		transport.CloseIdleConnections()
	}
}
