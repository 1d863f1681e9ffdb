package rotation

import (
	"fmt"
	"testing"
	"time"
)

func FuzzReadState(f *testing.F) {
	fake := newFake("verify")
	r, err := New(fake, []string{"verify"}, names, Options{})
	if err != nil {
		f.Fatal(err)
	}
	for range 4 {
		if _, err := r.pass(f.Context()); err != nil {
			f.Fatal(err)
		}
	}
	d := fake.data()
	f.Add(d[KeyBundle], d[KeyAuthorityKey], d[KeyCertificate], d[KeyCertificateKey], fake.bundle("verify"))
	f.Add([]byte(nil), []byte(nil), []byte(nil), []byte(nil), "")
	f.Fuzz(func(t *testing.T, bundle, key, cert, certKey []byte, provider string) {
		s := readState(Secret{Version: "1", Data: map[string][]byte{
			KeyBundle: bundle, KeyAuthorityKey: key, KeyCertificate: cert, KeyCertificateKey: certKey,
		}}, []Provider{{Name: "verify", Bundle: provider}}, false)
		now := time.Now()
		if n := len(s.trusted(now)); n >= maxBundleCerts {
			t.Errorf("%d authorities are trusted, more than a bundle may have", n)
		}
		next := r.plan(now, s)
		if next.do == actIssue && s.authority == nil {
			t.Error("a certificate without an authority")
		}
		if next.do == actNothing && !s.chained() && len(s.bundle) == 1 {
			t.Error(fmt.Sprint("nothing to do without a certificate: ", next))
		}
	})
}
