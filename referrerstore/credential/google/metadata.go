package google

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore/credential"
)

const (
	metadataAddress = "169.254.169.254"
	metadataPath    = "/computeMetadata/v1/instance/service-accounts/default/token"
	// metadataFlavor is what questions to the service carry, and its answers:
	// it tells it from a proxy that answers everything.
	metadataFlavor = "Metadata-Flavor"
	flavor         = "Google"
	maxTokenLife   = 24 * time.Hour
)

// askMetadata asks the metadata service for a token of the default service
// account. GCE_METADATA_HOST says where else it is, as for Google's libraries.
func askMetadata(ctx context.Context, env credential.Environment) (accessToken, error) {
	at := url.URL{Scheme: "http", Host: cmp.Or(env.Getenv("GCE_METADATA_HOST"), metadataAddress), Path: metadataPath}
	ctx, exchange := credential.Watch(ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return accessToken{}, errors.New("GCE_METADATA_HOST is not a host")
	}
	req.Header.Set(metadataFlavor, flavor)
	begun := time.Now()
	resp, err := env.HTTP.Do(req)
	if err != nil {
		return accessToken{}, exchange.Failure("")
	}
	defer func() { _ = resp.Body.Close() }() // read whole, or an error already
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return accessToken{}, fmt.Errorf("%s: there is no service account for this workload", at.Host)
	case resp.StatusCode != http.StatusOK || resp.Header.Get(metadataFlavor) != flavor:
		return accessToken{}, exchange.Failure("")
	}
	data, err := io.ReadAll(resp.Body) // the client bounds it
	if err != nil {
		return accessToken{}, exchange.Failure("")
	}
	return parseToken(data, begun)
}

// parseToken reads the answer to a question of that time. Errors never quote
// it.
func parseToken(data []byte, begun time.Time) (accessToken, error) {
	var answer struct {
		AccessToken string  `json:"access_token"`
		ExpiresIn   float64 `json:"expires_in"`
		TokenType   string  `json:"token_type"`
	}
	if json.Unmarshal(data, &answer) != nil || !isToken(answer.AccessToken) || answer.TokenType != "Bearer" {
		return accessToken{}, errors.New("the metadata service's answer is no access token")
	}
	if answer.ExpiresIn <= 0 {
		return accessToken{}, errors.New("the metadata service's token has ended already")
	}
	life := time.Duration(min(answer.ExpiresIn, maxTokenLife.Seconds()) * float64(time.Second))
	return accessToken{value: answer.AccessToken, until: begun.Add(life)}, nil
}
