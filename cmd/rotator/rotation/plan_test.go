package rotation

import (
	"encoding/base64"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	wroteAuthority   = "secret ca.crt ca.key"
	wroteCertificate = "secret tls.crt tls.key"
	wroteBundle      = "secret ca.crt"
	toldVerify       = "provider verify"
	toldAudit        = "provider audit"
)

func wantWrites(t *testing.T, f *fakeCluster, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, f.took()); diff != "" {
		t.Errorf("writes (-want +got):\n%s", diff)
	}
}

func TestFirstStart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake("verify", "audit")
		next := settled(t, keeper(t, f))
		wantWrites(t, f, wroteAuthority, toldVerify, toldAudit, wroteCertificate)
		if want := time.Now().Add(300 * time.Hour); !next.due.Equal(want) {
			t.Errorf("next step is due at %s, want %s: the certificate's end less RenewBefore", next.due, want)
		}
		if err := verifies(f, "verify", f.data(), time.Now()); err != nil {
			t.Error(err)
		}
	})
}

func TestRenewCertificateOfSameAuthority(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake("verify", "audit")
		r := keeper(t, f)
		settled(t, r)
		f.took()
		time.Sleep(299 * time.Hour)
		settled(t, r)
		wantWrites(t, f)
		time.Sleep(time.Hour)
		settled(t, r)
		wantWrites(t, f, wroteCertificate)
	})
}

func TestRollOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake("verify", "audit")
		r := keeper(t, f)
		settled(t, r)
		age(t, r, 899*time.Hour)
		old := f.data()
		f.took()
		time.Sleep(time.Hour) // the authority's end is 100 h away
		next := settled(t, r)
		wantWrites(t, f, wroteAuthority, toldVerify, toldAudit)
		if want := time.Now().Add(5 * time.Minute); !next.due.Equal(want) {
			t.Errorf("the certificate is due at %s, want %s", next.due, want)
		}
		if n := len(parseBundle(f.data()[KeyBundle])); n != 2 {
			t.Fatalf("%d authorities in the bundle, want 2", n)
		}
		if string(f.data()[KeyCertificate]) != string(old[KeyCertificate]) {
			t.Error("the certificate was exchanged together with the authority")
		}
		time.Sleep(5*time.Minute - time.Second)
		settled(t, r)
		wantWrites(t, f)
		time.Sleep(time.Second)
		next = settled(t, r)
		wantWrites(t, f, wroteCertificate)
		if want := time.Now().Add(24 * time.Hour); !next.due.Equal(want) {
			t.Errorf("the old authority is due at %s, want %s", next.due, want)
		}
		time.Sleep(24*time.Hour - time.Second)
		settled(t, r)
		wantWrites(t, f)
		time.Sleep(time.Second)
		settled(t, r)
		wantWrites(t, f, wroteBundle, toldVerify, toldAudit)
		if n := len(parseBundle(f.data()[KeyBundle])); n != 1 {
			t.Errorf("%d authorities in the bundle after the overlap, want 1", n)
		}
	})
}

// Every way to damage the Secret, what is written in answer at once, and how long the
// certificate waits.
func TestDamage(t *testing.T) {
	t.Parallel()
	drop := func(keys ...string) func(map[string][]byte) {
		return func(data map[string][]byte) {
			for _, key := range keys {
				delete(data, key)
			}
		}
	}
	garble := func(key string) func(map[string][]byte) {
		return func(data map[string][]byte) {
			data[key] = []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
		}
	}
	authority := []string{wroteAuthority, toldVerify, toldAudit}
	tests := map[string]struct {
		damage func(map[string][]byte)
		want   []string
		waits  time.Duration
	}{
		"all lost":                 {drop(KeyBundle, KeyAuthorityKey, KeyCertificate, KeyCertificateKey), authority, settleLost},
		"certificate lost":         {drop(KeyCertificate), []string{wroteCertificate}, 0},
		"certificate's key lost":   {drop(KeyCertificateKey), []string{wroteCertificate}, 0},
		"certificate garbled":      {garble(KeyCertificate), []string{wroteCertificate}, 0},
		"authority lost":           {drop(KeyBundle), authority, 5 * time.Minute},
		"authority's key lost":     {drop(KeyAuthorityKey), authority, 5 * time.Minute},
		"authority garbled":        {garble(KeyBundle), authority, 5 * time.Minute},
		"authority's key garbled":  {garble(KeyAuthorityKey), authority, 5 * time.Minute},
		"key of another authority": {func(d map[string][]byte) { d[KeyAuthorityKey] = d[KeyCertificateKey] }, authority, 5 * time.Minute},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFake("verify", "audit")
				r := keeper(t, f)
				settled(t, r)
				former := f.data()
				f.took()
				data := f.data()
				tt.damage(data)
				f.set(data)
				next := settled(t, r)
				wantWrites(t, f, tt.want...)
				if err := verifies(f, "audit", former, time.Now()); err != nil {
					t.Errorf("what servers still present: %v", err)
				}
				if tt.waits > 0 {
					if got := time.Until(next.due); got != tt.waits {
						t.Errorf("the certificate waits %s, want %s", got, tt.waits)
					}
					time.Sleep(tt.waits)
					settled(t, r)
					wantWrites(t, f, wroteCertificate)
				}
				if err := verifies(f, "audit", f.data(), time.Now()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestOtherNames(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake("verify", "audit")
		settled(t, keeper(t, f))
		f.took()
		r, err := New(f, []string{"verify", "audit"}, []string{"other.ns"}, keeper(t, f).options)
		if err != nil {
			t.Fatal(err)
		}
		settled(t, r)
		wantWrites(t, f, wroteCertificate)
		settled(t, keeper(t, f))
		wantWrites(t, f, wroteCertificate)
		settled(t, keeper(t, f, func(o *Options) { o.CAName = "other-ca" }))
		wantWrites(t, f, wroteAuthority, toldVerify, toldAudit) // and the certificate later
	})
}

// A Provider that cannot be read or written stops a take-over, but not the others.
func TestProviderFails(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"audit", "write audit"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFake("verify", "audit")
				r := keeper(t, f)
				settled(t, r)
				age(t, r, 899*time.Hour)
				f.took()
				f.fail(what, errBroken)
				for range 10 {
					time.Sleep(time.Hour)
					if _, err := r.pass(t.Context()); err != nil && !errors.Is(err, errBroken) {
						t.Fatal(err)
					}
				}
				wantWrites(t, f, wroteAuthority, toldVerify)
				if r.Status().Ready() == nil {
					t.Error("ready with a Provider that could not be told")
				}
				f.fail(what, nil)
				settled(t, r)
				wantWrites(t, f, toldAudit)
				time.Sleep(5 * time.Minute)
				settled(t, r)
				wantWrites(t, f, wroteCertificate)
			})
		})
	}
}

// Once the certificate has ended there is nothing to lose: it is not held back by a
// Provider that cannot be read.
func TestEndedCertificateIsNotHeldBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake("verify", "audit")
		r := keeper(t, f)
		settled(t, r)
		age(t, r, 899*time.Hour)
		f.took()
		f.fail("audit", errBroken)
		for range 101 { // until the hour in which authority and certificate end
			time.Sleep(time.Hour)
			_, _ = r.pass(t.Context())
		}
		_, _ = r.pass(t.Context())
		wantWrites(t, f, wroteAuthority, toldVerify, wroteCertificate)
		s := readState(f.secret, nil, false)
		if !s.ours() || !time.Now().Before(s.leaf.NotAfter) {
			t.Error("no certificate of the new authority")
		}
	})
}

// Without anything in the Secret it matters what the Providers trust.
func TestHoldWithoutProviders(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake("verify", "audit")
		f.fail("audit", errBroken)
		r := keeper(t, f)
		for range 3 {
			if _, err := r.pass(t.Context()); !errors.Is(err, errBroken) {
				t.Fatalf("error %v, want that of the Provider", err)
			}
		}
		wantWrites(t, f)
	})
}

func TestMissingProvider(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake("verify")
		r := keeper(t, f)
		settled(t, r)
		wantWrites(t, f, wroteAuthority, toldVerify, wroteCertificate)
		f.setProvider("audit", "AAAA")
		settled(t, r)
		wantWrites(t, f, toldAudit)
	})
}

func TestBundleOfProviderIsHealed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake("verify", "audit")
		r := keeper(t, f)
		settled(t, r)
		f.took()
		for _, bundle := range []string{"", "%%%", base64.StdEncoding.EncodeToString([]byte("no PEM"))} {
			f.setProvider("audit", bundle)
			settled(t, r)
			wantWrites(t, f, toldAudit)
		}
	})
}

// The roll-over goes on where a process that died left it, after every write.
func TestDiesAfterEachWrite(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake("verify", "audit")
		old := keeper(t, f)
		settled(t, old)
		age(t, old, 899*time.Hour)
		f.took()
		var got []string
		for range 600 { // each look is by another process
			r := keeper(t, f)
			if next, err := r.pass(t.Context()); err != nil {
				t.Fatal(err)
			} else if next.do == actNothing {
				time.Sleep(6 * time.Minute)
				if _, err := r.pass(t.Context()); err != nil { // each lives long enough to have waited
					t.Fatal(err)
				}
			}
			got = append(got, f.took()...)
		}
		want := []string{wroteAuthority, toldVerify, toldAudit, wroteCertificate, wroteBundle, toldVerify, toldAudit}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("writes (-want +got):\n%s", diff)
		}
	})
}

// A process that was suspended with an outdated Secret in hand cannot take back
// what another one has told the Providers since.
func TestOutdatedWriterLoses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake("verify", "audit")
		settled(t, keeper(t, f))
		f.setProvider("audit", "")
		slow, fast := keeper(t, f), keeper(t, f)
		s, err := slow.read(t.Context(), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(900 * time.Hour)
		settled(t, fast)
		bundle := f.bundle("audit")
		if err := slow.trust(t.Context(), s); !errors.Is(err, ErrConflict) {
			t.Errorf("an outdated bundle was written: %v", err)
		}
		if f.bundle("audit") != bundle {
			t.Error("the Provider has the outdated bundle")
		}
		if err := slow.issue(t.Context(), time.Now(), s); !errors.Is(err, ErrConflict) {
			t.Errorf("an outdated authority's certificate was written: %v", err)
		}
	})
}

func TestOptions(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		change Options
		ok     bool
	}{
		"defaults":                     {Options{}, true},
		"too short":                    {Options{Settle: time.Millisecond}, false},
		"negative":                     {Options{Overlap: -time.Hour}, false},
		"authority ends first":         {Options{AuthorityLifetime: 364 * 24 * time.Hour}, false},
		"roll-over longer than ahead":  {Options{RenewBefore: 24 * time.Hour}, false},
		"renewed before overlap ended": {Options{Lifetime: 91 * 24 * time.Hour}, false},
		"short":                        {Options{Lifetime: time.Hour, RenewBefore: 20 * time.Minute, Settle: time.Minute, Overlap: 2 * time.Minute}, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := New(newFake(), []string{"verify"}, names, tt.change)
			if (err == nil) != tt.ok {
				t.Errorf("error %v, want none: %t", err, tt.ok)
			}
		})
	}
	if _, err := New(newFake(), nil, names, Options{}); err == nil {
		t.Error("no Provider is no error")
	}
	if _, err := New(newFake(), []string{"verify"}, nil, Options{}); err == nil {
		t.Error("no name is no error")
	}
}
