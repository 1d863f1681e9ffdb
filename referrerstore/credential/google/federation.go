package google

import (
	"context"
	"encoding/json"
	"errors"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google/externalaccount"

	"github.com/gatehouse-project/gatehouse/referrerstore/credential"
)

const (
	accountType = "external_account"
	// cloudScope is the one that registries take; what the identity may do is
	// for its roles to say.
	cloudScope = "https://www.googleapis.com/auth/cloud-platform"
)

// account is a file of workload identity federation, as Google's tools write
// it.
type account struct {
	Type             string `json:"type"`
	Audience         string `json:"audience"`
	SubjectTokenType string `json:"subject_token_type"`
	TokenURL         string `json:"token_url"`
	ImpersonationURL string `json:"service_account_impersonation_url"`
	Impersonation    struct {
		Seconds int `json:"token_lifetime_seconds"`
	} `json:"service_account_impersonation"`
	Source         *externalaccount.CredentialSource `json:"credential_source"`
	UniverseDomain string                            `json:"universe_domain"`
}

// parseAccount reads a file. Errors never quote it.
func parseAccount(data []byte) (account, error) {
	var a account
	if json.Unmarshal(data, &a) != nil || a.Type == "" {
		return account{}, errors.New("it is not a file of credentials of Google Cloud")
	}
	switch {
	case a.Type != accountType:
		return account{}, errors.New("it is not of type external_account; for the key of a service account use the type static with the user name _json_key")
	case a.Audience == "" || a.SubjectTokenType == "" || a.Source == nil:
		return account{}, errors.New("it lacks audience, subject_token_type or credential_source")
	case a.Source.Executable != nil:
		return account{}, errors.New("it names a program to run, which is not supported")
	}
	return a, nil
}

// askFederation exchanges the token that the file leads to.
func askFederation(ctx context.Context, env credential.Environment, a account) (accessToken, error) {
	ctx, exchange := credential.Watch(ctx)
	ctx = context.WithValue(ctx, oauth2.HTTPClient, env.HTTP)
	from, err := externalaccount.NewTokenSource(ctx, externalaccount.Config{
		Audience: a.Audience, SubjectTokenType: a.SubjectTokenType, TokenURL: a.TokenURL,
		ServiceAccountImpersonationURL:             a.ImpersonationURL,
		ServiceAccountImpersonationLifetimeSeconds: a.Impersonation.Seconds,
		CredentialSource:                           a.Source, UniverseDomain: a.UniverseDomain,
		Scopes: []string{cloudScope},
	})
	if err != nil {
		return accessToken{}, errors.New("the file's credential_source is not one that is known")
	}
	token, err := from.Token()
	if err != nil {
		return accessToken{}, exchange.Failure("")
	}
	return accessToken{value: token.AccessToken, until: token.Expiry}, nil
}
