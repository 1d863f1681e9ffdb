package oras

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/governor"
)

const (
	// A request that a rate limit refused is tried again as its turn comes: the
	// governor knows when. One that failed is tried again twice, soon.
	limitedAttempts = 8
	failedAttempts  = 3
	// retryPause doubles with each attempt, and a random half of it is waited
	// for at the least, so that those who failed together do not return
	// together.
	retryPause = 100 * time.Millisecond
	// patienceOfOne is the longest that one request waits because a host that
	// failed asks for it. A pause for longer is everybody's, see the governor.
	patienceOfOne = 3 * time.Second
)

// unsentError is of a request that was not sent: the governor knows already
// that it would be in vain.
type unsentError struct{ err error }

func (e *unsentError) Error() string { return e.err.Error() }
func (e *unsentError) Unwrap() error { return e.err }

func unsent(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return err
	}
	return &unsentError{err}
}

// again says whether a request whose attempt failed is to be tried again, after
// the pause that this takes. All requests of this store only read. A mirror is
// not asked again: there is the host itself.
func again(ctx context.Context, attempt int, err error) bool {
	if _, vain := errors.AsType[*unsentError](err); vain || ctx.Err() != nil {
		return false
	}
	wait := referrerstore.RetryAfter(err)
	switch deadline, ok := ctx.Deadline(); {
	case ok && time.Until(deadline) < wait:
		return false
	case errors.Is(err, referrerstore.ErrRateLimited):
		return attempt < limitedAttempts
	case errors.Is(err, referrerstore.ErrUnavailable) && wait <= patienceOfOne:
		return attempt < failedAttempts && pause(ctx, max(wait, backOff(attempt)))
	default:
		return false
	}
}

// backOff is the pause after an attempt that failed.
func backOff(attempt int) time.Duration {
	most := retryPause << (attempt - 1)
	return most/2 + rand.N(most/2) //nolint:gosec // to spread, not to hide
}

// pause waits before the next attempt, unless ctx leaves no time for it.
func pause(ctx context.Context, wait time.Duration) bool {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < wait {
		return false
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// outcome is what a request's answer, or the lack of one, says of the host.
func outcome(ctx context.Context, resp *http.Response, err error, took time.Duration) governor.Outcome {
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", ctx.Err(), context.Cause(ctx))
		}
		return governor.Outcome{Err: err, Latency: took}
	}
	o := governor.Outcome{Status: resp.StatusCode, Latency: took}
	if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= http.StatusInternalServerError {
		o.RetryAfter = retryAfter(resp.Header.Get("Retry-After"), time.Now())
	}
	return o
}

// Names reports whether the configuration names the host, rather than letting
// every host be served: in a pattern of hosts, or in any option that is for a
// host.
func (s *Store) Names(host string) bool {
	for _, pattern := range s.set.hosts {
		if pattern.String() != "**" && pattern.Match(host) {
			return true
		}
	}
	return s.set.named[host]
}

// About implements [referrerstore.Informed].
func (s *Store) About(host string) referrerstore.HostState {
	c := s.client(host)
	wait, err := c.requests().Throttled()
	asking, slow := c.asking().Throttled() // most requests need a token first
	return referrerstore.HostState{
		Identity: s.identityFor(host, c), Unnamed: !s.Names(host),
		Usual: c.requests().Usual(), Throttled: err != nil || slow != nil, Wait: max(wait, asking),
	}
}

// identityFor names as whom content of a host is asked for: its own identity, or
// else the first one that a mirror of it gets to see, which may have been handed
// what the host itself would not.
func (s *Store) identityFor(host string, c *client) string {
	if c.key.identity != "" {
		return c.key.identity
	}
	for _, m := range s.set.mirrors[host] {
		if of := s.client(m.host).key.identity; of != "" {
			return "mirror " + m.host + "/" + of
		}
	}
	return ""
}
