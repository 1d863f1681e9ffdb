package referrerstore

import (
	"errors"
	"fmt"
	"time"
)

// What a caller can act on. Stores wrap one of these, once.
var (
	// ErrNotFound: the registry says that the thing does not exist. The only
	// one of these that is knowledge rather than the lack of it.
	ErrNotFound = errors.New("not found")
	// ErrAuthDenied: the registry or its token service answered 401 or 403,
	// or no usable credential could be had.
	ErrAuthDenied = errors.New("access denied by the registry")
	// ErrRateLimited: the registry answered 429. See [RetryAfter].
	ErrRateLimited = errors.New("the registry limits the rate of requests")
	// ErrUnavailable: DNS, connection, TLS, 5xx, or an answer that breaks off.
	ErrUnavailable = errors.New("the registry is unavailable")
	// ErrBrokenOff: an answer that had begun did not end. It is ErrUnavailable
	// as well, and worth another try.
	ErrBrokenOff = fmt.Errorf("%w: the answer breaks off", ErrUnavailable)
	// ErrRefused: Gatehouse itself would not go there: an address, realm or
	// redirect that the configuration does not name. The text says what to add.
	ErrRefused = errors.New("refused by the configuration")
	// ErrProtocol: the registry's answer does not follow the distribution
	// specification.
	ErrProtocol = errors.New("the registry's answer is not valid")
	// ErrDigestMismatch: the bytes are not those that the digest names.
	ErrDigestMismatch = errors.New("content does not match its digest")
	// ErrUnverified ends a stream whose digest could not be checked because
	// it began after the first byte.
	ErrUnverified = errors.New("content was not verified from its first byte")
	// ErrTooLarge: more bytes than the reader's bound.
	ErrTooLarge = errors.New("larger than the bound")
	// ErrTooManyReferrers: the list was cut at a bound of pages, bytes or
	// entries; what was yielded before is valid, the rest is unknown.
	ErrTooManyReferrers = errors.New("more referrers than the bound")
	// ErrBusy: a bound on what may be under way at once is used up.
	ErrBusy = errors.New("too much is under way")
)

// RefusedError is ErrRefused with what the configuration's author needs.
type RefusedError struct {
	// What was refused, and why, in a short clause.
	What string
	// Add is what to write into the configuration if it is meant after all,
	// as an imperative clause; empty if there is no way.
	Add string
}

func (e *RefusedError) Error() string {
	if e.Add == "" {
		return fmt.Sprintf("%v: %s", ErrRefused, e.What)
	}
	return fmt.Sprintf("%v: %s; if that is meant, %s", ErrRefused, e.What, e.Add)
}

func (e *RefusedError) Unwrap() error { return ErrRefused }

// RetryAfterError carries how long the registry asked its clients to wait. It
// unwraps to Err, commonly ErrRateLimited or ErrUnavailable.
type RetryAfterError struct {
	After time.Duration
	Err   error
}

func (e *RetryAfterError) Error() string {
	return fmt.Sprintf("%v; it asks to wait %s", e.Err, e.After)
}

func (e *RetryAfterError) Unwrap() error { return e.Err }

// RetryAfter digs the registry's wait out of an error, zero if it named none.
func RetryAfter(err error) time.Duration {
	if wait, ok := errors.AsType[*RetryAfterError](err); ok {
		return wait.After
	}
	return 0
}
