package oras

import (
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"strings"
	"sync/atomic"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/credential"
	"github.com/gatehouse-project/gatehouse/referrerstore/guard"
)

// Options are what a store entry of the configuration says beside its name and
// type. Hosts are canonical or made so: lower case, without ":443".
type Options struct {
	// Hosts are patterns of the registry hosts that this store serves; none
	// means all. "*" stays within one label; "**" alone is every host.
	Hosts []string `yaml:"hosts" min:"1" doc:"Patterns of the registry hosts that the store serves, all if left out: * stays within one label, ** alone is every host."`
	// PlainHTTP lists hosts, with their ports, that are talked to over http
	// and may have private addresses.
	PlainHTTP []string `yaml:"plainHTTP" doc:"Hosts, with their ports, that are talked to over http; they may have private addresses."`
	// AllowPrivate lists what may have private addresses: a host, a suffix
	// such as "*.corp.example", or a CIDR.
	AllowPrivate []string `yaml:"allowPrivate" doc:"What may have private addresses: a host, *.suffix or CIDR."`
	// CA maps a host to PEM files of the only authorities trusted for it.
	CA map[string][]string `yaml:"ca" doc:"For a host, PEM files of the only authorities trusted for it, in place of the system's."`
	// Mirrors maps a host to https URLs asked first for content by digest.
	// Tags and referrers come from the host itself, and so does content that
	// no mirror delivers.
	Mirrors map[string][]string `yaml:"mirrors" doc:"For a host, https://host[:port] URLs that are asked first for content by digest; tags and referrers come from the host itself."`
	// Credentials are tried in their order; the first that knows the host is
	// used.
	Credentials []credential.Entry `yaml:"credentials" doc:"Where credentials come from; the first entry that knows the host is used."`
	// Realms maps a registry host to further hosts whose token service may
	// see its credentials, and have a private address as far as PlainHTTP and
	// AllowPrivate say. A token service on the registry's own host may always,
	// and auth.docker.io for docker.io.
	Realms map[string][]string `yaml:"realms" doc:"For a registry host, further hosts whose token service may see its credentials or be at a private address; its own host may, and auth.docker.io for docker.io."`
}

// settings are Options parsed and their files read. They are immutable, but
// for what a mirror remembers of its failures.
type settings struct {
	store      string
	hosts      []referrerstore.HostPattern
	plain      map[string]bool
	named      map[string]bool // by options that are for a host
	realms     map[string]map[string]bool
	mirrors    map[string][]*mirror
	transports *transports
	// pullTransports are the same ways with connections of their own.
	pullTransports *transports
	files          []string
}

// mirror is a host that may have another's content.
type mirror struct {
	host      string
	downUntil atomic.Int64 // unix nanoseconds; not asked before
}

func newSettings(name string, opts Options, deps Deps) (*settings, error) {
	set := &settings{store: name}
	for _, step := range []func(Options, Deps) error{
		set.readHosts, set.readPlain, set.readRealms, set.readMirrors,
		set.readTransports,
	} {
		if err := step(opts, deps); err != nil {
			return nil, err
		}
	}
	set.named = maps.Clone(set.plain)
	for host := range set.realms {
		set.named[host] = true
	}
	for host, mirrors := range set.mirrors {
		set.named[host] = true
		for _, m := range mirrors {
			set.named[m.host] = true
		}
	}
	for text := range opts.CA {
		host, _ := referrerstore.CanonicalHost(text) // readTransports has checked it
		set.named[host] = true
	}
	return set, nil
}

func (set *settings) readHosts(opts Options, _ Deps) (err error) {
	set.hosts, err = parsePatterns(opts.Hosts)
	if err != nil {
		return fmt.Errorf("hosts: %w", err)
	}
	return nil
}

func parsePatterns(texts []string) ([]referrerstore.HostPattern, error) {
	patterns := make([]referrerstore.HostPattern, len(texts))
	for i, text := range texts {
		pattern, err := referrerstore.ParseHostPattern(text)
		if err != nil {
			return nil, err
		}
		patterns[i] = pattern
	}
	return patterns, nil
}

func (set *settings) readPlain(opts Options, _ Deps) (err error) {
	set.plain, err = canonicalSet(opts.PlainHTTP)
	if err != nil {
		return fmt.Errorf("plainHTTP: %w", err)
	}
	return nil
}

func canonicalSet(hosts []string) (map[string]bool, error) {
	set := make(map[string]bool, len(hosts))
	for _, text := range hosts {
		host, err := referrerstore.CanonicalHost(text)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", text, err)
		}
		set[host] = true
	}
	return set, nil
}

func (set *settings) readRealms(opts Options, _ Deps) error {
	set.realms = make(map[string]map[string]bool, len(opts.Realms))
	for text, hosts := range opts.Realms {
		host, err := referrerstore.CanonicalHost(text)
		if err != nil {
			return fmt.Errorf("realms %q: %w", text, err)
		}
		if set.realms[host], err = canonicalSet(hosts); err != nil {
			return fmt.Errorf("realms %q: %w", text, err)
		}
	}
	return nil
}

func (set *settings) readMirrors(opts Options, _ Deps) error {
	set.mirrors = make(map[string][]*mirror, len(opts.Mirrors))
	for text, urls := range opts.Mirrors {
		host, err := referrerstore.CanonicalHost(text)
		if err != nil {
			return fmt.Errorf("mirrors %q: %w", text, err)
		}
		for _, raw := range urls {
			at, err := set.mirrorHost(raw)
			if err != nil {
				return fmt.Errorf("mirrors %q: %q: %w", text, raw, err)
			}
			set.mirrors[host] = append(set.mirrors[host], &mirror{host: at})
		}
	}
	return nil
}

func (set *settings) mirrorHost(raw string) (string, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return "", errors.New("it is not a URL")
	}
	if u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return "", errors.New("it is not of the form https://host[:port]")
	}
	host, err := referrerstore.CanonicalHost(u.Host)
	if err != nil {
		return "", err
	}
	if set.plain[host] {
		return "", errors.New("it is in plainHTTP as well")
	}
	return host, nil
}

// mayBePrivate is what the guard lets through: hosts talked to over plain HTTP
// with exactly their port, and allowPrivate.
func (set *settings) mayBePrivate(opts Options) []string {
	all := append([]string(nil), opts.AllowPrivate...)
	for host := range set.plain {
		all = append(all, withPort(host, "80"))
	}
	return all
}

func withPort(host, port string) string {
	if strings.LastIndexByte(host, ':') > strings.LastIndexByte(host, ']') {
		return host
	}
	return host + ":" + port
}

func (set *settings) readTransports(opts Options, deps Deps) error {
	private := set.mayBePrivate(opts)
	where := fmt.Sprintf("allowPrivate of store %q", set.store)
	open, err := guard.New(guard.Options{AllowPrivate: private, Where: where, Resolver: deps.Resolver, Proxy: deps.Proxy})
	if err != nil {
		return err
	}
	authorities, err := set.readCA(opts, deps)
	if err != nil {
		return err
	}
	if len(private) == 0 {
		set.transports, set.pullTransports = newTransports(open, nil, authorities), newTransports(open, nil, authorities)
		return nil
	}
	where += ", and so the host that leads there"
	strict, err := guard.New(guard.Options{Where: where, Resolver: deps.Resolver, Proxy: deps.Proxy})
	if err != nil {
		return err
	}
	set.transports, set.pullTransports = newTransports(open, strict, authorities), newTransports(open, strict, authorities)
	return nil
}

func (set *settings) readCA(opts Options, deps Deps) (map[string]*x509.CertPool, error) {
	authorities := make(map[string]*x509.CertPool, len(opts.CA))
	for text, paths := range opts.CA {
		host, err := referrerstore.CanonicalHost(text)
		if err != nil {
			return nil, fmt.Errorf("ca %q: %w", text, err)
		}
		if authorities[host], err = set.readRoots(deps, paths); err != nil {
			return nil, fmt.Errorf("ca %q: %w", text, err)
		}
	}
	return authorities, nil
}
