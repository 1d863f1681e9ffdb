package config

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
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
	if c.clean("server") {
		c.server()
		c.limits()
	}
	if c.clean("server", "admin") {
		c.addresses()
	}
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
	return c.errs
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

func (c *checker) server() {
	switch s := c.cfg.Server; {
	case s.TLS != nil && s.InsecureHTTP:
		c.fail("server.insecureHTTP", "tls and insecureHTTP: true exclude each other", "leave one of them out")
	case s.TLS == nil && !s.InsecureHTTP:
		c.fail("server.insecureHTTP", "the server has neither tls nor insecureHTTP: true", "give it a tls certificate and key")
	case s.TLS != nil:
		c.tls(s.TLS)
	}
}

func (c *checker) tls(t *TLS) {
	switch {
	case t.ClientCA != "" && t.InsecureAnyClient:
		c.fail("server.tls.insecureAnyClient", "clientCA and insecureAnyClient: true exclude each other", "leave one of them out")
	case t.ClientCA != "" && len(t.ClientNames) == 0:
		c.fail("server.tls.clientCA", "clientCA needs clientNames", "any certificate of that authority would do; for Gatekeeper: clientNames: [gatekeeper-webhook-service.gatekeeper-system.svc]")
	case t.ClientCA == "" && len(t.ClientNames) > 0:
		c.fail("server.tls.clientNames", "clientNames needs clientCA", "names are proven by certificates of clientCA only")
	case t.ClientCA == "" && !t.InsecureAnyClient:
		c.fail("server.tls", "without clientCA every client is let in", "name clientCA and clientNames, or set insecureAnyClient: true")
	}
	for i, name := range t.ClientNames {
		if !hostName.MatchString(name) {
			c.fail(fmt.Sprintf("server.tls.clientNames[%d]", i), quote(name)+" is not a DNS name", "names are compared whole, without wildcards")
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

func (c *checker) addresses() {
	server := c.address("server.address", c.cfg.Server.Address)
	admin := c.address("admin.address", c.cfg.Admin.Address)
	if server && admin && c.cfg.Server.Address == c.cfg.Admin.Address && !strings.HasSuffix(c.cfg.Admin.Address, ":0") {
		c.fail("admin.address", "is the server's address as well", "health and metrics need an address of their own")
	}
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
	const idle = "has no effect in this version"
	for _, path := range []string{"server.mutateTimeout"} {
		if _, present := cfg.places[path]; present {
			c.fail(path, idle, "")
		}
	}
	for i, rule := range cfg.Policy.Rules {
		if len(rule.Namespaces) > 0 && cfg.Server.NamespaceFrom == NamespaceFromNone {
			c.fail(fmt.Sprintf("policy.rules[%d].namespaces", i), "a rule names namespaces and server.namespaceFrom is none: every key is denied", "set it to key or path")
		}
	}
	c.errs.sort()
	return c.errs
}
