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
)

const probeTimeout = 15 * time.Second

var errProbeTimeout = errors.New("no answer within 15s")

// first sends req, alone, to a host of which nothing is known; whoever else
// wants something of the host waits for what is learned from the answer. The
// answer itself, unless it is a challenge, is for req's sender.
//
// The request goes on if its sender has no time left, so that the next one
// finds the host known.
func (c *client) first(req *http.Request) (*answer, *challenge, error) {
	mine := &handover{}
	learned, err := c.store.probes.Do(req.Context(), c.key, func(ctx context.Context) (*challenge, error) {
		if known := c.known(); known != nil {
			return known, nil
		}
		return c.probe(ctx, req, mine)
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
	resp.Body = linkBody(resp.Body, req.Context(), cancel)
	sender.offer(resp)
	return learned, nil
}

// open notes that the host answers without credentials, if that is so.
func (c *client) open(resp *answer) *challenge {
	if resp.StatusCode >= http.StatusBadRequest && resp.StatusCode != http.StatusNotFound {
		return nil
	}
	learned := &challenge{at: time.Now()}
	c.challenge.Store(learned)
	return learned
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
	gone := h.gone
	if !gone {
		h.resp = resp
	}
	h.mu.Unlock()
	if gone {
		resp.discard()
	}
}

func (h *handover) take() *answer {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.gone = true
	return h.resp
}
