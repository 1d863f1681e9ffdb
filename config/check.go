package config

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// checker looks at what no single field tells: fields against each other,
// names against what they refer to.
type checker struct {
	cfg    *Config
	broken Errors // found by the decoder
	errs   Errors
}

// check gives what is wrong with a decoded configuration beyond what the
// decoder found. Sections in which it found something are passed over, since
// what is missing there may only be unreadable.
func check(cfg *Config, broken Errors) Errors {
	c := &checker{cfg: cfg, broken: broken}
	if c.clean("registry") {
		c.sections()
	}
	if c.cfg.Serves() && c.clean("server") {
		c.listener("server", cfg.Server.TLS, cfg.Server.InsecureHTTP)
		c.limits()
	}
	c.addresses()
	c.keeping()
	c.named()
	if cfg.Canary != nil && c.clean("canary", "server") {
		c.canary()
	}
	return c.errs
}

// canary refuses one that nobody decides on, or that says nothing.
func (c *checker) canary() {
	switch {
	case !c.cfg.Serves():
		c.fail("canary", "needs server and policy, which decide on its images", "leave the section out")
	case len(c.cfg.Canary.MustPass)+len(c.cfg.Canary.MustFail) == 0:
		c.fail("canary", "names no image", "add mustPass and mustFail")
	}
	if spaced := c.namespaced(); spaced >= 0 && c.cfg.Canary.Namespace == "" {
		c.fail("canary", fmt.Sprintf("policy.rules[%d] names namespaces and the canary none: all of its images are denied", spaced), "set canary.namespace")
	}
	for _, image := range c.cfg.Canary.MustPass {
		if i := slices.Index(c.cfg.Canary.MustFail, image); i >= 0 {
			c.fail(fmt.Sprintf("canary.mustFail[%d]", i), "must pass too, by canary.mustPass", "")
		}
	}
}

// namespaced is the first rule that names namespaces, -1 if none does.
func (c *checker) namespaced() int {
	return slices.IndexFunc(c.cfg.Policy.Rules, func(r Rule) bool { return len(r.Namespaces) > 0 })
}

// keeping checks the sections that cache and registry are made of.
func (c *checker) keeping() {
	if c.cfg.Cache != nil && c.clean("cache") {
		c.cache()
	}
	if c.cfg.Cache != nil && c.clean("cache", "server", "proofs") {
		c.replica()
	}
	if c.cfg.Registry != nil && c.clean("registry") {
		c.registry()
	}
	if c.cfg.Registry != nil && c.clean("registry", "policy") {
		c.enforceAs()
	}
}

// named checks the sections that are lists of things with names, and what
// refers to them.
func (c *checker) named() {
	cfg := c.cfg
	if c.clean("stores") {
		unique(c, "stores", cfg.Stores, func(s Component) string { return s.Name })
	}
	if c.clean("verifiers") {
		unique(c, "verifiers", cfg.Verifiers, func(v Component) string { return v.Name })
	}
	if c.clean("trust") {
		c.trust()
	}
	if c.clean("governor") {
		c.governor()
	}
	if c.clean("policy") {
		c.policy()
	}
}

func (c *checker) clean(sections ...string) bool {
	for _, e := range c.broken {
		for _, section := range sections {
			rest, within := strings.CutPrefix(e.Path, section)
			if within && (rest == "" || rest[0] == '.' || rest[0] == '[') {
				return false
			}
		}
	}
	return true
}

func (c *checker) fail(path, message, hint string) {
	pos := c.cfg.Place(path)
	pos.Path = path
	c.errs = append(c.errs, &Error{Position: pos, Message: message, Hint: hint})
}

// unique refuses a second item of the same name.
func unique[T any](c *checker, path string, items []T, name func(T) string) {
	first := make(map[string]int, len(items))
	for i, item := range items {
		at := fmt.Sprintf("%s[%d]", path, i)
		if j, twice := first[name(item)]; twice {
			line := c.cfg.Place(fmt.Sprintf("%s[%d]", path, j)).Line
			c.fail(at+".name", fmt.Sprintf("%s is the name of another", quote(name(item))), fmt.Sprintf("see line %d", line))
			continue
		}
		first[name(item)] = i
	}
}

// listener checks whom a section that listens lets in.
func (c *checker) listener(path string, tls *TLS, insecure bool) {
	switch {
	case tls != nil && insecure:
		c.fail(path+".insecureHTTP", "tls and insecureHTTP: true exclude each other", "leave one of them out")
	case tls == nil && !insecure:
		c.fail(path+".insecureHTTP", "the "+path+" has neither tls nor insecureHTTP: true", "give it a tls certificate and key")
	case tls != nil:
		c.tls(path+".tls", tls)
	}
}

func (c *checker) tls(path string, t *TLS) {
	switch {
	case t.ClientCA != "" && t.InsecureAnyClient:
		c.fail(path+".insecureAnyClient", "clientCA and insecureAnyClient: true exclude each other", "leave one of them out")
	case t.ClientCA != "" && len(t.ClientNames) == 0:
		hint := "any certificate of that authority would do"
		if path == "server.tls" {
			hint += "; for Gatekeeper: clientNames: [gatekeeper-webhook-service.gatekeeper-system.svc]"
		}
		c.fail(path+".clientCA", "clientCA needs clientNames", hint)
	case t.ClientCA == "" && len(t.ClientNames) > 0:
		c.fail(path+".clientNames", "clientNames needs clientCA", "names are proven by certificates of clientCA only")
	case t.ClientCA == "" && !t.InsecureAnyClient:
		c.fail(path, "without clientCA every client is let in", "name clientCA and clientNames, or set insecureAnyClient: true")
	}
	for i, name := range t.ClientNames {
		if !hostName.MatchString(name) {
			c.fail(fmt.Sprintf("%s.clientNames[%d]", path, i), quote(name)+" is not a DNS name", "names are compared whole, without wildcards")
		}
	}
}

// maxMemory is the most that all bounds on memory together may be.
const maxMemory = 16 << 30

func (c *checker) limits() {
	limits, kept := c.cfg.Server.Limits, c.cfg.Proofs.MaxBytes
	switch {
	case int64(limits.KeyBytes) > limits.BodyBytes:
		c.fail("server.limits.keyBytes", "a key may be longer than a whole body", "keep it below bodyBytes")
	case limits.BodyBytes > limits.InFlightBytes/4:
		c.fail("server.limits.bodyBytes", "a body may be larger than all bodies together, which have a quarter of inFlightBytes", "lower it, or raise inFlightBytes")
	case limits.InFlightBytes+kept > maxMemory:
		c.fail("server.limits.inFlightBytes", "together with proofs.maxBytes this is more than 16GiB", "")
	}
}

// listening is one address to listen on.
type listening struct {
	section, path, address string
	whose, hint            string
}

// addresses checks those of sections that were read whole, each against the
// former ones.
func (c *checker) addresses() {
	var former []listening
	for _, l := range c.listening() {
		if !c.clean(l.section) || !c.address(l.path, l.address) {
			continue
		}
		same := func(f listening) bool { return f.address == l.address && !strings.HasSuffix(l.address, ":0") }
		if i := slices.IndexFunc(former, same); i >= 0 {
			c.fail(l.path, "is "+former[i].whose+" address as well", l.hint)
		}
		former = append(former, l)
	}
}

func (c *checker) listening() []listening {
	var all []listening
	if c.cfg.Serves() {
		all = append(all, listening{"server", "server.address", c.cfg.Server.Address, "the server's", ""})
	}
	all = append(all, listening{"admin", "admin.address", c.cfg.Admin.Address, "admin's", "health and metrics need an address of their own"})
	if c.cfg.Registry != nil {
		all = append(all, listening{"registry", "registry.address", c.cfg.Registry.Address, "the registry's", "pulls need an address of their own"})
	}
	if c.cfg.Cache != nil && c.cfg.Cache.Control.Address != "" {
		all = append(all, listening{"cache", "cache.control.address", c.cfg.Cache.Control.Address, "", "control needs an address of its own"})
	}
	return all
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}))*$`)

func (c *checker) address(path, text string) bool {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		c.fail(path, quote(text)+" is not host:port", `for all addresses of the machine ":6001", for this machine only "127.0.0.1:6001"`)
		return false
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		c.fail(path, "the port "+quote(port)+" is not a number from 0 to 65535", "")
		return false
	}
	if _, err := netip.ParseAddr(host); err != nil && host != "" && !hostName.MatchString(host) {
		c.fail(path, "the host "+quote(host)+" is neither an address nor a name", "")
		return false
	}
	return true
}

func (c *checker) trust() {
	sets := c.cfg.Trust.Certificates
	unique(c, "trust.certificates", sets, func(s Certificates) string { return string(s.Type) + ":" + s.Name })
	for i, set := range sets {
		at := fmt.Sprintf("trust.certificates[%d]", i)
		switch {
		case len(set.Files) == 0 && set.Inline == "":
			c.fail(at, "has no certificates", "name files, or give them inline")
		case strings.Contains(set.Inline, "PRIVATE KEY"):
			c.fail(at+".inline", "holds a private key", "remove it, and replace the key: it has been exposed")
		case set.Inline != "" && !strings.Contains(set.Inline, "-----BEGIN CERTIFICATE-----"):
			c.fail(at+".inline", "has no certificate in PEM", "files are named under files")
		}
	}
}

func (c *checker) governor() {
	if g := c.cfg.Governor; g.PerHost.StartInFlight > g.PerHost.MaxInFlight {
		c.fail("governor.perHost.startInFlight", "is more than maxInFlight", "")
	}
}

// warnings are what a valid configuration should still tell its operator.
func warnings(cfg *Config) Errors {
	c := &checker{cfg: cfg}
	for i, rule := range cfg.Policy.Rules {
		if len(rule.Namespaces) > 0 && cfg.Serves() && cfg.Server.NamespaceFrom == NamespaceFromNone {
			c.fail(fmt.Sprintf("policy.rules[%d].namespaces", i), "a rule names namespaces and server.namespaceFrom is none: every key is denied", "set it to key or path")
		}
	}
	c.idle()
	c.errs.sort()
	return c.errs
}

// idle tells what a file without a server has in vain, and what should not be
// sent unencrypted.
func (c *checker) idle() {
	if !c.cfg.Serves() && !c.cfg.Registry.Enforces() {
		for _, path := range []string{"policy", "cache.onRegistryDown"} {
			if c.cfg.has(path) {
				c.fail(path, "has no effect without server, or a registry that enforces", "")
			}
		}
	}
	r := c.cfg.Registry
	if r != nil && r.InsecureHTTP && len(r.Clients.TokenFiles) > 0 && !isLoopback(r.Address) {
		c.fail("registry.clients.tokenFiles", "tokens cross the network unencrypted", "give the registry tls")
	}
}
