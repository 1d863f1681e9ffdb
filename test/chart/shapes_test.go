package chart_test

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	externaldata "github.com/open-policy-agent/frameworks/constraint/pkg/apis/externaldata/v1beta1"
	templates "github.com/open-policy-agent/frameworks/constraint/pkg/apis/templates/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/gatehouse-project/gatehouse/config"
	"github.com/gatehouse-project/gatehouse/test/chart"
)

func TestLint(t *testing.T) {
	t.Parallel()
	eachShape(t, func(t *testing.T, s shape, _ chart.Objects) {
		if out, err := chart.Lint(t.Context(), s.options()); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

// Every object has the fields that its kind has, and no others.
func TestKinds(t *testing.T) {
	t.Parallel()
	decoder := strictDecoder(t)
	eachShape(t, func(t *testing.T, s shape, objects chart.Objects) {
		seen := map[string]bool{}
		for _, object := range objects {
			name := object.GetKind() + " " + object.GetNamespace() + "/" + object.GetName()
			if seen[name] {
				t.Errorf("%s: rendered twice", name)
			}
			seen[name] = true
			if problems := validation.IsDNS1123Subdomain(object.GetName()); len(problems) > 0 {
				t.Errorf("%s: %v", name, problems)
			}
			for key, value := range object.GetLabels() {
				if problems := append(validation.IsQualifiedName(key), validation.IsValidLabelValue(value)...); len(problems) > 0 {
					t.Errorf("%s: label %s=%s: %v", name, key, value, problems)
				}
			}
			text, err := object.MarshalJSON()
			if err != nil {
				t.Fatal(err)
			}
			if loose(object.GroupVersionKind().Group) {
				continue
			}
			if _, _, err := decoder.Decode(text, nil, nil); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// loose are the groups whose types are in no module of ours: an API server with their
// definitions looks at them.
func loose(group string) bool {
	return slices.Contains([]string{"cert-manager.io", "monitoring.coreos.com", "constraints.gatekeeper.sh", "mutations.gatekeeper.sh"}, group)
}

func strictDecoder(t *testing.T) runtime.Decoder {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, appsv1.AddToScheme, rbacv1.AddToScheme, policyv1.AddToScheme, autoscalingv2.AddToScheme,
		networkingv1.AddToScheme, externaldata.AddToScheme, templates.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	return serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
}

// The configuration is valid, without a remark, and each file that it names is in the
// volume of the pod that reads it.
func TestConfigurations(t *testing.T) {
	t.Parallel()
	eachShape(t, func(t *testing.T, s shape, objects chart.Objects) {
		for kind, name := range map[string]string{"Deployment": objects.Kind("Deployment")[0].GetName(), "StatefulSet": "gatehouse-pull-through"} {
			if objects.Find(kind, name) == nil {
				continue
			}
			pod, err := objects.Pod(kind, name)
			if err != nil {
				t.Fatal(err)
			}
			contents := given(t, objects, pod.Spec)
			dir := t.TempDir()
			if _, err := chart.Project(pod.Spec.Volumes[0], contents, dir); err != nil {
				t.Fatal(err)
			}
			cfg, err := config.Load(filepath.Join(dir, "gatehouse.yaml"))
			if err != nil {
				t.Fatalf("%s: %v", kind, err)
			}
			if len(cfg.Warnings) > 0 {
				t.Errorf("%s: %v", kind, cfg.Warnings)
			}
			for _, file := range cfg.Files() {
				if _, err := config.ReadFile(file, 1<<20); err != nil {
					t.Errorf("%s names a file that is not mounted: %v", kind, err)
				}
			}
		}
	})
}

// given makes up the Secrets and ConfigMaps that are not the chart's, with the keys that
// the pod mounts and more that it must not see.
func given(t *testing.T, objects chart.Objects, pod corev1.PodSpec) chart.Contents {
	t.Helper()
	contents, err := objects.ConfigMaps()
	if err != nil {
		t.Fatal(err)
	}
	add := func(name string, items []corev1.KeyToPath) {
		if contents[name] == nil {
			contents[name] = map[string][]byte{}
		}
		for _, item := range items {
			contents[name][item.Key] = []byte("x")
		}
	}
	for _, source := range pod.Volumes[0].Projected.Sources {
		if source.Secret != nil {
			add("Secret/"+source.Secret.Name, append(source.Secret.Items, corev1.KeyToPath{Key: "ca.key"}))
		}
		if source.ConfigMap != nil {
			add("ConfigMap/"+source.ConfigMap.Name, source.ConfigMap.Items)
		}
	}
	return contents
}

// A Secret's contents are nowhere, and no tag moves by itself.
func TestNothingSecretNothingMoving(t *testing.T) {
	t.Parallel()
	eachShape(t, func(t *testing.T, s shape, objects chart.Objects) {
		text, err := chart.RenderText(t.Context(), s.options())
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range []string{"latest", "PRIVATE KEY"} {
			if strings.Contains(text, word) {
				t.Errorf("%q is rendered", word)
			}
		}
		for _, object := range objects.Kind("Secret") {
			if object.Object["data"] != nil || object.Object["stringData"] != nil {
				t.Errorf("Secret %s has data", object.GetName())
			}
		}
	})
}

func TestProviders(t *testing.T) {
	t.Parallel()
	eachShape(t, func(t *testing.T, s shape, objects chart.Objects) {
		service := objects.Kind("Deployment")[0].GetName()
		base := "https://" + service + "." + s.namespace + ":6001/ratify/gatekeeper/v1/"
		prefix := map[string]string{"rotator": "gate"}[s.name]
		if prefix == "" {
			prefix = "gatehouse"
		}
		want := map[string]string{prefix + "-verify": base + "verify", prefix + "-verify-pods": base + "verify", prefix + "-audit": base + "audit"}
		if s.name == "mutation" {
			want["gatehouse-verify-pods"] += "?unpinned=deny"
			want["gatehouse-mutate"] = base + "mutate"
		}
		got := map[string]string{}
		for _, object := range objects.Kind("Provider") {
			provider := as[externaldata.Provider](t, objects, "Provider", object.GetName())
			got[provider.Name] = provider.Spec.URL
			if provider.Spec.Timeout < 1 {
				t.Errorf("%s: timeout %d", provider.Name, provider.Spec.Timeout)
			}
			text, err := base64.StdEncoding.DecodeString(provider.Spec.CABundle)
			if block, rest := pem.Decode(text); err != nil || block == nil || len(strings.TrimSpace(string(rest))) > 0 {
				t.Errorf("%s: caBundle %q: %v", provider.Name, text, err)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
	})
}

// Each Provider that a policy names is there, with the namespaces that are left alone.
func TestPolicyNamesWhatIsThere(t *testing.T) {
	t.Parallel()
	eachShape(t, func(t *testing.T, s shape, objects chart.Objects) {
		for _, object := range objects {
			if !slices.Contains([]string{"constraints.gatekeeper.sh", "mutations.gatekeeper.sh"}, object.GroupVersionKind().Group) {
				continue
			}
			var policy struct {
				Spec struct {
					Match      struct{ ExcludedNamespaces, Namespaces []string }
					Parameters struct {
						Provider, AuditProvider string
						NamespacePrefix         bool
						Assign                  struct{ ExternalData struct{ Provider string } }
					}
				}
			}
			text, err := object.MarshalJSON()
			if err == nil {
				err = json.Unmarshal(text, &policy)
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, provider := range []string{policy.Spec.Parameters.Provider, policy.Spec.Parameters.AuditProvider, policy.Spec.Parameters.Assign.ExternalData.Provider} {
				if provider != "" && objects.Find("Provider", provider) == nil {
					t.Errorf("%s names the Provider %s, which is not there", object.GetName(), provider)
				}
			}
			for _, exempt := range []string{"kube-system", "gatekeeper-system", s.namespace} {
				if !slices.Contains(policy.Spec.Match.ExcludedNamespaces, exempt) {
					t.Errorf("%s asks about %s", object.GetName(), exempt)
				}
			}
			if wide := s.name != "ha"; wide != (len(policy.Spec.Match.Namespaces) == 0) || wide == policy.Spec.Parameters.NamespacePrefix {
				t.Errorf("%s: %+v", object.GetName(), policy.Spec)
			}
		}
	})
}

// No right without the name of what it is for, and none to make, list or delete.
func TestRights(t *testing.T) {
	t.Parallel()
	eachShape(t, func(t *testing.T, s shape, objects chart.Objects) {
		for _, kind := range []string{"Role", "ClusterRole"} {
			for _, object := range objects.Kind(kind) {
				for _, rule := range as[rbacv1.ClusterRole](t, objects, kind, object.GetName()).Rules {
					if len(rule.ResourceNames) == 0 {
						t.Errorf("%s %s: %+v has no names", kind, object.GetName(), rule)
					}
					for _, verb := range rule.Verbs {
						if !slices.Contains([]string{"get", "watch", "patch"}, verb) {
							t.Errorf("%s %s: %s", kind, object.GetName(), verb)
						}
					}
				}
			}
		}
		if held := objects.Find("ClusterRole", s.namespace+"-gatehouse-rotator"); (held != nil) != (objects.Find("Deployment", "gatehouse-rotator") != nil) {
			t.Error("the rotator's rights and its process go together")
		}
	})
}
