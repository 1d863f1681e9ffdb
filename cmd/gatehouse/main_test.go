package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/httpserver"
	"github.com/gatehouse-project/gatehouse/test/signing"
)

var update = flag.Bool("update", false, "write generated files anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// command runs the program within the test and returns what it wrote.
func command(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, stdio{strings.NewReader(stdin), &out, &errs})
	return code, out.String(), errs.String()
}

func TestDemoOnce(t *testing.T) {
	t.Parallel()
	code, stdout, stderr := command(t, "", "demo", "--once", "--address", "127.0.0.1:0")
	if code != exitOK || stderr != "" {
		t.Fatalf("exit code %d, stderr %q\n%s", code, stderr, stdout)
	}
	if n := strings.Count(stdout, "allowed"); n != 4 {
		t.Errorf("%d images allowed, want 4:\n%s", n, stdout)
	}
	for _, want := range []string{"SIGNATURE_NOT_FOUND", "SIGNER_UNTRUSTED", "SIGNATURE_INVALID", "SIGNATURE_EXPIRED"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %s in\n%s", want, stdout)
		}
	}
}

func newTestStage(t *testing.T) *stage {
	t.Helper()
	s, err := newStage(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s
}

func TestVerifyExitCodes(t *testing.T) {
	t.Parallel()
	s := newTestStage(t)
	app := s.host + "/demo/app:"
	tests := []struct {
		name   string
		args   []string
		stdin  string
		code   int
		stdout []string
	}{
		{"allowed", []string{app + "rsa-jws", app + "ecdsa-cose"}, "", exitOK, []string{"ALLOWED", "passed by notation", "subject sha256:"}},
		{"denied", []string{app + "rsa-jws", app + "unsigned"}, "", exitDenied, []string{"SIGNATURE_NOT_FOUND"}},
		{"absent", []string{app + "absent"}, "", exitDenied, []string{"SUBJECT_NOT_FOUND"}},
		{"invalid", []string{"not a name"}, "", exitDenied, []string{"INVALID_KEY"}},
		{"undecided", []string{app + "rsa-jws", "127.0.0.1:1/x"}, "", exitUnknown, []string{"UNDECIDED", "ADDRESS_REFUSED", "allowPrivate"}},
		{"denied and undecided", []string{app + "unsigned", "127.0.0.1:1/x"}, "", exitDenied, nil},
		{"from standard input", []string{"-f", "-"}, "# images\n\n" + app + "rsa-jws\n", exitOK, []string{"ALLOWED"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			code, stdout, stderr := command(t, test.stdin, append([]string{"verify", "--config", s.config}, test.args...)...)
			if code != test.code {
				t.Errorf("exit code %d, want %d: %s", code, test.code, stderr)
			}
			for _, want := range test.stdout {
				if !strings.Contains(stdout, want) {
					t.Errorf("no %q in\n%s", want, stdout)
				}
			}
		})
	}
}

func TestVerifyJSON(t *testing.T) {
	t.Parallel()
	s := newTestStage(t)
	code, stdout, stderr := command(t, "", "verify", "-c", s.config, "-o", "json", s.host+"/demo/app:stranger")
	var got struct {
		Images []imageJSON `json:"images"`
	}
	if err := json.Unmarshal([]byte(stdout), &got); err != nil {
		t.Fatalf("%v: %s%s", err, stdout, stderr)
	}
	if code != exitDenied || len(got.Images) != 1 || got.Images[0].Decision != "denied" || len(got.Images[0].Artifacts) != 1 || got.Images[0].Artifacts[0].Code != "SIGNER_UNTRUSTED" {
		t.Errorf("exit code %d: %+v", code, got)
	}
}

func TestLook(t *testing.T) {
	t.Parallel()
	s := newTestStage(t)
	code, stdout, stderr := command(t, "", "discover", "-c", s.config, s.host+"/demo/app:rsa-jws")
	if code != exitOK || !strings.Contains(stdout, signing.ArtifactType) {
		t.Errorf("discover: %d %s%s", code, stdout, stderr)
	}
	code, stdout, stderr = command(t, "", "resolve", "-c", s.config, s.host+"/demo/app:rsa-jws")
	if code != exitOK || !strings.HasPrefix(stdout, s.host+"/demo/app@sha256:") {
		t.Errorf("resolve: %d %s%s", code, stdout, stderr)
	}
	code, _, stderr = command(t, "", "resolve", "-c", s.config, s.host+"/demo/app:absent")
	if code != exitUnknown || !strings.Contains(stderr, "SUBJECT_NOT_FOUND") {
		t.Errorf("resolve of what is not there: %d %s", code, stderr)
	}
}

func TestUsageErrors(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "gatehouse.yaml")
	tests := []struct {
		args []string
		want string
	}{
		{[]string{"verify", "-c", missing, "x"}, "gatehouse config example"},
		{[]string{"verify"}, "no image"},
		{[]string{"verify", "-f", "-", "x"}, "not from both"},
		{[]string{"verify", "-f", missing}, "no such file"},
		{[]string{"verify", "-o", "xml", "x"}, "neither text nor json"},
		{[]string{"serve", "-c", missing}, "no such file"},
		{[]string{"serve", "--log-level", "loud"}, "--log-level"},
		{[]string{"serve", "--log-format", "xml"}, "--log-format"},
		{[]string{"config", "validate"}, "accepts 1 arg"},
		{[]string{"nonsense"}, "unknown command"},
	}
	for _, test := range tests {
		code, _, stderr := command(t, "", test.args...)
		if code != exitUnknown || !strings.Contains(stderr, test.want) {
			t.Errorf("%v: %d %q, want %q", test.args, code, stderr, test.want)
		}
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	if code, stdout, _ := command(t, "", "version"); code != exitOK || !strings.HasPrefix(stdout, "gatehouse ") {
		t.Errorf("%d %q", code, stdout)
	}
	if code, stdout, _ := command(t, "", "completion", "bash"); code != exitOK || !strings.Contains(stdout, "gatehouse") {
		t.Errorf("completion: %d", code)
	}
}

// The schema in the repository is the one that this binary prints.
func TestSchemaIsCurrent(t *testing.T) {
	t.Parallel()
	path := filepath.Join("..", "..", "config", "gatehouse.schema.json")
	code, stdout, stderr := command(t, "", "config", "schema")
	if code != exitOK {
		t.Fatal(stderr)
	}
	if *update {
		if err := os.WriteFile(path, []byte(stdout), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != stdout {
		t.Errorf("%s is stale: run go test ./cmd/gatehouse -run Schema -update", path)
	}
}

// edit writes a configuration next to the certificates of a stage.
func edit(t *testing.T, s *stage, change func(string) string) {
	t.Helper()
	text, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	next := change(string(text))
	if next == string(text) {
		t.Fatal("the edit changes nothing")
	}
	if err := os.WriteFile(s.config, []byte(next), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestValidateSaysWhere(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, from, to string
		want           []string
	}{
		{"misspelt field", "plainHTTP:", "plainHttp:", []string{"gatehouse.yaml:10:5", "plainHTTP"}},
		{"unknown type", "type: oras", "type: orsa", []string{"gatehouse.yaml:8:", `"orsa"`, "oras"}},
		{"unknown verifier", "{verifier: notation}", "{verifier: notary}", []string{"gatehouse.yaml:27:", "notary"}},
		{"missing certificate", "acme-root.crt", "acme.crt", []string{"gatehouse.yaml:", "acme.crt"}},
		{"unknown trust store", `"ca:acme"`, `"ca:acmee"`, []string{"gatehouse.yaml:", "acmee"}},
		{"level skip", "level: strict", "level: skip", []string{"gatehouse.yaml:", "skip"}},
		{"canary of a host that nobody names", "policy:\n", "canary:\n  mustFail:\n    - other.example/app:unsigned\npolicy:\n", []string{"gatehouse.yaml:27:", "canary.mustFail[0]", `"registry"`, "other.example"}},
		{"canary of no image", "policy:\n", "canary:\n  mustPass: [\"a b\"]\npolicy:\n", []string{"gatehouse.yaml:26:", "canary.mustPass[0]", "U+0020"}},
		{"bad pattern", `images: ["**"]`, `images: ["nginx"]`, []string{"gatehouse.yaml:27:", "docker.io/library/nginx"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newTestStage(t)
			if code, stdout, stderr := command(t, "", "config", "validate", s.config); code != exitOK || !strings.Contains(stdout, "is valid") {
				t.Fatalf("%d %s%s", code, stdout, stderr)
			}
			edit(t, s, func(text string) string { return strings.Replace(text, test.from, test.to, 1) })
			code, stdout, stderr := command(t, "", "config", "validate", s.config)
			if code != exitUnknown || stdout != "" {
				t.Errorf("%d %q", code, stdout)
			}
			for _, want := range test.want {
				if !strings.Contains(stderr, want) {
					t.Errorf("no %q in %q", want, stderr)
				}
			}
		})
	}
}

// Two stores that would talk to one host over different schemes do not load.
func TestStoresAgreeOnSchemes(t *testing.T) {
	t.Parallel()
	s := newTestStage(t)
	edit(t, s, func(text string) string {
		return strings.Replace(text, "trust:\n", "  - {name: second, type: oras}\ntrust:\n", 1)
	})
	if _, _, stderr := command(t, "", "config", "validate", s.config); !strings.Contains(stderr, "disagree on its scheme") {
		t.Errorf("stderr %q", stderr)
	}
}

// lines collects log records as they come.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// A valid edit takes effect, an invalid one leaves the former state and says
// so; both without a restart.
func TestReload(t *testing.T) {
	t.Parallel()
	s := newTestStage(t)
	var log lines
	g, err := newGate(t.Context(), s.config, slog.New(slog.NewTextHandler(&log, nil)), gateOptions{watchInterval: 5 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	webhook, admin, err := listenDemo(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- g.run(ctx, listeners{webhook: webhook, admin: admin}) }()
	defer func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	url := "http://" + webhook.Addr().String() + httpserver.VerifyPath
	allowed := func() bool {
		t.Helper()
		answer, err := ask(t.Context(), url, []string{s.scenes[0].image})
		if err != nil || len(answer.Response.Items) != 1 {
			t.Fatalf("%+v, %v", answer, err)
		}
		return readValue(answer.Response.Items[0].Value).allowed
	}
	until := func(what string, done func() bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("never: %s\n%s", what, log.String())
			}
		}
	}
	if !allowed() {
		t.Fatal("a signed image is denied")
	}
	edit(t, s, func(text string) string { return strings.Replace(text, "rules:", "rulez:", 1) })
	until("the invalid edit is told", func() bool { return strings.Contains(readyz(t, admin), "rulez") })
	if !allowed() {
		t.Error("an invalid edit took the former configuration away")
	}
	edit(t, s, func(text string) string {
		return strings.Replace(strings.Replace(text, "rulez:", "rules:", 1), `images: ["**"]`, `images: ["other.example/**"]`, 1)
	})
	until("the valid edit takes effect", func() bool { return !allowed() })
	if text := readyz(t, admin); strings.Contains(text, "refused") || !strings.Contains(text, `"generation": 2`) {
		t.Errorf("readyz: %s", text)
	}
	// A file that comes after the configuration that names it, as a mounted
	// secret may, makes the refused configuration valid.
	edit(t, s, func(text string) string {
		return strings.Replace(text, "trust:\n", "    credentials: [{hosts: [\"*\"], type: dockerConfig, path: late.json}]\ntrust:\n", 1)
	})
	until("the missing file is told", func() bool { return strings.Contains(readyz(t, admin), "late.json") })
	if err := os.WriteFile(filepath.Join(filepath.Dir(s.config), "late.json"), []byte(`{"auths":{}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	until("the file is noticed", func() bool { return strings.Contains(readyz(t, admin), `"generation": 3`) })
	edit(t, s, func(text string) string { return strings.Replace(text, "127.0.0.1:6001", "127.0.0.1:6002", 1) })
	until("a change that needs a restart is told", func() bool { return strings.Contains(readyz(t, admin), "restart") })
}

// validate reads the files that serve would, those of TLS among them.
func TestValidateReadsTLSFiles(t *testing.T) {
	t.Parallel()
	s := newTestStage(t)
	edit(t, s, func(text string) string {
		return strings.Replace(text, "insecureHTTP: true", "tls: {certificate: tls.crt, key: tls.key, insecureAnyClient: true}", 1)
	})
	if code, _, stderr := command(t, "", "config", "validate", s.config); code != exitUnknown || !strings.Contains(stderr, "tls.crt") || !strings.Contains(stderr, "gatehouse.yaml:4:") {
		t.Errorf("%d %q", code, stderr)
	}
}

// Requests under way when the process is told to stop still reach a verdict.
func TestStopFinishesRequests(t *testing.T) {
	t.Parallel()
	s := newTestStage(t)
	asked, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	s.registry.SetIntercept(func(http.ResponseWriter, *http.Request) bool {
		once.Do(func() { close(asked) })
		<-release
		return false
	})
	ctx, cancel := context.WithCancel(t.Context())
	g, err := newGate(ctx, s.config, slog.New(slog.DiscardHandler), gateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	webhook, admin, err := listenDemo(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- g.run(ctx, listeners{webhook: webhook, admin: admin}) }()
	answers := make(chan shown, 1)
	go func() {
		answer, err := ask(t.Context(), "http://"+webhook.Addr().String()+httpserver.VerifyPath, []string{s.scenes[0].image})
		if err != nil || len(answer.Response.Items) != 1 {
			t.Errorf("%+v, %v", answer, err)
			answers <- shown{}
			return
		}
		answers <- readValue(answer.Response.Items[0].Value)
	}()
	<-asked
	cancel()
	close(release)
	if got := <-answers; !got.allowed {
		t.Errorf("%+v", got)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func readyz(t *testing.T, admin net.Listener) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+admin.Addr().String()+"/readyz", nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var text bytes.Buffer
	if _, err := text.ReadFrom(resp.Body); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

func TestExitCode(t *testing.T) {
	t.Parallel()
	allowed := verdict{result: executor.Result{Decision: executor.Allowed}}
	denied := verdict{result: executor.Result{Decision: executor.Denied}}
	unknown := verdict{err: executor.ErrInconclusive}
	for _, test := range []struct {
		verdicts []verdict
		code     int
	}{
		{[]verdict{allowed, allowed}, exitOK},
		{[]verdict{allowed, denied}, exitDenied},
		{[]verdict{allowed, unknown}, exitUnknown},
		{[]verdict{unknown, denied}, exitDenied},
		{[]verdict{{invalid: executor.ErrNoRule}}, exitDenied},
	} {
		if code := exitCode(test.verdicts); code != test.code {
			t.Errorf("%v: %d, want %d", test.verdicts, code, test.code)
		}
	}
}
