package notation

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/notaryproject/notation-core-go/revocation/result"

	"github.com/gatehouse-project/gatehouse/test/signing"
)

// What does not answer the question is not kept, and what is kept answers no
// other question for that.
func TestResponsesFitTheirQuestion(t *testing.T) {
	t.Parallel()
	asked := 0
	e := newTestExchange(t, &http.Client{Transport: answers(func(*http.Request) (*http.Response, error) {
		asked++
		return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader("answer"))}, nil
	})})
	e.kind.read = func(body []byte) (response, error) {
		got, err := hourly(body)
		got.fits = func(q question) error {
			if len(q.chain) == 0 {
				return errListStranger
			}
			return nil
		}
		return got, err
	}
	for i, step := range []struct {
		chain []*x509.Certificate
		want  error
		asked int
	}{{nil, errListStranger, 1}, {make([]*x509.Certificate, 1), nil, 2}, {make([]*x509.Certificate, 1), nil, 2}, {nil, errListStranger, 2}} {
		q := newInquiry(nil)
		q.about(step.chain)
		request, err := http.NewRequestWithContext(q.in(t.Context()), http.MethodGet, "http://crl.example.com/", nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := e.RoundTrip(request)
		if !errors.Is(err, step.want) || asked != step.asked {
			t.Errorf("step %d: error %v, asked %d times", i, err, asked)
		}
		if err == nil {
			_ = answer.Body.Close() // it is in memory
		}
	}
}

// A server from which nothing could be learnt is blamed for what it said and
// for nothing else.
func TestBlame(t *testing.T) {
	t.Parallel()
	const ocsp, list = result.RevocationMethodOCSP, result.RevocationMethodCRL
	f := &finding{chain: []*x509.Certificate{{CRLDistributionPoints: []string{"http://a/crl", "HTTP://b/crl"}}}}
	for name, test := range map[string]struct {
		method result.RevocationMethod
		server string
		status result.Result
		kind   string
		url    string
		want   bool
	}{
		"OCSP":                     {ocsp, "http://a/ocsp", result.ResultUnknown, "ocsp", "http://a/ocsp/MEUw", true},
		"OCSP, posted":             {ocsp, "HTTP://a/ocsp", result.ResultUnknown, "ocsp", "http://a/ocsp", true},
		"OCSP, made clean":         {ocsp, "http://a//x/../ocsp", result.ResultUnknown, "ocsp", "http://a/ocsp/MEUw", true},
		"OCSP of another":          {ocsp, "http://a/ocsp", result.ResultUnknown, "ocsp", "http://b/ocsp/MEUw", false},
		"OCSP that was good":       {ocsp, "http://a/ocsp", result.ResultOK, "ocsp", "http://a/ocsp/MEUw", false},
		"OCSP that said revoked":   {ocsp, "http://a/ocsp", result.ResultRevoked, "ocsp", "http://a/ocsp/MEUw", false},
		"list":                     {list, "http://a/crl", result.ResultUnknown, "crl", "http://a/crl", true},
		"list, other spelling":     {list, "HTTP://b/crl", result.ResultUnknown, "crl", "http://b/crl", true},
		"another list":             {list, "http://a/crl", result.ResultUnknown, "crl", "http://b/crl", false},
		"list that a list names":   {list, "http://a/crl", result.ResultUnknown, "crl", "http://a/delta", true},
		"OCSP, where a list fails": {list, "http://a/", result.ResultUnknown, "ocsp", "http://a/", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := &result.ServerResult{Result: test.status, Server: test.server, RevocationMethod: test.method}
			mine := *f
			mine.results = []*result.CertRevocationResult{{ServerResults: []*result.ServerResult{server}}}
			if got := mine.blames(delivery{kind: test.kind, url: test.url}); got != test.want {
				t.Errorf("blamed %t, want %t", got, test.want)
			}
		})
	}
}

// Whatever servers answer, nobody panics over it, and what a certificate that
// is not for signing OCSP responses has signed answers no question.
func FuzzResponses(f *testing.F) {
	root, err := signing.NewAuthority("acme root", signing.ECDSA256, signing.AuthorityOptions{})
	if err != nil {
		f.Fatal(err)
	}
	signer, err := root.Issue("release", signing.ECDSA256, signing.IssueOptions{CRLServers: []string{"http://crl.example.com/"}})
	if err != nil {
		f.Fatal(err)
	}
	leaf, end := signer.Certificate(), time.Now().Add(time.Hour)
	add := func(data []byte, err error) {
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	add(root.OCSP(leaf, signing.Good, end))
	add(signer.OCSP(leaf, signing.Good, end))
	add(root.RevocationList(end, leaf))
	for _, point := range []string{"\x30\x00", "\x30\x03\x82\x01\xff", "\x30\x0e\xa0\x0c\xa0\x0a\x86\x08http://x"} {
		add(root.ExtendedRevocationList(end, []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Value: []byte(point)}}))
		f.Add([]byte(point))
	}
	asked := question{url: "http://crl.example.com/", chain: signer.Chain()}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, k := range []kind{ocspKind, crlKind} {
			if got, err := k.read(data); err == nil {
				_ = got.fits(asked) // either will do
				if got.fits(question{}) == nil && k.name == crlKind.name {
					t.Error("a list fits no certificate at all")
				}
			}
		}
		var s scope
		if s.limit(data) == nil {
			_ = s.includes(&x509.Certificate{CRLDistributionPoints: []string{"http://x"}}, "http://x") // either will do
		}
	})
}
