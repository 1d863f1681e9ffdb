package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// GatekeeperName is the name that Gatekeeper's certificate carries, which a
// provider knows it by.
const GatekeeperName = "gatekeeper-webhook-service." + GatekeeperNamespace + ".svc"

// GatekeeperPlace is where Gatekeeper listens and as whom: the same from one
// start of it to the next.
type GatekeeperPlace struct {
	// Authority signs its certificate; providers and the API server trust it.
	Authority *Authority

	certificates string
	port, health int
	metrics      int
}

// GatekeeperOptions are flags of Gatekeeper.
type GatekeeperOptions struct {
	// CacheTTL is for how long answers of providers are kept; 0 keeps none.
	CacheTTL time.Duration
	// AuditInterval is from one audit to the next, in whole seconds; 0 audits
	// never.
	AuditInterval time.Duration
	// ServingThreads is how many reviews are worked on at once; Gatekeeper's own,
	// one for each core, if zero. Others wait, on the API server's time.
	ServingThreads int
}

// Gatekeeper is a running Gatekeeper: webhooks, audit and all in one process.
type Gatekeeper struct {
	program *program
	place   *GatekeeperPlace
}

// NewGatekeeperPlace finds ports and issues Gatekeeper's certificate.
func (c *Cluster) NewGatekeeperPlace(ctx context.Context) (*GatekeeperPlace, error) {
	ports, err := freePorts(ctx, 3)
	if err != nil {
		return nil, err
	}
	p := &GatekeeperPlace{certificates: filepath.Join(c.dir, "gatekeeper"), port: ports[0], health: ports[1], metrics: ports[2]}
	if p.Authority, err = NewAuthority("gatekeeper-ca"); err != nil {
		return nil, err
	}
	return p, p.Rotate()
}

// Rotate gives Gatekeeper another certificate of its authority, which it reads
// while it runs.
func (p *GatekeeperPlace) Rotate() error {
	pair, err := p.Authority.Issue(Subject{CommonName: GatekeeperName, DNSNames: []string{GatekeeperName}})
	if err != nil {
		return err
	}
	return pair.Write(p.certificates)
}

// StartGatekeeper runs Gatekeeper with the rights that its manifest gives it, and
// returns when it is ready. ctx bounds the start alone.
func (c *Cluster) StartGatekeeper(ctx context.Context, at *GatekeeperPlace, opts GatekeeperOptions) (*Gatekeeper, error) {
	user, err := c.Kubeconfig("system:serviceaccount:"+GatekeeperNamespace+":gatekeeper-admin", "system:serviceaccounts", "system:serviceaccounts:"+GatekeeperNamespace, "system:authenticated")
	if err != nil {
		return nil, err
	}
	audit := filepath.Join(c.dir, "audit") // Gatekeeper empties it, and does not make it
	if err := os.MkdirAll(audit, 0o700); err != nil {
		return nil, err
	}
	args := []string{
		"--kubeconfig=" + user, "--host=127.0.0.1", "--port=" + strconv.Itoa(at.port), "--cert-dir=" + at.certificates, "--disable-cert-rotation",
		"--health-addr=127.0.0.1:" + strconv.Itoa(at.health), "--prometheus-port=" + strconv.Itoa(at.metrics),
		"--debug-use-fake-pod", "--exempt-namespace=" + GatekeeperNamespace, "--disable-opa-builtin={http.send}", "--log-denies",
		"--api-cache-dir=" + audit, "--shutdown-delay=0",
		"--external-data-provider-response-cache-ttl=" + opts.CacheTTL.String(),
		"--audit-interval=" + strconv.Itoa(int(opts.AuditInterval/time.Second)),
	}
	if opts.ServingThreads > 0 {
		args = append(args, "--max-serving-threads="+strconv.Itoa(opts.ServingThreads))
	}
	for _, operation := range []string{"webhook", "mutation-webhook", "generate", "audit", "status", "mutation-status", "mutation-controller"} {
		args = append(args, "--operation="+operation)
	}
	g := &Gatekeeper{place: at}
	if g.program, err = run(c.dir, "gatekeeper", c.tools.Gatekeeper, []string{"POD_NAMESPACE=" + GatekeeperNamespace}, args...); err != nil {
		return nil, err
	}
	if err := g.await(ctx); err != nil {
		return nil, errors.Join(err, g.Stop())
	}
	return g, nil
}

// await waits until Gatekeeper has read all that there is, and its webhooks
// answer.
func (g *Gatekeeper) await(ctx context.Context) error {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(g.place.Authority.PEM)
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}}}
	defer client.CloseIdleConnections()
	return g.program.await(ctx, func(ctx context.Context) error {
		if err := healthy(ctx, client, fmt.Sprintf("http://127.0.0.1:%d/readyz", g.place.health)); err != nil {
			return err
		}
		conn, err := (&tls.Dialer{Config: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}}).DialContext(ctx, "tcp", "127.0.0.1:"+strconv.Itoa(g.place.port))
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// MetricsURL is where Gatekeeper tells its metrics.
func (g *Gatekeeper) MetricsURL() string {
	return fmt.Sprintf("http://127.0.0.1:%d/metrics", g.place.metrics)
}

// Stop ends Gatekeeper.
func (g *Gatekeeper) Stop() error { return g.program.stop() }
