package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestVerifyTimings(t *testing.T) {
	t.Parallel()
	s := newTestStage(t)
	app := s.host + "/demo/app:"
	code, stdout, stderr := command(t, "", "verify", "-c", s.config, "--timings", app+"rsa-jws", app+"absent", "not a name")
	if code != exitDenied || stderr != "" {
		t.Fatalf("%d %s", code, stderr)
	}
	images := strings.Split(stdout, "\nDENIED ")
	if len(images) != 3 {
		t.Fatal(stdout)
	}
	for _, want := range []string{
		`start ms +took ms +│█ at work  ░ waiting +│ step`,
		`│ subject\n`, `│   resolve\n`, `HEAD resolve 200 127\.0\.0\.1:\d+\n`, `│   prove\n`, `│     list referrers 1 listed\n`,
		`│       GET referrers 200 `, `│     artifact sha256:[0-9a-f]{12} notation passed\n`, `│       GET manifest 200 `, `│       GET blob 200 `, `│       check signature\n`,
	} {
		if !regexp.MustCompile(want).MatchString(images[0]) {
			t.Errorf("no %q in\n%s", want, images[0])
		}
	}
	if !strings.Contains(images[1], "HEAD resolve 404") || strings.Contains(images[1], "!") {
		t.Errorf("what is not there is no failure:\n%s", images[1])
	}
	if strings.Contains(images[2], "│") {
		t.Errorf("a name that is none took no steps:\n%s", images[2])
	}
	for line := range strings.Lines(stdout) {
		if _, bar, ok := strings.Cut(line, "│"); ok && strings.Contains(bar, "█") {
			if bar, _, _ = strings.Cut(bar, "│"); utf8.RuneCountInString(bar) != timelineWidth {
				t.Errorf("a bar of %d columns: %q", utf8.RuneCountInString(bar), bar)
			}
		}
	}
}

// Without the flag nothing is drawn.
func TestVerifyWithoutTimings(t *testing.T) {
	t.Parallel()
	s := newTestStage(t)
	if _, stdout, _ := command(t, "", "verify", "-c", s.config, s.scenes[0].image); strings.Contains(stdout, "took ms") {
		t.Error(stdout)
	}
	if _, stdout, _ := command(t, "", "verify", "-c", s.config, "-o", "json", s.scenes[0].image); strings.Contains(stdout, "spans") {
		t.Error(stdout)
	}
}

func TestVerifyTimingsJSON(t *testing.T) {
	t.Parallel()
	s := newTestStage(t)
	_, stdout, stderr := command(t, "", "verify", "-c", s.config, "-o", "json", "--timings", s.scenes[0].image)
	var got struct {
		Images []imageJSON `json:"images"`
	}
	if err := json.Unmarshal([]byte(stdout), &got); err != nil || len(got.Images) != 1 {
		t.Fatalf("%v: %s%s", err, stdout, stderr)
	}
	names := map[string]string{}
	for _, span := range got.Images[0].Spans {
		if span.Millis < 0 || span.StartMillis < 0 || span.Open {
			t.Errorf("%+v", span)
		}
		names[span.ID] = span.Name
	}
	above := map[string]string{}
	for _, span := range got.Images[0].Spans {
		above[span.Name] = names[span.Parent]
	}
	want := map[string]string{
		"subject": "", "wait for a place": "subject", "resolve": "subject", "first request": "resolve", "HEAD resolve": "first request",
		"prove": "subject", "list referrers": "prove", "GET referrers": "list referrers",
		"artifact": "prove", "GET manifest": "artifact", "GET blob": "artifact", "check signature": "artifact",
	}
	if diff := cmp.Diff(want, above); diff != "" {
		t.Errorf("what is below what (-want +got):\n%s", diff)
	}
}

// What a registry that hangs keeps waiting is shown although it has not ended.
func TestVerifyTimingsOfWhatHangs(t *testing.T) {
	t.Parallel()
	s := newTestStage(t)
	s.registry.SetIntercept(func(_ http.ResponseWriter, r *http.Request) bool {
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	})
	code, stdout, _ := command(t, "", "verify", "-c", s.config, "--timings", "--timeout", "50ms", s.scenes[0].image)
	for _, want := range []string{"subject ! DEADLINE_EXCEEDED", "resolve (not done)", "HEAD resolve 127.0.0.1", "(not done)"} {
		if code != exitUnknown || !strings.Contains(stdout, want) {
			t.Errorf("%d, no %q in\n%s", code, want, stdout)
		}
	}
}

func TestBars(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	drawTimeline(&out, []step{
		{Name: "subject", Millis: 100},
		{Name: "wait for a place", Millis: 0.05, depth: 1},
		{Name: "resolve", StartMillis: 0.1, Millis: 25, WaitedMillis: 25, depth: 1, Attributes: map[string]any{"gatehouse.joined": true}},
		{Name: "GET blob", StartMillis: 25, Millis: 50, WaitedMillis: 25, depth: 2, Error: "status 503", Attributes: map[string]any{
			"http.response.status_code": int64(503), "server.address": "::1", "server.port": int64(5000), "gatehouse.attempt": int64(2),
		}},
		{Name: "short", StartMillis: 99.9, Millis: 0.01, depth: 1, Error: "out of time\x1b[31m\n"},
		{Name: "open", StartMillis: 75, Millis: 25, depth: 1, Open: true},
	})
	want := `
  start ms   took ms  │█ at work  ░ waiting                    │ step
       0.0     100.0  │████████████████████████████████████████│ subject
       0.1      25.0  │░░░░░░░░░░                              │   resolve (under way for another)
      25.0      50.0  │          ░░░░░░░░░░██████████          │     GET blob 503 [::1]:5000 try 2
      99.9       0.0  │                                       █│   short ! out of time[31m
      75.0      25.0  │                              ██████████│   open (not done)

`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
