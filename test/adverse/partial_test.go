package adverse

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/executor/policy"
	"github.com/gatehouse-project/gatehouse/httpserver"
	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/storetest"
	"github.com/gatehouse-project/gatehouse/test/process"
	"github.com/gatehouse-project/gatehouse/test/registry"
	"github.com/gatehouse-project/gatehouse/test/signing"
	"github.com/gatehouse-project/gatehouse/verifier"
	"github.com/gatehouse-project/gatehouse/verifier/verifiertest"
)

// trouble is a registry that does not answer as it should.
type trouble struct {
	name  string
	fault registry.Fault
	code  string
}

func troubles() []trouble {
	always := func(status int, h http.Header) registry.Fault { return registry.Status(status, h, 1, 1) }
	on := registry.On
	return []trouble{
		{"hangs", registry.Hang(), "DEADLINE_EXCEEDED"},
		{"hangs in its list", on(registry.Hang(), registry.Referrers), "DEADLINE_EXCEEDED"},
		{"hangs in a manifest", on(registry.Hang(), registry.Manifest), "DEADLINE_EXCEEDED"},
		{"hangs in an envelope", on(registry.Hang(), registry.Blob), "DEADLINE_EXCEEDED"},
		{"resets", registry.Reset(), "REGISTRY_UNAVAILABLE"},
		{"resets in its list", on(registry.Reset(), registry.Referrers), "REGISTRY_UNAVAILABLE"},
		{"resets in an envelope", on(registry.Reset(), registry.Blob), "REGISTRY_UNAVAILABLE"},
		{"429", always(http.StatusTooManyRequests, http.Header{"Retry-After": {"7"}}), "RATE_LIMITED"},
		{"429 in its list", on(always(http.StatusTooManyRequests, nil), registry.Referrers), "RATE_LIMITED"},
		{"500", always(http.StatusInternalServerError, nil), "REGISTRY_UNAVAILABLE"},
		{"503 in a manifest", on(always(http.StatusServiceUnavailable, nil), registry.Manifest), "REGISTRY_UNAVAILABLE"},
		{"401 for all", always(http.StatusUnauthorized, nil), "AUTH_DENIED"},
		{"403 in its list", on(always(http.StatusForbidden, nil), registry.Referrers), "AUTH_DENIED"},
		{"404 in an envelope", on(always(http.StatusNotFound, nil), registry.Blob), "ARTIFACT_NOT_FOUND"},
	}
}

// crowd is what one request asks about: all troubled registries, one that is
// down, and a healthy one.
type crowd struct {
	sites []site
	keys  map[string]string // to the code that each should end with
	all   []string
	good  string
}

func newCrowd(t *testing.T) crowd {
	t.Helper()
	healthy := newSite(t, registry.Options{BearerAuth: true})
	c := crowd{sites: []site{healthy}, keys: make(map[string]string), good: healthy.signed(t, "good")}
	for _, trouble := range troubles() {
		s := newSite(t, registry.Options{})
		key := s.signed(t, "app")
		s.SetIntercept(trouble.fault)
		c.sites, c.keys[key] = append(c.sites, s), trouble.code
		c.all = append(c.all, key)
		t.Logf("%s %s", key, trouble.name)
	}
	down := newSite(t, registry.Options{})
	key := down.signed(t, "app")
	down.Close()
	c.sites, c.keys[key] = append(c.sites, down), "REGISTRY_UNAVAILABLE"
	c.all = append(c.all, key, c.good)
	return c
}

func (c crowd) check(t *testing.T, answer process.Answer, verdict bool) {
	t.Helper()
	if end := endOf(t, answer, c.good); !end.allowed {
		t.Errorf("the healthy registry's image: %+v", end)
	}
	for key, code := range c.keys {
		end := endOf(t, answer, key)
		if end.allowed || end.verdict != verdict || end.code != code {
			t.Errorf("%s: %+v, want %s", key, end, code)
		}
		checkLine(t, key, end.text)
	}
}

// TestPartialOutage asks in one request for images of registries that are
// down, hang, reset, limit, fail and deny, and of one that is well.
func TestPartialOutage(t *testing.T) {
	t.Parallel()
	for _, onFailure := range []string{"systemError", "value"} {
		t.Run(onFailure, func(t *testing.T) {
			t.Parallel()
			const timeout = 1500 * time.Millisecond
			crowd := newCrowd(t)
			c := config(t, crowd.sites...)
			c.Timeout, c.Server = timeout, process.Map{"onFailure": onFailure}
			p := process.Start(t, c)
			ask(t, p, crowd.good)
			idle := levelOf(t, p)
			for range 3 {
				answer := ask(t, p, crowd.all...)
				inTime(t, answer, timeout)
				crowd.check(t, answer, onFailure == "value")
			}
			for _, s := range crowd.sites {
				s.Close()
			}
			returnsTo(t, p, idle)
		})
	}
}

// TestManyKeysOfHangingRegistry asks for as many keys as a request may have,
// all of one registry that says nothing.
func TestManyKeysOfHangingRegistry(t *testing.T) {
	t.Parallel()
	const timeout = time.Second
	s, healthy := newSite(t, registry.Options{}), newSite(t, registry.Options{})
	s.SetIntercept(registry.Hang())
	good := healthy.signed(t, "good")
	c := config(t, s, healthy)
	c.Timeout = timeout
	p := process.Start(t, c)
	ask(t, p, good)
	idle := levelOf(t, p)
	keys := make([]string, 0, 1000)
	for i := range cap(keys) - 1 {
		keys = append(keys, fmt.Sprintf("%s/app:v%d", s.Host(), i))
	}
	keys = append(keys, good)
	answer := ask(t, p, keys...)
	inTime(t, answer, timeout)
	// The text is bounded, so not all keys stand in it; their number does.
	if len(answer.Items) > 1 || !strings.Contains(answer.SystemError, "DEADLINE_EXCEEDED") || len(answer.SystemError) > 32<<10 {
		t.Errorf("%d items, systemError of %d bytes: %.300s", len(answer.Items), len(answer.SystemError), answer.SystemError)
	}
	if end, found := answer.Item(good); !found || !end.Value.IsSuccess {
		t.Errorf("the healthy registry's image has no verdict among %d keys that hang", len(keys)-1)
	}
	s.Close()
	returnsTo(t, p, idle)
}

// TestHeldBytes lets a registry hang in as many of the largest envelopes as
// one request asks for at once. A healthy registry's image, which takes
// milliseconds, must not have to wait until that request is given up.
func TestHeldBytes(t *testing.T) {
	t.Parallel()
	s, healthy := newSite(t, registry.Options{}), newSite(t, registry.Options{})
	key, desc := s.image(t, "app")
	for i := range floodReferrers {
		layer := ocispec.Descriptor{MediaType: string(signing.JWS), Digest: digest.FromString(fmt.Sprint(i)), Size: envelopeBytes}
		plant(s, desc, signatureManifest(t, desc, layer, i), nil)
	}
	s.SetIntercept(registry.On(registry.Hang(), registry.Blob))
	good := healthy.signed(t, "good")
	p := process.Start(t, config(t, s, healthy))
	ask(t, p, good)

	var hanging sync.WaitGroup
	hanging.Go(func() {
		answer, err := p.Ask(t.Context(), key)
		if err != nil || answer.SystemError == "" {
			t.Errorf("the hanging request: %v %s", err, answer.Body)
		}
	})
	eventually(t, func() bool { return s.Stats().Blob > 0 }, func() string { return "it asks for no envelope" })
	time.Sleep(300 * time.Millisecond) // for the others, which may be waiting for memory
	t.Logf("%d envelopes are under way", s.Stats().Blob)
	answer := ask(t, p, good)
	t.Logf("answered after %s", answer.Elapsed.Round(time.Millisecond))
	if end := endOf(t, answer, good); !end.allowed || answer.Elapsed > time.Second {
		t.Errorf("the healthy registry's image after %s: %+v", answer.Elapsed.Round(time.Millisecond), end)
	}
	hanging.Wait()
}

// TestPanickingVerifier cannot be provoked from outside, so it stands inside:
// the server with its executor, and a verifier that panics on one image.
func TestPanickingVerifier(t *testing.T) {
	t.Parallel()
	store := storetest.New("memory")
	good, bad := storedImage(t, store, "good"), storedImage(t, store, "bad")
	passes := &verifiertest.Fake{FakeName: "fragile"}
	v := &verifiertest.Fake{FakeName: "fragile", VerifyFunc: func(ctx context.Context, in verifier.Input) (verifier.Report, error) {
		if in.Subject.Reference.Repository == "bad" {
			panic("\x1b[31mhostile bytes")
		}
		return passes.Verify(ctx, in)
	}}
	rules := must(policy.New([]policy.Rule{{Name: "all", Images: []string{"**"}, Require: &policy.Node{Verifier: "fragile"}}}, []string{"fragile"}))(t)
	server := httpserver.New(httpserver.Options{Logger: slog.New(slog.DiscardHandler)})
	const timeout = 2 * time.Second
	server.Swap(&httpserver.Snapshot{
		Decider:       executor.New(t.Context(), []referrerstore.Store{store}, []verifier.Verifier{v}, rules, executor.Options{}),
		VerifyTimeout: timeout,
		Limits:        httpserver.Limits{BodyBytes: 1 << 20, Keys: 10, KeyBytes: 1024},
	})
	front := httptest.NewServer(server.Handler())
	t.Cleanup(front.Close)
	answer := must(process.Client{URL: front.URL + httpserver.VerifyPath}.Ask(t.Context(), bad, good))(t)
	inTime(t, answer, timeout)
	if end := endOf(t, answer, good); !end.allowed {
		t.Errorf("the other image: %+v", end)
	}
	end := endOf(t, answer, bad)
	t.Logf("the image on which it panics: %s", end.text)
	if end.allowed || end.verdict || end.code != string(verifier.CodeVerificationAborted) {
		t.Errorf("the image on which it panics: %+v", end)
	}
	checkLine(t, bad, end.text)
}

// storedImage adds an image with one artifact and returns its canonical name.
func storedImage(t *testing.T, store *storetest.Memory, repository string) string {
	t.Helper()
	subject := store.AddImage("registry.example.com/" + repository)
	store.AddReferrer(subject, "text/plain", storetest.Blob{MediaType: "text/plain", Data: []byte(repository)})
	return subject.Reference.String()
}
