package notation

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/notaryproject/notation-core-go/revocation"
	"github.com/notaryproject/notation-core-go/revocation/crl"
	"github.com/notaryproject/notation-core-go/revocation/purpose"
	"github.com/notaryproject/notation-core-go/revocation/result"

	"github.com/gatehouse-project/gatehouse/verifier/trust"
)

var (
	errUntrustedChain    = errors.New("nobody is asked about a chain that reaches no trusted root")
	errRevocationTimeout = errors.New("the revocation check ran out of time")
)

// checker asks for the status of certificates on behalf of all statements. The
// protocols and the cryptography are notation-core-go's; what it adds are the
// bounds on when, for how long and how much is asked, and the cache.
type checker struct {
	opts   RevocationOptions
	logger *slog.Logger
	inner  map[purpose.Purpose]revocation.Validator
	cache  *responseCache
}

func newChecker(opts RevocationOptions, deps Deps, m *metrics) (*checker, error) {
	cache, err := newResponseCache(opts.CacheBytes)
	if err != nil {
		return nil, err
	}
	c := &checker{
		opts:   opts,
		logger: deps.Logger,
		inner:  make(map[purpose.Purpose]revocation.Validator),
		cache:  cache,
	}
	responders := &http.Client{Transport: newExchange(ocspKind, deps.HTTPClient, cache, m)}
	fetcher, err := crl.NewHTTPFetcher(&http.Client{Transport: newExchange(crlKind, deps.HTTPClient, cache, m)})
	if err != nil {
		return nil, err
	}
	for _, p := range []purpose.Purpose{purpose.CodeSigning, purpose.Timestamping} {
		c.inner[p], err = revocation.NewWithOptions(revocation.Options{
			OCSPHTTPClient:   responders,
			CRLFetcher:       fetcher,
			CertChainPurpose: p,
		})
		if err != nil {
			return nil, err
		}
	}
	return c, nil
}

// validator is the checker for one purpose, as notation-go wants it.
type validator struct {
	*checker
	purpose purpose.Purpose
}

var _ revocation.Validator = validator{}

// ValidateContext implements [revocation.Validator]. It keeps the raw results
// in the inquiry of ctx and hands notation-go what the mode makes of them.
func (v validator) ValidateContext(ctx context.Context, opts revocation.ValidateContextOptions) ([]*result.CertRevocationResult, error) {
	q, err := inquiryOf(ctx)
	if err != nil {
		return nil, err
	}
	f := &finding{chain: opts.CertChain}
	q.findings[v.purpose] = f
	if v.opts.Mode == RevocationOff {
		f.off = true
		return uniform(opts.CertChain, result.ResultNonRevokable, nil), nil
	}
	if !q.statement.roots.reached(v.rootType(opts), opts.CertChain) {
		f.untrusted = true
		f.results = uniform(opts.CertChain, result.ResultUnknown, errUntrustedChain)
		return f.results, nil
	}
	q.about(opts.CertChain)
	bounded, cancel := v.bound(ctx)
	defer cancel()
	f.results, f.err = v.inner[v.purpose].ValidateContext(bounded, opts)
	unknown := f.unknown()
	if unknown == nil {
		return f.results, f.err
	}
	if ctx.Err() == nil { // else it says more about the caller than about the responders
		v.forget(q, f)
		v.logger.WarnContext(ctx, "revocation status unknown", "certificate", unknown.Subject.String(), "mode", v.opts.Mode, "error", f.cause())
	}
	return v.tolerate(q, f)
}

func (v validator) rootType(opts revocation.ValidateContextOptions) trust.Type {
	if v.purpose == purpose.Timestamping {
		return trust.TypeTSA
	}
	// Only the signing authority's scheme has an authentic signing time here.
	if !opts.AuthenticSigningTime.IsZero() {
		return trust.TypeSigningAuthority
	}
	return trust.TypeCA
}

// bound gives the check its own time, and never all that the request has left:
// an answer must remain possible after a responder has kept silent.
func (c *checker) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	limit := c.opts.Timeout
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(deadline)*3/4)
	}
	return context.WithTimeoutCause(ctx, limit, errRevocationTimeout)
}

// tolerate turns unknown into good in mode log, and where the input asks for it;
// the finding keeps the truth. A chain that breaks the rules is not unknown but
// wrong.
func (c *checker) tolerate(q *inquiry, f *finding) ([]*result.CertRevocationResult, error) {
	if f.err != nil {
		return f.results, f.err
	}
	switch {
	case c.opts.Mode == RevocationLog:
		q.accept("revocation.mode is log")
	case q.lenient:
		q.accept("which is accepted while the registry is down")
	default:
		return f.results, nil
	}
	softened := make([]*result.CertRevocationResult, len(f.results))
	for i, r := range f.results {
		softened[i] = r
		if r.Result == result.ResultUnknown {
			softened[i] = uniform(f.chain[i:i+1], result.ResultOK, nil)[0]
		}
	}
	return softened, nil
}

// forget drops from the cache the responses of this inquiry that led to
// nothing: what has the form of a response but not its signature must not be
// kept until the end that it claims. What others said stays.
func (c *checker) forget(q *inquiry, f *finding) {
	for _, d := range q.responses() {
		if f.blames(d) {
			c.cache.Invalidate(d.key)
		}
	}
}

func uniform(chain []*x509.Certificate, status result.Result, err error) []*result.CertRevocationResult {
	results := make([]*result.CertRevocationResult, len(chain))
	for i := range results {
		results[i] = &result.CertRevocationResult{
			Result:        status,
			ServerResults: []*result.ServerResult{result.NewServerResult(status, "", err)},
		}
	}
	return results
}

// describe names a certificate in a message.
func describe(c *x509.Certificate) string {
	if c == nil {
		return "of the chain"
	}
	return fmt.Sprintf("%q", c.Subject.String())
}
