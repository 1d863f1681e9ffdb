package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
	"github.com/gatehouse-project/gatehouse/referrerstore/flight"
)

// The codes of the distribution specification that are answered here.
const (
	codeNameInvalid     = "NAME_INVALID"
	codeNameUnknown     = "NAME_UNKNOWN"
	codeManifestUnknown = "MANIFEST_UNKNOWN"
	codeManifestInvalid = "MANIFEST_INVALID"
	codeBlobUnknown     = "BLOB_UNKNOWN"
	codeDigestInvalid   = "DIGEST_INVALID"
	codeUnauthorized    = "UNAUTHORIZED"
	codeDenied          = "DENIED"
	codeUnsupported     = "UNSUPPORTED"
	codeTooMany         = "TOOMANYREQUESTS"
	codeUnavailable     = "UNAVAILABLE"
	codeUnknown         = "UNKNOWN"
)

const (
	// maxMessage bounds the text of an answer, in bytes.
	maxMessage = 400
	// usualWait is what clients are told to wait when nothing better is known.
	usualWait = 5 * time.Second
	// challenge asks for a token.
	challenge = `Basic realm="gatehouse"`
	// statusGone stands in log and metrics for a client that has left.
	statusGone = 499
)

// failure is an answer that is not what was asked for: what happened, why, and
// what to do, made here alone.
type failure struct {
	status     int
	code       string
	message    string
	detail     map[string]string
	retryAfter time.Duration
	challenge  bool
	cause      error
}

func (f *failure) Error() string { return f.code + ": " + f.message }

func (f *failure) Unwrap() error { return f.cause }

func fail(status int, code, format string, args ...any) *failure {
	return &failure{status: status, code: code, message: fmt.Sprintf(format, args...)}
}

func (f *failure) because(err error) *failure { f.cause = err; return f }

func (f *failure) after(wait time.Duration) *failure {
	f.retryAfter = max(wait, time.Second)
	return f
}

func errNoSuchPath() error {
	return fail(http.StatusNotFound, codeUnsupported, "there is nothing here: manifests, blobs, tags/list and referrers of a repository are served below /v2/")
}

func errBadName() error {
	return fail(http.StatusBadRequest, codeNameInvalid, "this is no name of a repository: lower-case letters, digits and single . _ - between them, in segments parted by /")
}

func errNoSuchTag() error {
	return fail(http.StatusNotFound, codeManifestUnknown, "no tag can have this name: at most 128 letters, digits, and . _ - but not . or - at its start")
}

func errBadDigest(err error) error {
	return fail(http.StatusBadRequest, codeDigestInvalid, "%v; write sha256: or sha512: and lower-case hexadecimal digits", err)
}

func errBadNamespace(why string) error {
	return fail(http.StatusBadRequest, codeNameInvalid, "the query's ns names no registry: %s", why)
}

func errNoUpstream() error {
	return fail(http.StatusNotFound, codeNameUnknown, "the request names no upstream registry; put its host before the name or into ?ns=, or set registry.default")
}

func errUpstreamUnlisted(host string) error {
	return fail(http.StatusForbidden, codeDenied, "%s is not among the registries that may be pulled through; if it is meant to be, add %q to registry.upstreams", host, host)
}

func errReadOnly(method string) error {
	return fail(http.StatusMethodNotAllowed, codeUnsupported, "%s is not answered: this registry is read-only; push to the upstream registry", method)
}

func errWrongToken() error {
	f := fail(http.StatusUnauthorized, codeUnauthorized, "the token is not one of registry.clients.tokenFiles; correct or remove the Authorization header in hosts.toml")
	f.challenge = true
	return f
}

func errClientUnknown(host string) error {
	f := fail(http.StatusUnauthorized, codeUnauthorized, "%s is private: show a token of registry.clients.tokenFiles or a client certificate; to serve it to anybody, add it to registry.privateForAnyClient", host)
	f.challenge = true
	return f
}

func errStarting() error {
	return fail(http.StatusServiceUnavailable, codeUnavailable, "no configuration is live yet; retry").after(usualWait)
}

func errIdentityChanged(host string) error {
	return fail(http.StatusServiceUnavailable, codeUnavailable, "the credentials for %s changed while it was asked; retry", host).after(time.Second)
}

func errNotHeld(k kind) error {
	return fail(http.StatusNotFound, unknownCode(k), "it is not held, and upstreams are not asked (registry.airGapped); load it with gatehouse cache load")
}

func errNotABlob() error {
	return fail(http.StatusNotFound, codeBlobUnknown, "the digest is that of a manifest, which is not served as a blob; ask for it under manifests")
}

func errNotAManifest() error {
	return fail(http.StatusNotFound, codeManifestUnknown, "the digest is that of a blob, which is not served as a manifest; ask for it under blobs")
}

func errBadPage(what string) error {
	return fail(http.StatusBadRequest, codeUnsupported, "the query's %s is not valid", what)
}

func errBadRange(size int64) error {
	return fail(http.StatusRequestedRangeNotSatisfiable, codeUnsupported, "the range is not within the %d bytes of the content", size)
}

func errPanic() error {
	return fail(http.StatusInternalServerError, codeUnknown, "an internal error; see the log of gatehouse")
}

// errVerdict is the policy's: its message is the verdict.
func errVerdict(r executor.Result) error {
	x := executor.Explain(r, nil)
	f := fail(http.StatusForbidden, codeDenied, "%s", x.Line())
	f.detail = map[string]string{"verdict": string(x.Code), "image": r.Request.Reference.String()}
	return f
}

// errUnsure says that there is no verdict; content may be allowed or not.
func errUnsure(r executor.Result, err error) error {
	x := executor.Explain(r, err)
	f := fail(http.StatusServiceUnavailable, codeUnavailable, "%s", x.Line()).because(err).after(max(x.RetryAfter, usualWait))
	f.detail = map[string]string{"verdict": string(x.Code), "image": r.Request.Reference.String()}
	return f
}

// errNoDecider is for a configuration that enforces without a policy.
func errNoDecider() error {
	return fail(http.StatusServiceUnavailable, codeUnavailable, "registry.enforce is set and no policy is live; retry").after(usualWait)
}

func errNoParent(t *target, k kind) error {
	return fail(http.StatusForbidden, codeDenied, "no manifest of %s that the policy allows is known to list this %s; pull the image's manifest first", t.ref.Name(), k)
}

func errTooManyParents(t *target) error {
	return fail(http.StatusServiceUnavailable, codeUnavailable, "more manifests of %s list this than are tried; pull the image's manifest again, then retry", t.ref.Name()).after(usualWait)
}

// errDocument refuses a document that could be taken for something else than what
// was verified.
func errDocument(problem string) error {
	return fail(http.StatusForbidden, codeDenied, "the manifest is refused: %s; build and push the image anew", problem)
}

func errRunnable() error {
	return fail(http.StatusForbidden, codeDenied, "the manifest refers to an image that is allowed, but could itself be run as an image and is not proven; sign it as one, or attach it without a config and layers of an image")
}

func unknownCode(k kind) string {
	switch k {
	case kindBlob:
		return codeBlobUnknown
	case kindManifest, kindReferrers:
		return codeManifestUnknown
	default:
		return codeNameUnknown
	}
}

// explain makes an answer of whatever went wrong on the way to an upstream.
func explain(ctx context.Context, t *target, k kind, err error) *failure {
	if f, ok := errors.AsType[*failure](err); ok {
		return f
	}
	host := "the upstream"
	if t != nil {
		host = t.host
	}
	switch {
	case ctx.Err() != nil:
		return fail(statusGone, codeUnavailable, "the client has gone").because(err)
	case errors.Is(err, cache.ErrKind) && k == kindBlob:
		return asFailure(errNotABlob())
	case errors.Is(err, cache.ErrKind):
		return asFailure(errNotAManifest())
	case errors.Is(err, cache.ErrClosed), errors.Is(err, flight.ErrClosed):
		return fail(http.StatusServiceUnavailable, codeUnavailable, "gatehouse is shutting down; retry").because(err).after(usualWait)
	default:
		return explainUpstream(host, k, err).because(err)
	}
}

// asFailure is for errors that are made in this file.
func asFailure(err error) *failure {
	f, ok := errors.AsType[*failure](err)
	if !ok {
		return fail(http.StatusInternalServerError, codeUnknown, "an internal error; see the log of gatehouse").because(err)
	}
	return f
}

func explainUpstream(host string, k kind, err error) *failure {
	switch {
	case errors.Is(err, referrerstore.ErrNotFound):
		return fail(http.StatusNotFound, unknownCode(k), "%s has no such %s; check the name, tag or digest", host, thing(k))
	case errors.Is(err, referrerstore.ErrRefused):
		return explainRefused(host, err)
	case errors.Is(err, referrerstore.ErrAuthDenied):
		return fail(http.StatusForbidden, codeDenied, "%s refuses the credentials that gatehouse shows to it; check stores[].credentials for this host", host)
	case errors.Is(err, referrerstore.ErrRateLimited):
		return fail(http.StatusTooManyRequests, codeTooMany, "%s limits the rate of requests; retry later", host).after(wait(err))
	case errors.Is(err, referrerstore.ErrBusy):
		return fail(http.StatusServiceUnavailable, codeUnavailable, "too much is under way for %s; retry", host).after(wait(err))
	case errors.Is(err, context.DeadlineExceeded):
		return fail(http.StatusGatewayTimeout, codeUnavailable, "%s did not answer in time; retry", host)
	case errors.Is(err, referrerstore.ErrBrokenOff):
		return fail(http.StatusBadGateway, codeUnavailable, "the answer of %s broke off; retry", host)
	case errors.Is(err, referrerstore.ErrUnavailable):
		return fail(http.StatusServiceUnavailable, codeUnavailable, "%s is unavailable; retry, and see the log of gatehouse", host).after(wait(err))
	default:
		return explainAnswer(host, k, err)
	}
}

// explainAnswer is for upstreams whose answer is of no use.
func explainAnswer(host string, k kind, err error) *failure {
	code := codeUnavailable
	if k == kindManifest {
		code = codeManifestInvalid
	}
	switch {
	case errors.Is(err, referrerstore.ErrDigestMismatch), errors.Is(err, referrerstore.ErrUnverified):
		return fail(http.StatusBadGateway, codeDigestInvalid, "%s sent bytes that do not match their digest; check the registry and proxies before it", host)
	case errors.Is(err, referrerstore.ErrTooLarge):
		return fail(http.StatusBadGateway, code, "what %s sent is larger than any %s may be", host, thing(k))
	case errors.Is(err, referrerstore.ErrTooManyReferrers):
		return fail(http.StatusBadGateway, code, "%s lists more referrers than are read; remove artifacts that are not needed", host)
	case errors.Is(err, referrerstore.ErrProtocol):
		return fail(http.StatusBadGateway, code, "%s answered against the distribution specification; see the log of gatehouse", host)
	default:
		return fail(http.StatusInternalServerError, codeUnknown, "no answer could be made from %s; see the log of gatehouse", host)
	}
}

func explainRefused(host string, err error) *failure {
	text := host + " leads to where the configuration does not allow; see the log of gatehouse"
	if why, ok := errors.AsType[*referrerstore.RefusedError](err); ok {
		if text = why.What; why.Add != "" {
			text += "; if that is meant, " + why.Add
		}
	}
	return fail(http.StatusForbidden, codeDenied, "%s", text)
}

func thing(k kind) string {
	switch k {
	case kindManifest, kindBlob:
		return k.String()
	default:
		return "repository"
	}
}

func wait(err error) time.Duration {
	if after := referrerstore.RetryAfter(err); after > 0 {
		return after
	}
	return usualWait
}

// write answers with the failure as the distribution specification says.
func (f *failure) write(w http.ResponseWriter) {
	type entry struct {
		Code    string            `json:"code"`
		Message string            `json:"message"`
		Detail  map[string]string `json:"detail,omitempty"`
	}
	text := executor.Clip(executor.OneLine(f.message), maxMessage)
	body, err := json.Marshal(map[string][]entry{"errors": {{f.code, text, f.detail}}})
	if err != nil {
		body = []byte(`{"errors":[{"code":"UNKNOWN","message":"an internal error"}]}`)
	}
	h := w.Header()
	for _, name := range []string{"Etag", "Cache-Control", "Accept-Ranges", "Docker-Content-Digest", "Warning"} {
		h.Del(name) // they were about the content
	}
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	switch {
	case f.status == http.StatusMethodNotAllowed:
		h.Set("Allow", "GET, HEAD")
	case f.challenge:
		h.Set("WWW-Authenticate", challenge)
	case f.retryAfter > 0:
		h.Set("Retry-After", strconv.Itoa(int((f.retryAfter+time.Second-1)/time.Second)))
	}
	w.WriteHeader(f.status)
	_, _ = w.Write(body) // a client that has gone is not our error
}
