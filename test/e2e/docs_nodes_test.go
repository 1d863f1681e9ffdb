package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/gatehouse-project/gatehouse/test/e2e/cluster"
	"github.com/gatehouse-project/gatehouse/test/process"
)

// nodes do what nodes would with the chart's Deployments, as processes here: the
// rotator as its service account, and one replica of Gatehouse, whose files
// follow the cluster's objects and which is replaced when its Pod's template
// changes.
type nodes struct {
	w       *world
	ctx     context.Context // of the whole test
	dir     string
	address string // of the webhook, as long as the test lasts
	rotator *exec.Cmd
	replica *process.Process
	made    map[string]string // the templates of their Pods, by Deployment
	former  []byte            // the log of those before
}

// inCluster is where the chart's Providers lead to.
const inCluster = "https://gatehouse." + cluster.GatekeeperNamespace + ":6001/"

func newNodes(w *world) *nodes {
	w.t.Helper()
	n := &nodes{w: w, ctx: w.t.Context(), dir: w.t.TempDir(), address: freeAddress(w.t), made: make(map[string]string)}
	n.uninstall() // what another test may have left
	w.t.Cleanup(func() {
		if w.t.Failed() {
			w.ok(os.WriteFile(filepath.Join(w.Dir(), "docs-gatehouse.log"), []byte(n.log()), 0o600))
		}
		if n.replica != nil {
			w.ok(n.replica.Stop())
		}
		n.stopRotator()
		n.uninstall()
	})
	return n
}

func (n *nodes) uninstall() {
	n.w.t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(n.ctx), time.Minute)
	defer cancel()
	o, err := n.w.Helm(ctx, "uninstall", "gatehouse", "--ignore-not-found", "--wait=hookOnly", "--namespace", cluster.GatekeeperNamespace)
	n.w.ok(err)
	if !o.OK() {
		n.w.t.Errorf("helm uninstall: %s", o)
	}
	o, err = n.w.Kubectl(ctx, "", "delete", "configmap", "acme-root", "--ignore-not-found", "--namespace", cluster.GatekeeperNamespace)
	n.w.ok(err)
	if !o.OK() {
		n.w.t.Errorf("kubectl delete: %s", o)
	}
}

// log is what "kubectl logs" would show, with that of former replicas.
func (n *nodes) log() string {
	if n.replica == nil {
		return string(n.former)
	}
	return string(n.former) + string(n.replica.Log())
}

// admin is where "kubectl port-forward" would lead to.
func (n *nodes) admin() string {
	if n.replica == nil {
		return "127.0.0.1:1"
	}
	return strings.TrimPrefix(n.replica.AdminURL(), "http://")
}

// settle brings all to where the cluster's objects want it.
func (n *nodes) settle() {
	n.w.t.Helper()
	if pod, changed := n.template("gatehouse-rotator"); changed {
		n.startRotator(pod)
	}
	n.w.eventually("the rotator has made a certificate", func() bool {
		var secret corev1.Secret
		n.w.get("/api/v1/namespaces/"+cluster.GatekeeperNamespace+"/secrets/gatehouse-tls", &secret)
		return len(secret.Data["tls.crt"]) > 0
	})
	pod, changed := n.template("gatehouse")
	k := kubelet{w: n.w, root: filepath.Join(n.dir, "replica")}
	c := k.run(cluster.GatekeeperNamespace, pod, pod.Containers[0])
	config := filepath.Join(k.root, "etc/gatehouse/gatehouse.yaml")
	k.atLoopback(config, n.address)
	if changed {
		n.replace(config, c)
	}
	n.lead(inCluster, n.loopback())
}

// template is what a Deployment's Pods are made from, and whether it is another
// than when this was asked last.
func (n *nodes) template(name string) (corev1.PodSpec, bool) {
	n.w.t.Helper()
	var d appsv1.Deployment
	n.w.get("/apis/apps/v1/namespaces/"+cluster.GatekeeperNamespace+"/deployments/"+name, &d)
	template := string(must(json.Marshal(d.Spec.Template))(n.w.t))
	former := n.made[name]
	n.made[name] = template
	return d.Spec.Template.Spec, former != template
}

// replace exchanges the replica.
func (n *nodes) replace(config string, c command) {
	n.w.t.Helper()
	if n.replica != nil {
		n.w.ok(n.replica.Stop())
		n.former = append(n.former, n.replica.Log()...)
	}
	binary := must(process.Build(n.ctx))(n.w.t)
	n.replica = must(binary.ServeWith(n.ctx, config, c.env, c.args...))(n.w.t)
}

// startRotator runs the rotator's command with its own rights. The certificate is
// also for this host, where the Providers are led to.
func (n *nodes) startRotator(pod corev1.PodSpec) {
	n.w.t.Helper()
	n.stopRotator()
	binary := filepath.Join(n.dir, "gatehouse-rotator")
	if _, err := os.Stat(binary); err != nil {
		if out, err := goCommand(n.w.t, "../../cmd/rotator", "build", "-o", binary, "."); err != nil {
			n.w.t.Fatalf("build the rotator: %v: %s", err, out)
		}
	}
	user := must(n.w.Kubeconfig("system:serviceaccount:"+cluster.GatekeeperNamespace+":"+pod.ServiceAccountName,
		"system:serviceaccounts", "system:serviceaccounts:"+cluster.GatekeeperNamespace, "system:authenticated"))(n.w.t)
	log := must(os.OpenFile(filepath.Join(n.w.Dir(), "docs-rotator.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600))(n.w.t)
	defer func() { _ = log.Close() }() // the process has it too
	n.rotator = exec.CommandContext(n.ctx, binary, append(pod.Containers[0].Args, "--dns-name=localhost", "--health-address=", "--kubeconfig="+user)...)
	n.rotator.Stdout, n.rotator.Stderr = log, log
	n.w.ok(n.rotator.Start())
}

func (n *nodes) stopRotator() {
	if n.rotator != nil {
		_ = n.rotator.Process.Kill() // an error says that it has ended
		_ = n.rotator.Wait()         // it was killed
	}
}

func (n *nodes) loopback() string {
	_, port, _ := strings.Cut(n.address, ":")
	return "https://localhost:" + port + "/"
}

// lead leads the Providers from one place to another: no Service leads anywhere
// without nodes.
func (n *nodes) lead(from, to string) {
	n.w.t.Helper()
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Spec     struct{ URL string }
		}
	}
	n.w.get(providersPath, &list)
	for _, p := range list.Items {
		if rest, found := strings.CutPrefix(p.Spec.URL, from); found {
			n.patch(p.Metadata.Name, map[string]any{"spec": map[string]any{"url": to + rest}})
			if to == inCluster {
				n.disown(p.Metadata.Name)
			}
		}
	}
}

const providersPath = "/apis/externaldata.gatekeeper.sh/v1beta1/providers"

// nodesManager is as whom Providers are led elsewhere.
const nodesManager = "nodes"

func (n *nodes) patch(provider string, patch map[string]any) {
	n.w.t.Helper()
	answer := must(n.w.api.Do(n.w.t.Context(), http.MethodPatch, providersPath+"/"+provider+"?fieldManager="+nodesManager, patch))(n.w.t)
	if !answer.OK() {
		n.w.t.Fatalf("patch Provider %s: %s", provider, answer.Message())
	}
}

// disown lets Helm find a Provider as it left it: who has changed a field owns it,
// and a conflict with anybody else has to show.
func (n *nodes) disown(provider string) {
	n.w.t.Helper()
	var object struct {
		Metadata struct{ ManagedFields []map[string]any }
	}
	n.w.get(providersPath+"/"+provider, &object)
	others := slices.DeleteFunc(object.Metadata.ManagedFields, func(entry map[string]any) bool { return entry["manager"] == nodesManager })
	n.patch(provider, map[string]any{"metadata": map[string]any{"managedFields": others}})
}

// docsSecret is a Secret in Gatekeeper's namespace.
func docsSecret(name string, data map[string][]byte) string {
	text := "---\napiVersion: v1\nkind: Secret\nmetadata: {name: " + name + ", namespace: " + cluster.GatekeeperNamespace + "}\ndata:\n"
	for key, value := range data {
		text += "  " + key + ": " + encoded(value) + "\n"
	}
	return text
}

func encoded(data []byte) string { return base64.StdEncoding.EncodeToString(data) }
