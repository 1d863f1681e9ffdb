package config

import (
	"path/filepath"
	"time"
)

// Cache keeps content by digest in a folder, with what registries said of it.
type Cache struct {
	Directory      string         `yaml:"directory" required:"true" doc:"Folder of the cache; made if it is not there. One process writes to it."`
	MaxBytes       int64          `yaml:"maxBytes" unit:"bytes" default:"10GiB" min:"1MiB" doc:"Content on disk; pruning starts at nine tenths of it and ends at eight."`
	MinFreeBytes   int64          `yaml:"minFreeBytes" unit:"bytes" default:"0B" min:"0B" doc:"What is left free on the file system."`
	MaxAge         time.Duration  `yaml:"maxAge" default:"0s" min:"0s" doc:"Drop what was not pulled for so long; 0s never does."`
	Keep           []string       `yaml:"keep" max:"1000" doc:"Globs over HOST/REPOSITORY, as images of a rule, of which nothing is pruned."`
	ReplicaBytes   int64          `yaml:"replicaBytes" unit:"bytes" default:"64MiB" min:"1MiB" max:"16GiB" doc:"Memory for objects of up to 64 KiB, beside inFlightBytes; the rest is read from disk."`
	Durability     Durability     `yaml:"durability" default:"full" enum:"full,fast" doc:"What a commit survives: full, a power cut; fast, a killed process only."`
	Lease          time.Duration  `yaml:"lease" default:"10m" min:"1s" max:"720h" doc:"How long nothing is pruned that was just pulled."`
	Control        Control        `yaml:"control" doc:"Where gatehouse cache reaches the live process."`
	OnRegistryDown []RegistryDown `yaml:"onRegistryDown" max:"100" doc:"Registries whose images are decided from what is held while they are down; the first line that matches counts, no match means never."`
}

// Durability says what a commit to the cache survives.
type Durability string

// The durabilities.
const (
	DurabilityFull Durability = "full"
	DurabilityFast Durability = "fast"
)

// Control is where commands reach the process that holds the cache. Empty
// fields are not meant; see [Config.ControlSocket].
type Control struct {
	Socket    string `yaml:"socket" doc:"Unix socket, of mode 0600; control.sock in the cache's directory if left out."`
	Address   string `yaml:"address" doc:"Loopback address to listen on as well, host:port; needs tokenFile."`
	TokenFile string `yaml:"tokenFile" doc:"File with the token that a caller at address shows; read again when it changes."`
}

// RegistryDown says for some registries how long what is held decides while
// they cannot be reached.
type RegistryDown struct {
	Registries          []string        `yaml:"registries" required:"true" min:"1" max:"100" doc:"Registry hosts, with patterns as in hosts of a store."`
	UseHeld             time.Duration   `yaml:"useHeld" required:"true" min:"1s" max:"720h" doc:"Oldest evidence that may still decide, counted from when the registry gave it."`
	Tags                bool            `yaml:"tags" default:"false" doc:"Also for images that are named by tag alone; otherwise by digest only."`
	WhenRevocationStale RevocationStale `yaml:"whenRevocationStale" default:"deny" enum:"deny,accept" doc:"What becomes of an image whose revocation cannot be checked any more."`
	Pos                 Position        `yaml:"-"`
}

// RevocationStale says what a revocation check that is out of date means while
// a registry is down.
type RevocationStale string

// The answers to it.
const (
	RevocationStaleDeny   RevocationStale = "deny"
	RevocationStaleAccept RevocationStale = "accept"
)

// PullThrough is a registry that hands out what other registries have, by way
// of the cache.
type PullThrough struct {
	Address             string      `yaml:"address" required:"true" doc:"Address to listen on, host:port; port 0 takes a free one."`
	TLS                 *TLS        `yaml:"tls" doc:"Certificate of the registry, and whom it lets in."`
	InsecureHTTP        bool        `yaml:"insecureHTTP" default:"false" doc:"Serve without TLS. Exactly one of tls and insecureHTTP: true is needed."`
	Upstreams           []string    `yaml:"upstreams" max:"1000" doc:"Hosts that may be pulled through, HOST or HOST:PORT, each served by a store. Needed with airGapped too: the hosts whose images are held."`
	Default             string      `yaml:"default" doc:"The upstream of requests that name none."`
	TagPolicies         []TagPolicy `yaml:"tagPolicies" max:"100" doc:"When a tag is asked for again, by upstream; the first that names the upstream counts, no match means always."`
	AirGapped           bool        `yaml:"airGapped" default:"false" doc:"Serve what is held and ask nobody."`
	Clients             Clients     `yaml:"clients" doc:"How clients show who they are, beside certificates."`
	PrivateForAnyClient []string    `yaml:"privateForAnyClient" max:"1000" doc:"Upstreams with credentials that any client may read nevertheless."`
	Enforce             Enforce     `yaml:"enforce" default:"false" enum:"false,warn,true" doc:"true serves only what the policy allows now; warn logs what it would not. Without quotes."`
	EnforceAs           string      `yaml:"enforceAs" pattern:"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$" doc:"Namespace that pulls are judged in; needed if rules name namespaces."`
	Preload             *Preload    `yaml:"preload" doc:"What is brought into the cache at start."`
	Connections         int         `yaml:"connections" default:"1024" min:"1" max:"1000000" doc:"Open connections."`
}

// TagPolicyMode says when a tag is asked for again.
type TagPolicyMode string

// The modes.
const (
	TagAlways   TagPolicyMode = "always"
	TagInterval TagPolicyMode = "interval"
	TagIfAbsent TagPolicyMode = "ifAbsent"
)

// TagPolicy says for some upstreams when a tag is asked for again. It never
// serves admission.
type TagPolicy struct {
	Upstreams    []string      `yaml:"upstreams" required:"true" min:"1" max:"1000" doc:"Upstreams that it is for."`
	Policy       TagPolicyMode `yaml:"policy" default:"always" enum:"always,interval,ifAbsent" doc:"Ask at each pull, once in an interval, or only for tags that are not held."`
	Interval     time.Duration `yaml:"interval" default:"5m" min:"1s" max:"720h" doc:"How long a tag is not asked for again; with policy interval only."`
	StaleIfError time.Duration `yaml:"staleIfError" default:"0s" min:"0s" max:"720h" doc:"How old a tag may be that is served because its upstream is down; 0s serves none."`
	Pos          Position      `yaml:"-"`
}

// Clients says how clients of the registry show who they are.
type Clients struct {
	TokenFiles []string `yaml:"tokenFiles" min:"1" max:"100" doc:"Files with tokens that clients may show; read again when they change."`
}

// Enforce says what the registry does with the policy.
type Enforce string

// The values of Enforce. In the file off and on are YAML's false and true.
const (
	EnforceOff  Enforce = "false"
	EnforceWarn Enforce = "warn"
	EnforceOn   Enforce = "true"
)

// Preload is what is brought into the cache at start, and only then.
type Preload struct {
	Files     []string `yaml:"files" required:"true" min:"1" max:"100" doc:"Lists of images, one full reference in a line, which are pulled; and archives, which are loaded: OCI image layouts (a folder, or a tarball) and what docker save writes."`
	Platforms []string `yaml:"platforms" min:"1" max:"100" pattern:"^[a-z0-9]+/[a-z0-9]+(/[a-z0-9.]+)?$" doc:"Platforms to bring in of images that have several, OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT; all if left out."`
}

// Enforces reports whether the policy is asked about pulls, be it for the log
// alone. A registry that is off, nil, does not.
func (p *PullThrough) Enforces() bool { return p != nil && p.Enforce != EnforceOff }

// Serves reports whether the file has a section server. Without it Server
// holds defaults, and nothing is to listen there.
func (c *Config) Serves() bool { return c.has("server") }

// Decides reports whether the file has a section policy.
func (c *Config) Decides() bool { return c.has("policy") }

func (c *Config) has(path string) bool {
	_, there := c.places[path]
	return there
}

// ControlSocket is the resolved path of the cache's control socket, empty
// without a cache.
func (c *Config) ControlSocket() string {
	switch {
	case c.Cache == nil:
		return ""
	case c.Cache.Control.Socket != "":
		return c.Path(c.Cache.Control.Socket)
	default:
		return filepath.Join(c.Path(c.Cache.Directory), "control.sock")
	}
}
