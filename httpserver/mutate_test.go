package httpserver_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/frameworks/constraint/pkg/apis/externaldata/unversioned"
	"github.com/open-policy-agent/frameworks/constraint/pkg/externaldata"
	"github.com/opencontainers/go-digest"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/httpserver"
	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// pins are the half of a decider that finds digests, by the repository's last
// segment: a tag leads to the digest of its own text.
type pins struct {
	mu    sync.Mutex
	asked []executor.Request // of Pin
}

func (p *pins) Pin(ctx context.Context, req executor.Request) (executor.Pin, error) {
	p.mu.Lock()
	p.asked = append(p.asked, req)
	p.mu.Unlock()
	segments := strings.Split(req.Reference.Repository, "/")
	switch segments[len(segments)-1] {
	case "hang":
		<-ctx.Done()
		return executor.Pin{}, context.Cause(ctx)
	case "absent":
		return executor.Pin{}, fmt.Errorf("resolve: %w", referrerstore.ErrNotFound)
	case "throttled":
		return executor.Pin{}, fmt.Errorf("resolve: %w", &referrerstore.RetryAfterError{After: 3 * time.Second, Err: referrerstore.ErrRateLimited})
	case "panic":
		panic("hostile bytes")
	case "proven":
		return executor.Pin{Digest: digestOf(req.Reference)}, nil
	}
	return executor.Pin{Digest: digestOf(req.Reference), Unproven: true}, nil
}

func (p *pins) RecallPin(req executor.Request, _ time.Time) (executor.Pin, bool, error) {
	switch {
	case strings.HasSuffix("/"+req.Reference.Repository, "/boom"):
		panic("hostile bytes")
	case strings.HasSuffix("/"+req.Reference.Repository, "/outside"):
		return executor.Pin{}, true, nil
	case strings.HasSuffix("/"+req.Reference.Repository, "/known"):
		return executor.Pin{Digest: digestOf(req.Reference), Unproven: true}, true, nil
	}
	return executor.Pin{}, false, nil
}

func digestOf(ref referrerstore.Reference) digest.Digest { return digest.FromString(ref.String()) }

// pinnedTo is what a key is to become.
func pinnedTo(t testing.TB, key string, keepTag bool) string {
	t.Helper()
	ref, err := referrerstore.ParseReference(key)
	if err != nil {
		t.Fatal(err)
	}
	to := ref.Pinned(digestOf(ref))
	if keepTag {
		to.Tag = ref.Tag
	}
	return to.String()
}

// values are the items' values by key; an item with an error has "!" and it.
func values(t testing.TB, response externaldata.ProviderResponse) map[string]string {
	t.Helper()
	if !response.Response.Idempotent || response.Response.SystemError != "" {
		t.Errorf("idempotent is %t, systemError %q", response.Response.Idempotent, response.Response.SystemError)
	}
	got := make(map[string]string)
	for _, item := range response.Response.Items {
		value, ok := item.Value.(string)
		if ok == (item.Error != "") {
			t.Errorf("%q: a value and an error, or none: %+v", item.Key, item)
		}
		if item.Error != "" {
			value = "!" + item.Error
		}
		got[item.Key] = value
	}
	return got
}

const someDigest = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"

func TestMutateAnswersEachKey(t *testing.T) {
	t.Parallel()
	for _, keepTag := range []bool{false, true} {
		t.Run(fmt.Sprint(keepTag), func(t *testing.T) {
			t.Parallel()
			d := &decider{}
			h := newServer(t, d, func(s *httpserver.Snapshot) {
				s.NamespaceFrom = httpserver.NamespaceFromKey
				if keepTag {
					s.MutateTo = httpserver.MutateToTagAndDigest
				}
			}).Handler()
			echoed := []string{
				"", "r.example/x@" + someDigest, "R.example:443/x:v1@" + someDigest, "nginx@" + someDigest,
				"r.example/outside", "R.EXAMPLE/outside:latest",
			}
			pinned := []string{"nginx", "docker.io/library/nginx:latest", "r.example/good:v1", "R.EXAMPLE:443/good:v1", "r.example/known:v1", "r.example/proven"}
			failed := map[string]string{
				"not a key": "INVALID_KEY", "[prod]r.example/good": "INVALID_KEY", "r.example/a@sha256:00": "INVALID_KEY",
				"r.example/absent": "SUBJECT_NOT_FOUND", "r.example/throttled": "RATE_LIMITED", "r.example/panic": "INTERNAL_ERROR", "r.example/boom": "INTERNAL_ERROR",
			}
			keys := slices.Concat(echoed, pinned)
			for key := range failed {
				keys = append(keys, key)
			}
			status, response, _ := post(t, h, httpserver.MutatePath, append(keys, keys...)...)
			got := values(t, response)
			if status != http.StatusOK || len(response.Response.Items) != 2*len(keys) {
				t.Fatalf("status %d, %d items for %d keys", status, len(response.Response.Items), 2*len(keys))
			}
			for i, item := range response.Response.Items {
				if item.Key != keys[i%len(keys)] {
					t.Errorf("item %d is of %q, want %q", i, item.Key, keys[i%len(keys)])
				}
			}
			for _, key := range echoed {
				if got[key] != key {
					t.Errorf("%q became %q", key, got[key])
				}
			}
			for _, key := range pinned {
				if want := pinnedTo(t, key, keepTag); got[key] != want {
					t.Errorf("%q became %q, want %q", key, got[key], want)
				}
			}
			if !keepTag && got["nginx"] != "docker.io/library/nginx@"+digest.FromString("docker.io/library/nginx:latest").String() {
				t.Errorf("nginx became %q", got["nginx"])
			}
			for key, code := range failed {
				if text := got[key]; !strings.HasPrefix(text, "!"+code+": ") || !strings.HasSuffix(text, "]") || len(text) > executor.MaxLineBytes+50 {
					t.Errorf("%q: %q, want %s", key, text, code)
				}
			}
			// nginx and good are each one subject, however spelled; known is known.
			if n := len(d.asked); n != 6 {
				t.Errorf("%d subjects looked for, want 6: %v", n, d.asked)
			}
		})
	}
}

// Keys that are late have an error each, and others their values.
func TestMutateInTime(t *testing.T) {
	t.Parallel()
	for _, timeout := range []time.Duration{0, 300 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			h := newServer(t, &decider{}, func(s *httpserver.Snapshot) { s.MutateTimeout = timeout }).Handler()
			begun := time.Now()
			_, response, _ := post(t, h, httpserver.MutatePath, "r.example/hang", "r.example/good", "s.example/hang:v2")
			took, want := time.Since(begun), timeout
			if timeout == 0 {
				want = 700 * time.Millisecond
			}
			if took > want || took < want*8/10 {
				t.Errorf("answered after %s of %s", took, want)
			}
			got := values(t, response)
			for key, prefix := range map[string]string{
				"r.example/hang":    "!DEADLINE_EXCEEDED: r.example did not say in time where the tag leads; retry [trace ",
				"s.example/hang:v2": "!DEADLINE_EXCEEDED: s.example did not say in time where the tag leads; retry [trace ",
				"r.example/good":    "r.example/good@sha256:",
			} {
				if !strings.HasPrefix(got[key], prefix) {
					t.Errorf("%s: %q", key, got[key])
				}
			}
		})
	}
}

func TestMutateNamespaces(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name      string
		from      httpserver.NamespaceFrom
		path      string
		status    int
		namespace string
	}{
		{"none", httpserver.NamespaceFromNone, "", 200, ""},
		{"none, one given", httpserver.NamespaceFromNone, "/namespaces/prod", 404, ""},
		{"key", httpserver.NamespaceFromKey, "", 200, ""},
		{"key, in the path", httpserver.NamespaceFromKey, "/namespaces/prod", 200, "prod"},
		{"path", httpserver.NamespaceFromPath, "/namespaces/prod", 200, "prod"},
		{"path, without", httpserver.NamespaceFromPath, "", 200, ""},
		{"path, not a name", httpserver.NamespaceFromPath, "/namespaces/Prod", 400, ""},
		{"path, empty", httpserver.NamespaceFromPath, "/namespaces/", 400, ""},
		{"path, deeper", httpserver.NamespaceFromPath, "/namespaces/a/b", 400, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				seen := &recorder{}
				h := newServer(t, seen, func(s *httpserver.Snapshot) { s.NamespaceFrom = test.from }).Handler()
				status, response, _ := post(t, h, httpserver.MutatePath+test.path, "r.example/good", "[dev]r.example/good")
				if status != test.status {
					t.Fatalf("status %d: %+v", status, response)
				}
				if status != http.StatusOK {
					if len(seen.asked) != 0 || !strings.Contains(response.Response.SystemError, " [trace ") {
						t.Errorf("%+v, asked %v", response, seen.asked)
					}
					return
				}
				if got := values(t, response)["[dev]r.example/good"]; !strings.HasPrefix(got, "!INVALID_KEY: ") {
					t.Errorf("a namespace in the key: %q", got)
				}
				synctest.Wait() // for the verification behind it
				if len(seen.asked) != 1 || seen.asked[0].Namespace != test.namespace {
					t.Errorf("looked for %+v, want one in %q", seen.asked, test.namespace)
				}
				want := executor.Request{Reference: seen.asked[0].Reference.Pinned(digestOf(seen.asked[0].Reference)), Namespace: test.namespace, Lane: referrerstore.LaneBackground}
				if diff := cmp.Diff([]executor.Request{want}, seen.requests); diff != "" {
					t.Errorf("verified ahead (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// A verification begins as soon as its key is pinned, not when the batch is, ends
// by its own deadline, is begun once however often it is expected, and holds up
// no answer.
func TestMutateVerifiesAhead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &waiting{}
		s := newServer(t, w, func(s *httpserver.Snapshot) { s.VerifyTimeout, s.MutateTimeout = 5*time.Second, time.Second })
		h := s.Handler()
		var group sync.WaitGroup
		begun := time.Now()
		for range 10 {
			group.Go(func() {
				_, response, _ := post(t, h, httpserver.MutatePath, "r.example/good:v1", "r.example/known", "r.example/proven", "r.example/hang", "r.example/outside", "r.example/x@"+someDigest)
				values(t, response)
			})
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		want := []string{pinnedTo(t, "r.example/good:v1", false), pinnedTo(t, "r.example/known", false)}
		slices.Sort(want)
		if diff := cmp.Diff(want, w.begun()); diff != "" {
			t.Errorf("under way while a key of each batch hangs (-want +got):\n%s", diff)
		}
		group.Wait()
		if took := time.Since(begun); took > time.Second {
			t.Errorf("answered after %s", took)
		}
		synctest.Wait()
		time.Sleep(time.Until(begun.Add(5*time.Second + time.Millisecond)))
		synctest.Wait()
		if n := w.ended(); n != 2 {
			t.Errorf("%d verifications have ended by their deadline, want 2", n)
		}
		post(t, h, httpserver.MutatePath, "r.example/known")
		synctest.Wait()
		if n := len(w.begun()); n != 3 {
			t.Errorf("%d verifications begun in all, want 3", n)
		}
		time.Sleep(6 * time.Second)
	})
}

// waiting is a decider whose verifications last as long as they may.
type waiting struct {
	pins
	lock  sync.Mutex
	began []string
	ends  int
}

func (w *waiting) Verify(ctx context.Context, req executor.Request) (executor.Result, error) {
	w.lock.Lock()
	w.began = append(w.began, req.Reference.String())
	w.lock.Unlock()
	<-ctx.Done()
	w.lock.Lock()
	defer w.lock.Unlock()
	w.ends++
	return executor.Result{Request: req}, context.Cause(ctx)
}

func (*waiting) Recall(executor.Request, time.Time) (executor.Result, bool) {
	return executor.Result{}, false
}

func (w *waiting) begun() []string {
	w.lock.Lock()
	defer w.lock.Unlock()
	return slices.Sorted(slices.Values(w.began))
}

func (w *waiting) ended() int {
	w.lock.Lock()
	defer w.lock.Unlock()
	return w.ends
}

// However many are expected of one host, and it hangs, few are begun.
func TestVerifiedAheadIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &waiting{}
		h := newServer(t, w, nil).Handler()
		keys := make([]string, 0, 1000)
		for i := range 900 {
			keys = append(keys, fmt.Sprintf("r.example/%d/known", i))
		}
		_, response, _ := post(t, h, httpserver.MutatePath, append(keys, "s.example/known")...)
		if got := values(t, response); len(got) != 901 {
			t.Errorf("%d values", len(got))
		}
		synctest.Wait()
		begun := w.begun()
		if other := pinnedTo(t, "s.example/known", false); len(begun) != 129 || !slices.Contains(begun, other) {
			t.Errorf("%d begun, want 128 and that of another host", len(begun))
		}
		time.Sleep(2 * time.Minute)
	})
}

// The server ends when the last verification that it began has.
func TestServerWaitsForVerifiedAhead(t *testing.T) {
	t.Parallel()
	w := &waiting{}
	r := start(t, newServer(t, w, func(s *httpserver.Snapshot) { s.VerifyTimeout = 300 * time.Millisecond }))
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	if _, _, err := call(t, client, "http://"+r.hook+httpserver.MutatePath, requestBody(t, "r.example/known")); err != nil {
		t.Fatal(err)
	}
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	if len(w.begun()) != 1 || w.ended() != 1 {
		t.Errorf("%d begun, %d ended when the server had", len(w.begun()), w.ended())
	}
}

// Mutating what was mutated changes nothing, to the byte, whatever it was.
func TestMutateIsIdempotent(t *testing.T) {
	t.Parallel()
	for _, to := range []httpserver.MutateTo{httpserver.MutateToDigest, httpserver.MutateToTagAndDigest} {
		h := newServer(t, &decider{}, func(s *httpserver.Snapshot) { s.MutateTo = to }).Handler()
		rapid.Check(t, func(rt *rapid.T) {
			host := rapid.SampledFrom([]string{"", "", "docker.io/", "index.docker.io/", "R.Example/", "r.example:5000/", "r.example:443/", "localhost/", "Registry/"}).Draw(rt, "host")
			name := rapid.StringMatching(`([a-z0-9]{1,6}/){0,2}(outside|good|known|proven|[a-z0-9]{1,9})`).Draw(rt, "name")
			tag := rapid.SampledFrom([]string{"", ":latest", ":v1.2", ":V_2-rc"}).Draw(rt, "tag")
			pin := rapid.SampledFrom([]string{"", "", "", "@" + someDigest, "@sha512:" + strings.Repeat("0f", 64)}).Draw(rt, "digest")
			key := rapid.OneOf(rapid.Just(host+name+tag+pin), rapid.StringN(0, 20, 60)).Draw(rt, "key")
			_, first, _ := post(t, h, httpserver.MutatePath, key)
			once := first.Response.Items[0]
			if once.Error != "" {
				return
			}
			_, second, _ := post(t, h, httpserver.MutatePath, once.Value.(string))
			if twice := second.Response.Items[0]; twice.Value != once.Value || twice.Error != "" {
				rt.Fatalf("%q became %q, and that %q (%s)", key, once.Value, twice.Value, twice.Error)
			}
		})
	}
}

// What verify refuses as a whole, mutate does.
func TestMutateRefusesWhatVerifyDoes(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]int{
		`{"request":`: 400, `[]`: 400, `{"request":{"keys":[1]}}`: 400, `{"kind":"AdmissionReview"}`: 400, "{\"request\":{\"keys\":[\"\xff\"]}}": 400,
		`{"request":{"keys":["` + strings.Repeat(`a","`, 2000) + `a"]}}`: 413, strings.Repeat("x", 2<<20): 413,
	} {
		d := &decider{}
		h := newServer(t, d, nil).Handler()
		status, response, _ := send(t, h, http.MethodPost, httpserver.MutatePath, "application/json", strings.NewReader(body))
		if status != want || response.Response.SystemError == "" || len(response.Response.Items) != 0 || len(d.asked) != 0 {
			t.Errorf("%.40q: %d %.100q", body, status, response.Response.SystemError)
		}
	}
}

// However little is left for answers, a well-formed mutation has items.
func TestMutateNeverFailsAsAWhole(t *testing.T) {
	t.Parallel()
	budget := referrerstore.NewBudget(200)
	s := httpserver.New(httpserver.Options{Logger: slog.New(slog.DiscardHandler), Bodies: budget})
	s.Swap(&httpserver.Snapshot{Decider: &decider{}, VerifyTimeout: time.Second, Limits: httpserver.Limits{BodyBytes: 1 << 20, Keys: 10, KeyBytes: 100}})
	_, response, _ := post(t, s.Handler(), httpserver.MutatePath, "r.example/good", "r.example/absent")
	if got := values(t, response); len(got) != 2 {
		t.Errorf("%v", got)
	}
	_, response, _ = post(t, s.Handler(), httpserver.VerifyPath, "r.example/good", "r.example/bad")
	if !strings.HasPrefix(response.Response.SystemError, "BUSY: ") {
		t.Errorf("the budget was not short: %+v", response)
	}
}

// Gatekeeper's own client takes the answers, over mutual TLS.
func TestGatekeepersClient(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	server, clients := newAuthority(t), newAuthority(t)
	cert, key := server.leaf(t, "gatehouse.gatekeeper-system")
	files := httpserver.TLSOptions{
		Certificate: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key"),
		ClientCA: filepath.Join(dir, "ca.crt"), ClientNames: []string{clientName},
	}
	write(t, files.Certificate, cert)
	write(t, files.Key, key)
	write(t, files.ClientCA, clients.pem())
	material, err := httpserver.NewTLS(files)
	if err != nil {
		t.Fatal(err)
	}
	s := httpserver.New(httpserver.Options{Logger: slog.New(slog.DiscardHandler), TLS: material})
	s.Swap(&httpserver.Snapshot{Decider: &decider{}, VerifyTimeout: time.Minute, MutateTimeout: time.Minute, Limits: httpserver.Limits{BodyBytes: 1 << 20, Keys: 10, KeyBytes: 1000}})
	r := start(t, s)
	cert, key = clients.leaf(t, clientName)
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(path string, keys ...string) *externaldata.ProviderResponse {
		t.Helper()
		provider := &unversioned.Provider{
			ObjectMeta: metav1.ObjectMeta{Name: "gatehouse" + path},
			Spec:       unversioned.ProviderSpec{URL: "https://" + r.hook + path, Timeout: 30, CABundle: base64.StdEncoding.EncodeToString(server.pem())},
		}
		defer externaldata.DefaultClientCache().Invalidate(provider.Name)
		response, status, err := externaldata.DefaultSendRequestToProvider(t.Context(), provider, keys, &pair)
		if err != nil || status != http.StatusOK {
			t.Fatalf("%s: %d, %v", path, status, err)
		}
		return response
	}
	keys := []string{"nginx", "", "r.example/outside:v1", "r.example/x@" + someDigest, "r.example/absent"}
	response := ask(httpserver.MutatePath, keys...)
	got := values(t, *response)
	want := map[string]string{
		"nginx": pinnedTo(t, "nginx", false), "": "", "r.example/outside:v1": "r.example/outside:v1",
		"r.example/x@" + someDigest: "r.example/x@" + someDigest, "r.example/absent": got["r.example/absent"],
	}
	if diff := cmp.Diff(want, got); diff != "" || !strings.HasPrefix(got["r.example/absent"], "!SUBJECT_NOT_FOUND") {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, path := range []string{httpserver.VerifyPath, httpserver.AuditPath} {
		if response := ask(path, "r.example/good", "r.example/bad"); len(response.Response.Items) != 2 || response.Response.SystemError != "" {
			t.Errorf("%s: %+v", path, response)
		}
	}
}

func FuzzMutateBody(f *testing.F) {
	f.Add([]byte(`{"apiVersion":"externaldata.gatekeeper.sh/v1beta1","kind":"ProviderRequest","request":{"keys":["nginx","","a@b","[x]y"]}}`))
	f.Add([]byte(`{"request":{"keys":["\ud800<&>\u2028","nginx@` + someDigest + `"]}}`))
	f.Add([]byte(`{"request":{"keys":[null]}}`))
	f.Add([]byte(`{"request":[]}`))
	f.Add([]byte("\xff"))
	h := newServer(f, &decider{}, nil).Handler()
	f.Fuzz(func(t *testing.T, body []byte) {
		var sent externaldata.ProviderRequest
		plain := json.Unmarshal(body, &sent)
		status, response, text := send(t, h, http.MethodPost, httpserver.MutatePath, "application/json", bytes.NewReader(body))
		if status != http.StatusOK {
			if response.Response.SystemError == "" || len(response.Response.Items) != 0 {
				t.Fatalf("refused with %d: %s", status, text)
			}
			return
		}
		if plain != nil || len(response.Response.Items) != len(sent.Request.Keys) {
			t.Fatalf("%d items for %q, which Gatekeeper's type reads as %v, %v", len(response.Response.Items), body, sent.Request.Keys, plain)
		}
		for i, item := range response.Response.Items {
			value, ok := item.Value.(string)
			if item.Key != sent.Request.Keys[i] || ok == (item.Error != "") {
				t.Fatalf("key %q has item %+v", sent.Request.Keys[i], item)
			}
			if ok && value != item.Key && !strings.Contains(value, "@sha256:") {
				t.Fatalf("key %q became %q", item.Key, value)
			}
		}
	})
}

func BenchmarkMutatePinned(b *testing.B) {
	benchmark(b, httpserver.MutatePath, &decider{}, "r.example/a@"+someDigest, "r.example/b@"+someDigest, "r.example/c@"+someDigest, "r.example/d@"+someDigest)
}
