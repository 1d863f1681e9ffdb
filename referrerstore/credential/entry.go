package credential

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// Entry is one line of the table as a configuration has it: hosts, type, and
// the options of all types, of which a line may only have those of its own.
type Entry struct {
	// Hosts are patterns of the hosts that the credentials are for.
	Hosts []string `yaml:"hosts" required:"true" min:"1" doc:"Patterns of the hosts that the credentials are for; for dockerConfig * alone is every host that the file itself names."`
	// Type is the kind of source.
	Type string `yaml:"type" required:"true" enum:"dockerConfig,static,kubernetes,azure,aws,google" doc:"dockerConfig: a config.json of Docker, with its credential helpers. static: files. kubernetes: a secret of the cluster. azure, aws, google: the workload's own identity in that cloud."`
	// Path is a file that says more.
	Path string `yaml:"path" doc:"dockerConfig: the file. google: a file of type external_account, in place of the metadata service."`
	// Username goes with PasswordFile.
	Username string `yaml:"username" doc:"static: the user name that goes with passwordFile."`
	// PasswordFile holds a password and nothing else.
	PasswordFile string `yaml:"passwordFile" doc:"static: a file that holds the password; read again when it changes."`
	// IdentityTokenFile holds an identity token and nothing else.
	IdentityTokenFile string `yaml:"identityTokenFile" doc:"static: in place of user name and password, a file that holds an identity token (OAuth2 refresh token) for the registry's token service."`
	// Namespace is that of the secret.
	Namespace string `yaml:"namespace" doc:"kubernetes: the namespace of the secret; that of Gatehouse's own pod if left out."`
	// Name is that of the secret.
	Name string `yaml:"name" doc:"kubernetes: the name of a secret of type kubernetes.io/dockerconfigjson or kubernetes.io/dockercfg."`
	// ClientID and TenantID choose an identity where there are several.
	ClientID string `yaml:"clientID" doc:"azure: the client ID of the identity, in place of AZURE_CLIENT_ID."`
	TenantID string `yaml:"tenantID" doc:"azure: the tenant of a workload identity, in place of AZURE_TENANT_ID."`
	// AnyHost lifts the rule that hosts are of the type's own domains.
	AnyHost bool `yaml:"anyHost" doc:"azure, aws, google: lets hosts name hosts outside of the cloud's own domains, which then see credentials of the cloud."`
}

// checkOptions refuses what an entry of the kind has no use for.
func (e Entry) checkOptions(kind Kind) error {
	v := reflect.ValueOf(e)
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
		if name == "hosts" || name == "type" || v.Field(i).IsZero() || slices.Contains(kind.Takes, name) {
			continue
		}
		return fmt.Errorf("%s is no option of type %q", name, e.Type)
	}
	return nil
}

// scope is which hosts an entry is for.
type scope struct {
	named    bool // those that the source names
	patterns []referrerstore.HostPattern
}

func (e Entry) scope(kind Kind) (s scope, err error) {
	if len(e.Hosts) == 0 {
		return s, errors.New("hosts is empty")
	}
	for _, text := range e.Hosts {
		if text == "*" {
			s.named = true
			continue
		}
		pattern, err := referrerstore.ParseHostPattern(text)
		if err != nil {
			return s, fmt.Errorf("hosts: %w", err)
		}
		if pattern.String() == "**" {
			return s, errors.New(`hosts: "**" would offer credentials to every host`)
		}
		if err := e.checkDomain(kind, pattern); err != nil {
			return s, err
		}
		s.patterns = append(s.patterns, pattern)
	}
	return s, nil
}

func (e Entry) checkDomain(kind Kind, pattern referrerstore.HostPattern) error {
	if e.AnyHost || len(kind.Domains) == 0 {
		return nil
	}
	for _, text := range kind.Domains {
		domain, err := referrerstore.ParseHostPattern(text)
		if err != nil {
			return err
		}
		if domain.Covers(pattern) {
			return nil
		}
	}
	return fmt.Errorf(`hosts: %q is not within %s; if it is to see credentials of the cloud all the same, add "anyHost: true" to the entry`,
		pattern, strings.Join(kind.Domains, ", "))
}

func (s scope) matches(host string) bool {
	return slices.ContainsFunc(s.patterns, func(p referrerstore.HostPattern) bool { return p.Match(host) })
}
