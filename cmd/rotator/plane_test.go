package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// What rbac.yaml is about.
const (
	namespace = "gatehouse-system"
	secret    = "gatehouse-tls"
	account   = "gatehouse-rotator"
)

var providerNames = []string{"gatehouse-verify", "gatehouse-verify-pods", "gatehouse-audit", "gatehouse-mutate"}

var (
	secretsAt   = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
	providersAt = schema.GroupVersionResource{Group: "externaldata.gatekeeper.sh", Version: "v1beta1", Resource: "providers"}
	leasesAt    = schema.GroupVersionResource{Group: "coordination.k8s.io", Version: "v1", Resource: "leases"}
)

// plane is a real etcd and a real kube-apiserver with RBAC.
type plane struct {
	admin *rest.Config
	do    dynamic.Interface // as the administrator
}

// startPlane starts them and applies rbac.yaml. They end with the test.
func startPlane(t *testing.T) *plane {
	t.Helper()
	if os.Getenv("GATEHOUSE_E2E") == "" {
		t.Skip("needs a control plane: make e2e runs it")
	}
	tools := filepath.Join("..", "..", "test", "e2e", "tools")
	gatekeeper := goOutput(t, filepath.Join(tools, "gatekeeper"), "list", "-m", "-f", "{{.Dir}}", "github.com/open-policy-agent/gatekeeper/v3")
	crds := filepath.Join(gatekeeper, "charts", "gatekeeper", "crds", "provider-customresourcedefinition.yaml")
	env := &envtest.Environment{
		ControlPlane: envtest.ControlPlane{
			Etcd:      &envtest.Etcd{Path: goOutput(t, filepath.Join(tools, "etcd"), "tool", "-n", "server")},
			APIServer: &envtest.APIServer{Path: goOutput(t, filepath.Join(tools, "kubernetes"), "tool", "-n", "kube-apiserver")},
		},
		CRDInstallOptions:        envtest.CRDInstallOptions{Paths: []string{crds}, ErrorIfPathMissing: true, MaxTime: time.Minute},
		ControlPlaneStartTimeout: 2 * time.Minute,
	}
	began := time.Now()
	admin, err := env.Start()
	t.Cleanup(func() {
		if err := env.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	admin.QPS = -1
	do, err := dynamic.NewForConfig(admin)
	if err != nil {
		t.Fatal(err)
	}
	p := &plane{admin: admin, do: do}
	p.applyRights(t)
	t.Logf("control plane ready after %s", time.Since(began).Round(time.Millisecond))
	return p
}

func goOutput(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOFLAGS=")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, errs.String())
	}
	return strings.TrimSpace(string(out))
}

// applyRights creates the namespace and what rbac.yaml has.
func (p *plane) applyRights(t *testing.T) {
	t.Helper()
	p.create(t, schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}, object("v1", "Namespace", "", namespace))
	file, err := os.Open("rbac.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	documents := yaml.NewYAMLOrJSONDecoder(file, 4096)
	for {
		var u unstructured.Unstructured
		if err := documents.Decode(&u); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		at, _ := meta.UnsafeGuessKindToResource(u.GroupVersionKind())
		p.create(t, at, &u)
	}
}

func object(version, kind, namespace, name string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": version, "kind": kind}}
	u.SetName(name)
	u.SetNamespace(namespace)
	return u
}

func (p *plane) create(t *testing.T, at schema.GroupVersionResource, u *unstructured.Unstructured) {
	t.Helper()
	if _, err := p.do.Resource(at).Namespace(u.GetNamespace()).Create(t.Context(), u, metav1.CreateOptions{}); err != nil {
		t.Fatalf("create %s %s: %v", u.GetKind(), u.GetName(), err)
	}
}

// fresh replaces what the chart makes, as after an installation: an empty Secret and
// Providers that have the placeholder.
func (p *plane) fresh(t *testing.T, url string) {
	t.Helper()
	placeholder, err := os.ReadFile("placeholder.pem")
	if err != nil {
		t.Fatal(err)
	}
	p.remove(t, secretsAt, namespace, secret)
	p.create(t, secretsAt, object("v1", "Secret", namespace, secret))
	for _, name := range providerNames {
		p.remove(t, providersAt, "", name)
		u := object("externaldata.gatekeeper.sh/v1beta1", "Provider", "", name)
		u.Object["spec"] = map[string]any{"url": url, "timeout": int64(3), "caBundle": base64.StdEncoding.EncodeToString(placeholder)}
		p.create(t, providersAt, u)
	}
}

func (p *plane) remove(t *testing.T, at schema.GroupVersionResource, namespace, name string) {
	t.Helper()
	err := p.do.Resource(at).Namespace(namespace).Delete(t.Context(), name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
}

// data is the Secret's content.
func (p *plane) data(ctx context.Context) (map[string][]byte, error) {
	u, err := p.do.Resource(secretsAt).Namespace(namespace).Get(ctx, secret, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return decoded(u)
}

func decoded(u *unstructured.Unstructured) (map[string][]byte, error) {
	text, _, err := unstructured.NestedStringMap(u.Object, "data")
	data := map[string][]byte{}
	for key, value := range text {
		data[key], err = base64.StdEncoding.DecodeString(value)
	}
	return data, err
}

// write replaces the Secret's content.
func (p *plane) write(t *testing.T, data map[string][]byte) {
	t.Helper()
	u := object("v1", "Secret", namespace, secret)
	text := map[string]any{}
	for key, value := range data {
		text[key] = base64.StdEncoding.EncodeToString(value)
	}
	u.Object["data"] = text
	if _, err := p.do.Resource(secretsAt).Namespace(namespace).Update(t.Context(), u, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func (p *plane) setBundle(t *testing.T, name string, bundle []byte) {
	t.Helper()
	patch := fmt.Sprintf(`{"spec":{"caBundle":%q}}`, base64.StdEncoding.EncodeToString(bundle))
	if _, err := p.do.Resource(providersAt).Patch(t.Context(), name, "application/merge-patch+json", []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

// bundle is what a Provider trusts.
func (p *plane) bundle(ctx context.Context, name string) (string, error) {
	u, err := p.do.Resource(providersAt).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	text, _, err := unstructured.NestedString(u.Object, "spec", "caBundle")
	return text, err
}

// asAccount is an access with the rights of the service account.
func (p *plane) asAccount() *rest.Config {
	config := rest.CopyConfig(p.admin)
	config.Impersonate = rest.ImpersonationConfig{
		UserName: "system:serviceaccount:" + namespace + ":" + account,
		Groups:   []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated"},
	}
	return config
}

// flags are a command line for the test's objects. What is given later counts.
func flags(more ...string) []string {
	args := []string{"--namespace", namespace, "--secret", secret, "--service", "gatehouse", "--dns-name", "localhost", "--health-address", ""}
	for _, name := range providerNames {
		args = append(args, "--provider", name)
	}
	return append(args, more...)
}

// rotate runs the rotator within the test until the returned function is called, at the
// latest until the test ends.
func (p *plane) rotate(t *testing.T, more ...string) (stop func()) {
	t.Helper()
	s, err := parse(flags(more...), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	log := &syncBuffer{}
	go func() {
		ended <- runWith(ctx, p.asAccount(), s, slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	}()
	var stopped bool
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(log.String())
		}
	}
	t.Cleanup(stop)
	return stop
}

// eventually waits until check is nil and gives how long that took.
func eventually(t *testing.T, check func() error) time.Duration {
	t.Helper()
	began := time.Now()
	for {
		err := check()
		if err == nil {
			return time.Since(began)
		}
		if time.Since(began) > 45*time.Second {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
