package config_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gatehouse-project/gatehouse/config"
)

func load(t *testing.T, name string) *config.Config {
	t.Helper()
	cfg, err := config.Load(filepath.Join("testdata", "good", name))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	got := load(t, "allow_only.yaml")
	want := config.Server{
		Address: ":6001", InsecureHTTP: true, VerifyTimeout: 1900 * time.Millisecond, MutateTimeout: 700 * time.Millisecond,
		MutateTo: config.MutateToDigest, Unpinned: config.UnpinnedAllow,
		OnFailure: config.OnFailureSystemError, NamespaceFrom: config.NamespaceFromNone,
		Limits: config.Limits{BodyBytes: 1 << 20, Keys: 1000, KeyBytes: 1024, Connections: 1024, InFlightBytes: 64 << 20},
	}
	if diff := cmp.Diff(want, got.Server); diff != "" {
		t.Errorf("server (-want +got):\n%s", diff)
	}
	if got.Admin.Address != ":8888" {
		t.Errorf("admin.address = %q", got.Admin.Address)
	}
	proofs := config.Proofs{TTL: time.Hour, DeniedTTL: time.Minute, AbsentTTL: 5 * time.Second, ListTTL: time.Minute, MaxBytes: 16 << 20}
	if got.Proofs != proofs || got.Tags.TTL != 10*time.Second || got.Governor.PerHost.MaxInFlight != 64 || got.Governor.Background.MaxFlights != 1000 {
		t.Errorf("absent sections have no defaults: %+v, %+v, %+v", got.Proofs, got.Tags, got.Governor)
	}
	if len(got.Warnings) != 0 {
		t.Errorf("warnings: %v", got.Warnings)
	}
}

func TestVocabulary(t *testing.T) {
	t.Parallel()
	got := load(t, "vocabulary.yaml")
	limits := config.Limits{BodyBytes: 1 << 20, Keys: 1000, KeyBytes: 1024, Connections: 1024, InFlightBytes: 64 << 20}
	if got.Server.Address != ":6001" || got.Admin.Address != ":8888" || got.Server.Limits != limits {
		t.Errorf("server %+v, admin %+v", got.Server, got.Admin)
	}
	tls := config.TLS{
		Certificate: "tls.crt", Key: "tls.key", ClientCA: "gatekeeper-ca.crt",
		ClientNames: []string{"gatekeeper-webhook-service.gatekeeper-system.svc"},
	}
	if diff := cmp.Diff(&tls, got.Server.TLS); diff != "" {
		t.Errorf("tls (-want +got):\n%s", diff)
	}
	proofs := config.Proofs{TTL: time.Hour, DeniedTTL: time.Minute, AbsentTTL: 5 * time.Second, ListTTL: time.Minute, MaxBytes: 16 << 20}
	if diff := cmp.Diff(proofs, got.Proofs); diff != "" {
		t.Errorf("proofs (-want +got):\n%s", diff)
	}
	governor := config.Governor{
		PerHost:    config.PerHost{MaxInFlight: 64, StartInFlight: 16, MaxRetryAfter: time.Minute},
		Background: config.Background{MaxDuration: 15 * time.Second, MaxFlights: 1000},
	}
	if diff := cmp.Diff(governor, got.Governor); diff != "" {
		t.Errorf("governor (-want +got):\n%s", diff)
	}
	if len(got.Stores) != 1 || len(got.Verifiers) != 2 || got.Verifiers[1].Name != "release" || got.Verifiers[1].Type != "notation" {
		t.Errorf("components: %+v %+v", got.Stores, got.Verifiers)
	}
}

func TestRequirements(t *testing.T) {
	t.Parallel()
	ignorePlaces := cmp.Transformer("place", func(config.Position) string { return "" })
	got := load(t, "vocabulary.yaml").Policy
	until := config.Until{Time: time.Date(2027, 2, 1, 0, 0, 0, 0, time.UTC)}
	want := config.Policy{Rules: []config.Rule{
		{Name: "production", Images: []string{"registry.example.com/prod/**"}, Namespaces: []string{"prod-*"}, Require: &config.Require{
			AnyOf: []config.Require{
				{Verifier: "notation", AtLeast: 2},
				{AllOf: []config.Require{{Verifier: "notation", AtLeast: 1}, {Verifier: "release", AtLeast: 1}}},
			},
		}},
		{Name: "legacy", Images: []string{"docker.io/library/busybox"}, Allow: &config.Allow{Reason: "TICKET-1", Until: until}},
		{Name: "rest", Images: []string{"**"}, Evaluate: config.EvaluateAll, Require: &config.Require{Verifier: "notation", Every: true}},
	}}
	if diff := cmp.Diff(want, got, ignorePlaces); diff != "" {
		t.Errorf("policy (-want +got):\n%s", diff)
	}
}

func TestUntil(t *testing.T) {
	t.Parallel()
	var got []time.Time
	for _, rule := range load(t, "allow_only.yaml").Policy.Rules {
		got = append(got, rule.Allow.Until.Time)
	}
	end := time.Date(2027, 2, 1, 0, 0, 0, 0, time.UTC)
	want := []time.Time{end, time.Date(2027, 1, 31, 10, 0, 0, 0, time.UTC), end}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("until (-want +got):\n%s", diff)
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	var got []string
	for _, warning := range load(t, "vocabulary.yaml").Warnings {
		got = append(got, warning.Error())
	}
	want := []string{
		"testdata/good/vocabulary.yaml:40:80: policy.rules[0].namespaces: a rule names namespaces and server.namespaceFrom is none: every key is denied; set it to key or path",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
}

func TestPaths(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("testdata/good/any_client.yaml")
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Parse("/etc/gatehouse/conf/gatehouse.yaml", data)
	if err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]string{"": "", "a.crt": "/etc/gatehouse/conf/a.crt", "../a.crt": "/etc/gatehouse/a.crt", "/a.crt": "/a.crt"} {
		if got := cfg.Path(in); got != want {
			t.Errorf("Path(%q) = %q, want %q", in, got, want)
		}
	}
	if got := cfg.File(); got != "/etc/gatehouse/conf/gatehouse.yaml" {
		t.Errorf("File() = %q", got)
	}
	if got := cfg.Dir(); got != "/etc/gatehouse/conf" {
		t.Errorf("Dir() = %q", got)
	}
	want := []string{"/etc/gatehouse/conf/gatehouse.yaml", "/etc/gatehouse/tls.crt", "/etc/gatehouse/tls.key"}
	if diff := cmp.Diff(want, cfg.Files()); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	all := load(t, "vocabulary.yaml").Files()
	if got := all[len(all)-2:]; !cmp.Equal(got, []string{"testdata/good/gatekeeper-ca.crt", "testdata/good/tsa.crt"}) {
		t.Errorf("files end with %q", got)
	}
}

func TestAt(t *testing.T) {
	t.Parallel()
	cfg, cause := load(t, "vocabulary.yaml"), errors.New("shadowed")
	for path, want := range map[string]string{
		"policy.rules[1]":           "testdata/good/vocabulary.yaml:41:7: policy.rules[1]: shadowed",
		"policy.rules[1].images[0]": "testdata/good/vocabulary.yaml:41:31: policy.rules[1].images[0]: shadowed",
		"policy.rules[1].images[7]": "testdata/good/vocabulary.yaml:41:30: policy.rules[1].images[7]: shadowed",
		"nowhere":                   "testdata/good/vocabulary.yaml:1:1: nowhere: shadowed",
		"":                          "testdata/good/vocabulary.yaml:1:1: shadowed",
	} {
		err := cfg.At(path, cause)
		if err.Error() != want || !errors.Is(err, cause) {
			t.Errorf("At(%q) = %v, want %s", path, err, want)
		}
		if again := cfg.At("server", err); again.Error() != want {
			t.Errorf("a located error was moved: %v", again)
		}
	}
	if err := cfg.At("policy", nil); err != nil {
		t.Errorf("At of nil = %v", err)
	}
	if got, want := cfg.Stores[0].Pos.At(cause).Error(), "testdata/good/vocabulary.yaml:12:5: stores[0]: shadowed"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := cfg.Policy.Rules[0].Require.AnyOf[1].Pos.Path, "policy.rules[0].require.anyOf[1]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestReadFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	name := filepath.Join(dir, "a")
	if err := os.WriteFile(name, []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	if data, err := config.ReadFile(name, 5); err != nil || string(data) != "12345" {
		t.Errorf("at the bound: %q, %v", data, err)
	}
	if _, err := config.ReadFile(name, 4); !errors.Is(err, config.ErrTooLarge) {
		t.Errorf("past the bound: %v", err)
	}
	if _, err := config.ReadFile(dir, 100); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a directory: %v", err)
	}
	if _, err := config.Load(filepath.Join(dir, "b")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}

func TestTooLarge(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "a")
	if err := os.WriteFile(name, []byte(strings.Repeat("#\n", config.MaxBytes)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := config.Load(name); !errors.Is(err, config.ErrTooLarge) {
		t.Errorf("Load: %v", err)
	}
	if _, err := config.Parse("a", make([]byte, config.MaxBytes+1)); err == nil || !strings.Contains(err.Error(), "at most 1048576") {
		t.Errorf("Parse: %v", err)
	}
}

// The library takes colons in braces for the end of a name; texts that only
// look like that must come through whole.
func TestLeadingColon(t *testing.T) {
	t.Parallel()
	const text = `{version: v1alpha1, server: {address: :6001, insecureHTTP: true}, admin: {address: ":8888"}, # [ :x, :y]
stores: [{name: a, type: b, list: [:1, :2, ::1, "[ :3, {a: :4}]"]}],
policy: {rules: [{name: r, images: ["**"], allow: {reason: "a: :b [:c]", until: 2027-01-31}}]}}`
	cfg, err := config.Parse("f", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	var options struct {
		List []string `yaml:"list"`
	}
	if err := cfg.Stores[0].Decode(&options); err != nil {
		t.Fatal(err)
	}
	got := append(options.List, cfg.Server.Address, cfg.Admin.Address, cfg.Policy.Rules[0].Allow.Reason)
	want := []string{":1", ":2", "::1", "[ :3, {a: :4}]", ":6001", ":8888", "a: :b [:c]"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Each mistake can be had by itself, whoever wrapped them.
func TestErrorsUnwrap(t *testing.T) {
	t.Parallel()
	_, err := config.Parse("f", []byte("{version: v1alpha1, server: {insecureHTTP: 1}}"))
	var first *config.Error
	if !errors.As(fmt.Errorf("reload: %w", err), &first) {
		t.Fatalf("%T has no config.Error", err)
	}
	want := config.Position{File: "f", Line: 1, Column: 1, Path: "stores"}
	if diff := cmp.Diff(want, first.Position); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Lists are held to their bound before anything is made of them.
func TestTooManyEntries(t *testing.T) {
	t.Parallel()
	for _, list := range []string{"policy: {rules: [%s]}", "stores: [%s]", "verifiers: [%s]", "trust: {certificates: [%s]}"} {
		_, err := config.Parse("f", []byte("version: v1alpha1\n"+strings.Replace(list, "%s", strings.Repeat("{}, ", 1001), 1)))
		if err == nil || !strings.Contains(err.Error(), "has 1001 entries, at most 100") || strings.Contains(err.Error(), "[0]") {
			t.Errorf("%s: %v", list, err)
		}
	}
}
