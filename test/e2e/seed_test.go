package e2e

import (
	"testing"
	"time"

	"github.com/gatehouse-project/gatehouse/test/signing"
)

// TestFirst is what everybody tries first.
func TestFirst(t *testing.T) {
	w := begin(t, settings{registries: 2})
	const section = "first"
	images := []string{w.signed(0, "notary/subjects/nginx", "signed"), w.signed(1, "notary/subjects/nginx", "signed"), w.signed(0, "notary/subjects/alpine", "signed"), w.signed(1, "notary/subjects/alpine", "signed")}
	w.allowed(section, "Pod with four signed images of two registries", w.apply(w.pod("seed", images...)))
	unsigned, _ := w.image(0, "app", "unsigned")
	w.denied(section, "Pod with an image that nobody signed", w.apply(w.pod("unsigned", unsigned)), "SIGNATURE_NOT_FOUND")
	name, desc := w.image(0, "app", "stranger")
	w.sign(0, "app", desc, w.people.strangerSigner, signing.SignOptions{})
	w.denied(section, "Pod with an image that a stranger signed", w.apply(w.pod("stranger", name)), "SIGNER_UNTRUSTED")
	name, desc = w.image(0, "app", "expired")
	w.sign(0, "app", desc, w.people.acmeSigner, signing.SignOptions{SigningTime: time.Now().Add(-time.Hour), Expiry: time.Minute})
	w.denied(section, "Pod with an image whose signature has expired", w.apply(w.pod("expired", name)), "SIGNATURE_EXPIRED")
}
