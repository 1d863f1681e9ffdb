package process_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/gatehouse-project/gatehouse/test/process"
	"github.com/gatehouse-project/gatehouse/test/registry"
	"github.com/gatehouse-project/gatehouse/test/signing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, goleak.Cleanup(process.Exit)) }

// world is a registry with one signed and one unsigned image.
type world struct {
	signed, unsigned string
	config           process.Config
}

func newWorld(t *testing.T) world {
	t.Helper()
	r := must(registry.Start(registry.Options{}))(t)
	t.Cleanup(r.Close)
	root := must(signing.NewAuthority("acme root", signing.ECDSA256, signing.AuthorityOptions{}))(t)
	signer := must(root.Issue("release", signing.ECDSA256, signing.IssueOptions{}))(t)
	desc := must(r.PushImage(t.Context(), "app", "signed", "signed"))(t)
	must(r.PushImage(t.Context(), "app", "unsigned", "unsigned"))(t)
	envelope := must(signer.Sign(t.Context(), desc, signing.SignOptions{}))(t)
	must(r.PushReferrer(t.Context(), "app", desc, signing.ArtifactType, envelope.MediaType, envelope.Bytes, nil))(t)
	return world{
		signed: r.Host() + "/app:signed", unsigned: r.Host() + "/app:unsigned",
		config: process.Config{PlainHTTP: []string{r.Host()}, Roots: map[string][]byte{"acme.crt": root.PEM()}},
	}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(tb testing.TB) T {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return v
	}
}

func TestServe(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := process.Start(t, w.config)
	answer := must(p.Ask(t.Context(), w.signed, w.unsigned))(t)
	if answer.Status != http.StatusOK || answer.SystemError != "" || len(answer.Items) != 2 || answer.Elapsed <= 0 {
		t.Fatalf("answer %d %s", answer.Status, answer.Body)
	}
	if good, _ := answer.Item(w.signed); !good.Value.IsSuccess || good.Value.Code() != "" {
		t.Errorf("signed: %+v", good)
	}
	if bad, _ := answer.Item(w.unsigned); bad.Value.IsSuccess || bad.Value.Code() != "SIGNATURE_NOT_FOUND" {
		t.Errorf("unsigned: %+v", bad)
	}
	if _, found := answer.Item("other"); found {
		t.Error("an answer that nobody asked for")
	}
	checkObservations(t, p)
	checkEnd(t, p)
}

func checkObservations(t *testing.T, p *process.Process) {
	t.Helper()
	if status, detail, err := p.Ready(t.Context()); err != nil || status != http.StatusOK || detail["status"] != "ready" {
		t.Errorf("readyz: %d %v %v", status, detail, err)
	}
	metrics := must(p.Metrics(t.Context()))(t)
	if metrics[`gatehouse_keys_total{decision="allowed"}`] != 1 || metrics["go_goroutines"] < 1 {
		t.Errorf("metrics %v", metrics)
	}
	before := must(p.Memory())(t)
	if before.Resident < 1<<20 || before.Peak < before.Resident {
		t.Errorf("memory %+v", before)
	}
	if err := p.ResetPeak(); err != nil {
		t.Error(err)
	}
	// The process lives on and may have taken a few pages meanwhile.
	const pages = 1 << 20
	if after := must(p.Memory())(t); after.Peak > before.Peak+pages {
		t.Errorf("peak %d, reset from %d", after.Peak, before.Peak)
	}
}

func checkEnd(t *testing.T, p *process.Process) {
	t.Helper()
	if !p.Alive() {
		t.Error("it ended by itself")
	}
	for range 2 {
		if err := p.Stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
	}
	if p.Alive() {
		t.Error("it goes on")
	}
	if !bytes.Contains(p.Log(), []byte(`"msg":"stopped"`)) {
		t.Errorf("log:\n%s", p.Log())
	}
}

func TestServeRefuses(t *testing.T) {
	t.Parallel()
	binary := must(process.Build(t.Context()))(t)
	path := filepath.Join(t.TempDir(), process.FileName)
	if _, err := binary.Serve(t.Context(), path); err == nil {
		t.Error("served a file that does not exist")
	}
	if err := os.WriteFile(path, []byte("version: v0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := binary.Serve(t.Context(), path)
	if err == nil || !strings.Contains(err.Error(), "v1alpha1") {
		t.Errorf("error %v, want the process's own words", err)
	}
}

func TestRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	binary := must(process.Build(t.Context()))(t)
	path := must(w.config.Write(t.TempDir()))(t)
	for _, test := range []struct {
		name   string
		images []string
		code   int
	}{
		{"allowed", []string{w.signed}, 0},
		{"denied", []string{w.signed, w.unsigned}, 1},
		{"unknown", []string{"127.0.0.1:1/app"}, 2},
		{"nothing", nil, 2},
	} {
		got := must(binary.Verify(t.Context(), path, append([]string{"-o", "json"}, test.images...)...))(t)
		if got.Code != test.code {
			t.Errorf("%s: exit code %d, want %d; %s%s", test.name, got.Code, test.code, got.Stdout, got.Stderr)
		}
		if len(test.images) > 0 && !json.Valid([]byte(got.Stdout)) {
			t.Errorf("%s: %s", test.name, got.Stdout)
		}
	}
	images := strings.NewReader(w.signed + "\n")
	got := must(binary.Run(t.Context(), process.RunOptions{Stdin: images}, "verify", "-c", path, "-f", "-"))(t)
	if got.Code != 0 || !strings.Contains(got.Stdout, "ALLOWED") {
		t.Errorf("from standard input: %+v", got)
	}
}

// TestConfig loads what the builder makes, with rules whose dates stay dates.
func TestConfig(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.config.Server = process.Map{"onFailure": "value", "limits": process.Map{"keys": 7}}
	w.config.Rules = `
- {name: old, images: ["docker.io/library/*"], allow: {reason: ticket, until: 2999-01-31}}
- {name: rest, images: ["**"], require: {verifier: notation, every: true}}`
	binary := must(process.Build(t.Context()))(t)
	path := must(w.config.Write(t.TempDir()))(t)
	got := must(binary.Run(t.Context(), process.RunOptions{}, "config", "validate", path))(t)
	if got.Code != 0 || !strings.Contains(got.Stdout, "2 rules") {
		t.Errorf("validate: %+v", got)
	}
	if text := must(os.ReadFile(path))(t); !bytes.Contains(text, []byte("2999-01-31}")) {
		t.Errorf("the date has changed:\n%s", text)
	}
}
