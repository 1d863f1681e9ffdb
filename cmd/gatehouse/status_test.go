package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/httpserver"
	"github.com/gatehouse-project/gatehouse/referrerstore/governor"
)

// A process that serves tells what it holds, and what it was asked.
func TestStatusOfAProcess(t *testing.T) {
	t.Parallel()
	s := newTestStage(t)
	g, err := newGate(t.Context(), s.config, slog.New(slog.DiscardHandler), gateOptions{})
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
	at := admin.Addr().String()
	if code, stdout, stderr := command(t, "", "status", "--admin", at); code != exitOK || !strings.Contains(stdout, "proofs         none") || !strings.Contains(stdout, "none has been asked yet") {
		t.Errorf("%d %s%s", code, stdout, stderr)
	}
	if _, err := ask(t.Context(), "http://"+webhook.Addr().String()+httpserver.VerifyPath, []string{s.scenes[0].image, s.scenes[1].image}); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := command(t, "", "status", "--admin", at)
	for _, want := range []string{"generation 1", "proofs         2, ", "0 worked on", s.host, "registry", "0 of ", "unlimited", "closed", s.config} {
		if code != exitOK || !strings.Contains(stdout, want) {
			t.Errorf("%d: no %q in\n%s%s", code, want, stdout, stderr)
		}
	}
	code, stdout, stderr = command(t, "", "status", "--admin", at, "-o", "json")
	var got status
	if err := json.Unmarshal([]byte(stdout), &got); err != nil || code != exitOK {
		t.Fatalf("%d %v: %s%s", code, err, stdout, stderr)
	}
	if got.Proofs.Number != 2 || got.Configuration.Generation != 1 || len(got.Configuration.Name) != 64 || len(got.Hosts) == 0 || got.Hosts[0].Host != s.host || !got.Hosts[0].Named {
		t.Errorf("%+v", got)
	}
}

// The generation and a refusal follow what is on disk.
func TestStatusFollowsTheConfiguration(t *testing.T) {
	t.Parallel()
	s := newTestStage(t)
	g, err := newGate(t.Context(), s.config, slog.New(slog.DiscardHandler), gateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	of := func() configurationStatus { s, _ := g.status().(status); return s.Configuration }
	first := of()
	edit(t, s, func(text string) string { return strings.Replace(text, "rules:", "rulez:", 1) })
	g.reload()
	if got := of(); got.Generation != 1 || !strings.Contains(got.Refused, "rulez") || got.Name != first.Name {
		t.Errorf("%+v", got)
	}
	edit(t, s, func(text string) string {
		return strings.Replace(text, "rulez:", "rules:", 1) + "tags: {ttl: 1s}\n"
	})
	g.reload()
	if got := of(); got.Generation != 2 || got.Refused != "" || got.Name == first.Name || got.Since.Before(first.Since) {
		t.Errorf("%+v", got)
	}
}

func TestStatusSaysWhatToDo(t *testing.T) {
	t.Parallel()
	closed, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	serve := func(h http.HandlerFunc) string {
		server := httptest.NewServer(h)
		t.Cleanup(server.Close)
		return server.Listener.Addr().String()
	}
	text := func(body string) string {
		return serve(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) })
	}
	for name, test := range map[string]struct {
		args []string
		want []string
	}{
		"nobody listens": {[]string{"--admin", closed.Addr().String()}, []string{"nobody listens at " + closed.Addr().String(), "gatehouse serve", "--admin", "port-forward"}},
		"no address":     {[]string{"--admin", "gatehouse"}, []string{`"gatehouse" is not host:port`}},
		"no host":        {[]string{"--admin", "no host.example:1"}, []string{"--admin"}},
		"another output": {[]string{"-o", "yaml"}, []string{"neither text nor json"}},
		"no such path":   {[]string{"--admin", serve(http.NotFound)}, []string{"has no /status"}},
		"a redirect":     {[]string{"--admin", serve(http.RedirectHandler("http://elsewhere.invalid/", http.StatusFound).ServeHTTP)}, []string{"status 302"}},
		"no JSON":        {[]string{"--admin", text("<html>")}, []string{"not the status of a gatehouse"}},
		"other JSON":     {[]string{"--admin", text(`{"status":"ok"}`), "-o", "json"}, []string{"not the status of a gatehouse"}},
		"endless":        {[]string{"--admin", text(strings.Repeat(" ", maxStatusBytes+1))}, []string{"more than 1024 KiB"}},
		"cut off": {[]string{"--admin", serve(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, "{")
		})}, []string{"unexpected EOF", "--admin"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, stdout, stderr := command(t, "", append([]string{"status"}, test.args...)...)
			if code != exitUnknown || stdout != "" || strings.Count(stderr, "\n") != 1 {
				t.Errorf("%d %q %q", code, stdout, stderr)
			}
			for _, want := range test.want {
				if !strings.Contains(stderr, want) {
					t.Errorf("no %q in %q", want, stderr)
				}
			}
		})
	}
}

// The picture that people get, of hosts in all states; nothing in it steers a
// terminal.
func TestStatusText(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 21, 22, 40, 0, 0, time.UTC)
	s := status{
		At: at, Version: "v1",
		Configuration: configurationStatus{File: "gatehouse.yaml", Generation: 3, Name: "45e83b4475fdc785", Since: at.Add(-26 * time.Hour), Refused: "gatehouse.yaml:4:1:\x1b[31m no"},
		Hosts: []governor.HostStatus{
			{Host: "ghcr.io", Kind: "registry", Identity: "static:bot", Named: true, Limit: 64, InFlight: 64, Waiting: governor.Waiting{Admission: 12, Background: 3}, Rate: 98.5, RateSource: "learned", Breaker: governor.BreakerStatus{State: "closed"}, UsualLatencyMillis: 31.27},
			{Host: "quay.io", Kind: "registry", Named: true, Limit: 8, RateSource: "unlimited", PausedUntil: at.Add(9 * time.Second), Breaker: governor.BreakerStatus{State: "closed"}, LastError: "status 429", LastErrorAt: at.Add(-21 * time.Second)},
			{Host: "down.example", Kind: "token", Limit: 1, Rate: 50, RateSource: "fixed", Breaker: governor.BreakerStatus{State: "open", Until: at.Add(1500 * time.Millisecond)}, LastError: "dial\ttcp: \u202erefused", LastErrorAt: at.Add(-3 * time.Hour)},
		},
		Status: executor.Status{
			Subjects: executor.SubjectStatus{UnderWay: 15, Background: 3},
			Proofs:   executor.ProofStatus{Number: 1234, Bytes: 3 << 20, Oldest: at.Add(-50 * time.Minute), Newest: at.Add(-2 * time.Second), Refreshing: 2},
		},
	}
	want := `gatehouse v1 at 127.0.0.1:8888, 2026-11-21T22:40:00Z

configuration  generation 3, live for 26h0m, from gatehouse.yaml (45e83b4475fd)
               REFUSED what is on disk now: gatehouse.yaml:4:1:[31m no
subjects       15 worked on, 3 of them in the background
proofs         1234, 3.0 MiB; the oldest 50m0s old, the newest 2s; 2 being proven again

┌────────────────┬──────────┬────────────┬───────────┬──────────┬────────────────┬─────────────────────┬──────────────────────────┬─────────┐
│ HOST           │ KIND     │ AS         │ IN FLIGHT │ WAITING  │ RATE           │ PAUSED              │ BREAKER                  │ USUAL   │
├────────────────┼──────────┼────────────┼───────────┼──────────┼────────────────┼─────────────────────┼──────────────────────────┼─────────┤
│ ghcr.io        │ registry │ static:bot │ 64 of 64  │ 12 +3 bg │ 98.5/s learned │ -                   │ closed                   │ 31.3 ms │
│ quay.io        │ registry │ -          │ 0 of 8    │ 0        │ unlimited      │ until 22:40:09 (9s) │ closed                   │ -       │
│ down.example * │ token    │ -          │ 0 of 1    │ 0        │ 50/s fixed     │ -                   │ open until 22:40:01 (2s) │ -       │
└────────────────┴──────────┴────────────┴───────────┴──────────┴────────────────┴─────────────────────┴──────────────────────────┴─────────┘
* not named in stores[].hosts: shares few places, and gets no background work
last error of quay.io, registry, 21s ago: status 429
last error of down.example *, token, 3h0m ago: dial tcp: refused
`
	got := s.text("127.0.0.1:8888")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s\n%s", diff, got)
	}
}
