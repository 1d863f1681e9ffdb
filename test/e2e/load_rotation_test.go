package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/gatehouse-project/gatehouse/test/e2e/cluster"
	"github.com/gatehouse-project/gatehouse/test/process"
)

// TestLoadRotation exchanges every certificate between Gatekeeper and the process
// while pods are asked for. Not one may fail.
func TestLoadRotation(t *testing.T) {
	w := begin(t, settings{})
	r := &rotation{w: w, hook: w.webhookAddress()}
	gauges := w.gauges()
	l := w.load(loadClients, w.mixed())
	settle()
	var rows [][]string
	for _, step := range []struct {
		name string
		do   func()
	}{
		{"the provider's certificate, of the same authority", r.providerCertificate},
		{"the provider's authority: both trusted, another certificate, the new one trusted alone", r.providerAuthority},
		{"Gatekeeper's certificate, of the same authority", r.gatekeeperCertificate},
		{"Gatekeeper's authority: both trusted, another certificate, the new one trusted alone", r.gatekeeperAuthority},
	} {
		from := time.Now()
		step.do()
		settle()
		rows = append(rows, w.flawless("rotation", step.name, l.soFar().between(from, time.Now())))
	}
	w.flawless("rotation", "all of it", l.end())
	gauges.allAnswered()
	tellChanges(t, "Certificates exchanged under load", `As above. After each exchange Gatekeeper makes new connections, so that the new certificates are put to use.`, rows)
}

// rotation exchanges certificates in the order in which nobody is left without
// trust.
type rotation struct {
	w    *world
	hook string // where Gatekeeper listens
}

func (r *rotation) providerCertificate() {
	r.w.t.Helper()
	former := r.served(r.w.address)
	r.w.rotate()
	r.changed(r.w.address, former)
	r.reconnect()
}

func (r *rotation) providerAuthority() {
	r.w.t.Helper()
	former, next := r.w.ca, must(cluster.NewAuthority("gatehouse-ca"))(r.w.t)
	r.trustProvider(slices.Concat(former.PEM, next.PEM))
	r.w.ca = next
	served := r.served(r.w.address)
	r.w.rotate()
	r.changed(r.w.address, served)
	r.trustProvider(next.PEM)
}

func (r *rotation) gatekeeperCertificate() {
	r.w.t.Helper()
	former := r.served(r.hook)
	r.w.ok(plane.at.Rotate())
	r.changed(r.hook, former)
	r.reconnect()
}

func (r *rotation) gatekeeperAuthority() {
	r.w.t.Helper()
	former, next := plane.at.Authority, must(cluster.NewAuthority("gatekeeper-ca"))(r.w.t)
	both := slices.Concat(former.PEM, next.PEM)
	r.trustClients(both, next, true)
	r.trustHook(both)
	plane.at.Authority = next
	served := r.served(r.hook)
	r.w.ok(plane.at.Rotate())
	r.changed(r.hook, served)
	r.reconnect()
	r.trustClients(next.PEM, former, false)
	r.trustHook(next.PEM)
}

// trustProvider exchanges what all Providers trust, and waits until Gatekeeper
// has heard of it. Its connections begin anew with that.
func (r *rotation) trustProvider(bundle []byte) {
	r.w.t.Helper()
	for name := range r.w.providers() {
		path := "/apis/externaldata.gatekeeper.sh/v1beta1/providers/" + name
		answer := must(r.w.api.Do(r.w.t.Context(), http.MethodPatch, path, map[string]any{
			"spec": map[string]any{"caBundle": base64.StdEncoding.EncodeToString(bundle)},
		}))(r.w.t)
		if !answer.OK() {
			r.w.t.Fatal(answer.Message())
		}
		r.w.eventually("Gatekeeper has the Provider "+name, func() bool { return r.observed(path) })
	}
}

// observed says that Gatekeeper has taken an object as it is.
func (r *rotation) observed(path string) bool {
	r.w.t.Helper()
	answer := must(r.w.api.Do(r.w.t.Context(), http.MethodGet, path, nil))(r.w.t)
	var object struct {
		Metadata struct{ Generation int64 }
		Status   struct {
			ByPod []struct{ ObservedGeneration int64 }
		}
	}
	r.w.ok(json.Unmarshal(answer.Body, &object))
	return len(object.Status.ByPod) == 1 && object.Status.ByPod[0].ObservedGeneration == object.Metadata.Generation
}

// reconnect has Gatekeeper make new connections to the process: a bundle of
// other bytes that says the same is another client to it.
func (r *rotation) reconnect() {
	r.w.t.Helper()
	r.w.ca.PEM = append(slices.Clip(r.w.ca.PEM), '\n')
	r.trustProvider(r.w.ca.PEM)
}

// trustClients exchanges the authorities that the process lets in, and waits
// until one of them is let in, or is not.
func (r *rotation) trustClients(bundle []byte, of *cluster.Authority, in bool) {
	r.w.t.Helper()
	r.w.ok(process.Replace(filepath.Join(r.w.dir, "client-ca.crt"), bundle))
	pair := must(of.Issue(cluster.Subject{CommonName: cluster.GatekeeperName, DNSNames: []string{cluster.GatekeeperName}}))(r.w.t)
	certificate := must(tls.X509KeyPair(pair.Certificate, pair.Key))(r.w.t)
	r.w.eventually("the process has the authorities of clients", func() bool { return r.letIn(certificate) == in })
}

func (r *rotation) letIn(certificate tls.Certificate) bool {
	r.w.t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(r.w.ca.PEM)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13}}
	defer transport.CloseIdleConnections()
	_, err := process.Client{HTTP: &http.Client{Transport: transport}, URL: r.w.process.VerifyURL()}.Ask(r.w.t.Context(), "127.0.0.1:1/nothing")
	return err == nil
}

// trustHook exchanges what the API server trusts Gatekeeper's webhooks by.
func (r *rotation) trustHook(bundle []byte) {
	r.w.t.Helper()
	authority := plane.at.Authority
	with := *authority
	with.PEM = bundle
	plane.at.Authority = &with
	r.w.ok(r.w.InstallGatekeeper(r.w.t.Context(), plane.at, cluster.Webhooks{Validating: 10, Mutating: 10}))
	plane.at.Authority = authority
}

// webhookAddress is where the API server finds Gatekeeper.
func (w *world) webhookAddress() string {
	w.t.Helper()
	o := w.kubectl("", "get", "validatingwebhookconfiguration", "gatekeeper-validating-webhook-configuration", "-o", "jsonpath={.webhooks[0].clientConfig.url}")
	if !o.OK() {
		w.t.Fatal(o)
	}
	return must(url.Parse(o.Stdout))(w.t).Host
}

// served is the certificate that is shown at an address.
func (r *rotation) served(address string) []byte {
	r.w.t.Helper()
	certificate, err := servedAt(r.w.t.Context(), address)
	r.w.ok(err)
	return certificate
}

func servedAt(ctx context.Context, address string) ([]byte, error) {
	dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}} // it is looked at, not trusted
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	shown := conn.(*tls.Conn).ConnectionState().PeerCertificates
	if len(shown) == 0 {
		return nil, errors.New("no certificate is shown")
	}
	return shown[0].Raw, nil
}

func (r *rotation) changed(address string, former []byte) {
	r.w.t.Helper()
	r.w.eventually("another certificate is served", func() bool { return !bytes.Equal(r.served(address), former) })
}
