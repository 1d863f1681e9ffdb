package chart_test

import (
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/gatehouse-project/gatehouse/test/chart"
)

// StatefulSet pods carry NAME-HASH as the value of a label, of 63 characters at most, and a
// hash has up to ten: with a longer name no pod is made. A Service's name begins with a
// letter and has no dots, which names of releases may have.
func TestNamesFit(t *testing.T) {
	t.Parallel()
	for _, release := range []string{
		"gatehouse", "g", "1st", "a.b", "1.gatehouse", "gatehouse." + strings.Repeat("x", 40), strings.Repeat("x", 53), "gatehouse-" + strings.Repeat("x", 28) + "-y",
	} {
		t.Run(release, func(t *testing.T) {
			t.Parallel()
			objects := render(t, chart.Options{Release: release, Values: []string{"testdata/values/pullthrough.yaml"}})
			for _, object := range objects.Kind("Service") {
				if name := object.GetName(); len(name) > 63 || strings.Contains(name, ".") || name[0] < 'a' {
					t.Errorf("a Service called %s", name)
				}
			}
			for _, object := range objects.Kind("StatefulSet") {
				if name := object.GetName(); len(name) > 52 {
					t.Errorf("a StatefulSet called %s, of %d characters", name, len(name))
				}
			}
		})
	}
}

// Some clusters admit pods of a system's priority only where a quota is for them. Gatekeeper
// brings one for its own namespace.
func TestQuotaForPriority(t *testing.T) {
	t.Parallel()
	elsewhere := chart.Options{Namespace: "gatehouse", Values: []string{minimal}, Set: []string{"gatekeeper.clientCA.configMapName=gatekeeper-ca"}}
	quotas := render(t, elsewhere).Kind("ResourceQuota")
	if len(quotas) != 1 {
		t.Fatalf("%d quotas in another namespace", len(quotas))
	}
	quota := as[corev1.ResourceQuota](t, quotas, "ResourceQuota", "gatehouse-critical-pods")
	scope := quota.Spec.ScopeSelector.MatchExpressions[0]
	if quota.Namespace != "gatehouse" || scope.ScopeName != corev1.ResourceQuotaScopePriorityClass || scope.Operator != corev1.ScopeSelectorOpIn ||
		len(scope.Values) != 1 || scope.Values[0] != "system-cluster-critical" || quota.Spec.Hard.Pods().Value() < 100 {
		t.Errorf("%+v", quota)
	}
	elsewhere.Set = append(elsewhere.Set, "priorityClassName=mine")
	if render(t, elsewhere).Kind("ResourceQuota") != nil || with(t).Kind("ResourceQuota") != nil {
		t.Error("a quota where none is needed")
	}
}

// Images of the release's namespace are not asked about: it must not be one that everybody
// makes pods in.
func TestNotIntoDefault(t *testing.T) {
	t.Parallel()
	_, err := chart.RenderText(t.Context(), chart.Options{Namespace: "default", Values: []string{minimal}, Set: []string{"gatekeeper.clientCA.configMapName=gatekeeper-ca"}})
	if err == nil || !strings.Contains(err.Error(), "its images would not be asked about") {
		t.Errorf("%v", err)
	}
}

// The image is one for Linux.
func TestLinuxOnly(t *testing.T) {
	t.Parallel()
	eachPod(t, func(t *testing.T, name string, pod corev1.PodTemplateSpec) {
		if pod.Spec.NodeSelector["kubernetes.io/os"] != "linux" {
			t.Errorf("%s: may run on %v", name, pod.Spec.NodeSelector)
		}
	})
	pod, err := with(t, `nodeSelector.kubernetes\.io/os=other`).Pod("Deployment", "gatehouse")
	if err != nil || pod.Spec.NodeSelector["kubernetes.io/os"] != "other" {
		t.Errorf("%v, %v", pod.Spec.NodeSelector, err)
	}
}

// A volume may hold a pod of the pull-through registry on a node where others are, while
// nodes without one wait for it: it must still start there.
func TestPullThroughStartsWhereItsVolumeIs(t *testing.T) {
	t.Parallel()
	objects := render(t, chart.Options{Values: []string{"testdata/values/pullthrough.yaml"}})
	set := as[appsv1.StatefulSet](t, objects, "StatefulSet", "gatehouse-pull-through")
	for _, spread := range set.Spec.Template.Spec.TopologySpreadConstraints {
		if spread.WhenUnsatisfiable != corev1.ScheduleAnyway {
			t.Errorf("%+v", spread)
		}
	}
}

// The rotator asks the API server only: a proxy, which the others may need, would come
// between.
func TestRotatorKnowsNoProxy(t *testing.T) {
	t.Parallel()
	objects := render(t, chart.Options{Values: []string{"testdata/values/ha.yaml"}})
	for name, want := range map[string]bool{"gatehouse": true, "gatehouse-rotator": false} {
		pod, err := objects.Pod("Deployment", name)
		if err != nil {
			t.Fatal(err)
		}
		got := false
		for _, variable := range pod.Spec.Containers[0].Env {
			got = got || variable.Name == "HTTPS_PROXY"
		}
		if got != want {
			t.Errorf("%s: has the proxy: %t", name, got)
		}
	}
}

// A Gatekeeper on the node's network has no namespace that a policy could see.
func TestExtraIngress(t *testing.T) {
	t.Parallel()
	objects := with(t, "networkPolicy.enabled=true", "networkPolicy.extraIngress[0].from[0].ipBlock.cidr=10.0.0.0/16", "networkPolicy.extraIngress[0].ports[0].port=6001")
	rules := as[networkingv1.NetworkPolicy](t, objects, "NetworkPolicy", "gatehouse").Spec.Ingress
	if last := rules[len(rules)-1]; len(rules) != 3 || last.From[0].IPBlock.CIDR != "10.0.0.0/16" {
		t.Errorf("%+v", rules)
	}
}

// The same values make the same objects, so that GitOps sees no difference.
func TestRepeatable(t *testing.T) {
	t.Parallel()
	eachShape(t, func(t *testing.T, s shape, _ chart.Objects) {
		first, err := chart.RenderText(t.Context(), s.options())
		if err != nil {
			t.Fatal(err)
		}
		again, err := chart.RenderText(t.Context(), s.options())
		if err != nil || first != again {
			t.Errorf("the second time it is different: %v", err)
		}
	})
}

// A roll-out of two replicas on two nodes ends: new pods are spread among themselves, since
// the old ones stay until they are ready, and no node that takes no pods is counted.
func TestRollOutEnds(t *testing.T) {
	t.Parallel()
	deployment := as[appsv1.Deployment](t, with(t), "Deployment", "gatehouse").Spec
	if update := deployment.Strategy.RollingUpdate; update.MaxUnavailable.IntVal != 0 || update.MaxSurge.IntVal != 1 {
		t.Errorf("%+v", update)
	}
	for _, spread := range deployment.Template.Spec.TopologySpreadConstraints {
		if !slices.Equal(spread.MatchLabelKeys, []string{appsv1.DefaultDeploymentUniqueLabelKey}) ||
			spread.NodeTaintsPolicy == nil || *spread.NodeTaintsPolicy != corev1.NodeInclusionPolicyHonor {
			t.Errorf("%+v", spread)
		}
	}
}
