package oras

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cuelabs.dev/go/oci/ociregistry/ocimem"
	"cuelabs.dev/go/oci/ociregistry/ociserver"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeRegistry is a registry of a real protocol, in memory, with a hook before
// it, a token service, and a record of what was asked.
type fakeRegistry struct {
	*httptest.Server
	backend *ocimem.Registry
	serve   http.Handler

	// hook, if set, may answer a request in the registry's place.
	hook atomic.Pointer[func(http.ResponseWriter, *http.Request) bool]
	// bearer demands tokens of the registry's own token service.
	bearer bool
	// tokenLife is what the token service says of it, in seconds.
	tokenLife int
	// user and password are demanded by the token service, if set.
	user, password string

	mu     sync.Mutex // guards the fields that follow it
	asked  []string   // "METHOD path status"
	tokens int
	valid  map[string]string // token -> repository
}

type registryOptions struct {
	ociserver.Options
	tls, http2, bearer bool
}

func newRegistry(t testing.TB, opts registryOptions) *fakeRegistry {
	t.Helper()
	r := &fakeRegistry{backend: ocimem.New(), bearer: opts.bearer, tokenLife: 300, valid: make(map[string]string)}
	r.serve = ociserver.New(r.backend, &opts.Options)
	r.Server = httptest.NewUnstartedServer(r)
	r.EnableHTTP2 = opts.http2
	r.Config.ErrorLog = log.New(io.Discard, "", 0)
	if opts.tls {
		r.StartTLS()
	} else {
		r.Start()
	}
	t.Cleanup(r.Close)
	return r
}

func (r *fakeRegistry) host() string { return r.Listener.Addr().String() }

func (r *fakeRegistry) setHook(hook func(http.ResponseWriter, *http.Request) bool) {
	r.hook.Store(&hook)
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *statusWriter) Flush() {
	if f, ok := w.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
}

func (r *fakeRegistry) ServeHTTP(rw http.ResponseWriter, req *http.Request) {
	w := &statusWriter{ResponseWriter: rw, status: http.StatusOK}
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.asked = append(r.asked, fmt.Sprintf("%s %s %d", req.Method, req.URL.Path, w.status))
	}()
	if hook := r.hook.Load(); hook != nil && (*hook)(w, req) {
		return
	}
	if req.URL.Path == "/token" {
		r.serveToken(w, req)
		return
	}
	if r.bearer && !r.authorized(req) {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="the service",scope="registry:catalog:* repository:x:push"`, r.URL))
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	r.serve.ServeHTTP(w, req)
}

func repositoryOf(path string) string {
	rest := strings.TrimPrefix(path, "/v2/")
	for _, mark := range []string{"/manifests/", "/blobs/", "/referrers/"} {
		if i := strings.LastIndex(rest, mark); i >= 0 {
			return rest[:i]
		}
	}
	return ""
}

func (r *fakeRegistry) authorized(req *http.Request) bool {
	shown, ok := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
	r.mu.Lock()
	defer r.mu.Unlock()
	repository, valid := r.valid[shown]
	return ok && valid && repository == repositoryOf(req.URL.Path)
}

func (r *fakeRegistry) serveToken(w http.ResponseWriter, req *http.Request) {
	if user, password, _ := req.BasicAuth(); user != r.user || password != r.password {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	scopes := req.URL.Query()["scope"]
	if len(scopes) != 1 || req.URL.Query().Get("service") != "the service" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	repository, ok := strings.CutSuffix(strings.TrimPrefix(scopes[0], "repository:"), ":pull")
	if !ok {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"token": r.mint(repository), "expires_in": r.tokenLife})
}

func (r *fakeRegistry) mint(repository string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tokens++
	value := fmt.Sprintf("token-%d", r.tokens)
	r.valid[value] = repository
	return value
}

// revoke makes all tokens handed out so far invalid.
func (r *fakeRegistry) revoke() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.valid)
}

// count counts the requests so far that contain all of the texts.
func (r *fakeRegistry) count(texts ...string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, line := range r.asked {
		if !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(line, text) }) {
			n++
		}
	}
	return n
}

func (r *fakeRegistry) log() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.asked, "\n")
}

func (r *fakeRegistry) blob(t testing.TB, repository, mediaType string, data []byte) ocispec.Descriptor {
	t.Helper()
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if _, err := r.backend.PushBlob(t.Context(), repository, desc, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	return desc
}

func (r *fakeRegistry) manifest(t testing.TB, repository, tag string, manifest any, mediaType string) ocispec.Descriptor {
	t.Helper()
	data, err := json.Marshal(manifest)
	if err != nil {
		t.Fatal(err)
	}
	desc, err := r.backend.PushManifest(t.Context(), repository, tag, data, mediaType)
	if err != nil {
		t.Fatal(err)
	}
	return ocispec.Descriptor{MediaType: mediaType, Digest: desc.Digest, Size: desc.Size}
}

// image pushes an image, tagged, and gives its subject.
func (r *fakeRegistry) image(t testing.TB, repository, tag string) referrerstore.Subject {
	t.Helper()
	config := r.blob(t, repository, ocispec.MediaTypeImageConfig, []byte(`{"author":"`+repository+tag+`"}`))
	desc := r.manifest(t, repository, tag, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: config, Layers: []ocispec.Descriptor{},
	}, ocispec.MediaTypeImageManifest)
	return referrerstore.Subject{Reference: r.reference(t, repository, tag), Descriptor: desc}
}

func (r *fakeRegistry) reference(t testing.TB, repository, tag string) referrerstore.Reference {
	t.Helper()
	ref, err := referrerstore.ParseReference(r.host() + "/" + repository + ":" + tag)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// referrer pushes a manifest that names the subject.
func (r *fakeRegistry) referrer(t testing.TB, subject referrerstore.Subject, artifactType, data string) ocispec.Descriptor {
	t.Helper()
	repository := subject.Reference.Repository
	of := subject.Descriptor
	desc := r.manifest(t, repository, "", ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: artifactType,
		Config:       r.blob(t, repository, ocispec.MediaTypeEmptyJSON, []byte(`{}`)),
		Layers:       []ocispec.Descriptor{r.blob(t, repository, "application/jose+json", []byte(data))},
		Subject:      &of,
	}, ocispec.MediaTypeImageManifest)
	desc.ArtifactType = artifactType
	return desc
}

// tagReferrers writes the index of the tag schema.
func (r *fakeRegistry) tagReferrers(t testing.TB, subject referrerstore.Subject, list []ocispec.Descriptor) {
	t.Helper()
	tag := strings.ReplaceAll(subject.Descriptor.Digest.String(), ":", "-")
	r.manifest(t, subject.Reference.Repository, tag, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: list,
	}, ocispec.MediaTypeImageIndex)
}

// ca writes the registry's certificate to a file.
func (r *fakeRegistry) ca(t testing.TB) string {
	t.Helper()
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate().Raw})
	return writeFile(t, "ca.crt", string(block), 0o600)
}

func writeFile(t testing.TB, name, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func noProxy(*url.URL) (*url.URL, error) { return nil, nil }

// newStore makes a store that may talk to the registries over plain HTTP.
func newStore(t testing.TB, opts Options, deps Deps, plain ...*fakeRegistry) *Store {
	t.Helper()
	for _, r := range plain {
		opts.PlainHTTP = append(opts.PlainHTTP, r.host())
	}
	if deps.Proxy == nil {
		deps.Proxy = noProxy
	}
	if deps.Credentials == nil {
		deps.Credentials = kinds()
	}
	store, err := New(context.WithoutCancel(t.Context()), "registry", opts, deps)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	store.patience = time.Minute // a slow machine must not change what is counted
	return store
}

// collect reads a list to its end.
func collect(ctx context.Context, store referrerstore.Store, subject referrerstore.Subject) (list []ocispec.Descriptor, err error) {
	for desc, err := range store.Referrers(ctx, subject) {
		if err != nil {
			return list, err
		}
		list = append(list, desc)
	}
	return list, nil
}
