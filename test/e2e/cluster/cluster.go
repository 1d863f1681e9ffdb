// Package cluster brings up the control plane of a Kubernetes cluster with
// Gatekeeper in it, as processes on loopback: etcd, kube-apiserver and
// Gatekeeper, each the real program, built from its Go module. Admission starts
// no container, so nothing else is needed.
//
//   - tools.go builds the programs, or finds them in Go's build cache.
//   - [Start] makes credentials of its own (pki.go) and starts etcd and the API
//     server with RBAC (etcd.go, apiserver.go).
//   - [Cluster.Kubectl] is what a person types, and what they see (kubectl.go).
//   - [Cluster.InstallGatekeeper] applies Gatekeeper's own manifest with the
//     webhooks led to loopback, and [Cluster.StartGatekeeper] runs it
//     (manifest.go, gatekeeper.go).
//
// All that is started ends with [Cluster.Stop], or with the process that
// started it; nothing else is ended. Logs are files in the cluster's folder.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Cluster is a control plane that runs. Its methods are safe for concurrent use
// but for Stop.
type Cluster struct {
	dir        string
	tools      Tools
	ca         *Authority
	etcd       *program
	apiserver  *program
	server     string // https://host:port of the API server
	kubeconfig string // of an administrator
}

// Start brings up etcd and the API server in a folder and returns when the API
// server is ready. ctx bounds the start alone.
func Start(ctx context.Context, dir string, tools Tools) (*Cluster, error) {
	c := &Cluster{dir: dir, tools: tools}
	if err := c.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start the control plane: %w", err), c.Stop())
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context) (err error) {
	if c.ca, err = NewAuthority("cluster"); err != nil {
		return err
	}
	store, err := c.startEtcd(ctx)
	if err != nil {
		return err
	}
	if err := c.startAPIServer(ctx, store); err != nil {
		return err
	}
	c.kubeconfig, err = c.Kubeconfig("admin", "system:masters")
	return err
}

// Dir is the cluster's folder.
func (c *Cluster) Dir() string { return c.dir }

// Server is the API server's base URL.
func (c *Cluster) Server() string { return c.server }

// Kubeconfig writes a kubeconfig for a user and gives its path. Service accounts
// are users by the name of system:serviceaccount:NAMESPACE:NAME.
func (c *Cluster) Kubeconfig(user string, groups ...string) (string, error) {
	dir := filepath.Join(c.dir, "users", fileName(user))
	pair, err := c.ca.Issue(Subject{CommonName: user, Organizations: groups})
	if err != nil {
		return "", err
	}
	if err := pair.Write(dir); err != nil {
		return "", err
	}
	path := filepath.Join(dir, "kubeconfig")
	text := fmt.Sprintf(kubeconfig, c.caFile(), c.server, filepath.Join(dir, CertificateFile), filepath.Join(dir, KeyFile))
	return path, os.WriteFile(path, []byte(text), 0o600)
}

const kubeconfig = `apiVersion: v1
kind: Config
clusters: [{name: local, cluster: {certificate-authority: %q, server: %q}}]
users: [{name: user, user: {client-certificate: %q, client-key: %q}}]
contexts: [{name: local, context: {cluster: local, user: user}}]
current-context: local
`

// Stop ends all that Start started, last first.
func (c *Cluster) Stop() error {
	var errs []error
	for _, p := range []*program{c.apiserver, c.etcd} {
		if p != nil {
			errs = append(errs, p.stop())
		}
	}
	return errors.Join(errs...)
}

func (c *Cluster) caFile() string { return filepath.Join(c.dir, "ca.crt") }

// fileName is a user's name as one element of a path.
func fileName(user string) string {
	return strings.ReplaceAll(user, ":", "_")
}
