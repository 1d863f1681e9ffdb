package httpserver_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/httpserver"
	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// standing is a decider that allows, by what was held while the registry is away.
type standing struct {
	decider
	away atomic.Bool
}

func (s *standing) Verify(ctx context.Context, req executor.Request) (executor.Result, error) {
	r, err := s.decider.Verify(ctx, req)
	if s.away.Load() {
		r.Held = &executor.Held{Since: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC), Age: 65 * time.Minute, Why: referrerstore.ErrUnavailable}
	}
	return r, err
}

// A decision by what was held says so in the answer, and in the log when it comes
// and when it goes.
func TestHeldIsSaid(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	d := &standing{}
	s := httpserver.New(httpserver.Options{Logger: slog.New(slog.NewJSONHandler(&log, nil))})
	s.Swap(&httpserver.Snapshot{
		Decider: d, Generation: 1, VerifyTimeout: time.Minute, AnswerBytes: 1 << 20,
		Limits: httpserver.Limits{BodyBytes: 1 << 20, Keys: 10, KeyBytes: 1024},
	})
	const said = `"held":{"since":"2026-03-04T05:06:07Z","ageSeconds":3900,"reason":"REGISTRY_UNAVAILABLE"}`
	for _, away := range []bool{false, true, true, false} {
		d.away.Store(away)
		_, _, body := post(t, s.Handler(), httpserver.VerifyPath, "r.example/good")
		if strings.Contains(body, said) != away || !strings.Contains(body, `"isSuccess":true`) {
			t.Errorf("away %t: %s", away, body)
		}
	}
	var got []string
	for line := range strings.Lines(log.String()) {
		var entry struct {
			Msg, Level, Code, Error string
			Held                    int64 `json:"held_s"`
		}
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatal(err)
		}
		if entry.Msg != "verdict" {
			continue
		}
		got = append(got, entry.Level+" "+entry.Code)
		if held := entry.Code == string(executor.CodeHeld); held != (entry.Held == 3900) || held != (entry.Error != "") {
			t.Errorf("logged %s", line)
		}
	}
	if want := "INFO ALLOWED, WARN ALLOWED_BY_HELD, INFO ALLOWED"; strings.Join(got, ", ") != want {
		t.Errorf("logged %q, want %q", got, want)
	}
}
