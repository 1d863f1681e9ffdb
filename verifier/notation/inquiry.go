package notation

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/notaryproject/notation-core-go/revocation/purpose"
	"github.com/notaryproject/notation-core-go/revocation/result"
)

// maxQuestions bounds what is asked for one signature, whatever its
// certificates say.
const maxQuestions = 20

var errTooManyQuestions = errors.New("the certificates name too many places to ask for their status")

// inquiry is what one call of Verify learns about revocation. It travels in
// the context, because notation-go hands nothing else through, so that each
// call has its own.
type inquiry struct {
	statement *statement
	lenient   bool                         // an unknown status is borne with, whatever the mode
	findings  map[purpose.Purpose]*finding // written before Verify of notation-go returns

	mu         sync.Mutex          // guards the fields that follow it
	chain      []*x509.Certificate // the one being asked about
	asked      int
	deliveries []delivery
	until      time.Time // the earliest end of a response used
	accepted   string    // why an unknown status was taken for good, empty if none was
}

// delivery is a response that arrived, from the cache or from a server,
// whatever it is worth.
type delivery struct {
	key  string // in the cache
	kind string // name of its kind
	url  string // that was asked
}

// finding is the raw result for one chain.
type finding struct {
	chain     []*x509.Certificate
	results   []*result.CertRevocationResult
	err       error
	off       bool // nobody was asked, by configuration
	untrusted bool // nobody was asked, because the chain reached no trusted root
}

type inquiryKey struct{}

func newInquiry(s *statement) *inquiry {
	return &inquiry{statement: s, findings: make(map[purpose.Purpose]*finding)}
}

func (q *inquiry) in(ctx context.Context) context.Context {
	return context.WithValue(ctx, inquiryKey{}, q)
}

func inquiryOf(ctx context.Context) (*inquiry, error) {
	q, ok := ctx.Value(inquiryKey{}).(*inquiry)
	if !ok {
		return nil, errors.New("revocation is asked for outside of a verification")
	}
	return q, nil
}

// about sets the chain that the questions from now on are about.
func (q *inquiry) about(chain []*x509.Certificate) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.chain = chain
}

// ask counts one more question.
func (q *inquiry) ask(url string) (question, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.asked == maxQuestions {
		return question{}, errTooManyQuestions
	}
	q.asked++
	return question{url: url, chain: q.chain}, nil
}

// received notes a response and until when it is valid.
func (q *inquiry) received(d delivery, until time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.deliveries = append(q.deliveries, d)
	if q.until.IsZero() || until.Before(q.until) {
		q.until = until
	}
}

// responses are all that were received so far.
func (q *inquiry) responses() []delivery {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Clone(q.deliveries)
}

func (q *inquiry) accept(why string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.accepted = why
}

// revoked is the first certificate of the chain known to be revoked, nil if
// there is none or nobody was asked.
func (f *finding) revoked() *x509.Certificate { return f.first(result.ResultRevoked) }

// unknown is the first certificate of which nothing could be learnt.
func (f *finding) unknown() *x509.Certificate { return f.first(result.ResultUnknown) }

func (f *finding) first(want result.Result) *x509.Certificate {
	if f == nil {
		return nil
	}
	if f.err != nil && want == result.ResultUnknown && len(f.chain) > 0 {
		return f.chain[0]
	}
	for i, r := range f.results {
		if r != nil && r.Result == want && i < len(f.chain) {
			return f.chain[i]
		}
	}
	return nil
}

// cause says why nothing could be learnt, for the log.
func (f *finding) cause() error {
	errs := []error{f.err}
	for _, r := range f.results {
		for _, server := range r.ServerResults {
			if server.Error != nil {
				errs = append(errs, fmt.Errorf("%s %s: %w", server.RevocationMethod, server.Server, server.Error))
			}
		}
	}
	return errors.Join(errs...)
}

// blames tells whether a response is of a server from which nothing could be
// learnt.
func (f *finding) blames(d delivery) bool {
	for _, r := range f.results {
		for _, server := range r.ServerResults {
			if server.Result == result.ResultUnknown && f.from(d, server) {
				return true
			}
		}
	}
	return false
}

// from tells whether a response is what a server's result rests on. Questions
// to OCSP responders are below the responder's URL, made clean if they are in
// the URL; lists of changes are named by lists, and count as of any.
func (f *finding) from(d delivery, server *result.ServerResult) bool {
	switch {
	case server.RevocationMethod == result.RevocationMethodOCSP && d.kind == ocspKind.name:
		base, err := url.JoinPath(server.Server)
		return strings.HasPrefix(d.url, canonicalURL(server.Server)) || err == nil && strings.HasPrefix(d.url, base)
	case server.RevocationMethod == result.RevocationMethodCRL && d.kind == crlKind.name:
		return d.url == canonicalURL(server.Server) || !f.lists(d.url)
	default:
		return false
	}
}

// lists tells whether a certificate of the chain names a list.
func (f *finding) lists(address string) bool {
	return slices.ContainsFunc(f.chain, func(c *x509.Certificate) bool {
		return namesList(c, address)
	})
}

// canonicalURL is an address as requests spell it.
func canonicalURL(address string) string {
	parsed, err := url.Parse(address)
	if err != nil {
		return address
	}
	return parsed.String()
}
