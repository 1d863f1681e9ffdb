package config_test

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/gatehouse-project/gatehouse/config"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Options of components as the files of the corpus use them. The real ones
// live with the components.
type orasOptions struct {
	Hosts        []string            `yaml:"hosts" doc:"Registries that the store serves."`
	PlainHTTP    []string            `yaml:"plainHTTP"`
	AllowPrivate []string            `yaml:"allowPrivate"`
	CA           map[string][]string `yaml:"ca"`
	Mirrors      map[string][]string `yaml:"mirrors"`
	Realms       map[string][]string `yaml:"realms"`
	Credentials  []struct {
		Hosts []string `yaml:"hosts" required:"true" min:"1"`
		Type  string   `yaml:"type" required:"true" enum:"dockerConfig"`
		Path  string   `yaml:"path"`
	} `yaml:"credentials"`
	Logger func() // no tag: no field of the file
}

type notationOptions struct {
	Revocation struct {
		Mode       string        `yaml:"mode" default:"enforce" enum:"enforce,log,skip"`
		Timeout    time.Duration `yaml:"timeout" default:"500ms"`
		CacheBytes int64         `yaml:"cacheBytes" unit:"bytes" default:"8MiB"`
	} `yaml:"revocation"`
	TrustPolicy trustPolicy `yaml:"trustPolicy" required:"true"`
}

// trustPolicy has json tags, as types of other modules do.
type trustPolicy struct {
	Version       string `json:"version"`
	TrustPolicies []struct {
		Name                  string   `json:"name"`
		RegistryScopes        []string `json:"registryScopes"`
		SignatureVerification struct {
			Level    string            `json:"level"`
			Override map[string]string `json:"override,omitempty"`
		} `json:"signatureVerification"`
		TrustStores       []string `json:"trustStores"`
		TrustedIdentities []string `json:"trustedIdentities"`
	} `json:"trustPolicies"`
}

func decodeComponents(t *testing.T, cfg *config.Config) {
	t.Helper()
	for _, store := range cfg.Stores {
		if err := store.Decode(new(orasOptions)); err != nil {
			t.Error(err)
		}
	}
	for _, verifier := range cfg.Verifiers {
		if err := verifier.Decode(new(notationOptions)); err != nil {
			t.Error(err)
		}
	}
}

func files(t *testing.T, pattern string, atLeast int) []string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil || len(names) < atLeast {
		t.Fatalf("%s: %d files, %v", pattern, len(names), err)
	}
	return names
}

func TestGood(t *testing.T) {
	t.Parallel()
	for _, name := range append(files(t, "testdata/good/*.yaml", 5), "example.yaml") {
		t.Run(filepath.Base(name), func(t *testing.T) {
			t.Parallel()
			cfg, err := config.Load(name)
			if err != nil {
				t.Fatal(err)
			}
			decodeComponents(t, cfg)
		})
	}
}

// Each bad file has all its mistakes, with their places, in a text beside it.
func TestBad(t *testing.T) {
	t.Parallel()
	for _, name := range files(t, "testdata/bad/*.yaml", 45) {
		t.Run(filepath.Base(name), func(t *testing.T) {
			t.Parallel()
			compareGolden(t, strings.TrimSuffix(name, ".yaml")+".txt", mistakesOf(t, name))
		})
	}
}

// mistakesOf loads a file as the program does: options of components count
// once the file itself is valid.
func mistakesOf(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Parse(filepath.Base(name), data)
	if err == nil {
		t.Fatalf("it was accepted: %+v", cfg)
	}
	var all config.Errors
	if !errors.As(err, &all) || len(all) == 0 {
		t.Fatalf("%T is not config.Errors", err)
	}
	return err.Error() + "\n"
}

func compareGolden(t *testing.T, name, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

// A golden file without its cause would pass unseen.
func TestNoStrayGoldens(t *testing.T) {
	t.Parallel()
	for _, name := range files(t, "testdata/bad/*.txt", 45) {
		if _, err := os.Stat(strings.TrimSuffix(name, ".txt") + ".yaml"); err != nil {
			t.Error(err)
		}
	}
}
