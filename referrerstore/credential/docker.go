package credential

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// DockerHub is Docker Hub's canonical host; DockerHubServer is what Docker's
// files and helpers call it.
const (
	DockerHub       = "docker.io"
	DockerHubServer = "https://index.docker.io/v1/"
)

// DockerConfig is what Docker's config.json says of credentials.
type DockerConfig struct {
	// Auths are those that stand in the file itself, by canonical host.
	Auths map[string]Credential
	// Helpers are the programs to be asked for a host, by canonical host.
	Helpers map[string]DockerHelper
	// Store is the helper for all hosts; may be empty.
	Store string
	// Ignored are keys for a part of a host, sorted.
	Ignored []string
}

// DockerHelper is a program docker-credential-NAME and what it calls a host.
type DockerHelper struct{ Name, Server string }

// ParseDockerConfig reads a config.json, of which it takes "auths",
// "credHelpers" and "credsStore" and nothing else. Entries for what lies below
// a path of a host are ignored: they would become the credentials of the whole
// host. Errors never quote secrets.
func ParseDockerConfig(data []byte) (DockerConfig, error) {
	var file struct {
		Auths       map[string]dockerAuth `json:"auths"`
		CredHelpers map[string]string     `json:"credHelpers"`
		CredsStore  string                `json:"credsStore"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return DockerConfig{}, errors.New("it is not a Docker config.json")
	}
	if file.CredsStore != "" && !isHelperName(file.CredsStore) {
		return DockerConfig{}, errors.New("credsStore is not the name of a helper")
	}
	d := DockerConfig{Store: file.CredsStore}
	if err := d.readHelpers(file.CredHelpers); err != nil {
		return DockerConfig{}, err
	}
	if err := d.readAuths(file.Auths); err != nil {
		return DockerConfig{}, err
	}
	slices.Sort(d.Ignored)
	return d, nil
}

// ParseDockerAuths reads the older form, a .dockercfg, which is "auths" alone.
func ParseDockerAuths(data []byte) (DockerConfig, error) {
	var auths map[string]dockerAuth
	if err := json.Unmarshal(data, &auths); err != nil {
		return DockerConfig{}, errors.New("it is not a .dockercfg of Docker")
	}
	var d DockerConfig
	err := d.readAuths(auths)
	slices.Sort(d.Ignored)
	return d, err
}

func (d *DockerConfig) readHelpers(entries map[string]string) error {
	d.Helpers = make(map[string]DockerHelper, len(entries))
	for _, key := range keysByRank(entries) {
		host, part, err := hostOfServer(key)
		if err != nil || !isHelperName(entries[key]) {
			return fmt.Errorf("credHelpers: the entry %q is not a host with the name of a helper", key)
		}
		if part {
			d.Ignored = append(d.Ignored, key)
			continue
		}
		if _, taken := d.Helpers[host]; !taken {
			server := key
			if host == DockerHub {
				server = DockerHubServer
			}
			d.Helpers[host] = DockerHelper{Name: entries[key], Server: server}
		}
	}
	return nil
}

func (d *DockerConfig) readAuths(entries map[string]dockerAuth) error {
	d.Auths = make(map[string]Credential, len(entries))
	for _, key := range keysByRank(entries) {
		host, part, err := hostOfServer(key)
		if err != nil {
			return fmt.Errorf("auths: %q is not a host", key)
		}
		if part {
			d.Ignored = append(d.Ignored, key)
			continue
		}
		if _, taken := d.Auths[host]; taken {
			continue
		}
		if d.Auths[host], err = entries[key].credential(); err != nil {
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

// isHelperName keeps a file from naming a program by a path.
func isHelperName(suffix string) bool {
	return suffix != "" && len(suffix) < 128 && !strings.ContainsAny(suffix, `/\`)
}

// dockerAuth is an entry of "auths".
type dockerAuth struct {
	Auth          string `json:"auth"`
	Username      string `json:"username"`
	Password      string `json:"password"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

func (a dockerAuth) credential() (Credential, error) {
	cred := Credential{
		User: a.Username, Password: a.Password,
		IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken,
	}
	if a.Auth == "" {
		return cred, nil
	}
	decoded, err := base64.StdEncoding.DecodeString(a.Auth)
	user, password, ok := strings.Cut(string(decoded), ":")
	if err != nil || !ok {
		return Credential{}, errors.New("auth is not the base64 of user:password")
	}
	cred.User, cred.Password = user, strings.Trim(password, "\x00")
	return cred, nil
}
