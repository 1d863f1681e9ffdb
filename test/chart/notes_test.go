package chart_test

import (
	"strings"
	"testing"

	"github.com/gatehouse-project/gatehouse/test/chart"
)

// What an installation prints warns of what the chart cannot refuse, and only then.
func TestNotesWarn(t *testing.T) {
	t.Parallel()
	const own = "certificates.certManager.lookupCA=true"
	for name, test := range map[string]struct {
		set      []string
		says     string
		elsewise []string // where it is not said
	}{
		"few threads":   {nil, "maxServingThreads=64", []string{"gatekeeper.maxServingThreads=64"}},
		"some threads":  {[]string{"gatekeeper.maxServingThreads=2"}, "2 reviews at once", []string{"gatekeeper.maxServingThreads=64"}},
		"one replica":   {[]string{"replicas=1"}, "One replica", nil},
		"host ports":    {pullThrough("pullThrough.expose.type=hostPort"), "pod-security.kubernetes.io/enforce", pullThrough()},
		"cert-manager":  {[]string{"certificates.mode=certManager", own}, "namespace of cert-manager", nil},
		"no quota":      {nil, "gatekeeper-critical-pods", []string{"priorityClassName="}},
		"no constraint": {nil, "Nothing is asked yet", []string{"policy.constraints.enabled=true"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if text := notes(t, test.set); !strings.Contains(text, test.says) {
				t.Errorf("%q is not in\n%s", test.says, text)
			}
			if text := notes(t, test.elsewise); strings.Contains(text, test.says) {
				t.Errorf("%q is in\n%s", test.says, text)
			}
		})
	}
}

func pullThrough(more ...string) []string {
	return append([]string{
		"pullThrough.enabled=true", "pullThrough.config.stores[0].name=a", "pullThrough.config.stores[0].type=oras", "pullThrough.config.cache.maxBytes=1GiB",
		"pullThrough.config.registry.upstreams[0]=a.example.com", "pullThrough.tls.secretName=a",
	}, more...)
}

func notes(t *testing.T, set []string) string {
	t.Helper()
	text, err := chart.Notes(t.Context(), chart.Options{Values: []string{minimal}, Set: set})
	if err != nil {
		t.Fatal(err)
	}
	return text
}
