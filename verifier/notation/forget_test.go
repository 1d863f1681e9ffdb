package notation_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/gatehouse-project/gatehouse/test/signing"
	"github.com/gatehouse-project/gatehouse/verifier"
	"github.com/gatehouse-project/gatehouse/verifier/notation"
)

// twoLevels is a chain of which an intermediate's status is the upper
// responder's to say and the signer's the lower one's, on fake time.
type twoLevels struct {
	upper, lower *responder
	verifier     *notation.Verifier
	envelope     signing.Envelope
	log          bytes.Buffer
}

func onTwoLevels(t *testing.T, f func(t *testing.T, l *twoLevels)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := &twoLevels{upper: &responder{Authority: authority(t, signing.ECDSA256)}}
		middle := must[*signing.Authority](t)(l.upper.Intermediate("middle", signing.ECDSA256, signing.AuthorityOptions{
			OCSPServers: []string{"http://upper.example.com/ocsp"},
		}))
		l.upper.issued = []*x509.Certificate{middle.Certificate()}
		l.lower = &responder{Authority: middle}
		signer := signerAt(t, l.lower, "http://lower.example.com", false)
		upper, lower := l.upper.client().Transport, l.lower.client().Transport
		client := &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			if strings.HasPrefix(r.URL.Host, "upper") {
				return upper.RoundTrip(r)
			}
			return lower.RoundTrip(r)
		})}
		l.verifier = must[*notation.Verifier](t)(notation.New("notation", options(), notation.Deps{
			Trust: stores(t, l.upper.Authority), HTTPClient: client, Logger: slog.New(slog.NewTextHandler(&l.log, nil)),
		}))
		l.envelope = sign(t, signer, image(), signing.SignOptions{})
		f(t, l)
	})
}

// A responder that answers badly costs what it said, and not what another did.
func TestOneUnknownLeavesTheOther(t *testing.T) {
	t.Parallel()
	stranger := authority(t, signing.ECDSA256)
	for name, spoil := range map[string]func(l *twoLevels) func(http.ResponseWriter, *http.Request) bool{
		"down": func(*twoLevels) func(http.ResponseWriter, *http.Request) bool {
			return func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(http.StatusBadGateway); return true }
		},
		"hanging": func(*twoLevels) func(http.ResponseWriter, *http.Request) bool { return hang },
		"forged": func(l *twoLevels) func(http.ResponseWriter, *http.Request) bool {
			return func(w http.ResponseWriter, _ *http.Request) bool {
				data, err := stranger.OCSP(l.upper.issued[0], signing.Good, l.lower.Certificate().NotAfter)
				_, _ = w.Write(data) // a recorder takes everything
				return err == nil
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onTwoLevels(t, func(t *testing.T, l *twoLevels) {
				l.upper.answer = spoil(l)
				for range 3 {
					expect(t, verify(t, l.verifier, l.envelope), verifier.Inconclusive, verifier.CodeRevocationUnknown, "")
				}
				if upper, lower := l.upper.asked.Load(), l.lower.asked.Load(); upper != 3 || lower != 1 {
					t.Errorf("the bad one was asked %d times, the good one %d", upper, lower)
				}
				if n := strings.Count(l.log.String(), "level=WARN"); n != 3 {
					t.Errorf("%d warnings: %s", n, l.log.String())
				}
				l.upper.answer = nil
				expect(t, verify(t, l.verifier, l.envelope), verifier.Passed, verifier.CodeVerified, "")
			})
		})
	}
}

// A caller who goes away says nothing about the responders.
func TestGivingUpForgetsNothing(t *testing.T) {
	t.Parallel()
	onTwoLevels(t, func(t *testing.T, l *twoLevels) {
		l.upper.answer = hang
		ctx, cancel := context.WithCancel(t.Context())
		in, _ := input(t, l.envelope)
		done := make(chan error)
		go func() {
			_, err := l.verifier.Verify(ctx, in)
			done <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-done; err == nil {
			t.Error("no error")
		}
		l.upper.answer = nil
		expect(t, verify(t, l.verifier, l.envelope), verifier.Passed, verifier.CodeVerified, "")
		if asked := l.lower.asked.Load(); asked != 1 || l.log.Len() > 0 {
			t.Errorf("asked %d times, logged %q", asked, l.log.String())
		}
	})
}
