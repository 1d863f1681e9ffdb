package process

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"time"

	"go.yaml.in/yaml/v3"
)

// Map is a mapping of the configuration.
type Map = map[string]any

// Config is a configuration for a test: one store, one verifier of Notary
// Project signatures, free ports. The zero value trusts nobody and refuses all
// hosts; it does not load, because a trust policy needs a root.
type Config struct {
	// Timeout is server.verifyTimeout, 1900ms if zero.
	Timeout time.Duration
	// Server adds to the section server. With "tls" in it the server speaks
	// TLS, else plain HTTP.
	Server Map
	// PlainHTTP are the registries, each a host and a port.
	PlainHTTP []string
	// Store adds options to the store.
	Store Map
	// Roots are certificates in PEM that the trust policy trusts. They are
	// written to files of the given names beside the configuration.
	Roots map[string][]byte
	// Verifier adds options to the verifier, or replaces its trustPolicy.
	Verifier Map
	// Require is the requirement of the one rule for all images, in YAML;
	// "{verifier: notation}" if empty.
	Require string
	// Rules is policy.rules in YAML; it replaces that one rule.
	Rules string
	// Cache and Registry are the sections of those names, left out if nil. A
	// registry gets a free port and plain HTTP unless it says otherwise.
	Cache, Registry Map
	// PullsAlone leaves out all that the webhook and the policy need.
	PullsAlone bool
	// Sections are further sections, or others in place of those above.
	Sections Map
}

// FileName is the name that [Config.Write] gives to a configuration.
const FileName = "gatehouse.yaml"

// Write writes the configuration and the certificates into a folder and
// returns the path of the former. Files that exist are replaced as a whole,
// the certificates first.
func (c Config) Write(dir string) (string, error) {
	text, err := c.encode()
	if err != nil {
		return "", fmt.Errorf("make a configuration: %w", err)
	}
	for name, pem := range c.Roots {
		if err := Replace(filepath.Join(dir, name), pem); err != nil {
			return "", err
		}
	}
	path := filepath.Join(dir, FileName)
	return path, Replace(path, text)
}

// Replace exchanges the content of a file at once, so that who watches it sees
// the old or the new one.
func Replace(path string, content []byte) error {
	next := path + ".next"
	if err := os.WriteFile(next, content, 0o600); err != nil {
		return err
	}
	return os.Rename(next, path)
}

func (c Config) encode() ([]byte, error) {
	rules, err := c.rules()
	if err != nil {
		return nil, err
	}
	files := make([]string, 0, len(c.Roots))
	for name := range c.Roots {
		files = append(files, name)
	}
	all := Map{
		"version":   "v1alpha1",
		"server":    c.server(),
		"admin":     Map{"address": "127.0.0.1:0"},
		"stores":    []Map{with(Map{"name": "registry", "type": "oras", "plainHTTP": c.PlainHTTP}, c.Store)},
		"trust":     Map{"certificates": []Map{{"name": "acme", "type": "ca", "files": files}}},
		"verifiers": []Map{with(Map{"name": "notation", "type": "notation", "trustPolicy": trustPolicy()}, c.Verifier)},
		"policy":    Map{"rules": rules},
	}
	if c.Cache != nil {
		all["cache"] = with(Map{"directory": "cache"}, c.Cache)
	}
	if c.Registry != nil {
		all["registry"] = with(Map{"address": "127.0.0.1:0", "insecureHTTP": c.Registry["tls"] == nil}, c.Registry)
	}
	maps.Copy(all, c.Sections)
	if c.PullsAlone {
		for _, section := range []string{"server", "trust", "verifiers", "policy"} {
			delete(all, section)
		}
	}
	return yaml.Marshal(all)
}

func (c Config) server() Map {
	timeout := c.Timeout
	if timeout == 0 {
		timeout = 1900 * time.Millisecond
	}
	server := Map{"address": "127.0.0.1:0", "verifyTimeout": timeout.String()}
	if _, secure := c.Server["tls"]; !secure {
		server["insecureHTTP"] = true
	}
	return with(server, c.Server)
}

// rules keeps the text's nodes: decoded, a date would become a moment.
func (c Config) rules() (*yaml.Node, error) {
	text := c.Rules
	if text == "" {
		require := c.Require
		if require == "" {
			require = "{verifier: notation}"
		}
		text = `[{name: all, images: ["**"], require: ` + require + `}]`
	}
	var document yaml.Node
	if err := yaml.Unmarshal([]byte(text), &document); err != nil {
		return nil, fmt.Errorf("rules: %w", err)
	}
	if len(document.Content) != 1 {
		return nil, fmt.Errorf("rules: no document in %q", text)
	}
	return document.Content[0], nil
}

func trustPolicy() Map {
	return Map{"version": "1.0", "trustPolicies": []Map{{
		"name":                  "default",
		"registryScopes":        []string{"*"},
		"signatureVerification": Map{"level": "strict"},
		"trustStores":           []string{"ca:acme"},
		"trustedIdentities":     []string{"*"},
	}}}
}

// servesTLS says whether the configuration has the section server.tls.
func servesTLS(path string) (bool, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return false, err
	}
	var config struct {
		Server struct {
			TLS *yaml.Node `yaml:"tls"`
		} `yaml:"server"`
	}
	// What is no configuration is for the process to refuse.
	_ = yaml.Unmarshal(text, &config)
	return config.Server.TLS != nil, nil
}

func with(base, more Map) Map {
	maps.Copy(base, more)
	return base
}
