package e2e

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/gatehouse-project/gatehouse/httpserver"
	"github.com/gatehouse-project/gatehouse/test/chart"
	"github.com/gatehouse-project/gatehouse/test/e2e/cluster"
	"github.com/gatehouse-project/gatehouse/test/process"
)

// rotate installs the chart as it is by default, lets the rotator's command make
// the certificate with the rights that the chart gives it, and asks the
// Deployment's command as Gatekeeper would.
func rotate(w *world) {
	w.t.Helper()
	const section = "rotator"
	w.supply()
	w.helm("install", "gatehouse", must(chart.Dir(w.t.Context()))(w.t), "--values", w.chartValues(""))
	defer w.helm("uninstall", "gatehouse", "--wait=hookOnly")
	begun := time.Now()
	stop := w.runRotator()
	defer stop()
	var bundle []byte
	w.eventually("there is a certificate, and all Providers trust its authority", func() bool {
		bundle = nil
		for text := range strings.FieldsSeq(w.kubectl("", "get", "providers", "-o", "jsonpath={.items[*].spec.caBundle}").Stdout) {
			found, err := base64.StdEncoding.DecodeString(text)
			if err != nil || (bundle != nil && !bytes.Equal(bundle, found)) {
				return false
			}
			bundle = found
		}
		var secret corev1.Secret
		w.get("/api/v1/namespaces/"+cluster.GatekeeperNamespace+"/secrets/gatehouse-tls", &secret)
		return len(secret.Data["tls.crt"]) > 0 && bytes.Equal(bundle, secret.Data["ca.crt"])
	})
	table.add(section, "the rotator's command, with the rights of its service account", "a certificate, and all Providers trust it", time.Since(begun))

	provider := w.runDeployment("gatehouse")
	signed := w.signed(0, "app", "rotated")
	answer := must(process.Client{HTTP: w.asGatekeeper(bundle), URL: "https://" + provider.Address() + httpserver.VerifyPath}.Ask(w.t.Context(), signed))(w.t)
	item, found := answer.Item(signed)
	if !found || !item.Value.IsSuccess {
		w.t.Fatalf("the answer to Gatekeeper: %s", answer.Body)
	}
	table.add(section, "Gatekeeper's client asks the Deployment's command, which has that certificate", "allowed", answer.Elapsed)
}

// runRotator runs the rotator's container's command as its service account.
func (w *world) runRotator() (stop func()) {
	w.t.Helper()
	var deployment appsv1.Deployment
	w.get("/apis/apps/v1/namespaces/"+cluster.GatekeeperNamespace+"/deployments/gatehouse-rotator", &deployment)
	container := deployment.Spec.Template.Spec.Containers[0]
	path := filepath.Join(w.dir, "gatehouse-rotator")
	build := exec.CommandContext(w.t.Context(), "go", "build", "-o", path, ".")
	build.Dir = filepath.FromSlash("../../cmd/rotator")
	if out, err := build.CombinedOutput(); err != nil {
		w.t.Fatalf("build the rotator: %v: %s", err, out)
	}
	account := "system:serviceaccount:" + cluster.GatekeeperNamespace + ":" + deployment.Spec.Template.Spec.ServiceAccountName
	user := must(w.Kubeconfig(account, "system:serviceaccounts", "system:authenticated"))(w.t)
	// In a pod its token lies where the client looks for it.
	args := append(append(container.Command[1:], container.Args...), "--kubeconfig="+user, "--health-address=127.0.0.1:0")
	var log bytes.Buffer
	cmd := exec.CommandContext(w.t.Context(), path, args...)
	cmd.Stdout, cmd.Stderr = &log, &log
	w.ok(cmd.Start())
	return func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // an error says that it has ended already
		if err := cmd.Wait(); err != nil || w.t.Failed() {
			w.t.Errorf("the rotator ended: %v; its log:\n%s", err, log.Bytes())
		}
	}
}

// asGatekeeper is a client with Gatekeeper's certificate that trusts a bundle, and
// knows the provider by its Service's name.
func (w *world) asGatekeeper(bundle []byte) *http.Client {
	w.t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	pair := must(plane.at.Authority.Issue(cluster.Subject{CommonName: cluster.GatekeeperName, DNSNames: []string{cluster.GatekeeperName}}))(w.t)
	transport := &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: roots, MinVersion: tls.VersionTLS13, ServerName: "gatehouse." + cluster.GatekeeperNamespace,
		Certificates: []tls.Certificate{must(tls.X509KeyPair(pair.Certificate, pair.Key))(w.t)},
	}}
	w.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}
