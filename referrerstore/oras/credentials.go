package oras

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

const (
	dockerConfigType = "dockerConfig"
	// credentialLife is how long the answer of a credential helper is kept.
	credentialLife = 5 * time.Minute
	// dockerHubServer is what Docker's files and helpers call Docker Hub.
	dockerHubServer = "https://index.docker.io/v1/"
)

// credential is what proves who asks. It never shows itself in logs.
type credential struct {
	user, password string
	identityToken  string // is shown to a token service for an access token
	registryToken  string // is an access token
}

// LogValue, String and GoString keep secrets out of logs and errors.
func (c credential) LogValue() slog.Value { return slog.StringValue("[hidden]") }
func (c credential) String() string       { return "[hidden]" }
func (c credential) GoString() string     { return "[hidden]" }

func (c credential) empty() bool { return c == credential{} }

// heldCredential is a credential kept for a while. It is immutable.
type heldCredential struct {
	credential
	until time.Time
}

// credentials are the client's, empty if it has none; held says that they were
// kept from before. That a helper fails is an error: whoever has credentials
// never goes on without.
func (c *client) credentials(ctx context.Context) (cred *heldCredential, held bool, err error) {
	now := time.Now()
	if cred := c.credential.Load(); cred != nil && now.Before(cred.until) {
		return cred, true, nil
	}
	var found credential
	if c.source != nil {
		found, err = c.source.find(ctx, c.store, c.key.host)
		if err != nil {
			return nil, false, fmt.Errorf("credentials for %s: %w", c.key.host, err)
		}
	}
	cred = &heldCredential{credential: found, until: now.Add(credentialLife)}
	c.credential.Store(cred)
	return cred, false, nil
}

// dockerConfig is one config.json and the hosts that it may be used for. It is
// immutable once parsed.
type dockerConfig struct {
	identity string
	named    bool // for every host that the file names
	patterns []referrerstore.HostPattern

	auths      map[string]credential // by canonical host
	helpers    map[string]helper     // by canonical host
	credsStore string
	ignored    []string // entries for a part of a host
}

// helper is a credential helper and what it calls the host.
type helper struct{ suffix, server string }

// sourceFor is the first source whose entry lets the host use it and that has
// something for it; nil if none does.
func (set *settings) sourceFor(host string) *dockerConfig {
	for _, source := range set.credentials {
		if source.serves(host) {
			return source
		}
	}
	return nil
}

func (d *dockerConfig) serves(host string) bool {
	_, inAuths := d.auths[host]
	_, inHelpers := d.helpers[host]
	if d.named && (inAuths || inHelpers) {
		return true
	}
	matches := func(p referrerstore.HostPattern) bool { return p.Match(host) }
	return slices.ContainsFunc(d.patterns, matches) && (inAuths || inHelpers || d.credsStore != "")
}

// find follows Docker's order: the host's own helper, the helper for all, the
// file itself.
func (d *dockerConfig) find(ctx context.Context, s *Store, host string) (credential, error) {
	if own, ok := d.helpers[host]; ok {
		return s.askHelper(ctx, d.identity, own)
	}
	if d.credsStore != "" {
		return s.askHelper(ctx, d.identity, helper{suffix: d.credsStore, server: serverOf(host)})
	}
	return d.auths[host], nil
}

func serverOf(host string) string {
	if host == dockerHub {
		return dockerHubServer
	}
	return host
}

// parse reads a config.json. Its errors never quote the file.
func (d *dockerConfig) parse(data []byte) error {
	var file struct {
		Auths       map[string]dockerAuth `json:"auths"`
		CredHelpers map[string]string     `json:"credHelpers"`
		CredsStore  string                `json:"credsStore"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return errors.New("it is not a Docker config.json")
	}
	if file.CredsStore != "" && !isHelperName(file.CredsStore) {
		return errors.New("credsStore is not the name of a helper")
	}
	d.credsStore = file.CredsStore
	if err := d.readHelpers(file.CredHelpers); err != nil {
		return err
	}
	return d.readAuths(file.Auths)
}

func (d *dockerConfig) readHelpers(entries map[string]string) error {
	d.helpers = make(map[string]helper, len(entries))
	for _, key := range keysByRank(entries) {
		host, part, err := hostOfServer(key)
		if err != nil || !isHelperName(entries[key]) {
			return fmt.Errorf("credHelpers: the entry %q is not a host with the name of a helper", key)
		}
		if part {
			d.ignored = append(d.ignored, key)
			continue
		}
		if _, taken := d.helpers[host]; !taken {
			server := key
			if host == dockerHub {
				server = dockerHubServer
			}
			d.helpers[host] = helper{suffix: entries[key], server: server}
		}
	}
	return nil
}

func (d *dockerConfig) readAuths(entries map[string]dockerAuth) error {
	d.auths = make(map[string]credential, len(entries))
	for _, key := range keysByRank(entries) {
		host, part, err := hostOfServer(key)
		if err != nil {
			return fmt.Errorf("auths: %q is not a host", key)
		}
		if part {
			d.ignored = append(d.ignored, key)
			continue
		}
		if _, taken := d.auths[host]; taken {
			continue
		}
		if d.auths[host], err = entries[key].credential(); err != nil {
			return fmt.Errorf("auths %q: %w", key, err)
		}
	}
	return nil
}

// keysByRank orders the names that a file has for hosts, so that where two mean
// one host the shorter wins: "registry.example" over "registry.example/v1/".
func keysByRank[V any](entries map[string]V) []string {
	keys := make([]string, 0, len(entries))
	for key := range entries {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b string) int {
		if len(a) != len(b) {
			return len(a) - len(b)
		}
		return strings.Compare(a, b)
	})
	return keys
}

// hostOfServer is the canonical host of a key in a config.json, which may be a
// host, a host with a path, or a URL. Part says that it is for what is below a
// path alone: clients are of hosts, so it must not become the host's.
func hostOfServer(key string) (host string, part bool, err error) {
	host, path, _ := strings.Cut(key, "/")
	if strings.Contains(key, "://") {
		u, err := url.Parse(key)
		if err != nil {
			return "", false, errors.New("it is not a URL")
		}
		host, path = u.Host, u.Path
	}
	host, err = referrerstore.CanonicalHost(host)
	switch strings.Trim(path, "/") {
	case "", "v1", "v2": // the API's own, which stands for the whole host
		return host, false, err
	}
	return host, true, err
}

// dockerAuth is an entry of "auths".
type dockerAuth struct {
	Auth          string `json:"auth"`
	Username      string `json:"username"`
	Password      string `json:"password"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

func (a dockerAuth) credential() (credential, error) {
	cred := credential{
		user: a.Username, password: a.Password,
		identityToken: a.IdentityToken, registryToken: a.RegistryToken,
	}
	if a.Auth == "" {
		return cred, nil
	}
	decoded, err := base64.StdEncoding.DecodeString(a.Auth)
	user, password, ok := strings.Cut(string(decoded), ":")
	if err != nil || !ok {
		return credential{}, errors.New("auth is not the base64 of user:password")
	}
	cred.user, cred.password = user, strings.Trim(password, "\x00")
	return cred, nil
}
