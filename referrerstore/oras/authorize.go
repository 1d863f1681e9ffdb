package oras

import (
	"context"
	"encoding/base64"
	"fmt"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/credential"
)

// authorization is what a request shows, and what of it could be out of date.
type authorization struct {
	header string // of Authorization; empty shows nothing
	held   bool   // it, or what it was made of, was held from before

	token      string           // of bearer
	credential *credential.Held // of basic
}

// authorize makes what a request to the repository shows to a host that wants
// what known says; nil wants nothing.
func (c *client) authorize(ctx context.Context, known *challenge, repository string) (authorization, error) {
	switch {
	case known == nil || known.scheme == schemeNone:
		return authorization{}, nil
	case known.scheme == schemeBasic:
		return c.basic(ctx)
	default:
		return c.bearer(ctx, known, repository)
	}
}

// basic shows user name and password. That they go over plain HTTP happens only
// to hosts that plainHTTP names.
func (c *client) basic(ctx context.Context) (authorization, error) {
	cred, held, err := c.credentials(ctx)
	if err != nil {
		return authorization{}, err
	}
	if cred.User == "" || cred.Password == "" {
		return authorization{}, fmt.Errorf("%w: %s wants a user name and a password, and store %q has none for it",
			referrerstore.ErrAuthDenied, c.key.host, c.store.name)
	}
	pair := base64.StdEncoding.EncodeToString([]byte(cred.User + ":" + cred.Password))
	return authorization{header: "Basic " + pair, held: held, credential: cred}, nil
}

// bearer shows a token for pulling from the repository, from the cache or by
// one flight for all who want it.
func (c *client) bearer(ctx context.Context, known *challenge, repository string) (authorization, error) {
	key := c.tokenKey(repository)
	t, held := c.store.tokenCache.get(key, time.Now())
	if !held {
		var err error
		traced, span := c.store.tracer.join(ctx, "token")
		by := callOf(ctx).purpose()
		t, err = patiently(traced, c.store.patience, c.store.ways[by].tokens, key, func(own context.Context) (token, error) {
			own = referrerstore.WithWork(own, referrerstore.WorkOf(ctx))
			return c.fetchToken(c.store.tracer.aboard(own, traced), by, known, key)
		})
		finish(span, err)
		if err != nil {
			return authorization{}, classify(ctx, fmt.Errorf("token for %s: %w", repository, err))
		}
	}
	return authorization{header: "Bearer " + t.value, held: held, token: t.value}, nil
}

func (c *client) tokenKey(repository string) tokenKey {
	return tokenKey{scheme: c.base.Scheme, host: c.base.Host, identity: c.key.identity, repository: repository}
}

// forget drops what a host did not accept.
func (c *client) forget(repository string, auth authorization) {
	if auth.token != "" {
		c.store.tokenCache.drop(c.tokenKey(repository), auth.token)
	}
	c.source.Forget(auth.credential)
}
