package oras

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/flight"
)

const (
	// maxErrorBytes is how much of an error answer is read for its code.
	maxErrorBytes = 8 << 10
	// maxRetryAfter caps what a registry may ask its clients to wait.
	maxRetryAfter = time.Hour
)

// sentinels are what every error of this store has one of in its chain, unless
// the caller's context ended.
var sentinels = []error{ //nolint:gochecknoglobals // a constant table
	referrerstore.ErrNotFound, referrerstore.ErrAuthDenied, referrerstore.ErrRateLimited,
	referrerstore.ErrUnavailable, referrerstore.ErrRefused, referrerstore.ErrProtocol,
	referrerstore.ErrDigestMismatch, referrerstore.ErrTooLarge,
	referrerstore.ErrTooManyReferrers, referrerstore.ErrBusy,
}

func isSentinel(err error) bool {
	for _, sentinel := range sentinels {
		if errors.Is(err, sentinel) {
			return true
		}
	}
	return false
}

// classify gives an error of oras-go, or of a flight, its sentinel, and sees to
// it that the cause of ctx's end is in the chain once ctx has ended.
func classify(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		if cause := context.Cause(ctx); !errors.Is(err, cause) {
			return fmt.Errorf("%w: %w", cause, err)
		}
		return err
	}
	if isSentinel(err) {
		return err
	}
	if sentinel := sentinelOf(err); sentinel != nil {
		return fmt.Errorf("%w: %w", sentinel, err)
	}
	return err
}

func sentinelOf(err error) error {
	var answer *errcode.ErrorResponse
	var crash *flight.PanicError
	switch {
	case errors.As(err, &crash):
		return nil
	case errors.Is(err, flight.ErrClosed):
		return referrerstore.ErrUnavailable
	case errors.Is(err, errdef.ErrNotFound):
		return referrerstore.ErrNotFound
	case errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound:
		return referrerstore.ErrNotFound
	case errors.Is(err, errdef.ErrTooManyPages), errors.Is(err, errdef.ErrSizeExceedsLimit):
		return referrerstore.ErrTooManyReferrers
	case errors.Is(err, content.ErrMismatchedDigest), errors.Is(err, content.ErrTrailingData):
		return referrerstore.ErrDigestMismatch
	default:
		// What the network does is classified where it happens; what is left
		// is oras-go's displeasure at an answer.
		return referrerstore.ErrProtocol
	}
}

// networkError classifies an error of net/http. The URL that net/http puts
// around it is dropped: after a redirect it may be a signed one.
func networkError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err
	}
	if isSentinel(err) {
		return err
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		// Hidden, because to a reader either is the end of the content, and
		// this is the end of a connection.
		return fmt.Errorf("%w: %v", referrerstore.ErrUnavailable, err) //nolint:errorlint // see above
	}
	return fmt.Errorf("%w: %w", referrerstore.ErrUnavailable, err)
}

// statusError makes an error of an answer that is no success, and closes it.
// Of the body only a well-formed error code is kept: a registry may echo in
// its messages what it was sent.
func statusError(resp *http.Response) error {
	defer func() { _ = resp.Body.Close() }() // the answer is an error already
	text := strconv.Itoa(resp.StatusCode)
	if code := errorCode(resp.Body); code != "" {
		text += " " + code
	}
	wait := retryAfter(resp.Header.Get("Retry-After"), time.Now())
	switch status := resp.StatusCode; {
	case status == http.StatusNotFound:
		return fmt.Errorf("%w: status %s", referrerstore.ErrNotFound, text)
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return fmt.Errorf("%w: status %s", referrerstore.ErrAuthDenied, text)
	case status == http.StatusTooManyRequests:
		return &referrerstore.RetryAfterError{After: wait, Err: fmt.Errorf("%w: status %s", referrerstore.ErrRateLimited, text)}
	case status >= 500 && wait > 0:
		return &referrerstore.RetryAfterError{After: wait, Err: fmt.Errorf("%w: status %s", referrerstore.ErrUnavailable, text)}
	case status >= 500 || status == http.StatusRequestTimeout:
		return fmt.Errorf("%w: status %s", referrerstore.ErrUnavailable, text)
	default:
		return fmt.Errorf("%w: status %s", referrerstore.ErrProtocol, text)
	}
}

func errorCode(body io.Reader) string {
	data, err := io.ReadAll(io.LimitReader(body, maxErrorBytes))
	if err != nil {
		return ""
	}
	var answer struct {
		Errors []struct {
			Code string `json:"code"`
		} `json:"errors"`
	}
	if json.Unmarshal(data, &answer) != nil || len(answer.Errors) == 0 {
		return ""
	}
	code := answer.Errors[0].Code
	if len(code) > 32 || strings.Trim(code, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_") != "" {
		return ""
	}
	return code
}

// retryAfter reads both forms of the header, seconds and date; zero if it is
// neither or past.
func retryAfter(text string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseInt(text, 10, 64); err == nil {
		return time.Duration(min(max(seconds, 0), int64(maxRetryAfter/time.Second))) * time.Second
	}
	at, err := http.ParseTime(text)
	if err != nil {
		return 0
	}
	return min(max(at.Sub(now), 0), maxRetryAfter)
}
