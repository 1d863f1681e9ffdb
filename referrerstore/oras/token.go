package oras

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/credential"
)

const (
	// maxTokenRequests bounds the requests for tokens of one client at a time,
	// maxTokensWanted those and the ones that wait for their turn.
	maxTokenRequests = 64
	maxTokensWanted  = 512
	// maxTokenReading bounds the bytes of answers of token services, from when
	// their headers are there; one host may take maxTokenReadingByHost. They
	// are not taken from the shared budget, because whoever waits for a token
	// may hold bytes of it.
	maxTokenReading       = 2 << 20
	maxTokenReadingByHost = 512 << 10
	// tokenShare is waited for, and holds most answers; one that is larger
	// takes more as it grows, up to maxTokenResponse.
	tokenShare       = 16 << 10
	maxTokenResponse = 128 << 10
	maxTokenBytes    = 16 << 10
	tokenTimeout     = 10 * time.Second
	// tokenReadTimeout is for the body of an answer whose header is there.
	tokenReadTimeout = 2 * time.Second

	// A token lives a minute if its service does not say; it is not used in
	// the last tenth of its life, or the last 10 seconds if that is less.
	defaultTokenLife = time.Minute
	maxTokenLife     = 24 * time.Hour
	maxTokenLeeway   = 10 * time.Second
)

var (
	errTokenTimeout     = errors.New("no token within 10s")
	errTokenReadTimeout = errors.New("the answer is not complete after 2s")
)

// fetchToken asks the token service for a token that can pull from the one
// repository and nothing else, whatever scope the registry suggested.
//
// Specification: https://distribution.github.io/distribution/spec/auth/token/
// and, with an identity token, .../spec/auth/oauth/.
func (c *client) fetchToken(ctx context.Context, by purpose, known *challenge, key tokenKey) (token, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, tokenTimeout, errTokenTimeout)
	defer cancel()
	t, err := c.queueToken(ctx, by, known, key)
	if err != nil {
		if errors.Is(err, referrerstore.ErrRefused) {
			c.challenge.CompareAndSwap(known, nil) // it can never be met: the host may have been wrong
		}
		c.doubt(known)
		if !isSentinel(err) {
			err = fmt.Errorf("%w: %w", referrerstore.ErrUnavailable, err)
		}
		return token{}, err
	}
	return t, nil
}

// queueToken waits for its turn among the requests of this client: a token
// service that hangs keeps only its own registry waiting.
func (c *client) queueToken(ctx context.Context, by purpose, known *challenge, key tokenKey) (token, error) {
	queue := &c.tokens[by]
	defer queue.wanted.Add(-1)
	if queue.wanted.Add(1) > maxTokensWanted {
		return token{}, fmt.Errorf("%w: %d tokens are being waited for", referrerstore.ErrBusy, maxTokensWanted)
	}
	if err := queue.slots.Acquire(ctx, 1); err != nil {
		return token{}, context.Cause(ctx)
	}
	defer queue.slots.Release(1)
	if t, ok := c.store.tokenCache.get(key, time.Now()); ok {
		return t, nil // another flight was faster
	}
	t, err := c.askToken(ctx, by, known, key)
	if err == nil {
		c.store.tokenCache.put(key, t)
	}
	return t, err
}

func (c *client) askToken(ctx context.Context, by purpose, known *challenge, key tokenKey) (token, error) {
	cred, _, err := c.credentials(ctx)
	if err != nil {
		return token{}, err
	}
	if cred.RegistryToken != "" {
		return token{value: cred.RegistryToken, until: cred.Until}, nil
	}
	realm, err := c.realm(known.realm, !cred.Empty())
	if err != nil {
		return token{}, err
	}
	ctx, cancel := context.WithCancelCause(withTrail(ctx, &trail{strict: !c.trusts(realm)}))
	defer cancel(nil)
	req, err := tokenRequest(ctx, realm, known.service, "repository:"+key.repository+":pull", cred)
	if err != nil {
		return token{}, fmt.Errorf("%w: the token service's URL is not valid", referrerstore.ErrProtocol)
	}
	traced, span := c.store.tracer.request(ctx, req.Method, realm, kindToken)
	defer span.End()
	permit, err := c.turns(by.tokenTurns()).Acquire(traced)
	if err != nil {
		fault(span, err)
		return token{}, fmt.Errorf("from %s: %w", realm.Host, unsent(ctx, err))
	}
	defer permit.Release()
	span.AddEvent(eventSent)
	begun := time.Now()
	resp, err := c.store.ways[by].tokenHTTP.Do(req)
	took := time.Since(begun)
	c.store.metrics.observe(kindToken, resp, took)
	permit.Answered(outcome(ctx, resp, err, took))
	if err != nil {
		err = c.explainRealm(realm, networkError(ctx, err))
		fault(span, err)
		return token{}, fmt.Errorf("from %s: %w", realm.Host, err)
	}
	answered(span, req.Method, kindToken, resp)
	defer func() { _ = resp.Body.Close() }() // read whole, or an error already
	t, err := c.readToken(ctx, cancel, resp, begun)
	if errors.Is(err, referrerstore.ErrAuthDenied) {
		// The credentials may have been changed behind a helper.
		c.source.Forget(cred)
	}
	if err != nil {
		fault(span, err)
		return token{}, fmt.Errorf("from %s: %w", realm.Host, err)
	}
	return t, nil
}

// trusts says that the registry's token service is known to be its own. Any
// other gets nothing to see, and is not asked where only the configuration
// lets one connect: its tokens would go to the registry that named it.
func (c *client) trusts(realm *url.URL) bool {
	host, err := referrerstore.CanonicalHost(realm.Host)
	return err == nil && (sameName(realm, &c.base) || c.store.set.trustsRealm(c.key.host, host))
}

// explainRealm adds what the configuration could do about a refusal.
func (c *client) explainRealm(realm *url.URL, err error) error {
	refused, ok := errors.AsType[*referrerstore.RefusedError](err)
	if !ok || c.trusts(realm) {
		return err
	}
	return &referrerstore.RefusedError{
		What: refused.What,
		Add: fmt.Sprintf("add %q to allowPrivate of store %q and {%q: [%q]} to its realms",
			realm.Hostname(), c.store.name, c.key.host, realm.Host),
	}
}

// realm decides whether the token service that the registry named may be asked,
// and whether credentials may be shown to it.
func (c *client) realm(raw string, withCredentials bool) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.User != nil || (u.Scheme != "https" && u.Scheme != "http") {
		return nil, fmt.Errorf("%w: its token service is not the URL of one", referrerstore.ErrProtocol)
	}
	host, err := referrerstore.CanonicalHost(u.Host)
	if err != nil {
		return nil, fmt.Errorf("%w: its token service: %w", referrerstore.ErrProtocol, err)
	}
	own := sameName(u, &c.base)
	if u.Scheme == "http" && c.base.Scheme == "https" {
		return nil, fmt.Errorf("%w: its token service %q would be asked over plain HTTP", referrerstore.ErrRefused, host)
	}
	if u.Scheme == "http" && !own && !c.store.set.plain[host] {
		return nil, &referrerstore.RefusedError{
			What: fmt.Sprintf("the token service of %s is on another host over plain HTTP", c.key.host),
			Add:  fmt.Sprintf("add %q to plainHTTP of store %q", host, c.store.name),
		}
	}
	if withCredentials && !own && !c.store.set.trustsRealm(c.key.host, host) {
		return nil, &referrerstore.RefusedError{
			What: fmt.Sprintf("the token service of %s is on %s, which may not see its credentials", c.key.host, host),
			Add:  fmt.Sprintf("add {%q: [%q]} to realms of store %q", c.key.host, host, c.store.name),
		}
	}
	u.Fragment = ""
	return u, nil
}

func sameName(a, b *url.URL) bool {
	return strings.EqualFold(strings.TrimSuffix(a.Hostname(), "."), strings.TrimSuffix(b.Hostname(), "."))
}

func (set *settings) trustsRealm(registry, realm string) bool {
	return set.realms[registry][realm] || (registry == dockerHub && realm == dockerHubRealm)
}

func tokenRequest(ctx context.Context, realm *url.URL, service, scope string, cred *credential.Held) (*http.Request, error) {
	values := url.Values{"scope": {scope}}
	if service != "" {
		values.Set("service", service)
	}
	if cred.IdentityToken != "" {
		values.Set("grant_type", "refresh_token")
		values.Set("refresh_token", cred.IdentityToken)
		values.Set("client_id", userAgent)
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, realm.String(), strings.NewReader(values.Encode()))
		if err != nil {
			return nil, err
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("User-Agent", userAgent)
		return req, nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, realm.String(), nil)
	if err != nil {
		return nil, err
	}
	query := req.URL.Query()
	maps.Copy(query, values)
	req.URL.RawQuery = query.Encode()
	req.Header.Set("User-Agent", userAgent)
	if cred.User != "" || cred.Password != "" {
		req.SetBasicAuth(cred.User, cred.Password)
	}
	return req, nil
}

// readToken reads the answer to a request that was begun at that time. What it
// holds is taken before it is read; cancel ends a body that does not come.
func (c *client) readToken(ctx context.Context, cancel context.CancelCauseFunc, resp *http.Response, begun time.Time) (token, error) {
	share := c.store.tokenBytes.Host(c.key.host)
	defer share.Close()
	if err := share.Acquire(ctx, tokenShare); err != nil {
		return token{}, err
	}
	body := &tokenBody{share: share, held: tokenShare}
	defer body.release()
	timer := time.AfterFunc(tokenReadTimeout, func() { cancel(errTokenReadTimeout) })
	defer timer.Stop()
	if resp.StatusCode == http.StatusNotFound {
		return token{}, fmt.Errorf("%w: the token service answers 404", referrerstore.ErrProtocol)
	}
	if resp.StatusCode != http.StatusOK {
		return token{}, statusError(resp)
	}
	if resp.ContentLength > maxTokenResponse {
		return token{}, fmt.Errorf("%w: a token answer of %d bytes", referrerstore.ErrProtocol, resp.ContentLength)
	}
	if err := body.read(ctx, resp.Body); err != nil {
		return token{}, err
	}
	return parseToken(body.data, begun)
}

// tokenBody is an answer's body with the bytes of the store's that it holds.
type tokenBody struct {
	share *referrerstore.HostBudget
	held  int64
	data  []byte
}

// read reads to the end, and grows only with what has come.
func (b *tokenBody) read(ctx context.Context, from io.Reader) error {
	b.data = make([]byte, 0, b.held)
	for {
		n, err := from.Read(b.data[len(b.data):cap(b.data)])
		b.data = b.data[:len(b.data)+n]
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return networkError(ctx, err)
		case len(b.data) < cap(b.data):
			continue
		}
		if err := b.grow(); err != nil {
			return err
		}
	}
}

// grow doubles what is held. It never waits, because it holds bytes already.
func (b *tokenBody) grow() error {
	more := 2 * b.held
	if more > maxTokenResponse {
		return fmt.Errorf("%w: a token answer of %d bytes or more", referrerstore.ErrProtocol, maxTokenResponse)
	}
	if !b.share.TryAcquire(more) {
		return fmt.Errorf("read a token: %w", referrerstore.ErrBusy)
	}
	b.data = append(make([]byte, 0, more), b.data...)
	b.share.Release(b.held)
	b.held = more
	return nil
}

func (b *tokenBody) release() { b.share.Release(b.held) }

// parseToken reads a token service's JSON. Errors never quote it.
func parseToken(data []byte, begun time.Time) (token, error) {
	var body struct {
		Token       string      `json:"token"`
		AccessToken string      `json:"access_token"`
		ExpiresIn   json.Number `json:"expires_in"`
		IssuedAt    string      `json:"issued_at"`
	}
	if json.Unmarshal(data, &body) != nil {
		return token{}, fmt.Errorf("%w: the token answer is not valid JSON", referrerstore.ErrProtocol)
	}
	value := body.Token
	if value == "" {
		value = body.AccessToken
	}
	if value == "" || len(value) > maxTokenBytes || strings.IndexFunc(value, notVisible) >= 0 {
		return token{}, fmt.Errorf("%w: the token answer has no token of at most %d visible characters", referrerstore.ErrProtocol, maxTokenBytes)
	}
	// What cannot be read of the times is taken as not said.
	seconds, _ := body.ExpiresIn.Float64()
	issued, _ := time.Parse(time.RFC3339, body.IssuedAt)
	return token{value: value, until: begun.Add(useful(seconds, issued, begun))}, nil
}

func notVisible(r rune) bool { return r <= ' ' || r > '~' }

// useful is how long a token can be used, from when its request was begun. A
// service that hands out tokens it made earlier says so by issued_at; if by
// that the token has ended already, the clocks differ, and it is used for as
// long as one of unknown age: a 401 would tell.
func useful(expiresIn float64, issuedAt, begun time.Time) time.Duration {
	life := defaultTokenLife
	if expiresIn > 0 {
		life = time.Duration(min(expiresIn, maxTokenLife.Seconds()) * float64(time.Second))
	}
	left := life
	if age := begun.Sub(issuedAt); !issuedAt.IsZero() && age > 0 {
		left = life - age
	}
	if left <= 0 {
		left = min(life, defaultTokenLife)
	}
	return left - min(left/10, maxTokenLeeway)
}
