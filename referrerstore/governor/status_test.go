package governor_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/gatehouse-project/gatehouse/referrerstore/governor"
)

func TestStatusJSON(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGovernor(t, governor.Options{Named: func(host string) bool { return host == key.Host }})
		h := g.Host(governor.Key{Host: key.Host, Identity: "ci"})
		for range 4 {
			finish(take(t, t.Context(), h), governor.Outcome{Status: 200, Latency: 20 * time.Millisecond})
		}
		limited := take(t, t.Context(), h)
		busy := take(t, t.Context(), h)
		finish(limited, governor.Outcome{Status: 429, RetryAfter: 30 * time.Second})
		token := g.Host(governor.Key{Host: "auth.example.org", Kind: "token"})
		for range 5 {
			finish(take(t, t.Context(), token), governor.Outcome{Status: 502})
		}
		list := g.Status()
		list[0].Breaker.Until = list[0].Breaker.Until.Truncate(time.Second) // it is jittered
		got, err := json.MarshalIndent(list, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(goldenStatus, string(got)); diff != "" {
			t.Errorf("status (-want +got):\n%s", diff)
		}
		busy.Release()
	})
}

const goldenStatus = `[
  {
    "host": "auth.example.org",
    "kind": "token",
    "named": false,
    "limit": 8,
    "inFlight": 0,
    "waiting": {
      "admission": 0,
      "background": 0
    },
    "rate": 0,
    "rateSource": "unlimited",
    "breaker": {
      "state": "open",
      "until": "2000-01-01T00:00:01Z"
    },
    "lastError": "status 502",
    "lastErrorAt": "2000-01-01T00:00:00Z",
    "usualLatencyMillis": 0
  },
  {
    "host": "registry.example.com",
    "identity": "ci",
    "kind": "registry",
    "named": true,
    "limit": 16,
    "inFlight": 1,
    "waiting": {
      "admission": 0,
      "background": 0
    },
    "rate": 0,
    "rateSource": "unlimited",
    "pausedUntil": "2000-01-01T00:00:30Z",
    "breaker": {
      "state": "closed"
    },
    "lastError": "status 429",
    "lastErrorAt": "2000-01-01T00:00:00Z",
    "usualLatencyMillis": 32.65625
  }
]`

func TestLastErrorIsOneHarmlessLine(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ text, want string }{
		{"dial tcp: refused", "dial tcp: refused"},
		{"a\r\n\tb\x00c\u202ed", "a b c d"},
		{`Get "https://u:pw@h.example/v2/x?sig=abc#f": EOF`, `Get "https://h.example/v2/x?... EOF`},
		{"sent Authorization: Bearer abc.def and Basic dTpw", "sent Authorization: Bearer ... and Basic ..."},
		{strings.Repeat("ä", 300), strings.Repeat("ä", 98) + "..."},
		{"a\xffb", "ab"},
	} {
		g := newGovernor(t, governor.Options{})
		finish(take(t, t.Context(), g.Host(key)), governor.Outcome{Err: errors.New(test.text)})
		got := g.Status()[0].LastError
		if len(got) > 200 || strings.ContainsAny(got, "\r\n") {
			t.Errorf("%q is no bounded line", got)
		}
		if got != test.want {
			t.Errorf("%q became %q, want %q", test.text, got, test.want)
		}
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewPedanticRegistry()
	named := func(host string) bool { return strings.HasSuffix(host, "example.com") }
	g := newGovernor(t, governor.Options{Registerer: registry, Named: named})
	second := newGovernor(t, governor.Options{Registerer: registry, Named: named})
	fail(t, g.Host(key), 5, governor.Outcome{Status: 500})
	fail(t, second.Host(governor.Key{Host: key.Host, Identity: "other"}), 1, governor.Outcome{Status: 429})
	for i := range 5 {
		fail(t, g.Host(governor.Key{Host: fmt.Sprintf("tenant%d.test", i)}), 1, governor.Outcome{Status: 429})
	}
	const want = `
# HELP gatehouse_governor_breaker_open 1 while the host's breaker is open or half-open.
# TYPE gatehouse_governor_breaker_open gauge
gatehouse_governor_breaker_open{host="other",kind="registry"} 0
gatehouse_governor_breaker_open{host="registry.example.com",kind="registry"} 1
# HELP gatehouse_governor_breaker_opened_total Times that the host's breaker opened.
# TYPE gatehouse_governor_breaker_opened_total counter
gatehouse_governor_breaker_opened_total{host="other",kind="registry"} 0
gatehouse_governor_breaker_opened_total{host="registry.example.com",kind="registry"} 1
# HELP gatehouse_governor_limit Requests at once that the host is given at most.
# TYPE gatehouse_governor_limit gauge
gatehouse_governor_limit{host="other",kind="registry"} 40
gatehouse_governor_limit{host="registry.example.com",kind="registry"} 32
# HELP gatehouse_governor_paused 1 while the host has everybody wait.
# TYPE gatehouse_governor_paused gauge
gatehouse_governor_paused{host="other",kind="registry"} 1
gatehouse_governor_paused{host="registry.example.com",kind="registry"} 1
# HELP gatehouse_governor_throttled_total Answers of 429.
# TYPE gatehouse_governor_throttled_total counter
gatehouse_governor_throttled_total{host="other",kind="registry"} 5
gatehouse_governor_throttled_total{host="registry.example.com",kind="registry"} 1
# HELP gatehouse_governor_waiting Requests that wait for their turn.
# TYPE gatehouse_governor_waiting gauge
gatehouse_governor_waiting{host="other",kind="registry",lane="admission"} 0
gatehouse_governor_waiting{host="other",kind="registry",lane="background"} 0
gatehouse_governor_waiting{host="registry.example.com",kind="registry",lane="admission"} 0
gatehouse_governor_waiting{host="registry.example.com",kind="registry",lane="background"} 0
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want),
		"gatehouse_governor_breaker_open", "gatehouse_governor_breaker_opened_total", "gatehouse_governor_limit",
		"gatehouse_governor_paused", "gatehouse_governor_throttled_total", "gatehouse_governor_waiting"); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v %v", problems, err)
	}
	second.Close()
	if n, err := testutil.GatherAndCount(registry, "gatehouse_governor_limit"); n != 2 || err != nil {
		t.Errorf("%d limits, %v", n, err)
	}
}

func TestMetricsOfManyHosts(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewPedanticRegistry()
	g := newGovernor(t, governor.Options{Registerer: registry})
	for i := range 500 {
		g.Host(governor.Key{Host: fmt.Sprintf("h%d", i), Kind: fmt.Sprintf("kind%d", i%3)})
	}
	if n, err := testutil.GatherAndCount(registry, "gatehouse_governor_limit"); n > 101 || err != nil {
		t.Errorf("%d series, %v", n, err)
	}
}

func TestForeignMetrics(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "gatehouse_governor_limit", Help: "Something else."}))
	if _, err := governor.New(governor.Options{Registerer: registry}); err == nil {
		t.Error("a collision was not reported")
	}
}
