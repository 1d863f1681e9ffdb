package bench

import (
	"testing"
	"time"

	"github.com/gatehouse-project/gatehouse/test/registry"
)

// The seed's deployment, and what the protocol demands for it: for each
// registry a challenge, for each image a token, a resolution and a list, for
// each signature a manifest and an envelope.
const (
	latency       = 25 * time.Millisecond
	signatures    = 5
	images        = 4
	floorTrips    = 6
	floorRequests = 54
	// floorOne is the same with one signature of each image.
	floorOne = 22
	// maxOne leaves room for second candidates where one is slow.
	maxOne = 30
)

// maxTimeout keeps a slow machine from being the subject of a test of counts.
const maxTimeout = 20 * time.Second

// The two requirements that are measured.
const (
	every = "{verifier: notation, every: true}"
	one   = "{verifier: notation}"
)

// far is a registry as clouds have them.
func far() registry.Options { return registry.Options{Latency: latency, BearerAuth: true} }

// newSeed is the deployment: two registries with the images nginx and alpine
// in each.
func newSeed(tb testing.TB) *site {
	tb.Helper()
	s := newSite(tb, sign(tb, images, mixed), images/2, far())
	for i := range images {
		r, repo := s.registries[i/2], seedRepo(i)
		s.material.push(tb, r, i, repo, "signed")
		s.keys = append(s.keys, r.Host()+"/"+repo+":signed")
	}
	return s
}

func seedRepo(image int) string { return "notary/subjects/" + []string{"nginx", "alpine"}[image%2] }
