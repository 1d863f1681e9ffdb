package notation_test

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/gatehouse-project/gatehouse/test/signing"
	"github.com/gatehouse-project/gatehouse/verifier"
	"github.com/gatehouse-project/gatehouse/verifier/notation"
)

// says makes a responder answer with what it is given, whatever is asked.
func (r *responder) says(t testing.TB, data []byte, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	r.answer = func(w http.ResponseWriter, _ *http.Request) bool {
		_, _ = w.Write(data) // a recorder takes everything
		return true
	}
}

// Whoever may sign code may not say which code signers are revoked: only the
// authority may, and those whom it delegated that to, for as long as it did.
func TestWhoMayAnswerOCSP(t *testing.T) {
	t.Parallel()
	delegate := func(t *testing.T, r *responder, opts signing.IssueOptions) *signing.Signer {
		opts.Usages = []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}
		return issue(t, r.Authority, signing.ECDSA256, opts)
	}
	tests := map[string]struct {
		answer func(t *testing.T, r *responder, self *signing.Signer, end time.Time) ([]byte, error)
		passes bool
	}{
		"the authority": {func(_ *testing.T, r *responder, self *signing.Signer, end time.Time) ([]byte, error) {
			return r.OCSP(self.Certificate(), signing.Good, end)
		}, true},
		"the authority, embedded": {func(_ *testing.T, r *responder, self *signing.Signer, end time.Time) ([]byte, error) {
			return r.EmbeddedOCSP(r.Authority, self.Certificate(), signing.Good, end)
		}, true},
		"a delegate": {func(t *testing.T, r *responder, self *signing.Signer, end time.Time) ([]byte, error) {
			return delegate(t, r, signing.IssueOptions{}).OCSP(self.Certificate(), signing.Good, end)
		}, true},
		"a delegate whose time is over": {func(t *testing.T, r *responder, self *signing.Signer, end time.Time) ([]byte, error) {
			return delegate(t, r, signing.IssueOptions{NotAfter: time.Now().Add(-time.Second)}).OCSP(self.Certificate(), signing.Good, end)
		}, false},
		"a delegate whose time is to come": {func(t *testing.T, r *responder, self *signing.Signer, end time.Time) ([]byte, error) {
			return delegate(t, r, signing.IssueOptions{NotBefore: time.Now().Add(time.Minute)}).OCSP(self.Certificate(), signing.Good, end)
		}, false},
		"the revoked signer itself": {func(_ *testing.T, _ *responder, self *signing.Signer, end time.Time) ([]byte, error) {
			return self.OCSP(self.Certificate(), signing.Good, end)
		}, false},
		"another code signer": {func(t *testing.T, r *responder, self *signing.Signer, end time.Time) ([]byte, error) {
			return issue(t, r.Authority, signing.ECDSA256, signing.IssueOptions{}).OCSP(self.Certificate(), signing.Good, end)
		}, false},
		"the signer itself, with two statuses": {func(t *testing.T, _ *responder, self *signing.Signer, end time.Time) ([]byte, error) {
			data, err := self.OCSP(self.Certificate(), signing.Good, end)
			return doubled(t, data, self.Key()), err
		}, false},
		"a delegate, with two statuses": {func(t *testing.T, r *responder, self *signing.Signer, end time.Time) ([]byte, error) {
			by := delegate(t, r, signing.IssueOptions{})
			data, err := by.OCSP(self.Certificate(), signing.Good, end)
			return doubled(t, data, by.Key()), err
		}, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &responder{}
			bubbleOf(t, r, func(t *testing.T, v *notation.Verifier, self *signing.Signer) {
				envelope := sign(t, self, image(), signing.SignOptions{})
				data, err := test.answer(t, r, self, time.Now().Add(time.Hour))
				r.says(t, data, err)
				for range 2 { // the second time from the cache, or asked again
					if report := verify(t, v, envelope); test.passes {
						expect(t, report, verifier.Passed, verifier.CodeVerified, "")
					} else {
						expect(t, report, verifier.Inconclusive, verifier.CodeRevocationUnknown, "")
					}
				}
				if asked := r.asked.Load(); (asked == 1) != test.passes {
					t.Errorf("asked %d times", asked)
				}
				// What was refused is not in the way of the truth.
				if !test.passes {
					r.answer, r.status = nil, signing.Revoked
					expect(t, verify(t, v, envelope), verifier.Failed, verifier.CodeCertificateRevoked, "")
				}
			})
		})
	}
}

// An intermediate that is revoked does not vouch for itself either, though it
// is an authority of the chain.
func TestIntermediateVouchesNotForItself(t *testing.T) {
	t.Parallel()
	r := &responder{Authority: authority(t, signing.ECDSA256)}
	url, client := r.serve(t)
	middle := must[*signing.Authority](t)(r.Intermediate("middle", signing.ECDSA256, signing.AuthorityOptions{OCSPServers: []string{url + "/ocsp"}}))
	data, err := middle.EmbeddedOCSP(r.Authority, middle.Certificate(), signing.Good, time.Now().Add(time.Hour))
	r.says(t, data, err)
	report := verify(t, newVerifier(t, options(), stores(t, r.Authority), client),
		sign(t, issue(t, middle, signing.ECDSA256, signing.IssueOptions{}), image(), signing.SignOptions{}))
	expect(t, report, verifier.Inconclusive, verifier.CodeRevocationUnknown, "")
}

// However long a response claims to be valid, it is asked for again within a
// day, and when the delegate's time is over.
func TestResponsesAreNotKeptForLong(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		byList, delegated bool
		want              time.Duration
	}{
		"OCSP":          {false, false, 24 * time.Hour},
		"list":          {true, false, 24 * time.Hour},
		"delegate ends": {false, true, 2 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &responder{end: 365 * 24 * time.Hour, byList: test.byList}
			bubbleOf(t, r, func(t *testing.T, v *notation.Verifier, signer *signing.Signer) {
				start := time.Now()
				if test.delegated {
					by := issue(t, r.Authority, signing.ECDSA256, signing.IssueOptions{
						NotAfter: start.Add(test.want), Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning},
					})
					data, err := by.OCSP(signer.Certificate(), signing.Good, start.Add(r.end))
					r.says(t, data, err)
				}
				envelope := sign(t, signer, image(), signing.SignOptions{})
				report := verify(t, v, envelope)
				expect(t, report, verifier.Passed, verifier.CodeVerified, "")
				if !report.ValidUntil.Equal(start.Add(test.want)) {
					t.Errorf("valid for %v, want %v", report.ValidUntil.Sub(start), test.want)
				}
				time.Sleep(test.want - time.Second)
				expect(t, verify(t, v, envelope), verifier.Passed, verifier.CodeVerified, "")
				if asked := r.asked.Load(); asked != 1 {
					t.Errorf("asked %d times", asked)
				}
				time.Sleep(time.Second)
				r.answer, r.status, r.revoked = nil, signing.Revoked, r.issued
				expect(t, verify(t, v, envelope), verifier.Failed, verifier.CodeCertificateRevoked, "")
			})
		})
	}
}

// issuingPoint is the extension that limits a revocation list.
type issuingPoint struct {
	Point          asn1.RawValue  `asn1:"optional"`
	OnlyUsers      bool           `asn1:"optional,tag:1"`
	OnlyCAs        bool           `asn1:"optional,tag:2"`
	Reasons        asn1.BitString `asn1:"optional,tag:3"`
	Indirect       bool           `asn1:"optional,tag:4"`
	OnlyAttributes bool           `asn1:"optional,tag:5"`
}

// at names the places of the list.
func at(urls ...string) asn1.RawValue {
	var names []byte
	for _, url := range urls {
		name, err := asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(url)})
		if err != nil {
			panic(err)
		}
		names = append(names, name...)
	}
	full, err := asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: names})
	if err != nil {
		panic(err)
	}
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: full}
}

func (p issuingPoint) extension(t testing.TB) pkix.Extension {
	t.Helper()
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Critical: true, Value: must[[]byte](t)(asn1.Marshal(p))}
}

// An authority signs many lists, and a list that is limited to others says
// nothing of a certificate by leaving it out.
func TestListsForOthers(t *testing.T) {
	t.Parallel()
	const here, elsewhere = "http://ocsp.example.com/crl", "http://ocsp.example.com/crl2"
	relative := asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: []byte{0xa1, 0x00}}
	tests := map[string]struct {
		point  issuingPoint
		passes bool
	}{
		"of everything":             {issuingPoint{}, true},
		"of this place":             {issuingPoint{Point: at(here)}, true},
		"of this place and others":  {issuingPoint{Point: at(elsewhere, here)}, true},
		"of users":                  {issuingPoint{OnlyUsers: true}, true},
		"of another place":          {issuingPoint{Point: at(elsewhere)}, false},
		"of a place nobody can say": {issuingPoint{Point: relative}, false},
		"of authorities":            {issuingPoint{Point: at(here), OnlyCAs: true}, false},
		"of attributes":             {issuingPoint{Point: at(here), OnlyAttributes: true}, false},
		"of some reasons":           {issuingPoint{Point: at(here), Reasons: asn1.BitString{Bytes: []byte{0x40}, BitLength: 2}}, false},
		"of others' certificates":   {issuingPoint{Point: at(here), Indirect: true}, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			listed(t, test.passes, test.point.extension(t))
		})
	}
	t.Run("junk", func(t *testing.T) {
		t.Parallel()
		listed(t, false, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Critical: true, Value: []byte("junk")})
	})
	t.Run("changes alone", func(t *testing.T) {
		t.Parallel()
		listed(t, false, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 27}, Critical: true, Value: []byte{2, 1, 1}})
	})
}

// listed verifies against an empty list with an extension.
func listed(t *testing.T, passes bool, extension pkix.Extension) {
	t.Helper()
	r := &responder{byList: true}
	bubbleOf(t, r, func(t *testing.T, v *notation.Verifier, signer *signing.Signer) {
		data, err := r.ExtendedRevocationList(time.Now().Add(time.Hour), []pkix.Extension{extension})
		r.says(t, data, err)
		envelope := sign(t, signer, image(), signing.SignOptions{})
		for range 2 {
			if report := verify(t, v, envelope); passes {
				expect(t, report, verifier.Passed, verifier.CodeVerified, "")
			} else {
				expect(t, report, verifier.Inconclusive, verifier.CodeRevocationUnknown, "")
			}
		}
		if asked := r.asked.Load(); (asked == 1) != passes {
			t.Errorf("asked %d times", asked)
		}
	})
}

// A list of authorities is the right one for an intermediate.
func TestListOfAuthorities(t *testing.T) {
	t.Parallel()
	for name, point := range map[string]issuingPoint{"authorities": {OnlyCAs: true}, "users": {OnlyUsers: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &responder{Authority: authority(t, signing.ECDSA256)}
			url, client := r.serve(t)
			middle := must[*signing.Authority](t)(r.Intermediate("middle", signing.ECDSA256, signing.AuthorityOptions{CRLServers: []string{url + "/crl"}}))
			data, err := r.ExtendedRevocationList(time.Now().Add(time.Hour), []pkix.Extension{point.extension(t)})
			r.says(t, data, err)
			report := verify(t, newVerifier(t, options(), stores(t, r.Authority), client),
				sign(t, issue(t, middle, signing.ECDSA256, signing.IssueOptions{}), image(), signing.SignOptions{}))
			if want := point.OnlyCAs; (report.Outcome == verifier.Passed) != want {
				t.Errorf("outcome %s, reason %+v", report.Outcome, report.Reason)
			}
		})
	}
}

// A list of changes is used where a whole list names it, with the limits that
// both have.
func TestListOfChanges(t *testing.T) {
	t.Parallel()
	const here, changes = "http://ocsp.example.com/crl", "http://ocsp.example.com/delta"
	for name, test := range map[string]struct {
		point  issuingPoint
		passes bool
	}{"of this place": {issuingPoint{Point: at(here)}, true}, "of authorities": {issuingPoint{Point: at(here), OnlyCAs: true}, false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &responder{byList: true}
			bubbleOf(t, r, func(t *testing.T, v *notation.Verifier, signer *signing.Signer) {
				end := time.Now().Add(time.Hour)
				freshest := must[[]byte](t)(asn1.Marshal([]struct{ Point asn1.RawValue }{{at(changes)}}))
				whole := must[[]byte](t)(r.ExtendedRevocationList(end, []pkix.Extension{
					issuingPoint{Point: at(here)}.extension(t), {Id: asn1.ObjectIdentifier{2, 5, 29, 46}, Value: freshest},
				}))
				delta := must[[]byte](t)(r.RevocationListOfChanges(end, []pkix.Extension{test.point.extension(t)}))
				r.answer = func(w http.ResponseWriter, request *http.Request) bool {
					data := whole
					if request.URL.Path == "/delta" {
						data = delta
					}
					_, _ = w.Write(data) // a recorder takes everything
					return true
				}
				report := verify(t, v, sign(t, signer, image(), signing.SignOptions{}))
				if asked := r.asked.Load(); (report.Outcome == verifier.Passed) != test.passes || asked != 2 {
					t.Errorf("outcome %s, reason %+v, asked %d times", report.Outcome, report.Reason, asked)
				}
			})
		})
	}
}

// doubled makes of a response with one status one with the same twice, signed
// anew.
func doubled(t testing.TB, data []byte, key crypto.Signer) []byte {
	t.Helper()
	var outer struct {
		Status   asn1.Enumerated
		Response struct {
			Kind asn1.ObjectIdentifier
			Body []byte
		} `asn1:"explicit,tag:0"`
	}
	var basic struct {
		Data         asn1.RawValue
		Algorithm    pkix.AlgorithmIdentifier
		Signature    asn1.BitString
		Certificates []asn1.RawValue `asn1:"explicit,tag:0,optional"`
	}
	var statuses struct {
		Responder asn1.RawValue
		Produced  time.Time `asn1:"generalized"`
		List      []asn1.RawValue
	}
	read := func(from []byte, into any) {
		if rest, err := asn1.Unmarshal(from, into); err != nil || len(rest) > 0 {
			t.Fatal(fmt.Errorf("%d bytes left: %w", len(rest), err))
		}
	}
	read(data, &outer)
	read(outer.Response.Body, &basic)
	read(basic.Data.FullBytes, &statuses)
	statuses.List = append(statuses.List, statuses.List[0])
	signed := must[[]byte](t)(asn1.Marshal(statuses))
	sum := sha256.Sum256(signed)
	signature := must[[]byte](t)(key.Sign(rand.Reader, sum[:], crypto.SHA256))
	basic.Data = asn1.RawValue{FullBytes: signed}
	basic.Signature = asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}
	outer.Response.Body = must[[]byte](t)(asn1.Marshal(basic))
	return must[[]byte](t)(asn1.Marshal(outer))
}
