package config_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/gatehouse-project/gatehouse/config"
)

const pullAlone = "version: v1alpha1\nstores: [{name: a, type: oras}]\ncache: {directory: cache}\nregistry: {address: '127.0.0.1:0', insecureHTTP: true, upstreams: [docker.io]%s}\n"

func parsePull(t *testing.T, more string) *config.Config {
	t.Helper()
	cfg, err := config.Parse("/etc/gatehouse/gatehouse.yaml", []byte(strings.Replace(pullAlone, "%s", more, 1)))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestCacheAndRegistryDefaults(t *testing.T) {
	t.Parallel()
	got := load(t, "pull_alone.yaml")
	cache := &config.Cache{
		Directory: "cache", MaxBytes: 10 << 30, ReplicaBytes: 64 << 20, Durability: config.DurabilityFull, Lease: 10 * time.Minute,
	}
	if diff := cmp.Diff(cache, got.Cache); diff != "" {
		t.Errorf("cache (-want +got):\n%s", diff)
	}
	registry := &config.PullThrough{
		Address: "127.0.0.1:5080", InsecureHTTP: true, Upstreams: []string{"127.0.0.1:15050"}, Enforce: config.EnforceOff, Connections: 1024,
	}
	if diff := cmp.Diff(registry, got.Registry); diff != "" {
		t.Errorf("registry (-want +got):\n%s", diff)
	}
	if got.Serves() || got.Decides() || got.Registry.Enforces() {
		t.Error("it has a registry alone")
	}
	if got.Server.Limits.InFlightBytes != 64<<20 || got.Governor.PerHost.MaxInFlight != 64 {
		t.Errorf("absent sections have no defaults: %+v", got.Server.Limits)
	}
	beside := load(t, "pull_beside.yaml")
	if !beside.Serves() || !beside.Decides() || !cmp.Equal(beside.Cache, cache) || !cmp.Equal(beside.Registry, registry) {
		t.Errorf("beside the rest it reads %+v and %+v", beside.Cache, beside.Registry)
	}
	if without := load(t, "first.yaml"); without.Cache != nil || without.Registry != nil || without.Registry.Enforces() || without.ControlSocket() != "" {
		t.Errorf("it has neither: %+v", without)
	}
}

func TestCacheAndRegistryInFull(t *testing.T) {
	t.Parallel()
	got, places := load(t, "pull_all.yaml"), cmpopts.IgnoreTypes(config.Position{})
	cache := &config.Cache{
		Directory: "/var/lib/gatehouse", MaxBytes: 100 << 30, MaxAge: 720 * time.Hour, Keep: []string{"registry.example.com/prod/**", "docker.io/library/*"},
		ReplicaBytes: 128 << 20, Durability: config.DurabilityFast, Lease: time.Hour,
		Control: config.Control{Socket: "run/control.sock", Address: "localhost:6002", TokenFile: "control.token"},
		OnRegistryDown: []config.RegistryDown{
			{Registries: []string{"registry.example.com", "*.azurecr.io"}, UseHeld: 24 * time.Hour, Tags: true, WhenRevocationStale: config.RevocationStaleAccept},
			{Registries: []string{"**"}, UseHeld: time.Hour, WhenRevocationStale: config.RevocationStaleDeny},
		},
	}
	if diff := cmp.Diff(cache, got.Cache, places); diff != "" {
		t.Errorf("cache (-want +got):\n%s", diff)
	}
	registry := &config.PullThrough{
		Address:   ":5080",
		TLS:       &config.TLS{Certificate: "pull.crt", Key: "pull.key", ClientCA: "nodes-ca.crt", ClientNames: []string{"node.example"}},
		Upstreams: []string{"docker.io", "registry.corp.example:5000", "[2001:db8::1]:5000", "myhost", "Registry.Example.com."},
		Default:   "docker.io",
		TagPolicies: []config.TagPolicy{
			{Upstreams: []string{"docker.io"}, Policy: config.TagInterval, Interval: 10 * time.Minute, StaleIfError: 24 * time.Hour},
			{Upstreams: []string{"myhost"}, Policy: config.TagIfAbsent, Interval: 5 * time.Minute},
			{Upstreams: []string{"docker.io", "myhost"}, Policy: config.TagAlways, Interval: 5 * time.Minute, StaleIfError: time.Hour},
		},
		Clients:             config.Clients{TokenFiles: []string{"tokens/nodes"}},
		PrivateForAnyClient: []string{"registry.corp.example:5000"},
		Enforce:             config.EnforceOn, EnforceAs: "kube-system",
		Preload:     &config.Preload{Files: []string{"images.txt"}, Platforms: []string{"linux/amd64", "linux/arm64/v8"}},
		Connections: 64,
	}
	if diff := cmp.Diff(registry, got.Registry, places); diff != "" {
		t.Errorf("registry (-want +got):\n%s", diff)
	}
	if got.Cache.OnRegistryDown[1].Pos.Path != "cache.onRegistryDown[1]" || got.Registry.TagPolicies[2].Pos.Line != 26 {
		t.Errorf("places: %+v %+v", got.Cache.OnRegistryDown[1].Pos, got.Registry.TagPolicies[2].Pos)
	}
	if len(got.Warnings) > 0 || !got.Registry.Enforces() {
		t.Errorf("warnings: %v", got.Warnings)
	}
}

// Certificates and tokens are watched; what is preloaded and the folder are not.
func TestFilesOfCacheAndRegistry(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("testdata/good/pull_all.yaml")
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Parse("/etc/gatehouse.yaml", data)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"/etc/gatehouse.yaml", "/etc/control.token", "/etc/pull.crt", "/etc/pull.key", "/etc/nodes-ca.crt", "/etc/tokens/nodes"}
	if diff := cmp.Diff(want, cfg.Files()); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if got := cfg.ControlSocket(); got != "/etc/run/control.sock" {
		t.Errorf("socket %s", got)
	}
	if got := parsePull(t, "").ControlSocket(); got != "/etc/gatehouse/cache/control.sock" {
		t.Errorf("socket %s without one named", got)
	}
}

func TestEnforce(t *testing.T) {
	t.Parallel()
	const frame = "version: v1alpha1\nserver: {insecureHTTP: true}\nstores: [{name: a, type: oras}]\n" +
		"policy: {rules: [{name: r, images: ['**'], allow: {reason: a, until: 2027-01-31}}]}\n" +
		"cache: {directory: c}\nregistry: {address: ':1', insecureHTTP: true, upstreams: [a.b], enforce: %s}\n"
	schema := compileSchema(t)
	for text, want := range map[string]config.Enforce{
		"false": config.EnforceOff, "true": config.EnforceOn, "warn": config.EnforceWarn, `"warn"`: config.EnforceWarn,
		`"true"`: "", `"false"`: "", "on": "", "off": "", `""`: "", "1": "", "[true]": "", "{}": "", "'null'": "",
	} {
		file := strings.Replace(frame, "%s", text, 1)
		cfg, err := config.Parse("f", []byte(file))
		switch {
		case (err == nil) != (want != ""):
			t.Errorf("%s: %v", text, err)
		case err == nil && (cfg.Registry.Enforce != want || cfg.Registry.Enforces() != (text != "false")):
			t.Errorf("%s is read as %+v", text, cfg.Registry)
		}
		if err := schema.Validate(plain(t, node(t, file))); (err == nil) != (want != "") {
			t.Errorf("%s: the schema says %v", text, err)
		}
	}
}

// Editors offer the values and the default as the file has them.
func TestSchemaOfEnforce(t *testing.T) {
	t.Parallel()
	text, err := config.Schema(components())
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		Defs map[string]struct {
			Properties map[string]map[string]any
		} `json:"$defs"`
	}
	if err := json.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	got := document.Defs["config_PullThrough"].Properties["enforce"]
	delete(got, "description")
	if diff := cmp.Diff(map[string]any{"enum": []any{false, "warn", true}, "default": false}, got); diff != "" {
		t.Errorf("enforce (-want +got):\n%s", diff)
	}
}

func TestPullWarnings(t *testing.T) {
	t.Parallel()
	const rules = "}\npolicy: {rules: [{name: r, images: ['**'], namespaces: [a], allow: {reason: a, until: 2027-01-31}}]}\nadmin: {address: ':0'"
	for more, want := range map[string]string{
		"":                             "",
		rules:                          "/etc/gatehouse/gatehouse.yaml:5:9: policy: has no effect without server, or a registry that enforces",
		", clients: {tokenFiles: [t]}": "",
	} {
		if got := parsePull(t, more).Warnings.Error(); got != want {
			t.Errorf("%s: %s", more, got)
		}
	}
	text := strings.ReplaceAll(strings.Replace(pullAlone, "%s", ", clients: {tokenFiles: [t]}", 1), "127.0.0.1", "")
	cfg, err := config.Parse("f", []byte(strings.Replace(text, "cache}", "cache, onRegistryDown: [{registries: [a.b], useHeld: 1h}]}", 1)))
	if err != nil {
		t.Fatal(err)
	}
	want := "f:3:43: cache.onRegistryDown: has no effect without server, or a registry that enforces\nf:4:93: registry.clients.tokenFiles: tokens cross the network unencrypted; give the registry tls"
	if diff := cmp.Diff(want, cfg.Warnings.Error()); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
}

// All bounds on memory together are at most 16 GiB, to the byte.
func TestMemoryWithReplica(t *testing.T) {
	t.Parallel()
	for replica, valid := range map[string]bool{"17112694784": true, "17112694785": false} { // 16 GiB less 64 MiB and 64 KiB
		text := strings.Replace(pullAlone, "%s", "", 1) + "proofs: {maxBytes: 64KiB}\n"
		text = strings.Replace(text, "cache}", "cache, replicaBytes: "+replica+"}", 1)
		_, err := config.Parse("f", []byte(text))
		if (err == nil) == valid {
			continue
		}
		t.Errorf("%s: %v", replica, err)
	}
}

// What the example shows as comments is valid without the signs.
func TestExampleOfCacheAndRegistry(t *testing.T) {
	t.Parallel()
	lines, inside, sections := strings.Split(config.Example(), "\n"), false, 0
	for i, line := range lines {
		if line == "# cache:" || line == "# registry:" {
			inside = true
			sections++
		}
		text, commented := strings.CutPrefix(line, "# ")
		if inside = inside && commented; inside {
			lines[i] = text
		}
	}
	if sections != 2 {
		t.Fatalf("the example shows %d sections", sections)
	}
	cfg, err := config.Parse("f", []byte(strings.Join(lines, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Cache == nil || cfg.Registry == nil || len(cfg.Cache.OnRegistryDown) == 0 || len(cfg.Registry.TagPolicies) == 0 || len(cfg.Warnings) > 0 {
		t.Errorf("%+v\n%+v\n%v", cfg.Cache, cfg.Registry, cfg.Warnings)
	}
	if err := compileSchema(t).Validate(plain(t, node(t, strings.Join(lines, "\n")))); err != nil {
		t.Error(err)
	}
}

func TestParseBytes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{"0B": 0, "512": 512, "8MiB": 8 << 20, "3GB": 3e9} {
		if got, err := config.ParseBytes(text); err != nil || got != want {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "-1", "1.5GiB", "8 MiB", "1TiB", "99999999999999999999", "9223372036854775807KiB"} {
		if got, err := config.ParseBytes(text); err == nil {
			t.Errorf("%q was read as %d", text, got)
		}
	}
}

func TestFingerprint(t *testing.T) {
	t.Parallel()
	of := func(options string) string {
		cfg := parseStores(t, options)
		return cfg.Stores[0].Fingerprint("credentials")
	}
	same := of(", credentials: [{type: a, hosts: [b]}]")
	for options, want := range map[string]bool{
		", credentials: [{type: a, hosts: [b]}]":                          true,
		", plainHTTP: [x], credentials: [{type: a, hosts: [\"b\"]}] # no": true,
		", credentials: [{type: a, hosts: [c]}]":                          false,
		", credentials: [{type: a}, {hosts: [b]}]":                        false,
		"": false,
	} {
		if got := of(options); (got == same) != want {
			t.Errorf("%s: %s beside %s", options, got, same)
		}
	}
}

func parseStores(t *testing.T, options string) *config.Config {
	t.Helper()
	text := "version: v1alpha1\nstores: [{name: a, type: oras" + options + "}]\nserver: {insecureHTTP: true}\npolicy: {rules: [{name: r, images: ['**'], allow: {reason: a, until: 2027-01-31}}]}\n"
	text = strings.ReplaceAll(text, " # no}]", "}] # no")
	cfg, err := config.Parse("f", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}
