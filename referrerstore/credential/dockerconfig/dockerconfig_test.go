package dockerconfig

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gatehouse-project/gatehouse/referrerstore/credential"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func opened(t *testing.T, text string) (credential.Source, string, error) {
	t.Helper()
	var log strings.Builder
	source, err := Kind().New(credential.Entry{Path: "config.json"}, credential.Deps{
		ReadFile: func(path string) ([]byte, error) {
			if path != "config.json" {
				t.Errorf("read %s", path)
			}
			return []byte(text), nil
		},
		Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	return source, log.String(), err
}

func TestSource(t *testing.T) {
	t.Parallel()
	source, log, err := opened(t, `{"auths":{"a.example":{"auth":"YTpi"},"p.example/team":{"auth":"YTpi"}},"credHelpers":{"h.example":"x"}}`)
	if err != nil || !strings.Contains(log, "p.example/team") || strings.Contains(log, "YTpi") {
		t.Fatalf("%v; log %s", err, log)
	}
	for host, knows := range map[string]bool{"a.example": true, "h.example": true, "p.example": false, "other.example": false} {
		if _, known := source.Key(host); known != knows {
			t.Errorf("%s: known is %t", host, known)
		}
	}
	got, err := source.Find(t.Context(), "a.example")
	if err != nil || got != (credential.Credential{User: "a", Password: "b"}) {
		t.Errorf("wrong credential, %v", err)
	}
	if text := fmt.Sprintf("%v %+v %#v", source, source, source); strings.Contains(text, "b:") || !strings.Contains(text, "[hidden]") {
		t.Errorf("it shows what it holds: %s", text)
	}
	// With a helper for all, every host may have something, and none is named.
	source, _, err = opened(t, `{"credsStore":"x"}`)
	if err != nil {
		t.Fatal(err)
	}
	namer, ok := source.(credential.Namer)
	if _, known := source.Key("any.example"); !known || !ok || namer.Names("any.example") {
		t.Error("a helper for all")
	}
	if serverOf("docker.io") != credential.DockerHubServer || serverOf("a.example") != "a.example" {
		t.Error("what a helper is asked for")
	}
}

func TestBadFile(t *testing.T) {
	t.Parallel()
	if _, _, err := opened(t, `s3cret`); err == nil || strings.Contains(err.Error(), "s3cret") || !strings.Contains(err.Error(), "config.json") {
		t.Errorf("%v, want an error that names the file and quotes nothing", err)
	}
	if _, err := Kind().New(credential.Entry{}, credential.Deps{}); err == nil || !strings.Contains(err.Error(), "path") {
		t.Errorf("%v, want an error about path", err)
	}
}

// withHelper puts a credential helper of that name on the path. It changes the
// environment, so its tests are not parallel.
func withHelper(t *testing.T, name, script string) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, helperPrefix+name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
}

func TestHelperAnswers(t *testing.T) { //nolint:paralleltest // changes the environment
	for script, want := range map[string]credential.Credential{
		`echo 'credentials not found in native keychain'; exit 1`: {},
		`echo '{"Username":"<token>","Secret":"i"}'`:              {IdentityToken: "i"},
		`echo '{"Username":"u","Secret":"p"}'`:                    {User: "u", Password: "p"},
	} {
		withHelper(t, "test", script)
		if got, err := runHelper(t.Context(), credential.DockerHelper{Name: "test"}); err != nil || got != want {
			t.Errorf("%s: wrong credential, %v", script, err)
		}
	}
}

// A helper that hangs, with a child that holds its output open, is left behind.
func TestHelperHangs(t *testing.T) { //nolint:paralleltest // changes the environment
	withHelper(t, "test", "sleep 5 & wait")
	cause := errors.New("enough")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, cause)
	defer cancel()
	begun := time.Now()
	if _, err := runHelper(ctx, credential.DockerHelper{Name: "test"}); !errors.Is(err, cause) {
		t.Errorf("%v, want the cause", err)
	}
	if took := time.Since(begun); took > 4*time.Second {
		t.Errorf("it took %s", took)
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"ServerURL":"x","Username":"<token>","Secret":"i"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		cred, err := parseAnswer(data)
		if err != nil && !cred.Empty() {
			t.Error("an error and a credential")
		}
	})
}
