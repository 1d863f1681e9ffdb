package e2e

import (
	"regexp"
	"strings"
	"time"
)

// instead says what is typed here in place of what a page says, and why.
type instead struct {
	// pattern finds it; with is what replaces it, with $1 and its like; HOST,
	// ADMIN, TRACE and SOON stand for what is known only as the test runs. A
	// command that nothing is left of is not run.
	pattern, with, why string
	// texts has it replaced in files too.
	texts bool
	hooks
}

// hooks are what nodes do before and after a command.
type hooks struct {
	before func(*reader)
	after  func(r *reader, out string)
}

// table of all that is not typed as it stands.
var insteads = []instead{
	{
		pattern: `^helm repo add .*`, with: ``, why: "the network ends at loopback; the chart of Gatekeeper lies in its module",
	}, {
		pattern: `^helm install gatekeeper gatekeeper/gatekeeper`, with: `helm template gatekeeper gatekeeper-chart`,
		why:   "Gatekeeper runs as a process already; what its chart makes of these values is looked at",
		hooks: hooks{after: lookAtGatekeeper},
	}, {
		pattern: `^cosign .*`, with: ``, why: "nothing is released in a test; the identity is compared with the release workflow's name below",
	}, {
		pattern: `^helm (install gatehouse|upgrade|rollback) `, with: `helm ${1} `,
		why:   "nothing is replaced: nodes take up what it changes, which here has to be done",
		hooks: hooks{before: func(r *reader) { r.nodes.lead(r.nodes.loopback(), inCluster) }, after: func(r *reader, _ string) { r.nodes.settle() }},
	}, {
		pattern: `^helm uninstall .*`, with: `${0} --wait=hookOnly`, why: "there is no collector of garbage, which it would wait for",
	}, {
		pattern: `^kubectl -n gatekeeper-system rollout restart .*`, with: `${0}`, why: "as above: nodes replace the replica",
		hooks: hooks{after: func(r *reader, _ string) { r.nodes.settle() }},
	}, {
		pattern: `^kubectl -n gatekeeper-system rollout status .*`, with: `true`, why: "there are no nodes that would tell; the replica has been awaited",
	}, {
		pattern: `kubectl -n gatekeeper-system logs [^|]*`, with: `cat gatehouse.log `, why: "there are no nodes that would hand out logs",
	}, {
		pattern: `^kubectl -n gatekeeper-system port-forward .*`, with: `true`, why: "there are no nodes to forward to; the port is on loopback already",
	}, {
		pattern: `127\.0\.0\.1:8888`, with: `ADMIN`, why: "the port is a free one",
	}, {
		pattern: `gatehouse status`, with: `gatehouse status --admin ADMIN`, why: "the port is a free one",
	}, {
		pattern: `^(kubectl .*run \S+) --rm -i --restart=Never (--image=\S+) -- .*`, with: `$1 --dry-run=server $2`,
		why: "there are no nodes to run it; that the gate lets it through is tried",
	}, {
		pattern: `^kubectl .*top pods.*`, with: ``, why: "it takes a metrics server, which measures on nodes",
	}, {
		pattern: `\| (grep (?:-i )?(?:ALLOWED_BY_HELD|REVOCATION_UNKNOWN|cache|'a pull'))$`, with: `| ($1 || true)`,
		why: "nothing of that kind happens here; test/adverse and test/pull have it",
	}, {
		pattern: `4bf92f3577b34da6a3ce929d0e0e4736`, with: `TRACE`, why: "the id of the last denial",
	}, {
		pattern: `notation (sign|list) `, with: `notation $1 --insecure-registry `, why: "the registry has no TLS",
	}, {
		pattern: `type: oras(, hosts: \[.*\])\}`, with: `type: oras$1, plainHTTP: ["HOST"]}`, why: "the registry has no TLS, and a private address", texts: true,
	}, {
		pattern: `registry\.example\.com`, with: `HOST`, why: "the registry is on loopback", texts: true,
	}, {
		pattern: `2027-01-31`, with: `SOON`, why: "exemptions end, and tests go on", texts: true,
	},
}

// instead gives what is typed for a command, empty for nothing.
func (r *reader) instead(command string) (runs string, play hooks) {
	r.t.Helper()
	for _, in := range insteads {
		pattern := regexp.MustCompile(in.pattern)
		if !pattern.MatchString(command) {
			continue
		}
		r.used[in.pattern]++
		command = pattern.ReplaceAllString(command, in.with)
		if in.after != nil {
			play = in.hooks
		}
	}
	return r.filled(strings.TrimSpace(command)), play
}

// substituted is the text of a file.
func (r *reader) substituted(text string) string {
	for _, in := range insteads {
		if pattern := regexp.MustCompile(in.pattern); in.texts && pattern.MatchString(text) {
			r.used[in.pattern]++
			text = pattern.ReplaceAllString(text, in.with)
		}
	}
	return r.filled(text)
}

// filled puts in what is known now.
func (r *reader) filled(text string) string {
	soon := time.Now().UTC().AddDate(0, 0, 2).Format(time.DateOnly)
	return strings.NewReplacer("HOST", r.registries[0].Host(), "ADMIN", r.nodes.admin(), "TRACE", lastOf(traceID.FindAllString(r.denials, -1)), "SOON", soon).Replace(text)
}

func lastOf(all []string) string {
	if len(all) == 0 {
		return "none"
	}
	return all[len(all)-1]
}

// checkTable asserts that nothing in the table is for nothing.
func (r *reader) checkTable() {
	r.t.Helper()
	for _, in := range insteads {
		if r.used[in.pattern] == 0 {
			r.t.Errorf("no page has what %s replaces", in.pattern)
		}
	}
}

// lookAtGatekeeper compares what Gatekeeper's chart makes with what the page says
// of its values, and with what this world has.
func lookAtGatekeeper(r *reader, out string) {
	r.t.Helper()
	for _, want := range []string{"timeoutSeconds: 5", "timeoutSeconds: 2", "--external-data-provider-response-cache-ttl=15s", "failurePolicy: Ignore"} {
		if !strings.Contains(out, want) {
			r.t.Errorf("Gatekeeper's chart does not make %q of the page's values", want)
		}
	}
	workflow := page(r.t, "../.github/workflows/release.yml")
	if !strings.Contains(workflow, "cosign sign") || !strings.Contains(workflow, `tags: ["v*"]`) {
		r.t.Error("the release workflow does not sign as the page says")
	}
}
