package executor

import (
	"testing"
	"time"
	"weak"

	"github.com/opencontainers/go-digest"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// What is believed for a while is not believed for longer because the clock was put
// back meanwhile.
func TestClockPutBack(t *testing.T) {
	t.Parallel()
	ref := referrerstore.Reference{Registry: "registry.example", Repository: "app", Tag: "v1"}
	now := time.Now().Round(0)
	subject := referrerstore.Subject{Reference: ref}
	subject.Descriptor.Digest = digest.FromString("an image")

	m := newMemory(Options{TagTTL: 10 * time.Second})
	m.led(ref, subject, nil, now)
	standing := newStandIns()
	key := flightKey{ref: ref}
	if !standing.keep(key, proofKey{}, now, Result{Subject: subject, Held: &Held{Since: now}}, now.Add(10*time.Second)) {
		t.Error("nothing speaks against it")
	}
	proven := &remembered{}
	way := &recent{}
	way.Store(&found{subject: subject, held: weak.Make(proven), until: now.Add(recentFor)})
	for _, test := range []struct {
		back  time.Duration
		known bool
	}{{0, true}, {30 * time.Second, true}, {2 * time.Minute, false}, {24 * time.Hour, false}} {
		at := now.Add(-test.back)
		if _, known := m.subject(ref, at); known != test.known {
			t.Errorf("%s back: where the tag leads is known: %t", test.back, known)
		}
		if _, found := standing.find(key, at); found != test.known {
			t.Errorf("%s back: what stood in stands: %t", test.back, found)
		}
		if followed, _ := way.follow(at); (followed != nil) != test.known {
			t.Errorf("%s back: the way to a proof is gone: %t", test.back, followed != nil)
		}
	}
	if proven.superseded.Load() {
		t.Error("it has no successor")
	}
}
