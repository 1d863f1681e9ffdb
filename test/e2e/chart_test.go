package e2e

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/gatehouse-project/gatehouse/test/chart"
	"github.com/gatehouse-project/gatehouse/test/e2e/cluster"
	"github.com/gatehouse-project/gatehouse/test/process"
)

// TestChart installs the chart as people do, and lets what it makes decide.
func TestChart(t *testing.T) {
	w := begin(t, settings{bare: true})
	ctx := t.Context()
	w.ok(w.InstallCRDs(ctx))
	w.ok(w.Apply(ctx, manifests(t, "templates")))
	w.ok(w.ApplyWhenKnown(ctx, manifests(t, "constraints"))) // so that their kind is known
	dryRun(w)
	w.clear()
	w.eventually("the constraints are gone", func() bool {
		return !w.kubectl("", "get", "crd", "gatehouseverification.constraints.gatekeeper.sh").OK()
	})
	install(w)
	w.clear()
	rotate(w)
}

// dryRun has the API server look at what every set of values makes.
func dryRun(w *world) {
	w.t.Helper()
	w.ok(w.Apply(w.t.Context(), "apiVersion: v1\nkind: Namespace\nmetadata: {name: team}\n")) // that one of them has rights in
	files := must(filepath.Glob("../chart/testdata/values/*.yaml"))(w.t)
	if len(files) < 6 {
		w.t.Fatalf("there are %d sets of values, not six at least", len(files))
	}
	for _, file := range files {
		text := must(chart.RenderText(w.t.Context(), chart.Options{Values: []string{file}}))(w.t)
		var o cluster.Output
		w.eventually(file+" is accepted", func() bool {
			o = w.kubectl(text, "apply", "--server-side", "--dry-run=server", "-f", "-")
			return o.OK() || !strings.Contains(o.Stderr, "no matches for kind")
		})
		objects := fmt.Sprintf("%d objects are accepted", strings.Count(o.Stdout, "serverside-applied (server dry run)"))
		if !o.OK() {
			w.t.Errorf("%s: %s", file, o)
			objects = o.String()
		}
		table.add("chart", "helm template | kubectl apply --dry-run=server: "+filepath.Base(file), objects, o.Elapsed)
	}
}

// chartValues lacks certificates, and takes a registry's host.
const chartValues = `
gatekeeper: {validatingWebhookTimeoutSeconds: 10, mutatingWebhookTimeoutSeconds: 10}
mutation: {enabled: true}
files:
  - {configMap: acme-root, items: [{key: acme.crt, path: acme.crt}]}
config:
  stores: [{name: registry, type: oras, plainHTTP: [%q]}]
  trust:
    certificates: [{name: acme, type: ca, files: [acme.crt]}]
  verifiers:
    - name: notation
      type: notation
      trustPolicy:
        version: "1.0"
        trustPolicies:
          - {name: default, registryScopes: ["*"], signatureVerification: {level: strict}, trustStores: ["ca:acme"], trustedIdentities: ["*"]}
  policy:
    rules: [{name: all, images: ["**"], require: {verifier: notation}}]
`

// install installs the chart, runs the Deployment's command, and asks.
func install(w *world) {
	w.t.Helper()
	const section = "chart"
	w.supply()
	values := w.chartValues(fmt.Sprintf("certificates: {mode: supplied, secretName: gatehouse-certificate, caBundle: %q}\n", w.ca.PEM))
	dir := must(chart.Dir(w.t.Context()))(w.t)
	w.helm("install", "gatehouse", dir, "--values", values)
	defer w.helm("uninstall", "gatehouse", "--wait=hookOnly")
	w.eventually("the template's kind is known", func() bool {
		return w.kubectl("", "get", "crd", "gatehouseverification.constraints.gatekeeper.sh").OK()
	})
	w.helm("upgrade", "gatehouse", dir, "--values", values, "--set", "policy.constraints.enabled=true")

	must(process.Build(w.t.Context()))(w.t) // which the image has done
	begun := time.Now()
	provider := w.runDeployment("gatehouse")
	table.add(section, "the Deployment's command, as a process", "serves at "+provider.Address(), time.Since(begun))
	w.leadToLoopback(provider.Address())

	signed := w.signed(0, "app", "signed")
	unsigned, _ := w.image(0, "app", "unsigned")
	w.eventually("the gate is closed", func() bool { return strings.Contains(w.tryPod("probe", unsigned).Stderr, "denied the request") })
	var o cluster.Output
	w.eventually("images are pinned", func() bool {
		o = w.kubectl(w.pod("good", signed), "create", "--dry-run=server", "-o", "jsonpath={.spec.containers[0].image}", "-f", "-")
		return strings.Contains(o.Stdout, "@sha256:")
	})
	w.allowed(section, "Pod with a signed image, by tag", o)
	w.denied(section, "Pod with an image that nobody signed, by tag", w.tryPod("bad", unsigned), "SIGNATURE_NOT_FOUND")
}

// chartValues writes values for the chart into a file, and gives its path.
func (w *world) chartValues(more string) string {
	w.t.Helper()
	path := filepath.Join(w.dir, "values.yaml")
	w.ok(os.WriteFile(path, []byte(more+fmt.Sprintf(chartValues, w.registries[0].Host())), 0o600))
	return path
}

// helm runs helm in Gatekeeper's namespace; it must succeed.
func (w *world) helm(args ...string) {
	w.t.Helper()
	o := must(w.Helm(w.t.Context(), append(args, "--namespace", cluster.GatekeeperNamespace)...))(w.t)
	w.allowed("chart", "helm "+args[0], o)
}

// supply makes what the values name: the certificate, Gatekeeper's own Secret, and
// the root to trust.
func (w *world) supply() {
	w.t.Helper()
	var err error
	w.ca, err = cluster.NewAuthority("gatehouse-ca")
	w.ok(err)
	pair := must(w.ca.Issue(cluster.Subject{CommonName: "gatehouse", DNSNames: []string{"gatehouse." + cluster.GatekeeperNamespace}}))(w.t)
	secret := func(name string, data map[string][]byte) string {
		text := "---\napiVersion: v1\nkind: Secret\nmetadata: {name: " + name + ", namespace: " + cluster.GatekeeperNamespace + "}\ndata:\n"
		for key, value := range data {
			text += "  " + key + ": " + base64.StdEncoding.EncodeToString(value) + "\n"
		}
		return text
	}
	w.ok(w.Apply(w.t.Context(), secret("gatehouse-certificate", map[string][]byte{"tls.crt": pair.Certificate, "tls.key": pair.Key})+
		secret("gatekeeper-webhook-server-cert", map[string][]byte{"ca.crt": plane.at.Authority.PEM})+
		"---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: acme-root, namespace: "+cluster.GatekeeperNamespace+"}\ndata:\n  acme.crt: "+fmt.Sprintf("%q", w.people.acme.PEM())+"\n"))
}

// runDeployment runs the first container of a Deployment in Gatekeeper's
// namespace, until the test ends.
func (w *world) runDeployment(name string) *process.Process {
	w.t.Helper()
	var deployment appsv1.Deployment
	w.get("/apis/apps/v1/namespaces/"+cluster.GatekeeperNamespace+"/deployments/"+name, &deployment)
	pod := deployment.Spec.Template.Spec
	k := kubelet{w: w, root: w.t.TempDir()}
	c := k.run(cluster.GatekeeperNamespace, pod, pod.Containers[0])
	config := filepath.Join(k.root, "etc/gatehouse/gatehouse.yaml")
	k.atLoopback(config, "127.0.0.1:0")
	binary := must(process.Build(w.t.Context()))(w.t)
	p := must(binary.ServeWith(w.t.Context(), config, c.env, c.args...))(w.t)
	w.t.Cleanup(func() {
		if w.t.Failed() {
			w.t.Logf("log of the Deployment's command:\n%s", p.Log())
		}
		w.ok(p.Stop())
	})
	return p
}

// leadToLoopback points the chart's Providers to a process here: no Service leads
// anywhere without nodes.
func (w *world) leadToLoopback(address string) {
	w.t.Helper()
	names := strings.Fields(w.kubectl("", "get", "providers", "-o", "name").Stdout)
	if len(names) != 4 {
		w.t.Fatalf("the chart made %d Providers, not 4: %s", len(names), names)
	}
	for _, name := range names {
		url := w.kubectl("", "get", name, "-o", "jsonpath={.spec.url}").Stdout
		rest, found := strings.CutPrefix(url, "https://gatehouse."+cluster.GatekeeperNamespace+":6001/")
		if !found {
			w.t.Fatalf("%s leads to %s", name, url)
		}
		patch := fmt.Sprintf(`{"spec":{"url":"https://%s/%s"}}`, address, rest)
		if o := w.kubectl("", "patch", name, "--type=merge", "-p", patch); !o.OK() {
			w.t.Fatal(o)
		}
	}
}
