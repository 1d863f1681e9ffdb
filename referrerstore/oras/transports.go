package oras

import (
	"context"
	"crypto/x509"
	"net/http"
	"net/url"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/guard"
)

// trail is what is known of the way to a request's next step. It travels in
// the request's context, because net/http follows redirects. It is used by one
// request at a time.
type trail struct {
	// strict says that whoever named the next host is a stranger: it is not
	// let to addresses that only the configuration makes reachable.
	strict bool
}

type trailKey struct{}

func withTrail(ctx context.Context, t *trail) context.Context {
	return context.WithValue(ctx, trailKey{}, t)
}

// transports picks the transport for each step of a request, and notes whose
// word the next step would be taken on.
type transports struct {
	open   routes
	strict routes // like open, but lets nothing private through
}

var _ http.RoundTripper = (*transports)(nil)

// newTransports makes transports with connections of their own; a nil strict is
// open.
func newTransports(open, strict *guard.Guard, authorities map[string]*x509.CertPool) *transports {
	t := &transports{open: newRoutes(open, authorities)}
	t.strict = t.open
	if strict != nil {
		t.strict = newRoutes(strict, authorities)
	}
	return t
}

// RoundTrip sends the request on the transport of its host. A redirect that a
// host with a public address answers with is followed to public addresses only.
func (t *transports) RoundTrip(req *http.Request) (*http.Response, error) {
	way, _ := req.Context().Value(trailKey{}).(*trail)
	if way == nil {
		way = &trail{strict: true}
	}
	by := t.open
	if way.strict {
		by = t.strict
	}
	resp, private, err := by.of(req.URL).Send(req)
	way.strict = way.strict || !private
	return resp, err
}

// CloseIdleConnections closes the idle connections of all transports.
func (t *transports) CloseIdleConnections() {
	t.open.closeIdle()
	t.strict.closeIdle()
}

// routes picks the transport for the host of each URL, so that a host's own
// authorities count wherever that host is met: as a registry, a token service
// or behind a redirect.
type routes struct {
	others *guard.Transport
	byHost map[string]*guard.Transport
}

func newRoutes(g *guard.Guard, authorities map[string]*x509.CertPool) routes {
	r := routes{others: g.Transport(nil), byHost: make(map[string]*guard.Transport, len(authorities))}
	for host, roots := range authorities {
		r.byHost[host] = g.Transport(roots)
	}
	return r
}

func (r routes) of(u *url.URL) *guard.Transport {
	host, err := referrerstore.CanonicalHost(u.Host)
	if err != nil {
		return r.others
	}
	if own, ok := r.byHost[host]; ok {
		return own
	}
	return r.others
}

func (r routes) closeIdle() {
	r.others.CloseIdleConnections()
	for _, own := range r.byHost {
		own.CloseIdleConnections()
	}
}
