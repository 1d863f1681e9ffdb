package rotation

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// verifies is a handshake: does what a Provider trusts verify the certificate that a
// server with this content of the Secret presents?
func verifies(f *fakeCluster, provider string, presented map[string][]byte, now time.Time) error {
	return handshake(f.bundle(provider), presented, now)
}

func handshake(bundle string, presented map[string][]byte, now time.Time) error {
	text, err := base64.StdEncoding.DecodeString(bundle)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return errors.New("the bundle has no certificate")
	}
	pair, err := tls.X509KeyPair(presented[KeyCertificate], presented[KeyCertificateKey])
	if err != nil {
		return err
	}
	_, err = pair.Leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: pool, CurrentTime: now})
	return err
}

// world is a cluster in which news travel as they do: Gatekeeper knows of a
// Provider's change after a while, a pod of a Secret's after up to 90 s.
type world struct {
	*fakeCluster
	gatekeeper, kubelet time.Duration
	trusts              string
	presents            map[string][]byte
	asked, failed       int
	last                error
	seen                string // the last that was verified
	seenAt              time.Time
}

// news is what is on its way to Gatekeeper, or to a pod if it has a Secret's content.
type news struct {
	at     time.Time
	bundle string
	secret map[string][]byte
}

// live lets news travel and asks, until ctx ends: often while something has changed
// lately, every hour else.
func (w *world) live(ctx context.Context, often time.Duration) {
	var under []news
	var closely time.Time // until when to look closely
	for ctx.Err() == nil {
		now := time.Now()
		under = append(under, news{now.Add(w.gatekeeper), w.bundle("verify"), nil}, news{now.Add(w.kubelet), "", w.data()})
		under = w.arrive(now, under)
		w.ask(now)
		pause := time.Hour
		if now.Before(closely) {
			pause = often
		}
		select {
		case <-time.After(pause):
		case <-w.changed:
			closely = time.Now().Add(10 * time.Minute)
		}
	}
}

// arrive hands over the news whose time has come and gives the others.
func (w *world) arrive(now time.Time, under []news) (rest []news) {
	for _, n := range under {
		switch {
		case now.Before(n.at):
			rest = append(rest, n)
		case n.secret == nil:
			w.trusts = n.bundle
		case n.secret[KeyCertificate] != nil: // a mount keeps what it has if a key is gone
			w.presents = n.secret
		}
	}
	return rest
}

// ask is a request. What was verified within a day, and is the same, is not again.
func (w *world) ask(now time.Time) {
	w.asked++
	seen := w.trusts + string(w.presents[KeyCertificate])
	if seen == w.seen && now.Sub(w.seenAt) < 24*time.Hour {
		return
	}
	if err := handshake(w.trusts, w.presents, now); err != nil {
		w.failed++
		w.last = err
		return
	}
	w.seen, w.seenAt = seen, now
}

// newWorld is one that is up, so that only what comes afterwards can fail.
func newWorld(t *testing.T, gatekeeper, kubelet time.Duration, change ...func(*Options)) (*world, *Rotator) {
	t.Helper()
	f := newFake("verify", "audit")
	r := keeper(t, f, change...)
	settled(t, r)
	return &world{fakeCluster: f, gatekeeper: gatekeeper, kubelet: kubelet, trusts: f.bundle("verify"), presents: f.data()}, r
}

// during lives for d, which has changes in it, beside the rotator and whatever else is done.
func (w *world) during(t *testing.T, d, often time.Duration, r *Rotator, also func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	wake := make(chan struct{}, 1)
	go func() { _ = r.Run(ctx, wake) }()
	go func() {
		also()
		wake <- struct{}{}
	}()
	w.live(ctx, often)
	synctest.Wait()
}

// Eleven years of certificates and authorities: no request fails, with the slowest
// kubelet and a slow Gatekeeper. Every second is looked at after each change.
func TestNoRequestFailsInYears(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, r := newWorld(t, 20*time.Second, 90*time.Second, func(o *Options) {
			*o = Options{Resync: 24 * time.Hour, AuthorityLifetime: 3 * 365 * 24 * time.Hour}
		})
		w.during(t, 11*365*24*time.Hour, time.Second, r, func() {})
		if w.failed > 0 {
			t.Errorf("%d of %d requests failed, the last: %v", w.failed, w.asked, w.last)
		}
		if n := len(w.took()); n < 30 {
			t.Errorf("%d writes in eleven years: the certificates were not exchanged", n)
		}
		t.Logf("%d requests in eleven years, %d failed", w.asked, w.failed)
	})
}

// What is asked every 100 ms around a change fails never. The last case replaces
// all at once, as a rotation without an order does: this world notices.
func TestNoRequestFailsAroundAChange(t *testing.T) {
	t.Parallel()
	lose := func(w *world) { w.set(nil) }
	replace := func(w *world) {
		m := newMaker(names, Options{CAName: DefaultCAName}.withDefaults())
		made, _ := m.authority(time.Now())
		cert, key, _ := m.certificate(made, time.Now())
		w.set(map[string][]byte{KeyBundle: made.CertPEM, KeyAuthorityKey: made.KeyPEM, KeyCertificate: cert, KeyCertificateKey: key})
	}
	tests := map[string]struct {
		gatekeeper, kubelet time.Duration
		ahead               time.Duration // before the change
		change              func(*world)
		fails               bool
	}{
		"authority ends":                        {2 * time.Second, 90 * time.Second, 900*time.Hour - time.Minute, func(*world) {}, false},
		"authority ends, kubelet is fast":       {2 * time.Second, 100 * time.Millisecond, 900*time.Hour - time.Minute, func(*world) {}, false},
		"authority ends, Gatekeeper is slow":    {4 * time.Minute, time.Second, 900*time.Hour - time.Minute, func(*world) {}, false},
		"Secret is emptied":                     {2 * time.Second, 90 * time.Second, time.Hour, lose, false},
		"Secret is emptied, kubelet is fast":    {2 * time.Second, 100 * time.Millisecond, time.Hour, lose, false},
		"authority's key is lost":               {2 * time.Second, 90 * time.Second, time.Hour, func(w *world) { d := w.data(); delete(d, KeyAuthorityKey); w.set(d) }, false},
		"all is replaced at once, as a control": {2 * time.Second, 90 * time.Second, time.Hour, replace, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w, r := newWorld(t, tt.gatekeeper, tt.kubelet)
				time.Sleep(tt.ahead)
				settled(t, r)
				w.presents = w.data()
				first := string(w.presents[KeyBundle])
				w.during(t, 15*time.Minute, 100*time.Millisecond, r, func() { tt.change(w) })
				if (w.failed > 0) != tt.fails {
					t.Errorf("%d of %d requests failed, want some: %t; the last: %v", w.failed, w.asked, tt.fails, w.last)
				}
				if string(w.presents[KeyBundle]) == first {
					t.Error("nothing was rolled over")
				}
				t.Logf("%d requests, %d failed", w.asked, w.failed)
			})
		})
	}
}

// A cluster in which something undoes every write is asked once a second, not as
// fast as it answers.
func TestUndoneWritesDoNotSpin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake("verify", "audit")
		r := keeper(t, f)
		settled(t, r)
		f.took()
		undo := make(chan struct{})
		f.before = func(string) { undo <- struct{}{} }
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		f.setProvider("audit", "")
		go func() {
			for range undo {
				go func() { time.Sleep(time.Microsecond); f.setProvider("audit", "") }()
			}
		}()
		if err := r.Run(ctx, nil); err != nil {
			t.Fatal(err)
		}
		close(undo)
		synctest.Wait()
		if n := len(f.took()); n > 100 {
			t.Errorf("%d writes in a minute", n)
		}
	})
}

func TestErrorsBackOff(t *testing.T) {
	t.Parallel()
	r := keeper(t, newFake("verify"))
	var got []time.Duration
	for n := range 14 {
		got = append(got, r.pauseAfter(errBroken, n+1))
	}
	if got[0] != time.Second || got[3] != 8*time.Second || got[13] > time.Hour {
		t.Errorf("pauses: %v", got)
	}
}
