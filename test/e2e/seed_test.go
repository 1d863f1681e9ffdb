package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-project/gatehouse/test/process"
	"github.com/gatehouse-project/gatehouse/test/signing"
)

// seedSignatures is how many each of the seed's images has. All of them have to
// pass.
const seedSignatures = 5

// seedDeployment is the seed's, with the hosts of its two registries to be filled
// in.
const seedDeployment = `apiVersion: apps/v1
kind: Deployment
metadata:
  name: test-deployment
  namespace: NAMESPACE
  labels:
    app: test-deployment
spec:
  replicas: 1 # testing purposes only
  selector:
    matchLabels:
      app: test-deployment
  template:
    metadata:
      labels:
        app: test-deployment
    spec:
      containers:
      - name: nginx1
        image: REGISTRY0/notary/subjects/nginx:signed
      - name: nginx2
        image: REGISTRY1/notary/subjects/nginx:signed
      - name: alpine1
        image: REGISTRY0/notary/subjects/alpine:signed
      - name: alpine2
        image: REGISTRY1/notary/subjects/alpine:signed
`

// TestFirst is what everybody tries first.
func TestFirst(t *testing.T) {
	w := begin(t, settings{registries: 2, config: func(c *process.Config) { c.Require = "{verifier: notation, every: true}" }})
	w.part("seed", w.playSeed)
	w.part("denials", w.playDenials)
}

func (w *world) playSeed() {
	var images []string
	for _, repository := range []string{"notary/subjects/nginx", "notary/subjects/alpine"} {
		for at := range w.registries {
			name, desc := w.image(at, repository, "signed")
			for range seedSignatures {
				w.sign(at, repository, desc, w.people.acmeSigner, signing.SignOptions{})
			}
			images = append(images, name)
		}
	}
	deployment := strings.NewReplacer("NAMESPACE", w.namespace, "REGISTRY0", w.registries[0].Host(), "REGISTRY1", w.registries[1].Host()).Replace(seedDeployment)
	before := w.metric("gatehouse_artifacts_total", `outcome="passed"`)
	w.allowed("first", "the seed's Deployment: 4 images of 2 registries, 5 signatures each", w.apply(deployment))
	passed := w.metric("gatehouse_artifacts_total", `outcome="passed"`) - before
	if want := float64(len(images) * seedSignatures); passed != want {
		w.t.Errorf("%v signatures passed, want %v", passed, want)
	}
	w.allowed("first", "a Pod of the same images", w.apply(w.pod("seed", images...)))
	unsigned, _ := w.image(0, "app", "unsigned")
	w.denied("first", "the seed's Deployment with one image that nobody signed", w.apply(strings.Replace(deployment, images[1], unsigned, 1)), noSignature)
}

func (w *world) playDenials() {
	for i, c := range []struct {
		about, reason string
		by            *signing.Signer // nil signs nothing
		with          signing.SignOptions
	}{
		{"that nobody signed", noSignature, nil, signing.SignOptions{}},
		{"that a stranger signed", "SIGNER_UNTRUSTED", w.people.strangerSigner, signing.SignOptions{}},
		{"whose signature has expired", "SIGNATURE_EXPIRED", w.people.acmeSigner, signing.SignOptions{SigningTime: time.Now().Add(-time.Hour), Expiry: time.Minute}},
	} {
		name, desc := w.image(0, "denied", fmt.Sprint(i))
		if c.by != nil {
			w.sign(0, "denied", desc, c.by, c.with)
		}
		w.denied("first", "Pod with an image "+c.about, w.apply(w.pod(fmt.Sprintf("denied-%d", i), name)), c.reason)
	}
}
