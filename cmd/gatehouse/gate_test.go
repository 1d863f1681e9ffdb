package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/open-policy-agent/frameworks/constraint/pkg/externaldata"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/httpserver"
	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// A mutation that may take longer than a verdict is still answered by the
// configuration under which it began, after that was exchanged.
func TestRetiredConfigurationAnswersMutations(t *testing.T) {
	t.Parallel()
	s := newTestStage(t)
	edit(t, s, func(text string) string {
		return strings.Replace(text, "verifyTimeout: 1900ms", "verifyTimeout: 100ms\n  mutateTimeout: 20s", 1)
	})
	asked, release := make(chan struct{}), make(chan struct{})
	var once, free sync.Once
	defer free.Do(func() { close(release) })
	s.registry.SetIntercept(func(http.ResponseWriter, *http.Request) bool {
		once.Do(func() { close(asked) })
		<-release
		return false
	})
	g, err := newGate(t.Context(), s.config, slog.New(slog.DiscardHandler), gateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	answers := make(chan externaldata.Response, 1)
	handler := g.server.Handler()
	go func() { answers <- asks(t, handler, httpserver.MutatePath, s.scenes[0].image) }()
	<-asked
	edit(t, s, func(text string) string { return strings.Replace(text, "100ms", "200ms", 1) })
	g.reload()
	if g.refused() != nil || g.generation != 2 {
		t.Fatalf("generation %d: %v", g.generation, g.refused())
	}
	time.Sleep(1500 * time.Millisecond) // a verdict would have been given up 400 ms ago
	free.Do(func() { close(release) })
	if got := <-answers; got.Items[0].Error != "" {
		t.Errorf("%+v", got)
	}
}

// What a mutation made of a tag is verified behind it: the verdict that is asked for
// next costs the registry nothing.
func TestVerdictBehindMutation(t *testing.T) {
	t.Parallel()
	s := newTestStage(t)
	g, err := newGate(t.Context(), s.config, slog.New(slog.DiscardHandler), gateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	h := g.server.Handler()
	pinned := asks(t, h, httpserver.MutatePath, s.scenes[0].image).Items[0].Value
	ref, err := referrerstore.ParseReference(fmt.Sprint(pinned))
	if err != nil || ref.Digest == "" {
		t.Fatal(pinned, err)
	}
	req := executor.Request{Reference: ref}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, known := g.current().executor.Recall(req, time.Now()); known {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing was verified behind the mutation")
		}
	}
	s.registry.ResetStats()
	for _, key := range []string{ref.String(), s.scenes[0].image} {
		if got := readValue(asks(t, h, httpserver.VerifyPath, key).Items[0].Value); !got.allowed {
			t.Errorf("%s: %+v", key, got)
		}
	}
	asks(t, h, httpserver.MutatePath, ref.String())
	if n := s.registry.Stats().Total; n != 0 {
		t.Errorf("the registry was asked %d times", n)
	}
}

// asks gives an answer of an item for each key, be it an empty one.
func asks(t *testing.T, h http.Handler, path string, keys ...string) externaldata.Response {
	t.Helper()
	body, err := json.Marshal(externaldata.NewProviderRequest(keys))
	if err != nil {
		t.Error(err)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, bytes.NewReader(body)))
	var answer externaldata.ProviderResponse
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || len(answer.Response.Items) != len(keys) {
		t.Errorf("%v: %s", err, w.Body)
		answer.Response.Items = make([]externaldata.Item, len(keys))
	}
	return answer.Response
}
