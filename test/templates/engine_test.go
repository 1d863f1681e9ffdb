package templates_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/open-policy-agent/frameworks/constraint/pkg/externaldata"
	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/gatehouse-project/gatehouse/test/templates"
)

// TestSystemError is about answers without items: what a provider gives for a
// request that it refuses, and what is no provider's answer at all.
func TestSystemError(t *testing.T) {
	t.Parallel()
	refusal := externaldata.Response{SystemError: "BAD_REQUEST: the body is not valid JSON"}
	text := func(status int, body string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		})
	}
	for name, tc := range map[string]struct {
		provider http.Handler
		want     templates.Decision
	}{
		"refused with a reason": {
			provider(http.StatusBadRequest, func([]string) externaldata.Response { return refusal }),
			templates.Denied,
		},
		"not JSON":   {text(http.StatusNotFound, "404 page not found\n"), templates.Denied},
		"no body":    {text(http.StatusServiceUnavailable, ""), templates.Denied},
		"other JSON": {text(http.StatusNotFound, `{"error":"no such page"}`), templates.Admitted}, // so our errors say why in systemError
		"null":       {text(http.StatusOK, `null`), templates.Admitted},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, template := range templates.Names() {
				violations, _ := templates.Options{}.Ask(t, template, tc.provider, templates.PodOf(image("x")))
				if admitted := len(violations) == 0; admitted != (tc.want == templates.Admitted) {
					t.Errorf("%s admitted: %t, want %s; violations %q", template, admitted, tc.want, violations)
				}
			}
		})
	}
}

// TestUnreachable is about what Gatekeeper's client refuses itself.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	down := templates.Serve(t, golden(t), templates.VerifyPath)
	down.Stop()
	up := templates.Serve(t, golden(t), templates.VerifyPath)
	for name, provider := range map[string]templates.Provider{
		"down":               down.Provider,
		"another CA":         {URL: up.URL, CA: stranger(t)},
		"TLS 1.2 at most":    oldServer(t),
		"plain HTTP by name": {URL: strings.Replace(up.URL, "https", "http", 1), CA: up.CA},
	} {
		t.Run(name, func(t *testing.T) {
			for _, template := range templates.Names() {
				violations, err := templates.Evaluate(t.Context(), question(t, template, provider))
				if err == nil && len(violations) == 0 {
					t.Errorf("%s admits", template)
				}
			}
		})
	}
	violations, err := templates.Evaluate(t.Context(), question(t, templates.RatifyVerification, up.Provider))
	if err != nil || len(violations) > 0 {
		t.Errorf("the same provider, asked rightly: %q, %v", violations, err)
	}
}

func question(t *testing.T, template string, provider templates.Provider) templates.Question {
	t.Helper()
	request, err := templates.PodOf(image("attached")).Request()
	if err != nil {
		t.Fatal(err)
	}
	return templates.Question{Template: template, Request: request, Provider: provider}
}

// oldServer stops at TLS 1.2.
func oldServer(t *testing.T) templates.Provider {
	t.Helper()
	server := httptest.NewUnstartedServer(golden(t))
	server.TLS = &tls.Config{MaxVersion: tls.VersionTLS12} // what must be refused
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	return templates.Provider{
		URL: server.URL,
		CA:  pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}),
	}
}

func TestEvaluateRefuses(t *testing.T) {
	t.Parallel()
	up := templates.Serve(t, golden(t), templates.VerifyPath)
	deployment := &admissionv1.AdmissionRequest{
		Kind:   metav1.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"},
		Object: runtime.RawExtension{Raw: []byte(`{}`)},
	}
	good := question(t, templates.RatifyVerification, up.Provider)
	for name, change := range map[string]func(*templates.Question){
		"unknown template": func(q *templates.Question) { q.Template = "unknown" },
		"no pod":           func(q *templates.Question) { q.Request = deployment },
		"no CA":            func(q *templates.Question) { q.Provider.CA = nil },
		"undeclared type of a parameter": func(q *templates.Question) {
			q.Template, q.Parameters = templates.NotationIssuer, map[string]any{"issuer": int64(1)}
		},
	} {
		q := good
		change(&q)
		if _, err := templates.Evaluate(t.Context(), q); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if calls := up.Stop(); len(calls) > 0 {
		t.Errorf("the provider was asked %d times", len(calls))
	}
}

func TestEvaluateEnds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	up := templates.Serve(t, golden(t), templates.VerifyPath)
	violations, err := templates.Evaluate(ctx, question(t, templates.RatifyVerification, up.Provider))
	if err == nil && len(violations) == 0 {
		t.Error("an evaluation that was cancelled admits")
	}
}

// TestNothingAsked is about the pods for which the templates ask no key: they
// are admitted, and no provider can help it.
func TestNothingAsked(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		pod       templates.Pod
		templates []string
	}{
		"a pod without containers":                            {templates.Pod{Namespace: "default"}, templates.Names()},
		"a pod without a namespace, by the tenants' template": {templates.Pod{Containers: images("failed")}, []string{templates.MultiTenancy}},
	} {
		pod := tc.pod
		for _, template := range tc.templates {
			violations, calls := templates.Options{}.Ask(t, template, golden(t), pod)
			if len(violations) > 0 || len(calls) > 0 {
				t.Errorf("%s: %s asked %d times, violations %q", name, template, len(calls), violations)
			}
		}
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	pod := templates.Pod{Namespace: "prod", Containers: []string{"c", "c"}, Init: []string{"i"}, Ephemeral: []string{"e"}}
	if got, want := pod.Keys(templates.SBOM), []string{"i", "e", "c", "c"}; !slices.Equal(got, want) {
		t.Errorf("keys %q, want %q", got, want)
	}
	if got, want := pod.Keys(templates.MultiTenancy), []string{"[prod]i", "[prod]e", "[prod]c", "[prod]c"}; !slices.Equal(got, want) {
		t.Errorf("keys %q, want %q", got, want)
	}
}

// stranger is a root that signed nothing.
func stranger(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
