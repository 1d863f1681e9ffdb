package notation

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/crypto/ocsp"
)

// The bounds on the responses that are being read at once: sixteen OCSP
// responses and, apart from them so that neither waits for the other, a list.
// Of those that announce a smaller length, as they do, there are more.
const (
	maxExchangeBytes = 4 << 20
	maxOCSPBytes     = 1 << 20
)

// maxKept is how long a response is kept at the most, whatever it says: one
// that should not have been believed has an end then.
const maxKept = 24 * time.Hour

// kind is a protocol for asking about certificates.
type kind struct {
	name  string
	most  int64 // bytes of a response
	share int64 // bytes of responses being read at once, at least most
	// read refuses what is no response that may be believed from anyone.
	read func(body []byte) (response, error)
}

//nolint:gochecknoglobals // constants
var (
	ocspKind = kind{name: "ocsp", most: 64 << 10, share: maxOCSPBytes, read: readOCSP}
	crlKind  = kind{name: "crl", most: 2 << 20, share: maxExchangeBytes - maxOCSPBytes, read: readList}
)

// response is a body, kept until its end.
type response struct {
	body []byte
	// end is zero if that cannot be told; then it is used but not kept.
	end time.Time
	// fits refuses a response that does not answer the question, for what
	// notation-core-go does not look at. Signatures are for it to check.
	fits func(question) error
}

// question is whose status is asked for, and where.
type question struct {
	url   string
	chain []*x509.Certificate // from the signer to the root
}

// readOCSP demands what RFC 6960, section 4.2.2.2, does of whom an authority
// lets answer for it. Neither notation-core-go nor the package ocsp looks at
// more of an embedded certificate than that the authority signed it, and that
// is true of a revoked signer's. Of a response with several statuses the
// package would check one at most, so there must be one alone.
func readOCSP(body []byte) (response, error) {
	parsed, err := ocsp.ParseResponse(body, nil)
	if err != nil {
		return response{}, err
	}
	got := response{body: body, end: parsed.NextUpdate, fits: anyQuestion}
	responder := parsed.Certificate
	if responder == nil {
		return got, nil
	}
	if now := time.Now(); now.Before(responder.NotBefore) || now.After(responder.NotAfter) {
		return response{}, fmt.Errorf("the responder's certificate %s is not valid now", describe(responder))
	}
	got.end = earliest(got.end, responder.NotAfter)
	if !slices.Contains(responder.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning) {
		got.fits = answeredByRoot(responder)
	}
	return got, nil
}

// answeredByRoot lets a root that embeds itself answer without the usage that
// delegates have: what it signs is believed without the certificate too. The
// authorities between it and the signer might be answering about themselves.
func answeredByRoot(responder *x509.Certificate) func(question) error {
	sum := sha256.Sum256(responder.Raw) // not the certificate, which would be kept
	return func(q question) error {
		if n := len(q.chain); n > 0 && sha256.Sum256(q.chain[n-1].Raw) == sum {
			return nil
		}
		return errResponder
	}
}

func anyQuestion(question) error { return nil }

func readList(body []byte) (response, error) {
	parsed, err := x509.ParseRevocationList(body)
	if err != nil {
		return response{}, err
	}
	s, err := scopeOf(parsed)
	if err != nil {
		return response{}, err
	}
	return response{body: body, end: parsed.NextUpdate, fits: s.covers}, nil
}

var errResponder = errors.New("the OCSP response is by a certificate that is not for signing them")

// earliest is the first of two times; zero is earlier than any.
func earliest(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// passing carries a response that must not be kept past the cache, which keeps
// what comes without an error.
type passing struct{ response }

func (*passing) Error() string { return "the response is not to be kept" }

type responseCache = otter.Cache[string, response]

// entryOverhead is what an entry costs beside its key and body.
const entryOverhead = 512

func newResponseCache(size int64) (*responseCache, error) {
	// Without an expiry calculator the cache has no goroutine to stop; entries
	// that have ended go when they are looked up or when others need room.
	return otter.New(&otter.Options[string, response]{
		MaximumWeight: uint64(size), //nolint:gosec // New has checked that it is positive
		Weigher: func(key string, r response) uint32 {
			return uint32(len(key) + len(r.body) + entryOverhead) //nolint:gosec // bounded by kind.most
		},
		Executor: func(task func()) { task() },
	})
}
