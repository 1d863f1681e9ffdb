package templates_test

import (
	"net/http"
	"net/http/httputil"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatehouse-project/gatehouse/test/process"
	"github.com/gatehouse-project/gatehouse/test/registry"
	"github.com/gatehouse-project/gatehouse/test/signing"
)

// forward hands requests on to the process, at their path and with a query.
func forward(t *testing.T, p *process.Process, query string) http.Handler {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host, r.Out.URL.RawQuery = "http", p.Address(), query
	}}
}

// TestChain goes the whole way with the real provider: Assigns turn tags into
// digests, and the chart's rule decides on what they leave.
func TestChain(t *testing.T) {
	t.Parallel()
	images, err := registry.Start(registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(images.Close)
	acme, err := signing.NewAuthority("acme root", signing.ECDSA256, signing.AuthorityOptions{})
	if err != nil {
		t.Fatal(err)
	}
	signed, signedPin := push(t, images, acme, "signed")
	unsigned, unsignedPin := push(t, images, nil, "unsigned")
	p := process.Start(t, process.Config{PlainHTTP: []string{images.Host()}, Roots: map[string][]byte{"acme.crt": acme.PEM()}})

	pod := func(image string) string {
		return podText(`{"containers":[{"name":"a","image":"` + image + `"}],"volumes":[{"name":"v","image":{"reference":"` + image + `"}},{"name":"w","emptyDir":{}}]}`)
	}
	requests := []mutationRequest{created(t, pod(signed)), created(t, pod(unsigned)), created(t, pod(signedPin))}
	want := []string{pod(signedPin), pod(unsignedPin), pod(signedPin)}
	run := mutation{assigns: shippedAssigns(t), name: shippedMutator, provider: forward(t, p, ""), requests: requests}
	results, _ := run.run(t)
	for i, result := range results {
		same(t, string(requests[i].Object), result, []byte(want[i]))
	}
	run.requests = []mutationRequest{created(t, pod(images.Host()+"/app:missing"))}
	if results, _ = run.run(t); !strings.Contains(results[0].Error, "SUBJECT_NOT_FOUND: ") {
		t.Errorf("an image that is missing: %q", results[0].Error)
	}
	stock := strings.ReplaceAll(podText(`{"containers":[{"name":"a","image":"IMAGE"}]}`), "IMAGE", signed)
	run.assigns, run.name, run.requests = assignsIn(t, filepath.Join("testdata", "assigns")), stockMutator, []mutationRequest{created(t, stock)}
	results, _ = run.run(t)
	same(t, "Ratify's Assigns", results[0], []byte(strings.Replace(stock, signed, signedPin, 1)))

	for name, tc := range map[string]struct {
		object, code string
	}{
		"signed and pinned":   {want[0], ""},
		"signed, not pinned":  {pod(signed), "IMAGE_NOT_PINNED"},
		"unsigned and pinned": {want[1], "SIGNATURE_NOT_FOUND"},
		"missing, not pinned": {pod(images.Host() + "/app:missing"), "IMAGE_NOT_PINNED"},
	} {
		got := scene{request: request(t, tc.object), providers: map[string]http.Handler{podsProvider: forward(t, p, "unpinned=deny")}}.play(t)
		if text := strings.Join(got.messages(), "\n"); (text == "") != (tc.code == "") || !strings.Contains(text, tc.code) {
			t.Errorf("%s: %q, want %q", name, text, tc.code)
		} else if tc.code != "" && !strings.Contains(text, "trace ") {
			t.Errorf("%s: no trace id: %q", name, text)
		}
	}
}

// push pushes an image with a signature of the authority, or with none, and
// returns its name by tag and by digest.
func push(t *testing.T, to *registry.Registry, by *signing.Authority, tag string) (tagged, pinned string) {
	t.Helper()
	desc, err := to.PushImage(t.Context(), "app", tag, tag)
	if err != nil {
		t.Fatal(err)
	}
	if by != nil {
		signer, err := by.Issue("release", signing.ECDSA256, signing.IssueOptions{})
		if err != nil {
			t.Fatal(err)
		}
		envelope, err := signer.Sign(t.Context(), desc, signing.SignOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := to.PushReferrer(t.Context(), "app", desc, signing.ArtifactType, envelope.MediaType, envelope.Bytes, nil); err != nil {
			t.Fatal(err)
		}
	}
	name := to.Host() + "/app"
	return name + ":" + tag, name + "@" + desc.Digest.String()
}
