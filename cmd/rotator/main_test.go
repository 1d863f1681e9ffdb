package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/gatehouse-project/gatehouse/cmd/rotator/rotation"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// client-go's library of logs writes in the background as long as the process lives.
		goleak.IgnoreTopFunction("k8s.io/klog/v2.(*flushDaemon).run.func1"))
}

// required are the flags without which nothing runs.
var required = []string{"--namespace", "gatehouse-system", "--secret", "gatehouse-tls", "--service", "gatehouse", "--provider", "gatehouse-verify"}

func TestParse(t *testing.T) {
	t.Parallel()
	s, err := parse(append(slices.Clone(required), "--provider", "gatehouse-audit", "--dns-name", "gatehouse.example.com",
		"--certificate-lifetime", "48h", "--log-level", "debug"), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"gatehouse.gatehouse-system", "gatehouse.gatehouse-system.svc", "gatehouse.example.com"}, s.dnsNames()); diff != "" {
		t.Errorf("DNS names (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"gatehouse-verify", "gatehouse-audit"}, s.providers); diff != "" {
		t.Errorf("Providers (-want +got):\n%s", diff)
	}
	if s.rotation.Lifetime != 48*time.Hour || s.rotation.RenewBefore != rotation.DefaultRenewBefore || s.leaderElect || s.metricsOn != "" || s.level != slog.LevelDebug {
		t.Errorf("settings: %+v", s)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		args []string
		want string
	}{
		"nothing":           {nil, "--provider"},
		"no namespace":      {required[2:], "--namespace"},
		"no Secret":         {slices.Concat(required[:2], required[4:]), "--secret"},
		"no Service":        {slices.Concat(required[:4], required[6:]), "--service"},
		"argument":          {append(slices.Clone(required), "run"), `"run"`},
		"a path for a name": {append(slices.Clone(required), "--provider", "../secrets"), "../secrets"},
		"a bad DNS name":    {append(slices.Clone(required), "--dns-name", "*.example.com"), "*.example.com"},
		"a bad duration":    {append(slices.Clone(required), "--settle", "soon"), "settle"},
		"an unknown flag":   {append(slices.Clone(required), "--cert-dir", "/x"), "cert-dir"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := parse(tt.args, io.Discard)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one that names %s", err, tt.want)
			}
		})
	}
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	var out, errs bytes.Buffer
	if code := command(t.Context(), []string{"--version"}, &out, &errs); code != 0 || out.String() != "devel\n" {
		t.Errorf("--version: code %d, %q", code, out.String())
	}
	if code := command(t.Context(), []string{"--help"}, &out, &errs); code != 0 || !strings.Contains(errs.String(), "--provider") && !strings.Contains(errs.String(), "-provider") {
		t.Errorf("--help: code %d, %q", code, errs.String())
	}
	if code := command(t.Context(), nil, &out, &errs); code != 2 {
		t.Errorf("nothing: code %d, want 2", code)
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	good := rotation.Status{At: time.Now(), Served: true, Told: true}
	old := good
	old.At = time.Now().Add(-time.Hour)
	untold := good
	untold.Told = false
	failed := good
	failed.Err = context.DeadlineExceeded
	tests := map[string]struct {
		status      rotation.Status
		standby     bool
		live, ready int
	}{
		"good":                 {good, false, 200, 200},
		"not begun":            {rotation.Status{}, false, 200, 503},
		"waits for the lease":  {rotation.Status{}, true, 200, 200},
		"stuck":                {old, false, 503, 200},
		"untold":               {untold, false, 200, 503},
		"untold, with a lease": {untold, true, 200, 503},
		"failed":               {failed, false, 200, 503},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := &health{status: func() rotation.Status { return tt.status }, standby: tt.standby, patience: time.Minute}
			live, ready := httptest.NewRecorder(), httptest.NewRecorder()
			h.live(live, httptest.NewRequest(http.MethodGet, "/healthz", nil))
			h.ready(ready, httptest.NewRequest(http.MethodGet, "/readyz", nil))
			if live.Code != tt.live || ready.Code != tt.ready {
				t.Errorf("live %d, ready %d, want %d and %d", live.Code, ready.Code, tt.live, tt.ready)
			}
		})
	}
}

// The placeholder is for Providers that are made before the rotator runs: it is a
// certificate, as Gatekeeper demands, and nothing can be verified with it.
func TestPlaceholder(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("placeholder.pem")
	if err != nil {
		t.Fatal(err)
	}
	block, rest := pem.Decode(text)
	if block == nil || len(rest) > 0 {
		t.Fatal("want one PEM block and nothing else")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if cert.IsCA || cert.NotAfter.Year() > 1970 {
		t.Errorf("CA %t, ends %s: somebody could be trusted by it", cert.IsCA, cert.NotAfter)
	}
}
