package oras

import (
	"context"
	"net/http"
	"sync/atomic"

	"golang.org/x/sync/semaphore"

	"github.com/gatehouse-project/gatehouse/referrerstore/flight"
)

// purpose parts what is judged, for which an admission waits, from what is
// pulled: a layer may stream for minutes, and nodes that are rolled out ask for
// many at once. The two share no connection, no flight for a first request or a
// token, no place in a queue and none of the governor's; so no pull can be in
// front of an admission.
// What they share are tokens, and what was learned of how a host is asked.
type purpose int

const (
	judging purpose = iota
	pulling

	purposes
)

// The kinds of turns that the governor gives, see governor.Key. Each has places,
// a rate, pauses and a breaker of its own for a host and identity: that a pull was
// answered 429, with or without Retry-After, holds back pulls alone. An admission
// behind it may meet a 429 of its own, once, and waits from then on as the
// registry asks. A rate that the configuration fixes is kept by each.
const (
	turnsRegistry = ""
	turnsToken    = "token"
	turnsPull     = "pull" // of blobs, which hold their places for as long as they stream
	// turnsLookup is for manifests, lists of tags and questions for blobs, none of
	// which should wait for a layer's end.
	turnsLookup    = "pull-lookup"
	turnsPullToken = "pull-token"
)

func (k kind) turns() string {
	switch k {
	case kindPullBlob:
		return turnsPull
	case kindPullManifest, kindHasBlob, kindTags:
		return turnsLookup
	default:
		return turnsRegistry
	}
}

// purpose is judging for a request that is part of no call.
func (of *call) purpose() purpose {
	if of == nil || of.kind.turns() == turnsRegistry {
		return judging
	}
	return pulling
}

func (p purpose) tokenTurns() string {
	if p == pulling {
		return turnsPullToken
	}
	return turnsToken
}

// way is what requests for a purpose go out by.
type way struct {
	transports *transports
	http       *http.Client // to registries; follows redirects without credentials
	tokenHTTP  *http.Client // to token services
	probes     *flight.Group[attempt[clientKey], *challenge]
	tokens     *flight.Group[attempt[tokenKey], token]
}

func newWay(ctx context.Context, t *transports) way {
	return way{
		transports: t,
		http:       &http.Client{Transport: t, CheckRedirect: checkRedirect},
		tokenHTTP:  &http.Client{Transport: t, CheckRedirect: checkTokenRedirect},
		probes:     flight.New[attempt[clientKey], *challenge](ctx),
		tokens:     flight.New[attempt[tokenKey], token](ctx),
	}
}

func (w way) close() {
	w.probes.Close()
	w.tokens.Close()
	w.transports.CloseIdleConnections()
}

// tokenQueue is the requests for tokens of one client and purpose.
type tokenQueue struct {
	slots  *semaphore.Weighted
	wanted atomic.Int64 // under way, or waiting for a slot
}
