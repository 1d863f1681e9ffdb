// Package kubernetes finds credentials in a secret of the cluster that
// Gatehouse runs in, of type kubernetes.io/dockerconfigjson or the older
// kubernetes.io/dockercfg: what imagePullSecrets name.
//
// It asks the API server for the one secret, with the pod's own service
// account, which needs to be allowed to get it and nothing else:
//
//	rules:
//	  - {apiGroups: [""], resources: [secrets], resourceNames: [NAME], verbs: [get]}
//
// What it finds is kept for five minutes; a secret that changes is seen then.
// Helpers that the secret may name are not run.
package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"regexp"

	"github.com/gatehouse-project/gatehouse/referrerstore/credential"
)

// Type is what a configuration calls this kind.
const Type = "kubernetes"

// Cluster is how the API server is reached.
type Cluster struct {
	// Host and Port are where it is.
	Host, Port string
	// TokenFile and CAFile prove the pod to it, and it to the pod. Both are
	// read for each request: the cluster replaces them now and then.
	TokenFile, CAFile string
	// NamespaceFile holds the pod's own namespace.
	NamespaceFile string
}

// InCluster is the cluster that a pod with the environment runs in.
func InCluster(getenv func(string) string) Cluster {
	const account = "/var/run/secrets/kubernetes.io/serviceaccount/"
	return Cluster{
		Host: getenv("KUBERNETES_SERVICE_HOST"), Port: getenv("KUBERNETES_SERVICE_PORT"),
		TokenFile: account + "token", CAFile: account + "ca.crt", NamespaceFile: account + "namespace",
	}
}

// Kind makes sources of entries with the options name and, optionally,
// namespace.
func Kind(cluster Cluster) credential.Kind {
	return credential.Kind{
		Takes: []string{"namespace", "name"},
		New: func(entry credential.Entry, _ credential.Deps) (credential.Source, error) {
			return open(entry, cluster)
		},
	}
}

// source is a secret of the cluster. It is immutable.
type source struct {
	cluster         Cluster
	namespace, name string // without namespace it is the pod's own
}

// dnsName is what namespaces and secrets are called. It keeps a name from
// being a path.
var dnsName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)

func open(entry credential.Entry, cluster Cluster) (credential.Source, error) {
	if entry.Name == "" {
		return nil, errors.New("name is empty: it is the secret's")
	}
	if !dnsName.MatchString(entry.Name) {
		return nil, fmt.Errorf("name %q is not that of a secret", entry.Name)
	}
	if entry.Namespace != "" && !dnsName.MatchString(entry.Namespace) {
		return nil, fmt.Errorf("namespace %q is not that of a namespace", entry.Namespace)
	}
	return &source{cluster: cluster, namespace: entry.Namespace, name: entry.Name}, nil
}

// Key is the host: each has credentials of its own.
func (s *source) Key(host string) (string, bool) { return host, true }

// Find reads the secret. That it has nothing for the host is an error, because
// the configuration says that it has.
func (s *source) Find(ctx context.Context, host string) (credential.Credential, error) {
	namespace, err := s.ownNamespace()
	if err != nil {
		return credential.Credential{}, err
	}
	name := namespace + "/" + s.name
	data, err := s.cluster.get(ctx, namespace, s.name)
	if err != nil {
		return credential.Credential{}, fmt.Errorf("secret %s: %w", name, err)
	}
	config, err := parseSecret(data)
	if err != nil {
		return credential.Credential{}, fmt.Errorf("secret %s: %w", name, err)
	}
	cred, ok := config.Auths[host]
	if !ok || cred.Empty() {
		return credential.Credential{}, fmt.Errorf("secret %s: it has nothing for %s", name, host)
	}
	return cred, nil
}
