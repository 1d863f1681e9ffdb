package bench

import (
	"testing"

	"github.com/gatehouse-project/gatehouse/test/process"
)

// TestSeedRequests holds the cold request to what does not depend on time: all
// signatures are verified, and registries are asked hardly more than needed.
func TestSeedRequests(t *testing.T) {
	t.Parallel()
	s := newSeed(t)
	config := s.config(every)
	config.Timeout = maxTimeout
	p := process.Start(t, config)
	s.reset()
	if got := verified(t, ask(t, s, p), s.keys); got != images*signatures {
		t.Errorf("%d signatures verified, want %d", got, images*signatures)
	}
	stats := s.stats()
	t.Logf("cold: %+v", stats)
	if stats.Total > maxRequests || stats.Total < floorRequests {
		t.Errorf("%d requests, want %d to %d", stats.Total, floorRequests, maxRequests)
	}
	if want := int64(len(s.registries)); stats.Challenge > want || stats.Unauthorized != 0 {
		t.Errorf("%d challenges, %d of them with credentials; want one a registry", stats.Challenge, stats.Unauthorized)
	}
	s.reset()
	if got := verified(t, ask(t, s, p), s.keys); got != images*signatures {
		t.Errorf("warm: %d signatures verified, want %d", got, images*signatures)
	}
	stats = s.stats()
	t.Logf("warm: %+v", stats)
	if stats.Challenge != 0 || stats.Token != 0 {
		t.Errorf("warm: %d challenges and %d tokens, although both are known", stats.Challenge, stats.Token)
	}
}

// TestSeedOneSignature lets one good signature an image be enough.
func TestSeedOneSignature(t *testing.T) {
	t.Parallel()
	s := newSeed(t)
	config := s.config(one)
	config.Timeout = maxTimeout
	p := process.Start(t, config)
	s.reset()
	if got := verified(t, ask(t, s, p), s.keys); got < images {
		t.Errorf("%d signatures verified, want %d", got, images)
	}
	if stats := s.stats(); stats.Total > maxRequests {
		t.Errorf("%d requests, want %d at most", stats.Total, maxRequests)
	}
}
