package oras

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/credential"
	"github.com/gatehouse-project/gatehouse/referrerstore/governor"
)

const (
	// maxClients bounds the hosts that are remembered. Names of hosts come
	// from whoever can create a pod.
	maxClients = 1024
	// challengeLife is how long a host is believed to want what it wanted if
	// there is a reason for doubt. Without one it is believed on.
	challengeLife = time.Hour

	// dockerHub is reached under another name, and has its token service
	// under a third.
	dockerHub      = credential.DockerHub
	dockerHubAPI   = "registry-1.docker.io"
	dockerHubRealm = "auth.docker.io"
)

// clientKey is what a client is for: a canonical host, as seen by the holder of
// one kind of credentials ("" holds none).
type clientKey struct{ host, identity string }

// client talks to one registry host as one identity. It is what oras-go calls a
// remote.Client, and safe for concurrent use.
type client struct {
	store  *Store
	key    clientKey
	source *credential.Keeper // of credentials; nil without
	base   url.URL            // scheme and host that requests go to

	tokens [purposes]tokenQueue // requests for tokens

	lastUsed   atomic.Int64              // unix nanoseconds, for eviction
	challenge  atomic.Pointer[challenge] // nil until learned
	bearerSeen atomic.Bool               // from then on Basic is refused
}

var _ remote.Client = (*client)(nil)

// client finds or makes the client of a canonical host.
func (s *Store) client(host string) *client {
	source := s.credentials.For(host)
	key := clientKey{host: host}
	if source != nil {
		key.identity = source.Identity()
	}
	if held, ok := s.clients.Load(key); ok {
		c, _ := held.(*client)
		c.lastUsed.Store(time.Now().UnixNano())
		return c
	}
	s.growing.Lock()
	defer s.growing.Unlock()
	if held, ok := s.clients.Load(key); ok {
		c, _ := held.(*client)
		return c
	}
	if s.count >= maxClients {
		s.evict()
	}
	c := s.newClient(key, source)
	s.clients.Store(key, c)
	s.count++
	return c
}

func (s *Store) newClient(key clientKey, source *credential.Keeper) *client {
	c := &client{
		store: s, key: key, source: source,
		base: s.base(key.host),
	}
	for i := range c.tokens {
		c.tokens[i].slots = semaphore.NewWeighted(maxTokenRequests)
	}
	c.lastUsed.Store(time.Now().UnixNano())
	return c
}

// requests says when a request for what is judged may go to the host, and asking
// when one may go to its token service.
func (c *client) requests() *governor.Host { return c.turns(turnsRegistry) }

func (c *client) asking() *governor.Host { return c.turns(turnsToken) }

// turns says when a request may go that waits among those of a kind.
func (c *client) turns(kind string) *governor.Host {
	return c.store.governor.Host(governor.Key{Host: c.key.host, Identity: c.key.identity, Kind: kind})
}

// evict forgets the quarter of the clients that was not used for longest. A
// client that is forgotten while in use works on; its host has to be learned
// again. It is called with growing held.
func (s *Store) evict() {
	all := make([]*client, 0, s.count)
	s.clients.Range(func(_, held any) bool {
		c, _ := held.(*client)
		all = append(all, c)
		return true
	})
	slices.SortFunc(all, func(a, b *client) int {
		return cmp.Compare(a.lastUsed.Load(), b.lastUsed.Load())
	})
	for _, c := range all[:len(all)/4] {
		s.clients.Delete(c.key)
		s.count--
	}
}

// repository makes oras-go's view of a repository, which sends through c.
func (c *client) repository(name string) *remote.Repository {
	return &remote.Repository{
		Client:               c,
		Reference:            registry.Reference{Registry: c.key.host, Repository: name},
		PlainHTTP:            c.base.Scheme == "http",
		ReferrerListMaxPages: maxPages,
		// One more than the bound, so that it is page.go that cuts and says so.
		MaxMetadataBytes: maxPageBytes + 1,
	}
}

// kind is what a request is for, in metrics and bounds.
type kind string

const (
	kindResolve   kind = "resolve"
	kindReferrers kind = "referrers"
	kindManifest  kind = "manifest"
	kindBlob      kind = "blob"
	kindToken     kind = "token"
	kindChallenge kind = "challenge"

	// What is asked for by whoever pulls.
	kindPullManifest kind = "pull_manifest"
	kindPullBlob     kind = "pull_blob"
	kindHasBlob      kind = "has_blob"
	kindTags         kind = "tags"
)

// call says what a request is part of. It travels in the request's context,
// because oras-go stands between the store's methods and Do.
type call struct {
	kind       kind
	repository string
	size       int64  // of the content asked for; -1 if not known
	offset     int64  // where a pull is to begin
	mirrorOf   string // the host that a mirror is asked in place of
	page       *page  // what a list of referrers holds
}

type callKey struct{}

func withCall(ctx context.Context, c *call) context.Context {
	return context.WithValue(ctx, callKey{}, c)
}

func callOf(ctx context.Context) *call {
	c, _ := ctx.Value(callKey{}).(*call)
	return c
}

// Do sends a request of oras-go with what the host wants to see, and hands it
// on the answers that it can judge: success and 404. All else is an error.
func (c *client) Do(req *http.Request) (*http.Response, error) {
	of := callOf(req.Context())
	if of == nil || !sameOrigin(req.URL, &c.base) {
		return nil, fmt.Errorf("%w: an answer leads to another place, %q", referrerstore.ErrProtocol, req.URL.Host)
	}
	if of.mirrorOf != "" {
		req = req.Clone(req.Context())
		req.URL.RawQuery = url.Values{"ns": {of.mirrorOf}}.Encode()
	}
	if of.page != nil {
		if err := of.page.begin(req.Context()); err != nil {
			return nil, err
		}
	}
	var before error
	for attempt := 1; ; attempt++ {
		if attempt > 1 {
			req = withAttempt(req, attempt)
		}
		resp, err := c.try(req, of)
		if err != nil && before != nil && req.Context().Err() != nil {
			err = fmt.Errorf("%w: %w", err, before) // why there was no time left
		}
		if err == nil || of.mirrorOf != "" || !again(req.Context(), attempt, err) {
			return resp, err
		}
		before = err
	}
}

// try is one attempt at a request, with all that it takes.
func (c *client) try(req *http.Request, of *call) (*http.Response, error) {
	resp, err := c.exchange(req, of)
	if err != nil {
		return nil, err
	}
	if err := of.admit(resp); err != nil {
		_ = resp.Body.Close() // it is refused already
		return nil, err
	}
	return resp.Response, nil
}

// admit decides what oras-go gets to see of an answer.
func (of *call) admit(resp *answer) error {
	if of.kind == kindHasBlob && resp.Request.Method == http.MethodHead && headUseless(resp) {
		return fmt.Errorf("%w: status %d", errHeadUseless, resp.StatusCode)
	}
	if resp.StatusCode == http.StatusNotFound && !resp.elsewhere {
		return nil
	}
	if resp.StatusCode == http.StatusNotFound {
		return fmt.Errorf("%w: the host it redirects to has it not", referrerstore.ErrUnavailable)
	}
	if of.offset > 0 && (resp.StatusCode == http.StatusPartialContent || resp.StatusCode == http.StatusRequestedRangeNotSatisfiable) {
		return nil // to a request for a range
	}
	if resp.StatusCode != http.StatusOK {
		return statusError(resp.Response)
	}
	switch of.kind {
	case kindReferrers:
		return of.page.attach(resp.Response)
	case kindManifest, kindBlob:
		if resp.ContentLength >= 0 && resp.ContentLength != of.size {
			return fmt.Errorf("%w: %d bytes where %d were announced", referrerstore.ErrDigestMismatch, resp.ContentLength, of.size)
		}
		// The bytes are hashed, whatever the header says of them; and they
		// are read once, from the first on.
		resp.Header.Del("Docker-Content-Digest")
		resp.Header.Del("Accept-Ranges")
	default: // what else there is bounds its body itself
	}
	return nil
}

// exchange sends the request with what the host is known to want; a host of
// which nothing is known is sent one request alone first.
func (c *client) exchange(req *http.Request, of *call) (*answer, error) {
	known, resp, err := c.wanted(req)
	if err != nil || resp != nil {
		return resp, err
	}
	auth, err := c.authorize(req.Context(), known, of.repository)
	if err != nil && req.Context().Err() == nil && known != nil && c.challenge.Load() == nil {
		// What was known for long may not be true any more.
		if known, resp, err = c.wanted(req); err != nil || resp != nil {
			return resp, err
		}
		auth, err = c.authorize(req.Context(), known, of.repository)
	}
	if err != nil {
		return nil, err
	}
	resp, err = c.send(req, auth.header)
	if err != nil || resp.elsewhere {
		return resp, err
	}
	if resp.StatusCode == http.StatusNotFound && auth.header == "" && c.source != nil {
		return c.hidden(req, of, resp)
	}
	if known == nil {
		c.open(resp)
	}
	return c.challenged(req, of, known, auth, resp)
}

// hidden deals with a 404 to a request that showed nothing although there are
// credentials: some registries hide so what not everybody may see. The host
// itself is asked what it wants, unless it said that it is open not long ago.
func (c *client) hidden(req *http.Request, of *call, resp *answer) (*answer, error) {
	if err := resp.keep(); err != nil {
		return nil, err
	}
	ctx, span := c.store.tracer.join(req.Context(), "challenge")
	wanted, err := patiently(ctx, c.store.patience, c.store.bases, c.key, func(own context.Context) (*challenge, error) {
		return c.askBase(c.store.tracer.aboard(own, ctx))
	})
	finish(span, err)
	if err != nil {
		return nil, classify(req.Context(), err)
	}
	if wanted.scheme == schemeNone {
		return resp, nil
	}
	auth, err := c.authorize(req.Context(), wanted, of.repository)
	if err != nil {
		return nil, err
	}
	resp, err = c.send(req, auth.header)
	if err != nil || resp.elsewhere {
		return resp, err
	}
	return c.challenged(req, of, wanted, auth, resp)
}

// challenged deals with an answer of 401 or 403: what was held for too long is
// dropped, and after a 401 asked for anew, once.
func (c *client) challenged(req *http.Request, of *call, known *challenge, auth authorization, resp *answer) (*answer, error) {
	if resp.StatusCode != http.StatusUnauthorized && resp.StatusCode != http.StatusForbidden {
		return resp, nil
	}
	c.forget(of.repository, auth)
	if resp.StatusCode == http.StatusForbidden {
		return resp, nil
	}
	wanted, err := c.learn(resp)
	if err != nil {
		return nil, err
	}
	if wanted == nil || (known != nil && wanted.same(known) && !auth.held) {
		return resp, nil
	}
	resp.discard()
	auth, err = c.authorize(req.Context(), wanted, of.repository)
	if err != nil {
		return nil, err
	}
	return c.send(req, auth.header)
}

// wanted is what the host wants: known, or learned by a first request, whose
// answer it may be instead.
func (c *client) wanted(req *http.Request) (*challenge, *answer, error) {
	if known := c.challenge.Load(); known != nil {
		return known, nil, nil
	}
	ctx, span := c.store.tracer.join(req.Context(), "first request")
	resp, learned, err := c.first(req.WithContext(ctx))
	finish(span, err)
	return learned, resp, err
}

// doubt forgets what a host wants, if that was learned long ago, because its
// token service fails. A 401 teaches by itself.
func (c *client) doubt(known *challenge) {
	if time.Since(known.at) > challengeLife {
		c.challenge.CompareAndSwap(known, nil)
	}
}

// learn takes the challenge from a 401 of the host itself; nil if there is none
// that could be met.
func (c *client) learn(resp *answer) (*challenge, error) {
	wanted := parseChallenge(resp.Header.Values("WWW-Authenticate"), time.Now())
	if wanted == nil {
		return nil, nil //nolint:nilnil // an answer without a challenge is no error
	}
	switch {
	case wanted.scheme == schemeBearer:
		c.bearerSeen.Store(true)
	case c.bearerSeen.Load():
		resp.discard()
		return nil, fmt.Errorf("%w: %s wants a password now and wanted tokens before", referrerstore.ErrAuthDenied, c.key.host)
	}
	c.challenge.Store(wanted)
	return wanted, nil
}

// sameOrigin compares scheme, host and port.
func sameOrigin(a, b *url.URL) bool {
	return strings.EqualFold(a.Scheme, b.Scheme) && originHost(a) == originHost(b)
}

func originHost(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[strings.ToLower(u.Scheme)]
	}
	return strings.ToLower(strings.TrimSuffix(u.Hostname(), ".")) + ":" + port
}
