package oras

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/flight"
)

const (
	probeTimeout = 15 * time.Second
	// joinPatience is how long whoever joins another's flight waits for it. A
	// flight may be on the one connection that hangs.
	joinPatience = time.Second
)

var (
	errProbeTimeout = errors.New("no answer within 15s")
	errImpatient    = errors.New("another's flight takes too long")
)

// attempt tells flights for one thing apart of which the earlier take long.
type attempt[K comparable] struct {
	key K
	n   int
}

// patiently joins the flight for key, or begins it. Whoever joined and waited
// for as long as patience goes on to the next flight, so that there is one
// more each time at most. The flight's function must look first whether another
// has brought the result meanwhile.
func patiently[K comparable, V any](ctx context.Context, patience time.Duration, group *flight.Group[attempt[K], V],
	key K, fn func(context.Context) (V, error),
) (V, error) {
	for n := 0; ; n++ {
		joined, cancel := context.WithCancelCause(ctx)
		timer := time.AfterFunc(patience, func() { cancel(errImpatient) })
		v, err := group.Do(joined, attempt[K]{key: key, n: n}, func(ctx context.Context) (V, error) {
			timer.Stop() // this flight is the caller's own
			return fn(ctx)
		})
		timer.Stop()
		cancel(nil)
		if !errors.Is(err, errImpatient) {
			return v, err
		}
	}
}

// first sends req, alone, to a host of which nothing is known; whoever else
// wants something of the host waits a while for what is learned from the
// answer. The answer itself, unless it is a challenge, is for req's sender.
//
// The request goes on if its sender has no time left, so that the next one
// finds the host known.
func (c *client) first(req *http.Request) (*answer, *challenge, error) {
	mine := &handover{}
	probes := c.store.ways[callOf(req.Context()).purpose()].probes
	learned, err := patiently(req.Context(), c.store.patience, probes, c.key, func(own context.Context) (*challenge, error) {
		if known := c.challenge.Load(); known != nil {
			return known, nil
		}
		return c.probe(c.store.tracer.aboard(own, req.Context()), req, mine)
	})
	resp := mine.take()
	if err != nil {
		resp.discard()
		return nil, nil, classify(req.Context(), err)
	}
	return resp, learned, nil
}

// probe is the flight of first. A nil challenge says that the answer (an error
// status, such as 429) told nothing; waiters then ask for themselves.
func (c *client) probe(ctx context.Context, req *http.Request, sender *handover) (*challenge, error) {
	timed, stop := context.WithTimeoutCause(ctx, probeTimeout, errProbeTimeout)
	defer stop()
	// The request must outlive its sender until it is answered, and the flight
	// once its answer is handed over; so it has a context of its own.
	own, cancel := context.WithCancelCause(context.WithoutCancel(req.Context()))
	unlink := context.AfterFunc(timed, func() { cancel(context.Cause(timed)) })
	resp, err := c.send(req.WithContext(own), "")
	if !unlink() || err != nil {
		resp.discard()
		cancel(nil)
		return nil, probeError(timed, err)
	}
	if resp.StatusCode == http.StatusUnauthorized && !resp.elsewhere {
		wanted, err := c.learn(resp)
		if wanted != nil || err != nil {
			resp.discard()
			cancel(nil)
			return wanted, err
		}
	}
	learned := c.open(resp)
	if resp.StatusCode == http.StatusNotFound && !resp.elsewhere && c.source != nil {
		learned, err = c.behind(timed, resp)
		if err != nil || learned.scheme != schemeNone {
			cancel(nil)
			return learned, err
		}
	}
	resp.Body = linkBody(resp.Body, req.Context(), cancel)
	sender.offer(resp)
	return learned, nil
}

// behind asks what the host wants that answered 404, and keeps that answer.
func (c *client) behind(ctx context.Context, resp *answer) (*challenge, error) {
	if err := resp.keep(); err != nil {
		return nil, err
	}
	return c.askBase(ctx)
}

// open notes that the host answers without credentials, if that is so and
// nothing else was learned meanwhile. A 404 says it only if there are none.
func (c *client) open(resp *answer) *challenge {
	missing := resp.StatusCode == http.StatusNotFound && (c.source == nil || resp.elsewhere)
	if resp.StatusCode >= http.StatusBadRequest && !missing {
		return nil
	}
	return c.note(nil, &challenge{at: time.Now()})
}

// note keeps what was learned in place of what was known before, and is what
// counts from now on.
func (c *client) note(before, learned *challenge) *challenge {
	if !c.challenge.CompareAndSwap(before, learned) {
		if other := c.challenge.Load(); other != nil {
			return other
		}
	}
	return learned
}

// askBase asks the host itself, GET /v2/, how it wants to be asked. An answer
// that says neither that nor that it is open is an error.
//
// Specification: OCI distribution specification 1.1, end-1.
func (c *client) askBase(ctx context.Context) (*challenge, error) {
	known := c.challenge.Load()
	if known != nil && (known.scheme != schemeNone || (known.base && time.Since(known.at) <= challengeLife)) {
		return known, nil
	}
	ctx, cancel := context.WithTimeoutCause(withCall(ctx, &call{kind: kindChallenge, size: -1}), probeTimeout, errProbeTimeout)
	defer cancel()
	at := c.base
	at.Path = "/v2/"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.send(req, "")
	if err != nil {
		return nil, probeError(ctx, err)
	}
	defer resp.discard()
	switch {
	case resp.elsewhere: // whose word says nothing of this host
	case resp.StatusCode == http.StatusUnauthorized:
		if wanted, err := c.learn(resp); wanted != nil || err != nil {
			return wanted, err
		}
		return nil, statusError(resp.Response)
	case resp.StatusCode >= http.StatusBadRequest && resp.StatusCode != http.StatusNotFound:
		return nil, statusError(resp.Response)
	}
	return c.note(known, &challenge{base: true, at: time.Now()}), nil
}

func probeError(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if isSentinel(err) {
		return err
	}
	return fmt.Errorf("%w: %w", referrerstore.ErrUnavailable, err)
}

// linkBody gives an answer's body to a new context: reading ends when that
// does, and closing frees what cancel holds.
func linkBody(body io.ReadCloser, ctx context.Context, cancel context.CancelCauseFunc) io.ReadCloser {
	unlink := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	return &linkedBody{ReadCloser: body, free: func() { unlink(); cancel(nil) }}
}

type linkedBody struct {
	io.ReadCloser
	free func()
}

func (b *linkedBody) Close() error {
	defer b.free()
	return b.ReadCloser.Close()
}

// handover passes an answer from a flight to the call that began it, or closes
// it if that call is gone.
type handover struct {
	mu   sync.Mutex // guards the fields that follow it
	resp *answer
	gone bool
}

func (h *handover) offer(resp *answer) {
	h.mu.Lock()
	unwanted := h.gone || h.resp != nil
	if !unwanted {
		h.resp = resp
	}
	h.mu.Unlock()
	if unwanted {
		resp.discard()
	}
}

func (h *handover) take() *answer {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.gone = true
	return h.resp
}
