// Package azure finds credentials for Azure's container registries by the
// identity that Azure gives the workload: a workload identity where
// AZURE_FEDERATED_TOKEN_FILE is set (with AZURE_CLIENT_ID, AZURE_TENANT_ID and
// AZURE_AUTHORITY_HOST, as AKS sets them), else a managed identity.
//
// Entra ID gives a token that is for container registries and nothing else;
// the registry itself exchanges it for a refresh token, and its token service
// that for tokens to pull with. The first goes to no host but those that the
// entry names, over https. The SDK keeps it until it ends: a workload
// identity's for the source, a managed identity's for the process.
package azure

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/credential"
)

// Type is what a configuration calls this kind.
const Type = "azure"

const (
	// audience is what the token from Entra ID is good for: container
	// registries, in all clouds of Azure.
	audience = "https://containerregistry.azure.net/.default"

	maxRetries = 2
	retryDelay = 200 * time.Millisecond
	maxDelay   = 2 * time.Second
	tryTimeout = 5 * time.Second

	maxErrorBytes = 16 << 10
)

// Kind makes sources of entries with the options clientID, tenantID and
// anyHost.
func Kind(env credential.Environment) credential.Kind {
	return credential.Kind{
		Takes:   []string{"clientID", "tenantID", "anyHost"},
		Domains: []string{"*.azurecr.io", "*.azurecr.cn", "*.azurecr.us"},
		New: func(entry credential.Entry, deps credential.Deps) (credential.Source, error) {
			identity, err := identify(entry, env)
			if err != nil {
				return nil, err
			}
			return &source{identity: identity, deps: deps, anyHost: entry.AnyHost}, nil
		},
	}
}

// source asks as one identity.
type source struct {
	identity azcore.TokenCredential
	deps     credential.Deps
	anyHost  bool
}

func identify(entry credential.Entry, env credential.Environment) (azcore.TokenCredential, error) {
	options := azcore.ClientOptions{
		Transport: env.HTTP,
		Telemetry: policy.TelemetryOptions{Disabled: true},
		Retry:     policy.RetryOptions{MaxRetries: maxRetries, RetryDelay: retryDelay, MaxRetryDelay: maxDelay, TryTimeout: tryTimeout},
	}
	client := cmp.Or(entry.ClientID, env.Getenv("AZURE_CLIENT_ID"))
	file := env.Getenv("AZURE_FEDERATED_TOKEN_FILE")
	if file == "" {
		return managed(entry, client, options)
	}
	tenant := cmp.Or(entry.TenantID, env.Getenv("AZURE_TENANT_ID"))
	if client == "" || tenant == "" {
		return nil, errors.New("a workload identity needs clientID and tenantID, or AZURE_CLIENT_ID and AZURE_TENANT_ID in the environment")
	}
	options.Cloud = cloud.Configuration{ActiveDirectoryAuthorityHost: cmp.Or(
		env.Getenv("AZURE_AUTHORITY_HOST"), cloud.AzurePublic.ActiveDirectoryAuthorityHost,
	)}
	identity, err := azidentity.NewWorkloadIdentityCredential(&azidentity.WorkloadIdentityCredentialOptions{
		ClientOptions: options, ClientID: client, TenantID: tenant, TokenFilePath: file,
	})
	if err != nil {
		return nil, fmt.Errorf("workload identity: %w", err)
	}
	return identity, nil
}

func managed(entry credential.Entry, client string, options azcore.ClientOptions) (azcore.TokenCredential, error) {
	if entry.TenantID != "" {
		return nil, errors.New("tenantID is for a workload identity, and AZURE_FEDERATED_TOKEN_FILE is not set")
	}
	managed := &azidentity.ManagedIdentityCredentialOptions{ClientOptions: options}
	if client != "" {
		managed.ID = azidentity.ClientID(client)
	}
	identity, err := azidentity.NewManagedIdentityCredential(managed)
	if err != nil {
		return nil, fmt.Errorf("managed identity: %w", err)
	}
	return identity, nil
}

// Key is the host: a refresh token is of one registry.
func (s *source) Key(host string) (string, bool) { return host, true }

// Find gets a token from Entra ID, and the registry's refresh token for it.
func (s *source) Find(ctx context.Context, host string) (credential.Credential, error) {
	base := s.deps.Base(host)
	if base.Scheme != "https" && !s.anyHost {
		return credential.Credential{}, &referrerstore.RefusedError{
			What: fmt.Sprintf("a token of Azure would go to %s over plain HTTP", host),
		}
	}
	watched, exchange := credential.Watch(ctx)
	token, err := s.identity.GetToken(watched, policy.TokenRequestOptions{Scopes: []string{audience}})
	if err != nil || token.Token == "" { // the SDK takes an answer without one
		return credential.Credential{}, fmt.Errorf("identity of Azure: %w", exchange.Failure(errorCode(err)))
	}
	return s.exchange(ctx, base, host, token.Token)
}

// entraCode is the one part of Entra's answers that says what is wrong and
// quotes nothing.
var entraCode = regexp.MustCompile(`AADSTS[0-9]{4,8}`)

func errorCode(err error) string {
	var failed *azidentity.AuthenticationFailedError
	if !errors.As(err, &failed) || failed.RawResponse == nil || failed.RawResponse.Body == nil {
		return ""
	}
	// The SDK has read the body already, and lets it be read again.
	data, _ := io.ReadAll(io.LimitReader(failed.RawResponse.Body, maxErrorBytes))
	return string(entraCode.Find(data))
}
