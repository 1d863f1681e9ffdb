package chart_test

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	externaldata "github.com/open-policy-agent/frameworks/constraint/pkg/apis/externaldata/v1beta1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/gatehouse-project/gatehouse/test/chart"
)

// nested gives a field of an object that is not of a type of ours.
func nested[T any](object *unstructured.Unstructured, fields ...string) (T, bool, error) {
	var none T
	if object == nil {
		return none, false, fmt.Errorf("not rendered")
	}
	value, found, err := unstructured.NestedFieldNoCopy(object.Object, fields...)
	if err != nil || !found {
		return none, found, err
	}
	typed, ok := value.(T)
	if !ok {
		return none, true, fmt.Errorf("%v is a %T", value, value)
	}
	return typed, true, nil
}

// Until a true authority is known, the Providers trust one that has ended, and that nobody
// has the key of: its public key is the hash of a sentence.
func TestNobody(t *testing.T) {
	t.Parallel()
	provider := as[externaldata.Provider](t, with(t), "Provider", "gatehouse-verify")
	text, err := base64.StdEncoding.DecodeString(provider.Spec.CABundle)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("gatehouse: nobody has the key of this certificate"))
	if key := fmt.Sprintf("%x", certificate.PublicKey); key != fmt.Sprintf("%x", sum) || certificate.NotAfter.Year() > 1970 {
		t.Errorf("key %s, ends %s", key, certificate.NotAfter.Format(time.RFC3339))
	}
}

// The rotator is told of what the chart made for it, and may touch that alone.
func TestRotator(t *testing.T) {
	t.Parallel()
	objects := render(t, chart.Options{Values: []string{"testdata/values/rotator.yaml"}})
	pod, err := objects.Pod("Deployment", "gate-rotator")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"--namespace=gatekeeper-system", "--secret=gate-tls", "--service=gate",
		"--provider=gate-verify", "--provider=gate-verify-pods", "--provider=gate-audit", "--log-level=info",
	}
	if diff := cmp.Diff(want, pod.Spec.Containers[0].Args); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if objects.Find("Secret", "gate-tls") == nil || objects.Find("Service", "gate") == nil {
		t.Error("Secret or Service is not there")
	}
	role := as[rbacv1.Role](t, objects, "Role", "gate-rotator")
	cluster := as[rbacv1.ClusterRole](t, objects, "ClusterRole", "gatekeeper-system-gate-rotator")
	rules := append(role.Rules, cluster.Rules...)
	verbs := []string{"get", "watch", "patch"}
	if diff := cmp.Diff([]rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{"gate-tls"}, Verbs: verbs},
		{APIGroups: []string{"externaldata.gatekeeper.sh"}, Resources: []string{"providers"}, ResourceNames: []string{"gate-verify", "gate-verify-pods", "gate-audit"}, Verbs: verbs},
	}, rules); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// cert-manager makes a certificate for the host in the Providers' URLs, in the Secret that
// is mounted.
func TestCertManager(t *testing.T) {
	t.Parallel()
	for name, issuer := range map[string]string{"certmanager": "internal", "certmanager-own": "gatehouse-ca"} {
		namespace := map[string]string{"certmanager": "gatehouse"}[name]
		objects := render(t, chart.Options{Namespace: namespace, Values: []string{"testdata/values/" + name + ".yaml"}})
		certificate := objects.Find("Certificate", "gatehouse-tls")
		names, _, err := nested[[]any](certificate, "spec", "dnsNames")
		provider := as[externaldata.Provider](t, objects, "Provider", "gatehouse-verify")
		if host, _, _ := strings.Cut(strings.TrimPrefix(provider.Spec.URL, "https://"), ":"); err != nil || !slices.Contains(names, any(host)) {
			t.Errorf("%s: %v has not %s: %v", name, names, host, err)
		}
		if got, _, err := nested[string](certificate, "spec", "issuerRef", "name"); err != nil || got != issuer {
			t.Errorf("%s: issuer %s, %v", name, got, err)
		}
		if got, _, err := nested[string](certificate, "spec", "secretName"); err != nil || got != "gatehouse-tls" {
			t.Errorf("%s: secret %s, %v", name, got, err)
		}
		if own := objects.Find("Issuer", "gatehouse-ca") != nil; own != (issuer == "gatehouse-ca") {
			t.Errorf("%s: an authority of its own: %t", name, own)
		}
	}
}

// The pull-through registry is reached by nodes, over TLS, and has room.
func TestPullThrough(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		shape, size, tls   string
		hostPort, nodePort int32
	}{
		{"pullthrough", "121Gi", "pull-through-server", 0, 30580},
		{"pullthrough-hostport", "10Gi", "gatehouse-pull-through-tls", 5080, 0},
	} {
		objects := render(t, chart.Options{Values: []string{"testdata/values/" + test.shape + ".yaml"}})
		set := as[appsv1.StatefulSet](t, objects, "StatefulSet", "gatehouse-pull-through")
		if got := set.Spec.VolumeClaimTemplates[0].Spec.Resources.Requests.Storage().String(); got != test.size {
			t.Errorf("%s: %s", test.shape, got)
		}
		pod := set.Spec.Template.Spec
		if got := pod.Containers[0].Ports[0]; got.Name != "registry" || got.HostPort != test.hostPort {
			t.Errorf("%s: %+v", test.shape, got)
		}
		mounted := slices.ContainsFunc(pod.Volumes[0].Projected.Sources, func(s corev1.VolumeProjection) bool { return s.Secret != nil && s.Secret.Name == test.tls })
		if made := objects.Find("Certificate", "gatehouse-pull-through") != nil; !mounted || made != (test.nodePort == 0) {
			t.Errorf("%s: certificate mounted %t, made %t", test.shape, mounted, made)
		}
		service := objects.Find("Service", "gatehouse-pull-through-nodes")
		if (service != nil) != (test.nodePort != 0) {
			t.Fatalf("%s: Service %v", test.shape, service)
		}
		if service != nil {
			port := as[corev1.Service](t, objects, "Service", service.GetName()).Spec.Ports[0]
			if port.NodePort != test.nodePort || port.TargetPort.StrVal != "registry" {
				t.Errorf("%s: %+v", test.shape, port)
			}
		}
	}
}

// What lies in monitoring is rendered, whole.
func TestMonitoring(t *testing.T) {
	t.Parallel()
	objects := render(t, chart.Options{Values: []string{"testdata/values/monitoring.yaml"}})
	if len(objects.Kind("ServiceMonitor")) != 1 || len(objects.Kind("PrometheusRule")) == 0 {
		t.Errorf("%d ServiceMonitors, %d PrometheusRules", len(objects.Kind("ServiceMonitor")), len(objects.Kind("PrometheusRule")))
	}
	for _, rule := range objects.Kind("PrometheusRule") {
		if groups, _, err := nested[[]any](rule, "spec", "groups"); err != nil || len(groups) == 0 || rule.GetLabels()["release"] != "prometheus" {
			t.Errorf("%s: %d groups, labels %v, %v", rule.GetName(), len(groups), rule.GetLabels(), err)
		}
	}
	dashboards := as[corev1.ConfigMap](t, objects, "ConfigMap", "gatehouse-dashboard")
	if dashboards.Labels["grafana_dashboard"] != "1" || len(dashboards.Data) == 0 {
		t.Errorf("labels %v, %d dashboards", dashboards.Labels, len(dashboards.Data))
	}
	for name, text := range dashboards.Data {
		if !strings.HasPrefix(text, "{") || !strings.HasSuffix(strings.TrimSpace(text), "}") {
			t.Errorf("%s is no JSON", name)
		}
	}
}

// Gatekeeper reaches the provider, Prometheus the metrics, and nobody the rotator.
func TestWalls(t *testing.T) {
	t.Parallel()
	objects := render(t, chart.Options{Values: []string{"testdata/values/monitoring.yaml"}})
	provider := as[networkingv1.NetworkPolicy](t, objects, "NetworkPolicy", "gatehouse").Spec
	from := map[int32]string{}
	for _, rule := range provider.Ingress {
		from[rule.Ports[0].Port.IntVal] = rule.From[0].NamespaceSelector.MatchLabels["kubernetes.io/metadata.name"]
	}
	if diff := cmp.Diff(map[int32]string{6001: "gatekeeper-system", 8888: "monitoring"}, from); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	var to []int32
	for _, rule := range provider.Egress {
		to = append(to, rule.Ports[0].Port.IntVal)
	}
	if diff := cmp.Diff([]int32{53, 443, 5000}, to); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	rotator := as[networkingv1.NetworkPolicy](t, objects, "NetworkPolicy", "gatehouse-rotator").Spec
	if len(rotator.Ingress) != 0 || !slices.Contains(rotator.PolicyTypes, networkingv1.PolicyTypeIngress) {
		t.Errorf("%+v", rotator)
	}
}

// With an autoscaler the Deployment says nothing of replicas, which would take them back at
// each upgrade; without, there is none.
func TestAutoscaler(t *testing.T) {
	t.Parallel()
	objects := render(t, chart.Options{Values: []string{"testdata/values/ha.yaml"}})
	if _, found, err := nested[int64](objects.Find("Deployment", "gatehouse"), "spec", "replicas"); found || err != nil {
		t.Errorf("the Deployment has replicas: %v", err)
	}
	if objects.Find("HorizontalPodAutoscaler", "gatehouse") == nil || with(t).Kind("HorizontalPodAutoscaler") != nil {
		t.Error("an autoscaler where it is on, and only there")
	}
}
