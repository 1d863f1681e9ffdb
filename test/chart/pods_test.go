package chart_test

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/gatehouse-project/gatehouse/test/chart"
)

// eachPod runs a test on every pod of every shape.
func eachPod(t *testing.T, test func(t *testing.T, name string, pod corev1.PodTemplateSpec)) {
	t.Helper()
	eachShape(t, func(t *testing.T, _ shape, objects chart.Objects) {
		found := 0
		for _, kind := range []string{"Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob"} {
			for _, object := range objects.Kind(kind) {
				pod, err := objects.Pod(kind, object.GetName())
				if err != nil {
					t.Fatal(err)
				}
				found++
				test(t, object.GetName(), pod)
			}
		}
		if found == 0 {
			t.Error("no pods")
		}
	})
}

func TestPodsAreConfined(t *testing.T) {
	t.Parallel()
	eachPod(t, func(t *testing.T, name string, pod corev1.PodTemplateSpec) {
		of := pod.Spec.SecurityContext
		if !*of.RunAsNonRoot || *of.RunAsUser == 0 || *of.RunAsGroup == 0 || *of.FSGroup == 0 || of.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
			t.Errorf("%s: %+v", name, of)
		}
		if pod.Spec.HostNetwork || pod.Spec.HostPID || pod.Spec.HostIPC {
			t.Errorf("%s: shares the node's namespaces", name)
		}
		if diff := cmp.Diff([]corev1.PodDNSConfigOption{{Name: "ndots", Value: new("1")}}, pod.Spec.DNSConfig.Options); diff != "" {
			t.Errorf("%s: -want +got\n%s", name, diff)
		}
		if pod.Spec.PriorityClassName != "system-cluster-critical" {
			t.Errorf("%s: priority class %q", name, pod.Spec.PriorityClassName)
		}
		for _, volume := range pod.Spec.Volumes {
			if volume.HostPath != nil {
				t.Errorf("%s: %s is of the node", name, volume.Name)
			}
		}
		for _, container := range append(pod.Spec.InitContainers, pod.Spec.Containers...) {
			confined(t, name, container)
		}
	})
}

func confined(t *testing.T, name string, container corev1.Container) {
	t.Helper()
	of := container.SecurityContext
	if *of.AllowPrivilegeEscalation || *of.Privileged || !*of.ReadOnlyRootFilesystem || !*of.RunAsNonRoot ||
		of.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault || len(of.Capabilities.Add) > 0 ||
		!slices.Equal(of.Capabilities.Drop, []corev1.Capability{"ALL"}) {
		t.Errorf("%s: %+v", name, of)
	}
	limit := container.Resources.Limits.Memory().Value()
	variables := map[string]string{}
	for _, variable := range container.Env {
		variables[variable.Name] = variable.Value
	}
	if got, err := strconv.ParseInt(variables["GOMEMLIMIT"], 10, 64); err != nil || limit == 0 || got != limit*9/10 {
		t.Errorf("%s: GOMEMLIMIT %d of %d, %v", name, got, limit, err)
	}
	if !container.Resources.Limits.Cpu().IsZero() {
		t.Errorf("%s: a limit on cpu makes answers late", name)
	}
	for _, mount := range container.VolumeMounts {
		if mount.SubPath != "" || (!mount.ReadOnly && mount.Name != "cache") {
			t.Errorf("%s: mount %+v", name, mount)
		}
	}
	if strings.HasSuffix(container.Image, ":") || !strings.ContainsAny(container.Image, ":@") {
		t.Errorf("%s: image %s", name, container.Image)
	}
	for path, probe := range map[string]*corev1.Probe{"/healthz": container.LivenessProbe, "/readyz": container.ReadinessProbe} {
		if probe == nil || probe.HTTPGet.Path != path || probe.HTTPGet.Port.StrVal != "admin" {
			t.Errorf("%s: probe %+v", name, probe)
		}
	}
	if container.StartupProbe == nil {
		t.Errorf("%s: no startup probe", name)
	}
}

// A pod has a token of its service account only if something needs it, and is bound to
// exactly that.
func TestTokens(t *testing.T) {
	t.Parallel()
	needs := map[string][]string{
		"ha":          {"gatehouse", "gatehouse-rotator"},
		"pullthrough": {"gatehouse-pull-through", "gatehouse-rotator"},
		"certmanager": nil, "certmanager-own": nil, "supplied": nil, "rotator": {"gate-rotator"},
	}
	eachShape(t, func(t *testing.T, s shape, objects chart.Objects) {
		want, named := needs[s.name]
		if !named {
			want = []string{"gatehouse-rotator"}
		}
		var got []string
		for _, kind := range []string{"Deployment", "StatefulSet"} {
			for _, object := range objects.Kind(kind) {
				pod, err := objects.Pod(kind, object.GetName())
				if err != nil {
					t.Fatal(err)
				}
				if pod.Spec.AutomountServiceAccountToken == nil || *pod.Spec.AutomountServiceAccountToken {
					got = append(got, pod.Spec.ServiceAccountName)
				}
				account := as[corev1.ServiceAccount](t, objects, "ServiceAccount", pod.Spec.ServiceAccountName)
				if *account.AutomountServiceAccountToken {
					t.Errorf("%s: gives its token to every pod", account.Name)
				}
			}
		}
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
	})
}

func TestPullSecrets(t *testing.T) {
	t.Parallel()
	objects := render(t, chart.Options{Values: []string{"testdata/values/ha.yaml"}})
	got := map[string][]string{}
	for _, object := range objects.Kind("Role") {
		role := as[rbacv1.Role](t, chart.Objects{object}, "Role", object.GetName())
		if role.Name == "gatehouse-pull-secrets" {
			got[role.Namespace] = role.Rules[0].ResourceNames
		}
	}
	want := map[string][]string{"gatekeeper-system": {"pull-secret"}, "team": {"robot"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// Of Gatekeeper's Secret, which has its authority's key, one file is mounted.
func TestAuthorityWithoutItsKey(t *testing.T) {
	t.Parallel()
	pod, err := with(t).Pod("Deployment", "gatehouse")
	if err != nil {
		t.Fatal(err)
	}
	want := []corev1.KeyToPath{{Key: "ca.crt", Path: "gatekeeper/ca.crt"}}
	for _, source := range pod.Spec.Volumes[0].Projected.Sources {
		if source.Secret != nil && source.Secret.Name == "gatekeeper-webhook-server-cert" {
			if diff := cmp.Diff(want, source.Secret.Items); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			return
		}
	}
	t.Error("the Secret is not mounted")
}

// New pods are made for what a process cannot change while it runs, and for nothing else.
func TestRestarts(t *testing.T) {
	t.Parallel()
	sum := func(set ...string) string {
		pod, err := with(t, set...).Pod("Deployment", "gatehouse")
		if err != nil {
			t.Fatal(err)
		}
		return pod.Annotations["gatehouse/restart"]
	}
	before := sum()
	for set, restarts := range map[string]bool{
		"config.policy.rules[1].name=other":        false,
		"config.proofs.ttl=30m":                    false,
		"config.server.limits.keys=10":             false,
		"config.server.limits.connections=10":      true,
		"config.server.limits.inFlightBytes=65MiB": true,
		"gatekeeper.clientNames[0]=other":          true,
		"config.cache.maxBytes=1GiB":               true,
	} {
		if got := sum(set) != before; got != restarts {
			t.Errorf("%s: restarts %t", set, got)
		}
	}
}

// A pod that goes away is drained, and never the last one.
func TestGoingAway(t *testing.T) {
	t.Parallel()
	objects := with(t)
	pod, err := objects.Pod("Deployment", "gatehouse")
	if err != nil {
		t.Fatal(err)
	}
	stop := pod.Spec.Containers[0].Lifecycle.PreStop.Sleep.Seconds
	if grace := *pod.Spec.TerminationGracePeriodSeconds; stop < 1 || grace < stop+5 {
		t.Errorf("sleeps %d s of %d s", stop, grace)
	}
	if n := len(pod.Spec.TopologySpreadConstraints); n != 2 {
		t.Errorf("%d spread constraints", n)
	}
	budget := as[policyv1.PodDisruptionBudget](t, objects, "PodDisruptionBudget", "gatehouse")
	if budget.Spec.MaxUnavailable.IntVal != 1 {
		t.Errorf("%+v", budget.Spec)
	}
	replicas, _, err := nested[int64](objects.Find("Deployment", "gatehouse"), "spec", "replicas")
	if err != nil || replicas != 2 {
		t.Errorf("%d replicas, %v", replicas, err)
	}
}
