package azure

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/credential"
)

const (
	maxAnswerBytes = 64 << 10
	maxTokenBytes  = 16 << 10
)

// exchange asks the registry for a refresh token, with the token from Entra ID.
// The host is one that the entry names, and redirects are not followed.
func (s *source) exchange(ctx context.Context, base url.URL, host, token string) (credential.Credential, error) {
	base.Path = "/oauth2/exchange"
	form := url.Values{"grant_type": {"access_token"}, "service": {host}, "access_token": {token}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base.String(), strings.NewReader(form.Encode()))
	if err != nil {
		return credential.Credential{}, fmt.Errorf("%w: the URL of the exchange is not valid", referrerstore.ErrProtocol)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	watched, exchange := credential.Watch(ctx)
	resp, err := s.deps.Registry.Do(req.WithContext(watched))
	if err != nil {
		return credential.Credential{}, unavailable(exchange.Failure(""))
	}
	defer func() { _ = resp.Body.Close() }() // read whole, or an error already
	if err := statusError(resp.StatusCode, exchange); err != nil {
		return credential.Credential{}, err
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes+1))
	if err != nil {
		return credential.Credential{}, unavailable(fmt.Errorf("the answer of %s breaks off", host))
	}
	return parseAnswer(data)
}

// unavailable is what a request that failed comes to, unless the guard refused
// it.
func unavailable(err error) error {
	if errors.Is(err, referrerstore.ErrRefused) {
		return fmt.Errorf("exchange of tokens: %w", err)
	}
	return fmt.Errorf("exchange of tokens: %w: %w", referrerstore.ErrUnavailable, err)
}

func statusError(status int, exchange *credential.Exchange) error {
	sentinel := referrerstore.ErrProtocol
	switch {
	case status == http.StatusOK:
		return nil
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		sentinel = referrerstore.ErrAuthDenied
	case status == http.StatusTooManyRequests:
		sentinel = referrerstore.ErrRateLimited
	case status >= http.StatusInternalServerError:
		sentinel = referrerstore.ErrUnavailable
	}
	return fmt.Errorf("exchange of tokens: %w: %w", sentinel, exchange.Failure(""))
}

// parseAnswer reads what the exchange answers. Errors never quote it.
func parseAnswer(data []byte) (credential.Credential, error) {
	var answer struct {
		RefreshToken string `json:"refresh_token"`
	}
	if len(data) > maxAnswerBytes || json.Unmarshal(data, &answer) != nil {
		return credential.Credential{}, fmt.Errorf("exchange of tokens: %w: the answer is no JSON of at most %d bytes", referrerstore.ErrProtocol, maxAnswerBytes)
	}
	token := answer.RefreshToken
	if token == "" || len(token) > maxTokenBytes || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return credential.Credential{}, fmt.Errorf("exchange of tokens: %w: the answer has no refresh token of at most %d visible characters", referrerstore.ErrProtocol, maxTokenBytes)
	}
	return credential.Credential{IdentityToken: token, Until: endOf(token)}, nil
}

// endOf is when a JWT says that it ends, the zero time if it cannot be read.
// Nothing but how long it is kept depends on it, so its signature is not
// looked at.
func endOf(token string) time.Time {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return time.Time{}
	}
	var claims struct {
		Expires float64 `json:"exp"`
	}
	if json.Unmarshal(payload, &claims) != nil || claims.Expires <= 0 || claims.Expires > math.MaxInt32*4 {
		return time.Time{}
	}
	return time.Unix(int64(claims.Expires), 0)
}
