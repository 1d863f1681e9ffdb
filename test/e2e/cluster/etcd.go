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
	"time"
)

// etcd is how the API server reaches its store.
type etcdAccess struct {
	url         string
	credentials string // folder with a pair
}

func (c *Cluster) startEtcd(ctx context.Context) (etcdAccess, error) {
	ports, err := freePorts(ctx, 2)
	if err != nil {
		return etcdAccess{}, err
	}
	access := etcdAccess{url: fmt.Sprintf("https://127.0.0.1:%d", ports[0]), credentials: filepath.Join(c.dir, "etcd-client")}
	own := filepath.Join(c.dir, "etcd")
	peer := fmt.Sprintf("https://127.0.0.1:%d", ports[1])
	if err := errors.Join(os.WriteFile(c.caFile(), c.ca.PEM, 0o600), c.issueInto(own, "etcd"), c.issueInto(access.credentials, "kube-apiserver")); err != nil {
		return etcdAccess{}, err
	}
	cert, key := filepath.Join(own, CertificateFile), filepath.Join(own, KeyFile)
	c.etcd, err = run(c.dir, "etcd", c.tools.Etcd, nil,
		"--data-dir", filepath.Join(own, "data"), "--log-level", "warn",
		// What a power cut would lose, no test looks for.
		"--unsafe-no-fsync",
		"--listen-client-urls", access.url, "--advertise-client-urls", access.url,
		"--cert-file", cert, "--key-file", key, "--trusted-ca-file", c.caFile(), "--client-cert-auth",
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer,
		"--peer-cert-file", cert, "--peer-key-file", key, "--peer-trusted-ca-file", c.caFile(), "--peer-client-cert-auth",
	)
	if err != nil {
		return etcdAccess{}, err
	}
	client, err := c.client(access.credentials)
	if err != nil {
		return etcdAccess{}, err
	}
	defer client.CloseIdleConnections()
	return access, c.etcd.await(ctx, func(ctx context.Context) error { return healthy(ctx, client, access.url+"/health") })
}

func (c *Cluster) issueInto(dir, name string, groups ...string) error {
	pair, err := c.ca.Issue(Subject{CommonName: name, Organizations: groups})
	if err != nil {
		return err
	}
	return pair.Write(dir)
}

// client is one that shows the certificate in a folder, none if it is empty, and
// trusts the cluster's authority.
func (c *Cluster) client(credentials string) (*http.Client, error) {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(c.ca.PEM)
	config := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	if credentials != "" {
		pair, err := tls.LoadX509KeyPair(filepath.Join(credentials, CertificateFile), filepath.Join(credentials, KeyFile))
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: config}, Timeout: 5 * time.Second}, nil
}

// healthy is nil if the URL answers 200.
func healthy(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // nothing is read of it
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, resp.Status)
	}
	return nil
}
