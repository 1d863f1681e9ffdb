package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-project/gatehouse/test/e2e/cluster"
	"github.com/gatehouse-project/gatehouse/test/process"
)

// auditInterval is from one audit to the next in these cases.
const auditInterval = time.Second

// violation is what an audit says of an object, in a constraint's status.
type violation struct {
	Kind, Name, Message string
}

// TestAudit audits what was there before anything was enforced.
func TestAudit(t *testing.T) {
	w := begin(t, settings{gatekeeper: cluster.GatekeeperOptions{AuditInterval: auditInterval}, config: func(c *process.Config) {
		c.Cache = process.Map{"onRegistryDown": []process.Map{{"registries": []string{"**"}, "useHeld": "1h"}}}
	}})
	signed := w.signed(0, "app", "signed")
	_, good := w.image(0, "app", "signed")
	_, bad := w.image(0, "app", "unsigned")
	unsigned := w.pinned(0, "app", bad)
	w.open(func() {
		w.allowed("audit", "Pods and a Deployment, signed and not, before anything is enforced", w.apply(
			w.pod("good-tag", signed)+"---\n"+w.pod("good", w.pinned(0, "app", good))+"---\n"+w.pod("bad", unsigned)+"---\n"+w.pod("mixed", signed, unsigned)))
		w.allowed("audit", "a Deployment, unsigned", w.applyObject(w.controllers("bad", specOf(unsigned))[0]))
	})
	w.part("found", w.playAudit)
	w.part("registry down", w.playAuditDown)
}

// audited gives what the last audits said of the world's namespace, by
// constraint.
func (w *world) audited(constraint string) []violation {
	w.t.Helper()
	var got struct {
		Status struct {
			Violations []violation `json:"violations"`
		} `json:"status"`
	}
	w.ok(json.Unmarshal(w.do(http.MethodGet, "/apis/constraints.gatekeeper.sh/v1beta1/gatehouseverification/"+constraint, nil).Body, &got))
	slices.SortFunc(got.Status.Violations, func(a, b violation) int { return strings.Compare(a.Name+a.Message, b.Name+b.Message) })
	return got.Status.Violations
}

func namesOf(all []violation) string {
	names := make([]string, len(all))
	for i, v := range all {
		names[i] = v.Kind + "/" + v.Name
	}
	return strings.Join(names, " ")
}

var reasonFirst = regexp.MustCompile(`^[A-Z][A-Z_]+: `)

func (w *world) playAudit() {
	start, verifies := time.Now(), w.metric("gatehouse_http_requests_total", `path="verify"`)
	found := map[string]string{"gatehouse-pods": "Pod/bad Pod/mixed", "gatehouse-controllers": "Deployment/bad"}
	for constraint, want := range found {
		var got []violation
		w.eventually(constraint+" has its violations", func() bool {
			got = w.audited(constraint)
			return namesOf(got) == want
		})
		for _, v := range got {
			table.add("audit", fmt.Sprintf("violation of %s in its status: %s %s", constraint, v.Kind, v.Name), v.Message, time.Since(start))
			if !reasonFirst.MatchString(v.Message) || !strings.HasPrefix(v.Message, noSignature) || len(v.Message) > 256 {
				w.t.Errorf("message of %d bytes: %s", len(v.Message), v.Message)
			}
		}
	}
	w.eventually("audits ask their own path", func() bool { return w.metric("gatehouse_http_requests_total", `path="audit"`) >= 5 })
	if got := w.metric("gatehouse_http_requests_total", `path="verify"`); got != verifies {
		w.t.Errorf("audits have asked the path of admission %v times", got-verifies)
	}
}

// playAuditDown has the registry down, and a process that remembers nothing but
// what the cache on disk holds. That can only allow.
func (w *world) playAuditDown() {
	w.ok(w.process.Stop())
	w.registries[0].Close()
	w.serve()
	start := time.Now()
	const reason = "REGISTRY_UNAVAILABLE"
	var got []violation
	w.eventually("audits by what is held are in the status", func() bool {
		got = w.audited("gatehouse-pods")
		return namesOf(got) == "Pod/bad Pod/mixed" && !slices.ContainsFunc(got, func(v violation) bool { return !strings.HasPrefix(v.Message, reason) })
	})
	for _, v := range got {
		table.add("audit, registry down", "violation of gatehouse-pods: Pod "+v.Name, v.Message, time.Since(start))
	}
	allowed := w.metric("gatehouse_keys_total", `"allowed"`)
	table.add("audit, registry down", "signed Pods, by a process that has just started", fmt.Sprintf("no violation: %.0f keys allowed by what is held", allowed), time.Since(start))
	if allowed == 0 {
		w.t.Error("nothing is allowed by what is held")
	}
}
