package notation_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gatehouse-project/gatehouse/test/signing"
	"github.com/gatehouse-project/gatehouse/verifier/notation"
	"github.com/gatehouse-project/gatehouse/verifier/trust"
)

// What is not safe is refused when it is loaded, with what to do about it.
func TestNewRefuses(t *testing.T) {
	t.Parallel()
	root := authority(t, signing.ECDSA256)
	snapshot := stores(t, root, trust.Certificates{Name: "stamps", Type: trust.TypeTSA, Inline: string(root.PEM())})
	scope := func(scopes ...string) func(*notation.Statement) {
		return func(s *notation.Statement) { s.RegistryScopes = scopes }
	}
	set := func(f func(*notation.Options)) notation.Options {
		opts := options()
		f(&opts)
		return opts
	}
	tests := map[string]struct {
		opts notation.Options
		want []string
	}{
		"nothing":                {notation.Options{}, []string{"version"}},
		"another version":        {set(func(o *notation.Options) { o.TrustPolicy.Version = "2.0" }), []string{`version "2.0"`}},
		"no statements":          {set(func(o *notation.Options) { o.TrustPolicy.TrustPolicies = nil }), []string{"zero trust policy statements"}},
		"level skip":             {options(level("skip")), []string{"level skip verifies nothing", "allow"}},
		"no level":               {options(level("")), []string{"level is empty", "strict, permissive or audit"}},
		"unknown level":          {options(level("strictest")), []string{`"strictest"`, "strict, permissive or audit"}},
		"audit":                  {options(level("audit")), []string{"only logs authenticity", "unsafeAllowUnauthenticated: true"}},
		"authenticity logged":    {options(level("strict", "authenticity", "log")), []string{"only logs authenticity", "unsafeAllowUnauthenticated: true"}},
		"authenticity skipped":   {options(level("strict", "authenticity", "skip")), []string{"can not be skipped"}},
		"integrity logged":       {options(level("strict", "integrity", "log")), []string{"override of integrity is refused", "remove it"}},
		"integrity enforced":     {options(level("strict", "integrity", "enforce")), []string{"override of integrity is refused"}},
		"unknown check":          {options(level("strict", "expiries", "log")), []string{`"expiries"`, "authenticTimestamp"}},
		"unknown action":         {options(level("strict", "expiry", "ignore")), []string{`"ignore"`, "enforce or log"}},
		"unknown time option":    {options(func(s *notation.Statement) { s.SignatureVerification.VerifyTimestamp = "never" }), []string{"verifyTimestamp"}},
		"unknown trust store":    {options(func(s *notation.Statement) { s.TrustStores = []string{"ca:acme", "ca:acne"} }), []string{`"ca:acne" is not in trust.certificates`, "ca:acme", "{name: acne, type: ca, files: [...]}"}},
		"trust store, no type":   {options(func(s *notation.Statement) { s.TrustStores = []string{"acme"} }), []string{"TYPE:NAME"}},
		"time stamps only":       {options(func(s *notation.Statement) { s.TrustStores = []string{"tsa:stamps"} }), []string{"no trust store of type ca or signingAuthority"}},
		"no trust stores":        {options(func(s *notation.Statement) { s.TrustStores = nil }), []string{"missing trust stores"}},
		"no identities":          {options(func(s *notation.Statement) { s.TrustedIdentities = nil }), []string{"trusted identities"}},
		"identity of a plug-in":  {options(func(s *notation.Statement) { s.TrustedIdentities = []string{"spiffe: acme"} }), []string{`"spiffe: acme"`, "x509.subject"}},
		"identity without state": {options(func(s *notation.Statement) { s.TrustedIdentities = []string{"x509.subject: O=acme"} }), []string{"x509.subject: O=acme"}},
		"any and one identity":   {options(func(s *notation.Statement) { s.TrustedIdentities = []string{"*", "x509.subject: C=US,ST=WA,O=acme"} }), []string{"wildcard"}},
		"scope with tag":         {options(scope(repository + ":v1")), []string{"it has a tag", "HOST/REPOSITORY"}},
		"scope with digest":      {options(scope(repository + "@" + string(image().Digest))), []string{"it has a digest"}},
		"scope with glob":        {options(scope("registry.example.com/*")), []string{`"*" stands only alone`}},
		"scope without host":     {options(scope("library/busybox")), []string{"no registry host", "docker.io/library/busybox"}},
		"scope of one word":      {options(scope("busybox")), []string{"no registry host"}},
		"scope upper case":       {options(scope("registry.example.com/Team")), []string{"registry.example.com/Team"}},
		"any and one scope":      {options(scope("*", repository)), []string{"wildcard"}},
		"no scopes":              {options(scope()), []string{"zero registry scopes"}},
		"scope in two spellings": {options(scope("docker.io/busybox", "index.docker.io/library/busybox")), []string{"docker.io/library/busybox"}},
		"unknown mode":           {set(func(o *notation.Options) { o.Revocation.Mode = "warn" }), []string{`"warn"`, "enforce, log and off"}},
		"negative timeout":       {set(func(o *notation.Options) { o.Revocation.Timeout = -1 }), []string{"timeout"}},
		"small cache":            {set(func(o *notation.Options) { o.Revocation.CacheBytes = 1 }), []string{"cacheBytes"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := notation.New("acme", test.opts, notation.Deps{Trust: snapshot, HTTPClient: noNetwork(t)})
			if !errors.Is(err, notation.ErrOptions) {
				t.Fatalf("error %v, want %v", err, notation.ErrOptions)
			}
			for _, want := range append(test.want, "notation acme: ") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
		})
	}
}

// One load tells of all mistakes, not of the first alone.
func TestNewTellsAll(t *testing.T) {
	t.Parallel()
	opts := options(level("skip"), func(s *notation.Statement) { s.TrustStores = []string{"ca:other"} })
	_, err := notation.New("acme", opts, notation.Deps{HTTPClient: noNetwork(t)})
	if err == nil || !strings.Contains(err.Error(), "level skip") || !strings.Contains(err.Error(), "ca:other") || !strings.Contains(err.Error(), "has none") {
		t.Errorf("error %v", err)
	}
}

func TestNewNeedsAClientUnlessOff(t *testing.T) {
	t.Parallel()
	snapshot := stores(t, authority(t, signing.ECDSA256))
	opts := options()
	if _, err := notation.New("a", opts, notation.Deps{Trust: snapshot}); !errors.Is(err, notation.ErrOptions) {
		t.Errorf("error %v", err)
	}
	opts.Revocation.Mode = notation.RevocationOff
	if _, err := notation.New("a", opts, notation.Deps{Trust: snapshot}); err != nil {
		t.Error(err)
	}
}

// A reload makes a verifier of the same name beside the one in use.
func TestNewTwiceOnOneRegistry(t *testing.T) {
	t.Parallel()
	deps := notation.Deps{
		Trust: stores(t, authority(t, signing.ECDSA256)), HTTPClient: http.DefaultClient, Registerer: prometheus.NewRegistry(),
	}
	for _, name := range []string{"a", "a", "b"} {
		if _, err := notation.New(name, options(), deps); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
