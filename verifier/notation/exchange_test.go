package notation_test

import (
	"crypto/x509"
	"math/big"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/gatehouse-project/gatehouse/test/signing"
	"github.com/gatehouse-project/gatehouse/verifier"
	"github.com/gatehouse-project/gatehouse/verifier/notation"
)

// The cache is bounded in bytes, and what does not fit is still used.
func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	r := &responder{Authority: authority(t, signing.ECDSA256)}
	url, client := r.serve(t)
	signer := signerAt(t, r, url, true)
	for range 4000 {
		r.revoked = append(r.revoked, issueCheaply(r.issued[0], len(r.revoked)))
	}
	opts := options()
	opts.Revocation = notation.RevocationOptions{CacheBytes: 64 << 10, Timeout: 20 * time.Second}
	v := newVerifier(t, opts, stores(t, r.Authority), client)
	envelope := sign(t, signer, image(), signing.SignOptions{})
	for range 2 {
		expect(t, verify(t, v, envelope), verifier.Passed, verifier.CodeVerified, "")
	}
	if got := r.asked.Load(); got != 2 {
		t.Errorf("asked %d times for a list larger than the cache", got)
	}
}

// issueCheaply gives the list an entry without a signature.
func issueCheaply(like *x509.Certificate, n int) *x509.Certificate {
	c := *like
	c.SerialNumber = new(big.Int).SetInt64(int64(n + 1))
	return &c
}

func TestRevocationMetrics(t *testing.T) {
	t.Parallel()
	r := &responder{}
	signer, client := revocable(t, r, false)
	reg := prometheus.NewPedanticRegistry()
	v := must[*notation.Verifier](t)(notation.New("release", options(), notation.Deps{
		Trust: stores(t, r.Authority), HTTPClient: client, Registerer: reg,
	}))
	envelope := sign(t, signer, image(), signing.SignOptions{})
	for range 3 {
		verify(t, v, envelope)
	}
	got := make(map[string]float64)
	for _, family := range must[[]*dto.MetricFamily](t)(reg.Gather()) {
		for _, metric := range family.GetMetric() {
			name := family.GetName()
			for _, label := range metric.GetLabel() {
				name += " " + label.GetValue()
			}
			if n := metric.GetCounter().GetValue() + float64(metric.GetHistogram().GetSampleCount()); n > 0 {
				got[name] = n
			}
		}
	}
	const name, asked = "gatehouse_notation_revocation_lookups_total ", "gatehouse_notation_revocation_duration_seconds "
	want := map[string]float64{name + "ocsp fetched release": 1, name + "ocsp hit release": 2, asked + "ocsp release": 1}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
