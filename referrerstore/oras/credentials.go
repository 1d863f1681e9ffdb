package oras

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"

	"github.com/gatehouse-project/gatehouse/referrerstore/credential"
)

// openCredentials makes the table that says which credentials are for which
// host.
func (s *Store) openCredentials(ctx context.Context, opts Options, deps Deps) (*credential.Table, error) {
	return credential.NewTable(ctx, opts.Credentials, deps.Credentials, credential.Deps{
		ReadFile: func(path string) ([]byte, error) { return s.set.readFile(deps, path) },
		Registry: credential.NewClient(ownHost{s.set.transports}),
		Base:     s.base,
		Logger:   s.logger.With(slog.String("store", s.name)),
	})
}

// base is scheme and host that requests to a canonical host go to.
func (s *Store) base(host string) url.URL {
	base := url.URL{Scheme: s.Scheme(host), Host: host}
	if host == dockerHub {
		base.Host = dockerHubAPI
	}
	return base
}

// credentials are the client's, empty if it has none; held says that they were
// kept from before. That a source fails is an error: whoever has credentials
// never goes on without.
func (c *client) credentials(ctx context.Context) (cred *credential.Held, held bool, err error) {
	if c.source == nil {
		return &credential.Held{}, false, nil
	}
	cred, held, err = c.source.Get(ctx, c.key.host)
	if err != nil {
		return nil, false, classify(ctx, fmt.Errorf("credentials for %s: %w", c.key.host, err))
	}
	return cred, held, nil
}

// ownHost sends requests to hosts that the configuration names, and that may
// be at private addresses as far as it says.
type ownHost struct{ *transports }

// RoundTrip sends the request on the transport of its host.
func (t ownHost) RoundTrip(req *http.Request) (*http.Response, error) {
	return t.transports.RoundTrip(req.WithContext(withTrail(req.Context(), &trail{})))
}
