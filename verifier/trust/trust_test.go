package trust_test

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/gatehouse-project/gatehouse/test/signing"
	"github.com/gatehouse-project/gatehouse/verifier/trust"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func authority(t testing.TB, name string, opts signing.AuthorityOptions) *signing.Authority {
	t.Helper()
	a, err := signing.NewAuthority(name, signing.ECDSA256, opts)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func write(t testing.TB, dir, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	end := time.Now().Add(time.Hour).Truncate(time.Second)
	one, two := authority(t, "one", signing.AuthorityOptions{}), authority(t, "two", signing.AuthorityOptions{NotAfter: end})
	both := append(append([]byte("# roots of acme\n\n"), one.PEM()...), two.PEM()...)
	first := write(t, dir, "both.pem", both)
	second := write(t, dir, "two.der", two.Certificate().Raw)

	s, err := trust.Load(dir, []trust.Certificates{
		{Name: "acme", Type: trust.TypeCA, Files: []string{"both.pem", second}},
		{Name: "acme", Type: trust.TypeTSA, Inline: string(one.PEM())},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if set, ok := s.Certificates("ca", "acme"); !ok || len(set) != 2 || !set[0].Equal(one.Certificate()) || !set[1].Equal(two.Certificate()) {
		t.Errorf("ca:acme has %d certificates, %t", len(set), ok)
	}
	if set, ok := s.Certificates("tsa", "acme"); !ok || len(set) != 1 {
		t.Errorf("tsa:acme has %d certificates, %t", len(set), ok)
	}
	if _, ok := s.Certificates("ca", "other"); ok {
		t.Error("ca:other exists")
	}
	if diff := cmp.Diff([]string{first, second}, s.Files()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"ca:acme", "tsa:acme"}, s.Names()); diff != "" {
		t.Error(diff)
	}
	if !s.NotAfter().Equal(end) {
		t.Errorf("NotAfter %v, want %v", s.NotAfter(), end)
	}
}

func TestNilSnapshotTrustsNobody(t *testing.T) {
	t.Parallel()
	var s *trust.Snapshot
	if set, ok := s.Certificates("ca", "acme"); ok || set != nil || s.Names() != nil || s.Files() != nil || !s.NotAfter().IsZero() {
		t.Error("nil is not empty")
	}
}

// A snapshot is what was there when it was loaded.
func TestSnapshotDoesNotChange(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	one := authority(t, "one", signing.AuthorityOptions{})
	path := write(t, dir, "ca.pem", one.PEM())
	entries := []trust.Certificates{{Name: "acme", Type: "ca", Files: []string{"ca.pem"}}}
	before, err := trust.Load(dir, entries, nil)
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, filepath.Base(path), authority(t, "two", signing.AuthorityOptions{}).PEM())
	after, err := trust.Load(dir, entries, nil)
	if err != nil {
		t.Fatal(err)
	}
	old, _ := before.Certificates("ca", "acme")
	fresh, _ := after.Certificates("ca", "acme")
	if !old[0].Equal(one.Certificate()) || fresh[0].Equal(one.Certificate()) {
		t.Error("a snapshot changed, or a new one did not")
	}
}

func TestLoadRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	root := authority(t, "root", signing.AuthorityOptions{})
	middle, err := root.Intermediate("middle", signing.ECDSA256, signing.AuthorityOptions{})
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := root.Issue("leaf", signing.ECDSA256, signing.IssueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	good := root.PEM()
	leafPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Certificate().Raw})
	var many bytes.Buffer
	for range trust.MaxCertificates + 1 {
		many.Write(good)
	}
	tests := map[string]struct {
		data []byte
		kind string
		want string
	}{
		"missing":          {nil, "ca", "no such file"},
		"empty":            {[]byte{}, "ca", "holds no certificate"},
		"blank":            {[]byte(" \n# nothing\n"), "ca", "holds no certificate"},
		"trailing garbage": {append(bytes.Clone(good), "x"...), "ca", "what follows certificate 1 is no PEM block"},
		"leading garbage":  {append([]byte("x\n"), good...), "ca", "what follows certificate 0 is no PEM block"},
		"misspelt frame":   {append(bytes.Replace(good, []byte("END"), []byte("AND"), 1), good...), "ca", "no PEM block"},
		"cut off":          {good[:len(good)-10], "ca", "no PEM block"},
		"private key":      {pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}), "ca", `type "PRIVATE KEY"`},
		"headers":          {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate().Raw, Headers: map[string]string{"a": "b"}}), "ca", "headers"},
		"not X.509":        {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}), "ca", "malformed"},
		"DER and more":     {append(bytes.Clone(root.Certificate().Raw), 'x'), "ca", "x509"},
		"too large":        {bytes.Repeat([]byte(" "), trust.MaxFileBytes+1), "ca", "larger than"},
		"too large binary": {bytes.Repeat([]byte("0"), trust.MaxFileBytes+1), "ca", "larger than"},
		"too many":         {many.Bytes(), "ca", "more than 100 certificates"},
		"leaf":             {leafPEM, "ca", "neither a certificate authority nor self-signed"},
		"tsa intermediate": {middle.PEM(), "tsa", "not a root certificate"},
		"unknown type":     {good, "caa", `the type "caa" is none of`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := strings.ReplaceAll(name, " ", "-") + ".pem"
			if test.data != nil {
				write(t, dir, file, test.data)
			}
			_, err := trust.Load(dir, []trust.Certificates{{Name: "acme", Type: test.kind, Files: []string{file}}}, nil)
			if !errors.Is(err, trust.ErrInvalid) || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("error %v, want %q", err, test.want)
			}
			if test.kind != "caa" && !strings.Contains(err.Error(), file) {
				t.Errorf("error %v does not name %s", err, file)
			}
		})
	}
}

func TestLoadRefusesEntries(t *testing.T) {
	t.Parallel()
	inline := string(authority(t, "root", signing.AuthorityOptions{}).PEM())
	tests := map[string]struct {
		entries []trust.Certificates
		want    string
	}{
		"no name":    {[]trust.Certificates{{Type: "ca", Inline: inline}}, "the name"},
		"bad name":   {[]trust.Certificates{{Name: "a/b", Type: "ca", Inline: inline}}, "the name"},
		"no source":  {[]trust.Certificates{{Name: "a", Type: "ca"}}, "neither files nor inline"},
		"twice":      {[]trust.Certificates{{Name: "a", Type: "ca", Inline: inline}, {Name: "a", Type: "ca", Inline: inline}}, "two sets"},
		"directory":  {[]trust.Certificates{{Name: "a", Type: "ca", Files: []string{"."}}}, "not a regular file"},
		"too many":   {make([]trust.Certificates, 1001), "1001 sets"},
		"bad inline": {[]trust.Certificates{{Name: "a", Type: "ca", Inline: "x"}}, "inline: "},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := trust.Load(t.TempDir(), test.entries, nil); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

func FuzzLoad(f *testing.F) {
	root := authority(f, "root", signing.AuthorityOptions{})
	f.Add(root.PEM())
	f.Add(append([]byte("# x\n"), root.PEM()...))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := trust.Load("", []trust.Certificates{{Name: "a", Type: "ca", Inline: string(data)}}, nil)
		if err != nil {
			return
		}
		set, _ := s.Certificates("ca", "a")
		if len(data) > 0 && len(set) == 0 {
			t.Fatal("loaded nothing without an error")
		}
		for _, certificate := range set {
			if _, err := x509.ParseCertificate(certificate.Raw); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func ExampleLoad() {
	root, err := signing.NewAuthority("acme root", signing.ECDSA256, signing.AuthorityOptions{})
	if err != nil {
		panic(err)
	}
	snapshot, err := trust.Load(".", []trust.Certificates{{Name: "acme", Type: trust.TypeCA, Inline: string(root.PEM())}}, nil)
	if err != nil {
		panic(err)
	}
	set, ok := snapshot.Certificates("ca", "acme")
	fmt.Println(snapshot.Names(), len(set), ok)
	// Output: [ca:acme] 1 true
}
