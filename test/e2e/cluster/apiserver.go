package cluster

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
)

func (c *Cluster) startAPIServer(ctx context.Context, store etcdAccess) error {
	ports, err := freePorts(ctx, 1)
	if err != nil {
		return err
	}
	own, tokens, probe := filepath.Join(c.dir, "kube-apiserver"), filepath.Join(c.dir, "service-accounts"), filepath.Join(c.dir, "probe")
	if err := errors.Join(c.issueInto(own, "kube-apiserver"), c.issueInto(tokens, "service-accounts"), c.issueInto(probe, "probe", "system:masters")); err != nil {
		return err
	}
	c.server = "https://127.0.0.1:" + strconv.Itoa(ports[0])
	c.apiserver, err = run(c.dir, "kube-apiserver", c.tools.APIServer, nil,
		// Unset, the address that it advertises is the default route's, which a
		// machine without a network has not.
		"--advertise-address=127.0.0.1", "--bind-address=127.0.0.1", "--secure-port="+strconv.Itoa(ports[0]), "--endpoint-reconciler-type=none",
		"--etcd-servers="+store.url, "--etcd-cafile="+c.caFile(),
		"--etcd-certfile="+filepath.Join(store.credentials, CertificateFile), "--etcd-keyfile="+filepath.Join(store.credentials, KeyFile),
		"--tls-cert-file="+filepath.Join(own, CertificateFile), "--tls-private-key-file="+filepath.Join(own, KeyFile),
		"--client-ca-file="+c.caFile(), "--authorization-mode=RBAC", "--anonymous-auth=false",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-cluster-ip-range=10.96.0.0/24",
		"--service-account-key-file="+filepath.Join(tokens, KeyFile), "--service-account-signing-key-file="+filepath.Join(tokens, KeyFile),
		// No controller makes the accounts that it would demand.
		"--disable-admission-plugins=ServiceAccount", "--profiling=false",
	)
	if err != nil {
		return err
	}
	client, err := c.client(probe)
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	return c.apiserver.await(ctx, func(ctx context.Context) error {
		if err := healthy(ctx, client, c.server+"/readyz"); err != nil {
			return fmt.Errorf("the API server: %w", err)
		}
		return nil
	})
}
