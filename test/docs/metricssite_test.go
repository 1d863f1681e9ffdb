package docs

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-project/gatehouse/test/process"
	"github.com/gatehouse-project/gatehouse/test/registry"
	"github.com/gatehouse-project/gatehouse/test/signing"
)

// metricsSite is a process with all that has metrics, and a registry for it.
type metricsSite struct {
	*registry.Registry
	process        *process.Process
	good, unsigned string // images
	pinned, exempt string
}

func (s *metricsSite) rules() []string { return []string{"exempt", "all"} }

func newMetricsSite(t *testing.T) *metricsSite {
	t.Helper()
	t.Cleanup(func() {
		if err := process.Remove(); err != nil {
			t.Error(err)
		}
	})
	r, err := registry.Start(registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	s := &metricsSite{Registry: r, good: r.Host() + "/app:good", unsigned: r.Host() + "/app:unsigned", exempt: r.Host() + "/exempt:v1"}
	root := s.fill(t)
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "images.txt"), []byte(s.good+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	path, err := s.config(root).Write(folder)
	if err != nil {
		t.Fatal(err)
	}
	binary, err := process.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.process = binary.Start(t, path)
	return s
}

// fill pushes a signed image and some that are not.
func (s *metricsSite) fill(t *testing.T) (root []byte) {
	t.Helper()
	acme, err := signing.NewAuthority("acme root", signing.ECDSA256, signing.AuthorityOptions{})
	if err != nil {
		t.Fatal(err)
	}
	signer, err := acme.Issue("release", signing.ECDSA256, signing.IssueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	image, err := s.PushImage(t.Context(), "app", "good", "good")
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := signer.Sign(t.Context(), image, signing.SignOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.PushReferrer(t.Context(), "app", image, signing.ArtifactType, envelope.MediaType, envelope.Bytes, nil); err != nil {
		t.Fatal(err)
	}
	for repository, tag := range map[string]string{"app": "unsigned", "exempt": "v1"} {
		if _, err := s.PushImage(t.Context(), repository, tag, tag); err != nil {
			t.Fatal(err)
		}
	}
	s.pinned = s.Host() + "/app@" + image.Digest.String()
	return acme.PEM()
}

// config believes nothing for long, so that all that comes of time comes soon.
func (s *metricsSite) config(root []byte) process.Config {
	return process.Config{
		Roots: map[string][]byte{"acme.crt": root}, PlainHTTP: []string{s.Host()},
		Store: process.Map{"hosts": []string{"**"}, "allowPrivate": []string{"127.0.0.0/8"}},
		Rules: `[{name: exempt, images: ["` + s.Host() + `/exempt"], allow: {reason: a ticket, until: 2099-01-01}},
		         {name: all, images: ["**"], require: {verifier: notation}}]`,
		Cache:    process.Map{"onRegistryDown": []process.Map{{"registries": []string{"**"}, "useHeld": "1h", "tags": true}}},
		Registry: process.Map{"upstreams": []string{s.Host()}, "default": s.Host(), "enforce": true, "preload": process.Map{"files": []string{"images.txt"}}},
		Sections: process.Map{
			"proofs": process.Map{"ttl": "2s", "listTTL": "1s"},
			"canary": process.Map{"mustPass": []string{s.good}, "mustFail": []string{s.unsigned}, "interval": "1s"},
		},
	}
}

// drive lets the process do all that it measures, some of it for people who mean
// harm, and gives what it shows then.
func (s *metricsSite) drive(t *testing.T) string {
	t.Helper()
	s.ask(t, s.good, s.unsigned, s.exempt, s.Host()+"/app:gone", "")
	for lot := range 4 {
		keys := make([]string, 0, 100)
		for i := range 50 {
			n := 50*lot + i + 2
			keys = append(keys, fmt.Sprintf("127.0.0.%d:9/evil%d:tag%d", n, n, n), fmt.Sprintf("%s/evil/%d:v%d", s.Host(), n, n))
		}
		s.ask(t, keys...)
	}
	for i := range 40 {
		s.send(t, http.MethodPost, fmt.Sprintf("/ratify/gatekeeper/v1/verify/namespaces/evil%d", i), s.good)
		s.send(t, fmt.Sprintf("EVIL%d", i), "/ratify/gatekeeper/v1/verify", s.good)
		s.send(t, http.MethodPost, fmt.Sprintf("/evil/%d", i), s.good)
		s.pull(t, fmt.Sprintf("/v2/evil%d/manifests/evil%d?ns=evil%d.example", i, i, i))
		s.pull(t, fmt.Sprintf("/v2/evil%d/manifests/evil%d", i, i))
	}
	for _, way := range []string{"verify", "verify?unpinned=deny", "mutate", "audit"} {
		s.send(t, http.MethodPost, "/ratify/gatekeeper/v1/"+way, s.good)
	}
	s.pull(t, "/v2/app/manifests/good")
	s.until(t, "gatehouse_refreshes_total{", func() { s.ask(t, s.pinned) })
	for image, expected := range map[string]string{s.good: "pass", s.unsigned: "fail"} {
		s.until(t, fmt.Sprintf("gatehouse_canary_ok{expected=%q,image=%q} 1\n", expected, image), func() {})
	}
	s.SetIntercept(registry.Status(http.StatusServiceUnavailable, nil, 1, 1))
	return s.until(t, "gatehouse_held_decisions_total{", func() { s.ask(t, s.pinned) })
}

// ask asks about images; what is answered is not of interest.
func (s *metricsSite) ask(t *testing.T, keys ...string) {
	t.Helper()
	if _, err := s.process.Ask(t.Context(), keys...); err != nil {
		t.Fatal(err)
	}
}

// send sends a request about one image, whatever is answered.
func (s *metricsSite) send(t *testing.T, method, path, key string) {
	t.Helper()
	body := `{"apiVersion":"externaldata.gatekeeper.sh/v1beta1","kind":"ProviderRequest","request":{"keys":["` + key + `"]}}`
	s.do(t, method, "http://"+s.process.Address()+path, strings.NewReader(body))
}

// pull asks the pull-through registry, whatever is answered.
func (s *metricsSite) pull(t *testing.T, path string) {
	t.Helper()
	s.do(t, http.MethodGet, "http://"+s.process.PullAddress()+path, http.NoBody)
}

func (s *metricsSite) do(t *testing.T, method, url string, body io.Reader) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }() // it was read to its end
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
}

// until does something until the process shows a text, and gives all that it shows.
func (s *metricsSite) until(t *testing.T, want string, do func()) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		do()
		status, text, err := s.process.Admin(t.Context(), "/metrics")
		if err != nil || status != http.StatusOK {
			t.Fatalf("metrics: status %d, %v: %.2000s", status, err, text)
		}
		if strings.Contains(string(text), want) {
			return string(text)
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("the metrics do not show %s:\n%s", want, text)
		}
	}
}
