package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/open-policy-agent/cert-controller/pkg/rotator"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/gatehouse-project/gatehouse/cmd/rotator/rotation"
)

// quick are times for a test. Each leaf is good for an hour and renewed five minutes
// ahead; a roll-over takes eight seconds.
var quick = []string{
	"--ca-lifetime", "24h", "--certificate-lifetime", "1h", "--renew-before", "5m", "--settle", "2s", "--overlap", "6s", "--resync", "30s",
}

// TestOnAPIServer has all that needs a control plane, one after the other: the
// objects have the names that rbac.yaml gives rights to.
func TestOnAPIServer(t *testing.T) {
	p := startPlane(t)
	t.Run("first start, as a process", p.testProcess)
	t.Run("no other rights", p.testRights)
	t.Run("heals", p.testHeals)
	t.Run("renews a certificate", p.testRenews)
	t.Run("rolls an authority over", p.testRollsOver)
	t.Run("works without watching", p.testWithoutWatch)
	t.Run("one leads", p.testLeads)
}

// current is nil if the Secret has a certificate for the Service that all Providers
// trust, and they trust as many authorities as said.
func (p *plane) current(ctx context.Context, authorities int) error {
	data, err := p.data(ctx)
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(data[rotation.KeyCertificate], data[rotation.KeyCertificateKey])
	if err != nil {
		return err
	}
	for _, name := range providerNames {
		text, err := p.bundle(ctx, name)
		if err != nil {
			return err
		}
		bundle, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return err
		}
		if n := bytes.Count(bundle, []byte("BEGIN CERTIFICATE")); n != authorities {
			return fmt.Errorf("%s trusts %d authorities, want %d", name, n, authorities)
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(bundle)
		for _, host := range []string{"gatehouse.gatehouse-system", "gatehouse.gatehouse-system.svc", "localhost"} {
			if _, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: pool}); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return nil
}

func (p *plane) testProcess(t *testing.T) {
	p.fresh(t, "https://localhost:1/")
	binary := filepath.Join(t.TempDir(), "gatehouse-rotator")
	goOutput(t, ".", "build", "-o", binary, ".")
	health, metricsAt := freeAddress(t), freeAddress(t)
	cmd := exec.CommandContext(t.Context(), binary, flags("--health-address", health, "--metrics-address", metricsAt,
		"--kubeconfig", p.kubeconfig(t))...)
	var log bytes.Buffer
	cmd.Stderr = &log
	began := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { return p.current(t.Context(), 1) })
	t.Logf("from the start of the process to a certificate that all Providers trust: %s", time.Since(began).Round(time.Millisecond))
	eventually(t, func() error { _, err := get(t, "http://"+health+"/readyz"); return err })
	if _, err := get(t, "http://"+health+"/healthz"); err != nil {
		t.Error(err)
	}
	metrics, err := get(t, "http://"+metricsAt+"/metrics")
	if err != nil {
		t.Error(err)
	}
	for _, want := range []string{
		`gatehouse_rotator_steps_total{step="issue"} 1`, `gatehouse_rotator_providers_current 1`, `gatehouse_rotator_trusted_authorities 1`,
		`gatehouse_rotator_not_after_seconds{certificate="server"} 1.`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("/metrics has no %s", want)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
	for lines := bufio.NewScanner(&log); lines.Scan(); {
		var line map[string]any
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil || line["level"] == "ERROR" {
			t.Errorf("log line: %s", lines.Text())
		}
	}
	if strings.Contains(log.String(), "PRIVATE KEY") {
		t.Error("a key is in the log")
	}
}

func get(t *testing.T, url string) (string, error) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, resp.Status, text)
	}
	return string(text), err
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// kubeconfig is a file with the service account's access.
func (p *plane) kubeconfig(t *testing.T) string {
	t.Helper()
	config := p.asAccount()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	err := clientcmd.WriteToFile(api.Config{
		Clusters: map[string]*api.Cluster{"c": {Server: config.Host, CertificateAuthorityData: config.CAData}},
		AuthInfos: map[string]*api.AuthInfo{"u": {
			ClientCertificateData: config.CertData, ClientKeyData: config.KeyData,
			Impersonate: config.Impersonate.UserName, ImpersonateGroups: config.Impersonate.Groups,
		}},
		Contexts:       map[string]*api.Context{"x": {Cluster: "c", AuthInfo: "u"}},
		CurrentContext: "x",
	}, path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func (p *plane) testHeals(t *testing.T) {
	p.fresh(t, "https://localhost:1/")
	p.rotate(t, quick...)
	eventually(t, func() error { return p.current(t.Context(), 1) })
	before, err := p.data(t.Context())
	if err != nil {
		t.Fatal(err)
	}

	took := p.heals(t, 1, func() { p.setBundle(t, providerNames[2], nil) })
	t.Logf("a Provider's bundle emptied: healed after %s", took)

	took = p.heals(t, 1, func() {
		data, _ := p.data(t.Context())
		delete(data, rotation.KeyCertificate)
		p.write(t, data)
	})
	t.Logf("tls.crt deleted: healed after %s", took)

	took = p.heals(t, 2, func() { p.write(t, nil) })
	t.Logf("Secret emptied: healed after %s, of which 2 s are --settle", took)
	for _, name := range providerNames {
		text, _ := p.bundle(t.Context(), name)
		bundle, _ := base64.StdEncoding.DecodeString(text)
		if !bytes.Contains(bundle, bytes.TrimSpace(before[rotation.KeyBundle])) {
			t.Errorf("%s does not trust the former authority, of which servers still have a certificate", name)
		}
	}
	took = eventually(t, func() error { return p.current(t.Context(), 1) })
	t.Logf("former authority dropped %s later, --overlap is 6 s", took.Round(time.Millisecond))
}

// heals is how long it takes to heal a damage.
func (p *plane) heals(t *testing.T, authorities int, damage func()) time.Duration {
	t.Helper()
	damage()
	return eventually(t, func() error { return p.current(t.Context(), authorities) }).Round(time.Millisecond)
}

// makes certificates as the rotator does.
func certs() *rotator.CertRotator {
	return &rotator.CertRotator{
		CAName: rotation.DefaultCAName, CAOrganization: rotation.DefaultCAOrganization, DNSName: "gatehouse.gatehouse-system",
		ExtraDNSNames: []string{"gatehouse.gatehouse-system.svc", "localhost"}, ExtKeyUsages: &[]x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
}

// content is a Secret's, with an authority and a certificate that are good for so long.
func content(t *testing.T, authority, leaf time.Duration) map[string][]byte {
	t.Helper()
	begin := time.Now().Add(-time.Hour)
	ca, err := certs().CreateCACert(begin, time.Now().Add(authority))
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := certs().CreateCertPEM(ca, begin, time.Now().Add(leaf))
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{
		rotation.KeyBundle: ca.CertPEM, rotation.KeyAuthorityKey: ca.KeyPEM, rotation.KeyCertificate: cert, rotation.KeyCertificateKey: key,
	}
}

func (p *plane) testRenews(t *testing.T) {
	p.fresh(t, "https://localhost:1/")
	old := content(t, 20*time.Hour, 4*time.Minute)
	p.write(t, old)
	p.rotate(t, quick...)
	took := eventually(t, func() error {
		data, err := p.data(t.Context())
		if err == nil && bytes.Equal(data[rotation.KeyCertificate], old[rotation.KeyCertificate]) {
			err = errors.New("not renewed")
		}
		return errors.Join(err, p.current(t.Context(), 1))
	})
	data, err := p.data(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(data[rotation.KeyBundle], old[rotation.KeyBundle]) {
		t.Error("the authority was exchanged together with the certificate")
	}
	t.Logf("certificate near its end: renewed after %s, of the same authority", took.Round(time.Millisecond))
}

// Requests as Gatekeeper sends them, with its own client, all the time while an
// authority is rolled over. None fails. That the same requests notice a roll-over
// without an order is shown afterwards.
func (p *plane) testRollsOver(t *testing.T) {
	serve := newServing(t, p)
	p.fresh(t, serve.url)
	p.write(t, content(t, 20*time.Hour, time.Hour))
	stop := p.rotate(t, quick...)
	eventually(t, func() error { return p.current(t.Context(), 1) })
	stop()

	// From here on the authority is too near its end.
	serve.start(t)
	began := time.Now()
	p.rotate(t, append(quick, "--ca-lifetime", "100h", "--certificate-lifetime", "24h", "--renew-before", "21h")...)
	eventually(t, func() error { return p.current(t.Context(), 2) })
	t.Logf("all Providers trust both authorities after %s", time.Since(began).Round(time.Millisecond))
	eventually(t, func() error { return serve.presented(2) })
	t.Logf("new certificate presented after %s, --settle is 2 s and the files follow 1.5 s later", time.Since(began).Round(time.Millisecond))
	eventually(t, func() error { return p.current(t.Context(), 1) })
	t.Logf("old authority dropped after %s, --overlap is 6 s", time.Since(began).Round(time.Millisecond))
	time.Sleep(2 * time.Second) // requests with the new one alone
	asked, failed, last := serve.counts()
	if failed > 0 || asked < 200 {
		t.Errorf("%d of %d requests failed, the last: %v", failed, asked, last)
	}
	t.Logf("%d requests of Gatekeeper's client through 4 Providers, each with a handshake: %d failed", asked, failed)

	// The control: authority and certificate in one write, Providers told at once.
	p.write(t, content(t, 90*time.Hour, 23*time.Hour))
	eventually(t, func() error { return serve.presented(3) })
	_, failed, last = serve.counts()
	if failed == 0 {
		t.Error("a roll-over at once went unnoticed: the requests prove nothing")
	}
	t.Logf("the same with all replaced in one write: %d failed, the last: %v", failed, last)
}

// With get and patch alone the resync does what the watch does.
func (p *plane) testWithoutWatch(t *testing.T) {
	at := secretsAt
	at.Group, at.Resource = "rbac.authorization.k8s.io", "roles"
	less := []byte(`[{"op":"replace","path":"/rules/0/verbs","value":["get","patch"]}]`)
	more := []byte(`[{"op":"replace","path":"/rules/0/verbs","value":["get","watch","patch"]}]`)
	change := func(patch []byte) {
		const kind = "application/json-patch+json"
		if _, err := p.do.Resource(at).Namespace(namespace).Patch(t.Context(), account, kind, patch, metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		cluster := at
		cluster.Resource = "clusterroles"
		if _, err := p.do.Resource(cluster).Patch(t.Context(), account, kind, patch, metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	change(less)
	defer change(more)
	p.fresh(t, "https://localhost:1/")
	p.rotate(t, append(quick, "--resync", "2s")...)
	eventually(t, func() error { return p.current(t.Context(), 1) })
	took := p.heals(t, 1, func() { p.setBundle(t, providerNames[0], nil) })
	t.Logf("without the right to watch, --resync 2s: healed after %s", took)
}

// Of two with --leader-elect one works, and the other one after it.
func (p *plane) testLeads(t *testing.T) {
	p.fresh(t, "https://localhost:1/")
	p.create(t, leasesAt, object("coordination.k8s.io/v1", "Lease", namespace, secret))
	first := p.rotate(t, append(quick, "--leader-elect")...)
	eventually(t, func() error { return p.current(t.Context(), 1) })
	leader := p.leader(t)
	p.rotate(t, append(quick, "--leader-elect")...)
	first()
	took := p.heals(t, 1, func() { p.setBundle(t, providerNames[0], nil) })
	if now := p.leader(t); leader == "" || now == leader {
		t.Errorf("leader %q, then %q", leader, now)
	}
	t.Logf("after the first one stopped the other one took over and healed within %s", took)
}

func (p *plane) leader(t *testing.T) string {
	t.Helper()
	u, err := p.do.Resource(leasesAt).Namespace(namespace).Get(t.Context(), secret, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	spec, _ := u.Object["spec"].(map[string]any)
	name, _ := spec["holderIdentity"].(string)
	return name
}

// syncBuffer is a buffer that several may write to.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
