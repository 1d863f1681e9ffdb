package config_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/gatehouse-project/gatehouse/config"
)

// FuzzParse holds Parse to: no panic, a configuration or located errors, each
// on one line and of bounded length and number.
func FuzzParse(f *testing.F) {
	for _, dir := range []string{"testdata/good/", "testdata/bad/"} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			f.Fatal(err)
		}
		for _, entry := range entries {
			data, err := os.ReadFile(dir + entry.Name())
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Add([]byte(config.Example()))
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := config.Parse("f", data)
		if err != nil {
			checkErrors(t, err)
			return
		}
		if !valid(cfg) {
			t.Errorf("not valid: %+v", cfg)
		}
		for _, store := range cfg.Stores {
			if err := store.Decode(new(orasOptions)); err != nil {
				checkErrors(t, err)
			}
		}
		for _, verifier := range cfg.Verifiers {
			if err := verifier.Decode(new(notationOptions)); err != nil {
				checkErrors(t, err)
			}
		}
	})
}

// valid says in other words what Parse promises.
func valid(cfg *config.Config) bool {
	switch s, r := cfg.Server, cfg.Registry; {
	case len(cfg.Stores) == 0 || cfg.Decides() != (len(cfg.Policy.Rules) > 0),
		cfg.Serves() && (!cfg.Decides() || (s.TLS == nil) == !s.InsecureHTTP),
		!cfg.Serves() && r == nil, r.Enforces() && !cfg.Decides(),
		cfg.Cache != nil && (cfg.Cache.Directory == "" || cfg.Cache.MaxBytes < 1<<20 || cfg.ControlSocket() == ""):
		return false
	case r == nil:
		return true
	default:
		return cfg.Cache != nil && r.Address != "" && (r.TLS == nil) != !r.InsecureHTTP && len(r.Upstreams) > 0
	}
}

func checkErrors(t *testing.T, err error) {
	t.Helper()
	var all config.Errors
	if !errors.As(err, &all) || len(all) == 0 || len(all) > 51 {
		t.Fatalf("%d errors in %T", len(all), err)
	}
	for _, one := range all {
		if text := one.Error(); strings.ContainsAny(text, "\n\x1b\u202e") || len(text) > 64<<10 {
			t.Errorf("a message of %d bytes: %.200q", len(text), text)
		}
	}
}
