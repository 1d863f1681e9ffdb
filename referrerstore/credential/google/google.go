// Package google finds credentials for Google's container registries by the
// identity that Google Cloud gives the workload: from the metadata service (GKE
// workload identity, machines, Cloud Run), or from outside of Google Cloud by a
// file of type external_account (workload identity federation).
//
// The registry is shown an access token, as the password of a user name that
// stands for that.
package google

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore/credential"
)

// Type is what a configuration calls this kind.
const Type = "google"

const (
	// user is the user name that says that the password is an access token.
	user          = "oauth2accesstoken"
	maxTokenBytes = 16 << 10
)

// Kind makes sources of entries with the options path and anyHost. Without
// path the file is GOOGLE_APPLICATION_CREDENTIALS of the environment, if that
// is set, else the metadata service is asked.
func Kind(env credential.Environment) credential.Kind {
	return credential.Kind{
		Takes:   []string{"path", "anyHost"},
		Domains: []string{"*.pkg.dev", "gcr.io", "*.gcr.io"},
		New: func(entry credential.Entry, deps credential.Deps) (credential.Source, error) {
			path := entry.Path
			if path == "" {
				path = env.Getenv("GOOGLE_APPLICATION_CREDENTIALS")
			}
			if path == "" {
				return &source{ask: func(ctx context.Context) (accessToken, error) { return askMetadata(ctx, env) }}, nil
			}
			data, err := deps.ReadFile(path)
			if err != nil {
				return nil, err
			}
			account, err := parseAccount(data)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			return &source{ask: func(ctx context.Context) (accessToken, error) { return askFederation(ctx, env, account) }}, nil
		},
	}
}

// accessToken is what Google's services hand out.
type accessToken struct {
	value string
	until time.Time
}

// source asks one service. It is immutable.
type source struct {
	ask func(context.Context) (accessToken, error)
}

// Key is one for all hosts: the token is the workload's.
func (s *source) Key(string) (string, bool) { return "", true }

// Find asks for an access token.
func (s *source) Find(ctx context.Context, _ string) (credential.Credential, error) {
	token, err := s.ask(ctx)
	if err != nil {
		return credential.Credential{}, fmt.Errorf("identity of Google Cloud: %w", err)
	}
	if !isToken(token.value) {
		return credential.Credential{}, errors.New("identity of Google Cloud: the answer has no access token of visible characters")
	}
	return credential.Credential{User: user, Password: token.value, Until: token.until}, nil
}

func isToken(text string) bool {
	return text != "" && len(text) <= maxTokenBytes &&
		!strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' })
}
