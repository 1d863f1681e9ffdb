package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/gatehouse-project/gatehouse/httpserver"
	"github.com/gatehouse-project/gatehouse/httpserver/registry"
	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/archive"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
)

const preloadSections = `cache:
  directory: %s
  maxBytes: 1GiB
  onRegistryDown:
    - {registries: ["**"], useHeld: 1h}
registry:
  address: 127.0.0.1:0
  insecureHTTP: true
  upstreams: [%q]
  airGapped: %t
  enforce: %t
  preload: {files: [%s]}
`

// preloading is a gate that preloads, until the test ends.
type preloading struct {
	gate           *gate
	log            *lines
	webhook, pulls string
	stop           func()
}

// startPreloading serves the stage's configuration with files to preload, which lie
// beside it.
func startPreloading(t *testing.T, s *stage, airGapped, enforce bool, files ...string) *preloading {
	t.Helper()
	edit(t, s, func(text string) string {
		text, _, _ = strings.Cut(text, "cache:\n")
		return text + fmt.Sprintf(preloadSections, t.TempDir(), s.host, airGapped, enforce, strings.Join(files, ", "))
	})
	p := &preloading{log: &lines{}}
	var err error
	if p.gate, err = newGate(t.Context(), s.config, slog.New(slog.NewTextHandler(p.log, nil)), gateOptions{}); err != nil {
		t.Fatal(err)
	}
	on := listeners{pulls: freeListener(t)}
	if on.webhook, on.admin, err = listenDemo(t.Context(), "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	p.webhook, p.pulls = on.webhook.Addr().String(), on.pulls.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- p.gate.run(ctx, on) }()
	var stopped atomic.Bool
	p.stop = func() {
		if stopped.Swap(true) {
			return
		}
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
		p.gate.close()
	}
	t.Cleanup(p.stop)
	return p
}

func freeListener(t *testing.T) net.Listener {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// wait waits for a line of the log.
func (p *preloading) wait(t *testing.T, text string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(p.log.String(), text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s\n%s", text, p.log.String())
		}
	}
}

// outcomes are the counts of the metric.
func (p *preloading) outcomes(t *testing.T) map[string]float64 {
	t.Helper()
	families, err := p.gate.gather()
	if err != nil {
		t.Fatal(err)
	}
	counts := make(map[string]float64)
	for _, family := range families {
		if family.GetName() != "gatehouse_preload_images" {
			continue
		}
		for _, m := range family.GetMetric() {
			counts[m.GetLabel()[0].GetValue()] = m.GetGauge().GetValue()
		}
	}
	return counts
}

func (p *preloading) expect(t *testing.T, loaded, denied, failed float64) {
	t.Helper()
	if got := p.outcomes(t); len(got) != 3 || got[preloadLoaded] != loaded || got[preloadDenied] != denied || got[preloadFailed] != failed {
		t.Errorf("%v; want %v loaded, %v denied, %v failed\n%s", got, loaded, denied, failed, p.log.String())
	}
}

// pull asks for something below /v2/ of the stage's repository.
func (p *preloading) pull(t *testing.T, s *stage, path string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+p.pulls+"/v2/demo/app/"+path+"?ns="+s.host, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

// digestOf is where an image of the stage leads to.
func digestOf(t *testing.T, s *stage, tag string) ocispec.Descriptor {
	t.Helper()
	desc, err := s.registry.PushImage(t.Context(), "demo/app", tag, tag)
	if err != nil {
		t.Fatal(err)
	}
	return desc
}

func writeBeside(t *testing.T, s *stage, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(filepath.Dir(s.config), name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// What was preloaded from a list is served, and proven, without the registry; from
// archives it comes without one at all.
func TestPreload(t *testing.T) {
	t.Parallel()
	s := newTestStage(t)
	app := s.host + "/demo/app"
	if _, err := s.registry.PushIndex(t.Context(), "demo/app", "multi", "multi"); err != nil {
		t.Fatal(err)
	}
	writeBeside(t, s, "images.txt", "# images\n\n "+app+":rsa-jws\r\n"+app+":rsa-jws\n"+app+":ecdsa-cose\n"+
		app+":multi\n"+app+":absent\nalpine\nhttp://"+app+"\nelsewhere.example/app:v1\n")
	p := startPreloading(t, s, false, false, "images.txt", "missing.txt")
	p.wait(t, "msg=preloaded")
	p.expect(t, 3, 0, 5)
	for _, want := range []string{
		"images=3 ", "failures=5 ", "line=7 error=\"warm " + app + ":absent", "line=8 ", "write docker.io/library/alpine:latest", "line=9 ",
		"line=10 ", "registry.upstreams", "missing.txt", "no such file",
	} {
		if !strings.Contains(p.log.String(), want) {
			t.Errorf("no %q in\n%s", want, p.log.String())
		}
	}
	s.registry.SetIntercept(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	image := digestOf(t, s, "rsa-jws")
	answer, err := ask(t.Context(), "http://"+p.webhook+httpserver.VerifyPath, []string{app + "@" + image.Digest.String()})
	if err != nil || len(answer.Response.Items) != 1 || !readValue(answer.Response.Items[0].Value).allowed {
		t.Errorf("%+v, %v", answer, err)
	}
	if status := p.pull(t, s, "manifests/"+image.Digest.String()); status != http.StatusOK {
		t.Errorf("pull: %d", status)
	}

	dir := filepath.Dir(s.config)
	exportAs(t, p.gate, app, dir)
	p.stop()
	writeBeside(t, s, "old.tar", "not\x00a list")
	next := startPreloading(t, s, true, false, "one.tar", "two.tar.gz", "layout", "old.tar", "images.txt")
	next.wait(t, "msg=preloaded")
	next.expect(t, 3, 0, 8)
	for _, path := range []string{"manifests/rsa-jws", "manifests/ecdsa-cose", "manifests/multi", "manifests/" + image.Digest.String()} {
		if status := next.pull(t, s, path); status != http.StatusOK {
			t.Errorf("air-gapped: %s: %d", path, status)
		}
	}
	for _, want := range []string{"neither a list of images nor an archive", "registry.airGapped"} {
		if !strings.Contains(next.log.String(), want) {
			t.Errorf("no %q in\n%s", want, next.log.String())
		}
	}

	// An archive is loaded for the identity that its registry would be shown.
	alone, log := newTestPreloader(t, nil)
	alone.into, alone.identity = next.gate.holding.cache, func(host string) string { return "who at " + host }
	alone.run(t.Context(), []string{filepath.Join(dir, "one.tar")})
	scope := cache.Scope{Registry: s.host, Repository: "demo/app", Identity: "who at " + s.host}
	if tag, known := next.gate.holding.cache.Tag(scope, "rsa-jws"); !known || tag.Descriptor.Digest != image.Digest {
		t.Errorf("%+v\n%s", tag, log.String())
	}
	alone.platforms = []archive.Platform{{OS: "plan9", Architecture: "arm"}}
	if alone.run(t.Context(), []string{filepath.Join(dir, "layout")}); !strings.Contains(log.String(), archive.ErrNoPlatform.Error()) {
		t.Error(log.String())
	}
}

// exportAs writes images as a tarball, a compressed one, and a folder.
func exportAs(t *testing.T, g *gate, app, dir string) {
	t.Helper()
	export := func(tag string, to archive.Target) {
		t.Helper()
		ref, err := referrerstore.ParseReference(app + ":" + tag)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Export(t.Context(), g.holding.cache, []archive.Item{{Reference: ref}}, to, archive.ExportOptions{Referrers: true}); err != nil {
			t.Fatal(err)
		}
	}
	var plain, packed bytes.Buffer
	export("rsa-jws", archive.Tar(&plain))
	zip := gzip.NewWriter(&packed)
	export("ecdsa-cose", archive.Tar(zip))
	export("multi", archive.Folder(filepath.Join(dir, "layout")))
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"one.tar": plain.Bytes(), "two.tar.gz": packed.Bytes()} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// Under enforcement what the policy denies is not brought in, and told apart.
func TestPreloadEnforced(t *testing.T) {
	t.Parallel()
	s := newTestStage(t)
	app := s.host + "/demo/app"
	writeBeside(t, s, "images.txt", app+":rsa-jws\n"+app+":unsigned\n")
	p := startPreloading(t, s, false, true, "images.txt")
	p.wait(t, "msg=preloaded")
	p.expect(t, 1, 1, 0)
	if !strings.Contains(p.log.String(), "SIGNATURE_NOT_FOUND") {
		t.Error(p.log.String())
	}
}

func newTestPreloader(t *testing.T, warm func(context.Context, referrerstore.Reference, func(ocispec.Platform) bool) (registry.Warmed, error)) (*preloader, *lines) {
	t.Helper()
	log := &lines{}
	return &preloader{
		warm: warm, logger: slog.New(slog.NewTextHandler(log, nil)), images: newPreloadGauge(prometheus.NewRegistry()), pause: preloadPause,
	}, log
}

func writeList(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "images.txt")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A registry that does not answer is asked three times, with pauses; one that says
// no is asked once.
func TestPreloadTries(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		err   error
		until int // the try that does it; 0 is none
		tries int
		took  time.Duration
	}{
		{"well", nil, 1, 1, 0},
		{"away", referrerstore.ErrUnavailable, 0, 3, 3 * preloadPause},
		{"away for a while", referrerstore.ErrBrokenOff, 2, 2, preloadPause},
		{"limits the rate", &referrerstore.RetryAfterError{After: 20 * time.Second, Err: referrerstore.ErrRateLimited}, 3, 3, 40 * time.Second},
		{"asks for a day", &referrerstore.RetryAfterError{After: 24 * time.Hour, Err: referrerstore.ErrRateLimited}, 2, 2, longestPreloadPause},
		{"late", fmt.Errorf("head: %w", context.DeadlineExceeded), 2, 2, preloadPause},
		{"busy", referrerstore.ErrBusy, 2, 2, preloadPause},
		{"not found", referrerstore.ErrNotFound, 0, 1, 0},
		{"not allowed", registry.ErrNotAllowed, 0, 1, 0},
	} {
		path := writeList(t, "a.example/app:v1\n")
		synctest.Test(t, func(t *testing.T) {
			tries := 0
			p, log := newTestPreloader(t, func(context.Context, referrerstore.Reference, func(ocispec.Platform) bool) (registry.Warmed, error) {
				if tries++; tries == tt.until {
					return registry.Warmed{Objects: 1, Bytes: 42}, nil
				}
				return registry.Warmed{}, tt.err
			})
			begun := time.Now()
			p.run(t.Context(), []string{path})
			if took := time.Since(begun); tries != tt.tries || took != tt.took {
				t.Errorf("%s: %d tries in %s", tt.name, tries, took)
			}
			want := "images=1 bytes=42 failures=0"
			if tt.until == 0 {
				want = "images=0 bytes=0 failures=1"
			}
			if !strings.Contains(log.String(), want) {
				t.Errorf("%s: %s", tt.name, log.String())
			}
		})
	}
}

// At most two images come at once, and none after the end.
func TestPreloadEnds(t *testing.T) {
	t.Parallel()
	path := writeList(t, "a.example/app:v1\na.example/app:v2\na.example/app:v3\na.example/app:v4\n")
	synctest.Test(t, func(t *testing.T) {
		var now, all atomic.Int64
		p, log := newTestPreloader(t, func(ctx context.Context, _ referrerstore.Reference, _ func(ocispec.Platform) bool) (registry.Warmed, error) {
			all.Add(1)
			if now.Add(1) > preloadsAtOnce {
				t.Error("more than two at once")
			}
			defer now.Add(-1)
			<-ctx.Done()
			return registry.Warmed{}, context.Cause(ctx)
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); p.run(ctx, []string{path, path}) }()
		synctest.Wait()
		if now.Load() != 2 {
			t.Errorf("%d at once", now.Load())
		}
		cancel()
		<-ended
		if all.Load() != 2 || !strings.Contains(log.String(), "complete=false") || strings.Contains(log.String(), "not preloaded") {
			t.Errorf("%d: %s", all.Load(), log.String())
		}
	})
}

// A pause before another try ends with the process.
func TestPreloadPauseEnds(t *testing.T) {
	t.Parallel()
	path := writeList(t, "a.example/app:v1\n")
	synctest.Test(t, func(t *testing.T) {
		p, _ := newTestPreloader(t, func(context.Context, referrerstore.Reference, func(ocispec.Platform) bool) (registry.Warmed, error) {
			return registry.Warmed{}, referrerstore.ErrUnavailable
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begun := time.Now()
		p.run(ctx, []string{path})
		if took := time.Since(begun); took != time.Second {
			t.Errorf("%s", took)
		}
	})
}

func TestPreloadPlatforms(t *testing.T) {
	t.Parallel()
	p := &preloader{}
	if p.chosen() != nil {
		t.Error("without platforms something is left out")
	}
	p.platforms = []archive.Platform{{OS: "linux", Architecture: "arm64", Variant: "v8"}, {OS: "linux", Architecture: "amd64"}}
	for text, want := range map[string]bool{"linux/amd64": true, "linux/arm64": true, "windows/amd64": false} {
		system, architecture, _ := strings.Cut(text, "/")
		if p.chosen()(ocispec.Platform{OS: system, Architecture: architecture}) != want {
			t.Errorf("%s: %t", text, !want)
		}
	}
}
