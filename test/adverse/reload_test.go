package adverse

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-project/gatehouse/test/process"
	"github.com/gatehouse-project/gatehouse/test/registry"
)

// TestConfigurationEdits edits a configuration while it is live: broken edits
// change nothing and are told, good ones change verdicts.
func TestConfigurationEdits(t *testing.T) {
	t.Parallel()
	s := newSite(t, registry.Options{})
	good := s.signed(t, "good")
	c, dir := config(t, s), t.TempDir()
	path := must(c.Write(dir))(t)
	p := must(process.Build(t.Context()))(t).Start(t, path)
	allowed := func() bool { return endOf(t, ask(t, p, good), good).allowed }
	if !allowed() {
		t.Fatal("not allowed at first")
	}

	text := must(os.ReadFile(path))(t)
	replace(t, path, bytes.Replace(text, []byte("verifyTimeout"), []byte("verifyTimout"), 1))
	eventually(t, func() bool { return refusal(t, p) != "" }, func() string { return "/readyz does not say that the edit was refused" })
	t.Logf("refused: %s", refusal(t, p))
	if told := refusal(t, p); !strings.Contains(told, "verifyTimout") || !strings.Contains(told, "verifyTimeout") || !strings.Contains(told, process.FileName+":") {
		t.Errorf("the refusal names neither place nor remedy: %q", told)
	}
	if got := must(p.Metrics(t.Context()))(t)["gatehouse_config_current"]; got != 0 || !allowed() {
		t.Errorf("with a broken edit: gatehouse_config_current %v, want 0, and the former verdicts", got)
	}

	// The trust root alone changes, and the mistake is mended.
	replace(t, filepath.Join(dir, "acme.crt"), s.people.stranger.PEM())
	replace(t, path, text)
	eventually(t, func() bool { return !allowed() }, func() string { return "the former root is trusted" })
	if end := endOf(t, ask(t, p, good), good); end.code != "SIGNER_UNTRUSTED" {
		t.Errorf("without the root: %+v", end)
	}
	if told, got := refusal(t, p), must(p.Metrics(t.Context()))(t)["gatehouse_config_current"]; told != "" || got != 1 {
		t.Errorf("after a good edit: refused %q, gatehouse_config_current %v", told, got)
	}

	replace(t, filepath.Join(dir, "acme.crt"), s.people.acme.PEM())
	eventually(t, allowed, func() string { return "the root that is back is not trusted" })
}

// TestUnreadableTrust takes the file with the trust root away: what was live
// stays so.
func TestUnreadableTrust(t *testing.T) {
	t.Parallel()
	s := newSite(t, registry.Options{})
	good := s.signed(t, "good")
	dir := t.TempDir()
	path := must(config(t, s).Write(dir))(t)
	p := must(process.Build(t.Context()))(t).Start(t, path)
	if err := os.Remove(filepath.Join(dir, "acme.crt")); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return strings.Contains(refusal(t, p), "acme.crt") }, func() string { return "/readyz does not name the file" })
	if end := endOf(t, ask(t, p, good), good); !end.allowed {
		t.Errorf("%+v", end)
	}
}

// TestEditsUnderLoad exchanges the configuration while requests are under way:
// every one is answered, by the old or by the new one.
func TestEditsUnderLoad(t *testing.T) {
	t.Parallel()
	s := newSite(t, registry.Options{Latency: 5 * time.Millisecond})
	good := s.signed(t, "good")
	c, dir := config(t, s), t.TempDir()
	path := must(c.Write(dir))(t)
	p := must(process.Build(t.Context()))(t).Start(t, path)
	idle := levelOf(t, p)
	asked, generation := 0, 1.0
	for edit := range 2 {
		c.Rules = fmt.Sprintf(`[{name: edit%d, images: ["**"], require: {verifier: notation}}]`, edit)
		must(c.Write(dir))(t)
		eventually(t, func() bool {
			for range 10 {
				asked++
				if end := endOf(t, ask(t, p, good), good); !end.allowed {
					t.Errorf("edit %d: %+v", edit, end)
				}
			}
			return must(p.Metrics(t.Context()))(t)["gatehouse_config_generation"] > generation
		}, func() string { return "the edit does not go live" })
		generation++
	}
	t.Logf("%d requests while two edits went live", asked)
	returnsTo(t, p, level{idle.goroutines, idle.files + 4}) // and connections to the registry
}

func replace(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := process.Replace(path, content); err != nil {
		t.Fatal(err)
	}
}

// refusal is what /readyz says of an edit that was refused; the process has to
// be ready all the same.
func refusal(t *testing.T, p *process.Process) string {
	t.Helper()
	status, detail, err := p.Ready(t.Context())
	if err != nil || status != http.StatusOK {
		t.Fatalf("readyz: status %d, %v", status, err)
	}
	told, _ := detail["refused"].(string)
	return told
}
