package kubernetes

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore/certfile"
	"github.com/gatehouse-project/gatehouse/referrerstore/credential"
)

const (
	// maxSecretBytes bounds the answer: secrets are of 1 MiB at most, and are
	// a third larger in base64.
	maxSecretBytes = 2 << 20
	maxFileBytes   = 1 << 20
	dialTimeout    = 5 * time.Second
)

// ownNamespace is the secret's namespace, which may be the pod's.
func (s *source) ownNamespace() (string, error) {
	if s.namespace != "" {
		return s.namespace, nil
	}
	data, err := certfile.Read(s.cluster.NamespaceFile, maxFileBytes)
	if err != nil {
		return "", fmt.Errorf("namespace: %w", err)
	}
	namespace := strings.TrimSpace(string(data))
	if !dnsName.MatchString(namespace) {
		return "", fmt.Errorf("namespace: %s does not hold the name of one", s.cluster.NamespaceFile)
	}
	return namespace, nil
}

// get asks the API server for a secret. Errors quote nothing that it answers.
func (c Cluster) get(ctx context.Context, namespace, name string) ([]byte, error) {
	if c.Host == "" || c.Port == "" {
		return nil, errors.New("this is not a pod of a cluster: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set")
	}
	token, err := certfile.Read(c.TokenFile, maxFileBytes)
	if err != nil {
		return nil, err
	}
	transport, err := c.transport()
	if err != nil {
		return nil, err
	}
	// One request in minutes is not worth a connection that is kept.
	defer transport.CloseIdleConnections()
	at := url.URL{Scheme: "https", Host: net.JoinHostPort(c.Host, c.Port), Path: "/api/v1/namespaces/" + namespace + "/secrets/" + name}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, errors.New("the API server's address is not valid")
	}
	req.Header.Set("Authorization", "Bearer "+string(bytes.TrimSpace(token)))
	req.Header.Set("Accept", "application/json")
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("the API server: %w", err)
	}
	defer func() { _ = resp.Body.Close() }() // read whole, or an error already
	return readAnswer(resp)
}

func readAnswer(resp *http.Response) ([]byte, error) {
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return nil, errors.New("it does not exist")
	case http.StatusForbidden:
		return nil, errors.New("the service account may not get it; grant it the verb get on secrets, for this resourceName alone")
	default:
		return nil, fmt.Errorf("the API server answers %d", resp.StatusCode)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxSecretBytes+1))
	if err != nil {
		return nil, fmt.Errorf("the API server: %w", err)
	}
	if len(data) > maxSecretBytes {
		return nil, fmt.Errorf("it is larger than %d bytes", maxSecretBytes)
	}
	return data, nil
}

// transport trusts the cluster's own authority alone, and knows no proxy.
func (c Cluster) transport() (*http.Transport, error) {
	data, err := certfile.Read(c.CAFile, maxFileBytes)
	if err != nil {
		return nil, err
	}
	authorities, err := certfile.Parse(data, maxFileBytes) // the bytes bound their number
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.CAFile, err)
	}
	roots := x509.NewCertPool()
	for _, authority := range authorities {
		roots.AddCert(authority)
	}
	return &http.Transport{
		DialContext:         (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSHandshakeTimeout: dialTimeout,
		TLSClientConfig:     &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2:   true,
	}, nil
}

// parseSecret reads a Secret of the API, v1. Its errors quote nothing.
func parseSecret(data []byte) (credential.DockerConfig, error) {
	var secret struct {
		Kind string            `json:"kind"`
		Type string            `json:"type"`
		Data map[string][]byte `json:"data"`
	}
	if json.Unmarshal(data, &secret) != nil || secret.Kind != "Secret" {
		return credential.DockerConfig{}, errors.New("the API server's answer is no secret")
	}
	switch secret.Type {
	case "kubernetes.io/dockerconfigjson":
		return credential.ParseDockerConfig(secret.Data[".dockerconfigjson"])
	case "kubernetes.io/dockercfg":
		return credential.ParseDockerAuths(secret.Data[".dockercfg"])
	default:
		return credential.DockerConfig{}, errors.New("it is of another type than kubernetes.io/dockerconfigjson and kubernetes.io/dockercfg")
	}
}
