package bench

import (
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gatehouse-project/gatehouse/test/process"
	"github.com/gatehouse-project/gatehouse/test/registry"
	"github.com/gatehouse-project/gatehouse/test/signing"
)

// The seed's deployment, and what the protocol demands for it.
const (
	latency       = 25 * time.Millisecond
	signatures    = 5
	images        = 4
	floorTrips    = 6
	floorRequests = 54
	maxRequests   = 60
)

// maxTimeout keeps a slow machine from being the subject of a test of counts.
const maxTimeout = 20 * time.Second

// The two requirements that are measured.
const (
	every = "{verifier: notation, every: true}"
	one   = "{verifier: notation}"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, goleak.Cleanup(process.Exit)) }

// seed is the deployment: the registries "artifacts" and "general" with the
// images nginx and alpine in each.
type seed struct {
	registries []*registry.Registry
	keys       []string
	root       []byte
}

func newSeed(tb testing.TB) *seed {
	tb.Helper()
	root := must(signing.NewAuthority("acme root", signing.ECDSA384, signing.AuthorityOptions{}))(tb)
	s := &seed{root: root.PEM()}
	signers := newSigners(tb, root)
	for _, name := range []string{"artifacts", "general"} {
		r := must(registry.Start(registry.Options{Latency: latency, BearerAuth: true}))(tb)
		tb.Cleanup(r.Close)
		s.registries = append(s.registries, r)
		for _, image := range []string{"nginx", "alpine"} {
			s.push(tb, r, signers, name, image)
		}
	}
	return s
}

// style is a way to sign; the kinds of envelopes and keys are mixed.
type style struct {
	key    signing.KeyKind
	format signing.Format
}

// newSigners makes a signer for each signature of an image: five people.
func newSigners(tb testing.TB, root *signing.Authority) map[style]*signing.Signer {
	tb.Helper()
	signers := make(map[style]*signing.Signer)
	for _, s := range []style{
		{signing.RSA2048, signing.JWS},
		{signing.RSA2048, signing.COSE},
		{signing.ECDSA256, signing.JWS},
		{signing.ECDSA256, signing.COSE},
		{signing.ECDSA384, signing.JWS},
	} {
		signers[s] = must(root.Issue(fmt.Sprintf("%s by %s", s.format, s.key), s.key, signing.IssueOptions{}))(tb)
	}
	return signers
}

func (s *seed) push(tb testing.TB, r *registry.Registry, signers map[style]*signing.Signer, name, image string) {
	tb.Helper()
	repo := "notary/subjects/" + image
	desc := must(r.PushImage(tb.Context(), repo, "signed", name+"/"+image))(tb)
	for style, signer := range signers {
		envelope := must(signer.Sign(tb.Context(), desc, signing.SignOptions{Format: style.format}))(tb)
		must(r.PushReferrer(tb.Context(), repo, desc, signing.ArtifactType, envelope.MediaType, envelope.Bytes, nil))(tb)
	}
	s.keys = append(s.keys, r.Host()+"/"+repo+":signed")
}

// config is for a process that demands the requirement of every image.
func (s *seed) config(require string) process.Config {
	c := process.Config{Roots: map[string][]byte{"acme.crt": s.root}, Require: require}
	for _, r := range s.registries {
		c.PlainHTTP = append(c.PlainHTTP, r.Host())
	}
	return c
}

func (s *seed) reset() {
	for _, r := range s.registries {
		r.ResetStats()
	}
}

// stats are those of both registries; of the peaks the higher one counts.
func (s *seed) stats() registry.Stats {
	var sum registry.Stats
	for _, r := range s.registries {
		one := r.Stats()
		sum.Challenge += one.Challenge
		sum.Unauthorized += one.Unauthorized
		sum.Token += one.Token
		sum.Resolve += one.Resolve
		sum.Referrers += one.Referrers
		sum.Manifest += one.Manifest
		sum.Blob += one.Blob
		sum.Other += one.Other
		sum.Total += one.Total
		sum.Connections += one.Connections
		sum.Peak = max(sum.Peak, one.Peak)
	}
	return sum
}

// verified counts the signatures that passed, and fails on what is not allowed.
func verified(tb testing.TB, answer process.Answer, keys []string) (passed int) {
	tb.Helper()
	if answer.SystemError != "" {
		tb.Fatalf("systemError: %s", answer.SystemError)
	}
	for _, key := range keys {
		item, found := answer.Item(key)
		if !found || !item.Value.IsSuccess {
			tb.Fatalf("%s is not allowed: %+v", key, item)
		}
		for _, report := range item.Value.Reports {
			if report.IsSuccess && report.Type == "notation" {
				passed++
			}
		}
	}
	return passed
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(tb testing.TB) T {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return v
	}
}
