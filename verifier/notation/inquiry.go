package notation

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
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
	findings  map[purpose.Purpose]*finding // written before Verify of notation-go returns

	mu       sync.Mutex // guards the fields that follow it
	keys     []string   // of the responses used, in the cache
	until    time.Time  // the earliest end of a response used
	accepted bool       // an unknown status was taken for good
}

// finding is the raw result for one chain.
type finding struct {
	chain   []*x509.Certificate
	results []*result.CertRevocationResult
	err     error
	off     bool // nobody was asked, by configuration
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

// ask notes one more question by its key in the cache.
func (q *inquiry) ask(key string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.keys) == maxQuestions {
		return errTooManyQuestions
	}
	q.keys = append(q.keys, key)
	return nil
}

// used are the keys of all questions so far.
func (q *inquiry) used() []string {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Clone(q.keys)
}

// restsOn notes until when a response that was used is valid.
func (q *inquiry) restsOn(until time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.until.IsZero() || until.Before(q.until) {
		q.until = until
	}
}

func (q *inquiry) accept() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.accepted = true
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
