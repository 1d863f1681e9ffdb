package notation_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-project/gatehouse/test/signing"
	"github.com/gatehouse-project/gatehouse/verifier"
	"github.com/gatehouse-project/gatehouse/verifier/notation"
)

// revocable makes a responder on the loopback interface and a signer whose
// certificate names it.
func revocable(t *testing.T, r *responder, byList bool) (*signing.Signer, *http.Client) {
	t.Helper()
	r.Authority = authority(t, signing.ECDSA256)
	url, client := r.serve(t)
	return signerAt(t, r, url, byList), client
}

func signerAt(t *testing.T, r *responder, url string, byList bool) *signing.Signer {
	t.Helper()
	opts := signing.IssueOptions{OCSPServers: []string{url + "/ocsp"}}
	if byList {
		opts = signing.IssueOptions{CRLServers: []string{url + "/crl"}}
	}
	signer := issue(t, r.Authority, signing.ECDSA256, opts)
	r.issued = append(r.issued, signer.Certificate())
	return signer
}

// What responders say, over real HTTP, in each mode.
func TestRevocation(t *testing.T) {
	t.Parallel()
	stranger := authority(t, signing.ECDSA256)
	write := func(data []byte) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			_, _ = w.Write(data) // the client may have gone
			return true
		}
	}
	down := func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(http.StatusBadGateway); return true }
	forged := func(r *responder) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, request *http.Request) bool {
			end := time.Now().Add(time.Hour)
			data, err := stranger.OCSP(r.issued[0], signing.Good, end)
			if request.URL.Path == "/crl" {
				data, err = stranger.RevocationList(end)
			}
			return err == nil && write(data)(w, request)
		}
	}
	const unknown, passed, revoked = 0, 1, 2 // what can be learnt
	tests := map[string]struct {
		set  func(r *responder)
		want int
	}{
		"good":      {func(*responder) {}, passed},
		"revoked":   {func(r *responder) { r.status, r.revoked = signing.Revoked, r.issued }, revoked},
		"ended":     {func(r *responder) { r.end = -time.Minute }, unknown},
		"oversized": {func(r *responder) { r.answer = write(bytes.Repeat([]byte("x"), 3<<20)) }, unknown},
		"down":      {func(r *responder) { r.answer = down }, unknown},
		"junk":      {func(r *responder) { r.answer = write([]byte("junk")) }, unknown},
		"forged":    {func(r *responder) { r.answer = forged(r) }, unknown},
	}
	for name, test := range tests {
		for _, byList := range []bool{false, true} {
			for _, mode := range []string{notation.RevocationEnforce, notation.RevocationLog, notation.RevocationOff} {
				t.Run(fmt.Sprintf("%s/list=%t/%s", name, byList, mode), func(t *testing.T) {
					t.Parallel()
					r := &responder{}
					signer, client := revocable(t, r, byList)
					test.set(r)
					opts := options()
					opts.Revocation.Mode, opts.Revocation.Timeout = mode, 20*time.Second
					v := newVerifier(t, opts, stores(t, r.Authority), client)
					report := verify(t, v, sign(t, signer, image(), signing.SignOptions{}))
					switch {
					case mode == notation.RevocationOff:
						expectWarned(t, report, "revocation.mode is off")
						if r.asked.Load() != 0 {
							t.Error("asked all the same")
						}
					case test.want == passed:
						expect(t, report, verifier.Passed, verifier.CodeVerified, "")
						if len(report.Warnings) > 0 || time.Until(report.ValidUntil) > time.Hour {
							t.Errorf("warnings %q, valid until %v", report.Warnings, report.ValidUntil)
						}
					case test.want == revoked:
						expect(t, report, verifier.Failed, verifier.CodeCertificateRevoked, "of the signer is revoked")
					case mode == notation.RevocationLog:
						expectWarned(t, report, "is unknown, revocation.mode is log")
						if time.Until(report.ValidUntil) > time.Minute {
							t.Errorf("valid until %v", report.ValidUntil)
						}
					default:
						expect(t, report, verifier.Inconclusive, verifier.CodeRevocationUnknown, "could not be learnt")
					}
				})
			}
		}
	}
}

func expectWarned(t *testing.T, report verifier.Report, want string) {
	t.Helper()
	expect(t, report, verifier.Passed, verifier.CodeVerified, "")
	if len(report.Warnings) != 1 || !strings.Contains(report.Warnings[0], want) {
		t.Errorf("warnings %q, want %q", report.Warnings, want)
	}
}

// Where the input says that revocation may be stale, an unknown status is a
// warning whatever the mode, and briefly; what is known to be revoked, and a
// stranger's signature, fail as ever.
func TestStaleRevocationIsBorneWithOnDemand(t *testing.T) {
	t.Parallel()
	down := func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(http.StatusBadGateway); return true }
	const learnt = "is unknown, which is accepted while the registry is down"
	for name, test := range map[string]struct {
		mode     string
		set      func(r *responder)
		stranger bool
		code     verifier.Code
		warning  string
	}{
		"down":             {notation.RevocationEnforce, func(r *responder) { r.answer = down }, false, verifier.CodeVerified, learnt},
		"ended":            {notation.RevocationEnforce, func(r *responder) { r.end = -time.Minute }, false, verifier.CodeVerified, learnt},
		"down, mode log":   {notation.RevocationLog, func(r *responder) { r.answer = down }, false, verifier.CodeVerified, "is unknown, revocation.mode is log"},
		"good":             {notation.RevocationEnforce, func(*responder) {}, false, verifier.CodeVerified, ""},
		"revoked":          {notation.RevocationEnforce, func(r *responder) { r.status = signing.Revoked }, false, verifier.CodeCertificateRevoked, ""},
		"stranger, down":   {notation.RevocationEnforce, func(r *responder) { r.answer = down }, true, verifier.CodeSignerUntrusted, ""},
		"stranger, on log": {notation.RevocationLog, func(r *responder) { r.answer = down }, true, verifier.CodeSignerUntrusted, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &responder{}
			signer, client := revocable(t, r, false)
			test.set(r)
			opts := options()
			opts.Revocation.Mode, opts.Revocation.Timeout = test.mode, 20*time.Second
			trusted := stores(t, r.Authority)
			if test.stranger {
				trusted = stores(t, authority(t, signing.ECDSA256))
			}
			v := newVerifier(t, opts, trusted, client)
			in, _ := input(t, sign(t, signer, image(), signing.SignOptions{}))
			in.RevocationMayBeStale = true
			report := must[verifier.Report](t)(v.Verify(t.Context(), in))
			if report.Reason.Code != test.code || (report.Outcome == verifier.Passed) != (test.code == verifier.CodeVerified) {
				t.Fatalf("%s, %+v; want %s", report.Outcome, report.Reason, test.code)
			}
			if test.warning != "" {
				expectWarned(t, report, test.warning)
				if time.Until(report.ValidUntil) > time.Minute {
					t.Errorf("valid until %v", report.ValidUntil)
				}
			}
			in.RevocationMayBeStale = false
			if report = must[verifier.Report](t)(v.Verify(t.Context(), in)); strings.Contains(test.warning, "accepted") {
				expect(t, report, verifier.Inconclusive, verifier.CodeRevocationUnknown, "")
			}
		})
	}
}

// A responder that says "I do not know this certificate" leaves it unknown; a
// revocation list beside it decides.
func TestRevocationListAfterOCSP(t *testing.T) {
	t.Parallel()
	for _, revoked := range []bool{false, true} {
		t.Run(fmt.Sprint(revoked), func(t *testing.T) {
			t.Parallel()
			r := &responder{Authority: authority(t, signing.ECDSA256), status: signing.Unknown}
			url, client := r.serve(t)
			signer := issue(t, r.Authority, signing.ECDSA256, signing.IssueOptions{
				OCSPServers: []string{url + "/ocsp"}, CRLServers: []string{url + "/crl"},
			})
			r.issued = []*x509.Certificate{signer.Certificate()}
			if revoked {
				r.revoked = r.issued
			}
			v := newVerifier(t, options(), stores(t, r.Authority), client)
			report := verify(t, v, sign(t, signer, image(), signing.SignOptions{}))
			if revoked {
				expect(t, report, verifier.Failed, verifier.CodeCertificateRevoked, "")
			} else {
				expect(t, report, verifier.Passed, verifier.CodeVerified, "")
			}
		})
	}
}

// Every certificate of the chain is asked about, not the signer's alone.
func TestRevokedIntermediate(t *testing.T) {
	t.Parallel()
	r := &responder{Authority: authority(t, signing.ECDSA256)}
	url, client := r.serve(t)
	middle := must[*signing.Authority](t)(r.Intermediate("middle", signing.ECDSA256, signing.AuthorityOptions{CRLServers: []string{url + "/crl"}}))
	r.revoked = []*x509.Certificate{middle.Certificate()}
	v := newVerifier(t, options(), stores(t, r.Authority), client)
	report := verify(t, v, sign(t, issue(t, middle, signing.ECDSA256, signing.IssueOptions{}), image(), signing.SignOptions{}))
	expect(t, report, verifier.Failed, verifier.CodeCertificateRevoked, "CN=middle")
}

// Where revocation is enforced a stranger fails for good, even if the level
// only logs authenticity: waiting would not make it known.
func TestStrangersFailRevocation(t *testing.T) {
	t.Parallel()
	stranger := issue(t, authority(t, signing.ECDSA256), signing.ECDSA256, signing.IssueOptions{})
	for _, mode := range []string{notation.RevocationEnforce, notation.RevocationLog} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			opts := options(level("strict", "authenticity", "log"))
			opts.UnsafeAllowUnauthenticated, opts.Revocation.Mode = true, mode
			report := verify(t, newVerifier(t, opts, stores(t, authority(t, signing.ECDSA256)), nil), sign(t, stranger, image(), signing.SignOptions{}))
			expect(t, report, verifier.Failed, verifier.CodeSignerUntrusted, "is in no trust store")
		})
	}
}

// A stranger's certificate names whom to ask; nobody is, even where the level
// goes on without authenticity.
func TestNobodyIsAskedAboutStrangers(t *testing.T) {
	t.Parallel()
	root := authority(t, signing.ECDSA256)
	stranger := issue(t, authority(t, signing.ECDSA256), signing.ECDSA256, signing.IssueOptions{
		OCSPServers: []string{"http://169.254.169.254/ocsp"}, CRLServers: []string{"http://169.254.169.254/crl"},
	})
	for _, name := range []string{"strict", "audit"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			opts := options(level(name))
			opts.UnsafeAllowUnauthenticated = true
			report := verify(t, newVerifier(t, opts, stores(t, root), nil), sign(t, stranger, image(), signing.SignOptions{}))
			if passed := report.Outcome == verifier.Passed; passed != (name == "audit") {
				t.Errorf("outcome %s, reason %+v", report.Outcome, report.Reason)
			}
		})
	}
}

// bubble runs a test on fake time; certificates are made inside.
func bubble(t *testing.T, r *responder, f func(t *testing.T, v *notation.Verifier, envelope signing.Envelope)) {
	t.Helper()
	bubbleOf(t, r, func(t *testing.T, v *notation.Verifier, signer *signing.Signer) {
		f(t, v, sign(t, signer, image(), signing.SignOptions{}))
	})
}

func bubbleOf(t *testing.T, r *responder, f func(t *testing.T, v *notation.Verifier, signer *signing.Signer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r.Authority = authority(t, signing.ECDSA256)
		signer := signerAt(t, r, "http://ocsp.example.com", r.byList)
		f(t, newVerifier(t, options(), stores(t, r.Authority), r.client()), signer)
	})
}

func hang(_ http.ResponseWriter, request *http.Request) bool {
	<-request.Context().Done()
	return true
}

// A responder that keeps silent costs its own time and not the request's.
func TestHangingResponder(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ left, want time.Duration }{
		"own timeout":              {time.Minute, 500 * time.Millisecond},
		"less left than that":      {400 * time.Millisecond, 300 * time.Millisecond},
		"the request has no end":   {0, 500 * time.Millisecond},
		"the request ends at once": {-1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, &responder{answer: hang}, func(t *testing.T, v *notation.Verifier, envelope signing.Envelope) {
				ctx, cancel := context.WithCancel(t.Context())
				if test.left != 0 {
					ctx, cancel = context.WithTimeout(t.Context(), test.left)
				}
				defer cancel()
				in, _ := input(t, envelope)
				start := time.Now()
				report, err := v.Verify(ctx, in)
				if took := time.Since(start); took != test.want {
					t.Errorf("took %v, want %v", took, test.want)
				}
				if test.left < 0 {
					if err == nil {
						t.Error("no error")
					}
					return
				}
				if err != nil || ctx.Err() != nil {
					t.Fatalf("error %v, request %v", err, ctx.Err())
				}
				expect(t, report, verifier.Inconclusive, verifier.CodeRevocationUnknown, "")
			})
		})
	}
}

// Responses are asked for once until they end; then again.
func TestResponsesAreKeptUntilTheyEnd(t *testing.T) {
	t.Parallel()
	r := &responder{}
	bubble(t, r, func(t *testing.T, v *notation.Verifier, envelope signing.Envelope) {
		ended := time.Now().Add(time.Hour)
		for i, wait := range []struct {
			sleep time.Duration
			asked int64
		}{{0, 1}, {time.Minute, 1}, {58 * time.Minute, 1}, {2 * time.Minute, 2}, {0, 2}} {
			time.Sleep(wait.sleep)
			report := verify(t, v, envelope)
			expect(t, report, verifier.Passed, verifier.CodeVerified, "")
			if got := r.asked.Load(); got != wait.asked {
				t.Errorf("step %d: asked %d times, want %d", i, got, wait.asked)
			}
			if i < 3 && !report.ValidUntil.Equal(ended) {
				t.Errorf("step %d: valid until %v, the response until %v", i, report.ValidUntil, ended)
			}
		}
	})
}

// A failure is not kept: the next verification asks again.
func TestFailuresAreNotKept(t *testing.T) {
	t.Parallel()
	r := &responder{end: -time.Minute}
	bubble(t, r, func(t *testing.T, v *notation.Verifier, envelope signing.Envelope) {
		expect(t, verify(t, v, envelope), verifier.Inconclusive, verifier.CodeRevocationUnknown, "")
		r.end = time.Hour
		expect(t, verify(t, v, envelope), verifier.Passed, verifier.CodeVerified, "")
	})
}

// A forged response must not be kept until the end that it claims.
func TestForgeryIsNotKept(t *testing.T) {
	t.Parallel()
	r := &responder{}
	bubble(t, r, func(t *testing.T, v *notation.Verifier, envelope signing.Envelope) {
		stranger := authority(t, signing.ECDSA256)
		r.answer = func(w http.ResponseWriter, _ *http.Request) bool {
			data, err := stranger.OCSP(r.issued[0], signing.Good, time.Now().Add(24*time.Hour))
			_, _ = w.Write(data) // a recorder takes everything
			return err == nil
		}
		expect(t, verify(t, v, envelope), verifier.Inconclusive, verifier.CodeRevocationUnknown, "")
		r.answer = nil
		expect(t, verify(t, v, envelope), verifier.Passed, verifier.CodeVerified, "")
	})
}

// Many who ask the same at once make one request, and one of them giving up
// does not fail the others.
func TestOneRequestForMany(t *testing.T) {
	t.Parallel()
	r := &responder{answer: func(http.ResponseWriter, *http.Request) bool { time.Sleep(100 * time.Millisecond); return false }}
	bubble(t, r, func(t *testing.T, v *notation.Verifier, envelope signing.Envelope) {
		in, _ := input(t, envelope)
		var group sync.WaitGroup
		for range 8 {
			group.Go(func() {
				if report, err := v.Verify(t.Context(), in); err != nil || report.Outcome != verifier.Passed {
					t.Errorf("outcome %s, reason %+v, error %v", report.Outcome, report.Reason, err)
				}
			})
		}
		group.Wait()
		if got := r.asked.Load(); got != 1 {
			t.Errorf("asked %d times", got)
		}
	})
}

func TestGivingUpLeavesTheOthers(t *testing.T) {
	t.Parallel()
	r := &responder{answer: func(_ http.ResponseWriter, request *http.Request) bool {
		select {
		case <-request.Context().Done():
		case <-time.After(100 * time.Millisecond):
		}
		return false
	}}
	bubble(t, r, func(t *testing.T, v *notation.Verifier, envelope signing.Envelope) {
		in, _ := input(t, envelope)
		var group sync.WaitGroup
		first, cancel := context.WithCancel(t.Context())
		group.Go(func() {
			if _, err := v.Verify(first, in); err == nil {
				t.Error("the one who gave up has a verdict")
			}
		})
		synctest.Wait()
		group.Go(func() {
			if report, err := v.Verify(t.Context(), in); err != nil || report.Outcome != verifier.Passed {
				t.Errorf("outcome %s, reason %+v, error %v", report.Outcome, report.Reason, err)
			}
		})
		synctest.Wait()
		cancel()
		group.Wait()
	})
}
