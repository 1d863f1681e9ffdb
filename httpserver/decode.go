package httpserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/open-policy-agent/frameworks/constraint/pkg/externaldata"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/verifier"
)

// The codes of requests that are refused as a whole.
const (
	CodeBadRequest      verifier.Code = "BAD_REQUEST"            // 400
	CodeForbidden       verifier.Code = "CLIENT_NOT_TRUSTED"     // 403
	CodeNoSuchPath      verifier.Code = "NO_SUCH_PATH"           // 404
	CodeMethod          verifier.Code = "METHOD_NOT_ALLOWED"     // 405
	CodeRequestTooLarge verifier.Code = "REQUEST_TOO_LARGE"      // 413
	CodeMediaType       verifier.Code = "UNSUPPORTED_MEDIA_TYPE" // 415
	CodeNotReady        verifier.Code = "NOT_READY"              // 503
)

// requestError refuses a request as a whole.
type requestError struct {
	status int
	code   verifier.Code
	text   string
}

func (e *requestError) Error() string { return string(e.code) + ": " + e.text }

func refused(status int, format string, args ...any) *requestError {
	codes := map[int]verifier.Code{
		http.StatusForbidden:             CodeForbidden,
		http.StatusNotFound:              CodeNoSuchPath,
		http.StatusMethodNotAllowed:      CodeMethod,
		http.StatusRequestEntityTooLarge: CodeRequestTooLarge,
		http.StatusUnsupportedMediaType:  CodeMediaType,
		http.StatusServiceUnavailable:    CodeNotReady,
	}
	code, ok := codes[status]
	if !ok {
		code = CodeBadRequest
	}
	return &requestError{status: status, code: code, text: fmt.Sprintf(format, args...)}
}

// read reads what the request asks for, within the limits. The bytes of the body
// are taken from the budget first; release gives them back and is never nil.
func (s *Server) read(w http.ResponseWriter, r *http.Request, live *snapshot, t terms, until time.Time) (a *asked, release func(), err error) {
	release = func() {}
	if err := checkContentType(r.Header.Get("Content-Type")); err != nil {
		return nil, release, err
	}
	limits := live.Limits
	if r.ContentLength > limits.BodyBytes {
		// Once its reader has refused, the server lets the client finish
		// sending for a moment; it would not see the answer otherwise.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(time.Second)) // it may send nothing
		_, _ = http.MaxBytesReader(w, r.Body, 0).Read(make([]byte, 1))
		return nil, release, refused(http.StatusRequestEntityTooLarge, "the body has %d bytes, at most %d are read (server.limits.bodyBytes)", r.ContentLength, limits.BodyBytes)
	}
	size := r.ContentLength
	if size < 0 {
		size = limits.BodyBytes
	}
	if err := s.reserve(r.Context(), size, until); err != nil {
		return nil, release, err
	}
	release = func() { s.bodies.Release(size) }
	defer func() {
		if p := recover(); p != nil {
			release() // nobody else will
			panic(p)
		}
	}()
	buffer := s.buffers.take(int(min(max(size, minBody), maxKeptBody)))
	defer s.buffers.give(buffer)
	if buffer.data, err = readBody(buffer.data[:0], w, r, limits, until); err != nil {
		return nil, release, err
	}
	a, err = live.understand(buffer.data, t)
	return a, release, err
}

// minBody is the least room that is made for a body.
const minBody = 512

// reserve takes bytes of the budget for bodies, and waits for them.
func (s *Server) reserve(ctx context.Context, size int64, until time.Time) error {
	if s.bodies.TryAcquire(size) {
		return nil
	}
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	if err := s.bodies.Acquire(ctx, size); err != nil {
		return refused(http.StatusServiceUnavailable, "too many requests are being answered: retry")
	}
	return nil
}

func checkContentType(header string) error {
	if header == "" || header == contentType[0] {
		return nil
	}
	kind, _, err := mime.ParseMediaType(header)
	if err != nil || kind != "application/json" {
		return refused(http.StatusUnsupportedMediaType, "the content type is %q: send application/json", clipped(header))
	}
	return nil
}

// readBody reads the body to its end, but not beyond a time that leaves some to
// answer, and appends it to body.
func readBody(body []byte, w http.ResponseWriter, r *http.Request, limits Limits, until time.Time) ([]byte, error) {
	control := http.NewResponseController(w)
	if err := control.SetReadDeadline(until); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return body, refused(http.StatusBadRequest, "the connection is closed")
	}
	from := r.Body
	if r.ContentLength < 0 { // else it is within the limit, and net/http reads no more
		from = http.MaxBytesReader(w, r.Body, limits.BodyBytes)
	}
	body, err := appendAll(body, from)
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return body, refused(http.StatusRequestEntityTooLarge, "the body is larger than %d bytes (server.limits.bodyBytes)", limits.BodyBytes)
	case err != nil:
		return body, refused(http.StatusBadRequest, "the body did not arrive whole and in time")
	}
	return body, nil
}

// appendAll is [io.ReadAll] into a buffer that there is already.
func appendAll(data []byte, from io.Reader) ([]byte, error) {
	for {
		if len(data) == cap(data) {
			data = slices.Grow(data, minBody)
		}
		n, err := from.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		if errors.Is(err, io.EOF) {
			return data, nil
		}
		if err != nil {
			return data, err
		}
	}
}

// parseRequest reads a ProviderRequest of Gatekeeper's external data protocol,
// v1beta1 or v1alpha1. Version and kind may be left out, for people with curl;
// if given they must be right.
func parseRequest(body []byte, limits Limits) ([]string, error) {
	if !utf8.Valid(body) {
		return nil, refused(http.StatusBadRequest, "the body is not UTF-8")
	}
	var req request
	req.Request.Keys.limit = limits.Keys
	err := json.Unmarshal(body, &req)
	if errors.Is(err, errTooManyKeys) {
		return nil, refused(http.StatusRequestEntityTooLarge, "the request has more than %d keys (server.limits.keys)", limits.Keys)
	}
	if err != nil {
		return nil, refused(http.StatusBadRequest, "the body is not a ProviderRequest in JSON: %s", clipped(err.Error()))
	}
	if req.Kind != "" && req.Kind != "ProviderRequest" {
		return nil, refused(http.StatusBadRequest, "the kind is %q: send a ProviderRequest", clipped(string(req.Kind)))
	}
	if !knownVersion(req.APIVersion) {
		return nil, refused(http.StatusBadRequest, "the apiVersion is %q: send externaldata.gatekeeper.sh/v1beta1", clipped(req.APIVersion))
	}
	return req.Request.Keys.list, nil
}

// request is [externaldata.ProviderRequest] with a bound on its keys, which
// would otherwise decode into many times the bytes of the body.
type request struct {
	APIVersion string                    `json:"apiVersion"`
	Kind       externaldata.ProviderKind `json:"kind"`
	Request    struct {
		Keys keyList `json:"keys"`
	} `json:"request"`
}

var errTooManyKeys = errors.New("too many keys")

// keyList decodes keys one by one, up to its limit.
type keyList struct {
	limit int
	list  []string
}

func (k *keyList) UnmarshalJSON(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	open, err := dec.Token()
	if err != nil || open == nil {
		return err
	}
	if open != json.Delim('[') {
		return errors.New("request.keys is not a list")
	}
	k.list = nil
	for dec.More() {
		if len(k.list) == k.limit {
			return errTooManyKeys
		}
		var key string
		if err := dec.Decode(&key); err != nil {
			return err
		}
		k.list = append(k.list, key)
	}
	return nil
}

func knownVersion(version string) bool {
	group, v, found := strings.Cut(version, "/")
	return version == "" || found && group == "externaldata.gatekeeper.sh" && (v == "v1beta1" || v == "v1alpha1")
}

func clipped(text string) string {
	text = executor.OneLine(text)
	if len(text) > 100 {
		text = strings.ToValidUTF8(text[:100], "") + "..."
	}
	return text
}

var (
	namespaceName   = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	errForeign      = errors.New(`it has a "[": a namespace in the key is no evidence here (server.namespaceFrom)`)
	errNoPrefix     = errors.New(`it does not begin with exactly one "[namespace]" (server.namespaceFrom is key)`)
	errKeyTooLong   = errors.New("it is longer than the bound (server.limits.keyBytes)")
	errBadNamespace = errors.New("the namespace is not a valid name: lower case, digits and -, at most 63")
)

// parseKey reads one key. Where the namespace does not come from keys, a
// prefix is refused rather than ignored: a pod's author writes the image
// field and could forge one.
func parseKey(key string, from NamespaceFrom, pathNamespace string, limits Limits) (executor.Request, error) {
	if len(key) > limits.KeyBytes {
		return executor.Request{}, errKeyTooLong
	}
	req := executor.Request{Namespace: pathNamespace}
	if from == NamespaceFromKey {
		inner, found := strings.CutPrefix(key, "[")
		namespace, image, closed := strings.Cut(inner, "]")
		if !found || !closed || strings.HasPrefix(image, "[") {
			return executor.Request{}, errNoPrefix
		}
		if !namespaceName.MatchString(namespace) {
			return executor.Request{}, errBadNamespace
		}
		req.Namespace, key = namespace, image
	}
	if strings.Contains(key, "[") {
		return executor.Request{}, errForeign
	}
	ref, err := referrerstore.ParseReference(key)
	req.Reference = ref
	return req, err
}
