// Package guard dials only where the configuration lets it.
//
// Names of registries, of their token services, of redirect targets and of
// revocation responders come from people who may not be trusted with the
// network that Gatehouse stands in. A [Guard] looks at each address at the
// moment it is connected to, after the name was resolved, so that a name that
// changes its address between a check and its use gains nothing. Addresses
// that are not public are refused unless the configuration names the host that
// was asked for, or the address.
//
// [Guard.Transport] makes HTTP transports whose every connection goes through
// the guard, HTTP/2 included, and that know the proxies of the environment.
package guard

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/http/httpproxy"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

const (
	dialTimeout      = 5 * time.Second
	keepAliveBetween = 30 * time.Second
)

// Options configure a Guard. The zero value refuses all that is not public and
// takes proxies from the environment.
type Options struct {
	// AllowPrivate lists what may be private: a host, with or without a port,
	// a suffix such as "*.corp.example" (any number of labels, at least one),
	// an address or a CIDR.
	AllowPrivate []string
	// Where names the list that a refused host could be added to, for the text
	// of the error, such as `allowPrivate of store "registry"`.
	Where string
	// Resolver resolves names; nil is the system's.
	Resolver *net.Resolver
	// Proxy chooses the proxy for a URL, nil for none; a nil Proxy takes them
	// from HTTP_PROXY, HTTPS_PROXY and NO_PROXY as they are when New is called.
	Proxy func(*url.URL) (*url.URL, error)
}

// Guard decides which addresses may be connected to. It is immutable and safe
// for concurrent use.
type Guard struct {
	hosts    map[string]bool // "name" for any port, "name:port" for one
	suffixes []string        // ".corp.example"
	prefixes []netip.Prefix
	where    string
	resolver *net.Resolver
	proxy    func(*url.URL) (*url.URL, error)
}

// New reads the options; an entry that is none of the forms of AllowPrivate is
// an error.
func New(opts Options) (*Guard, error) {
	g := &Guard{
		hosts: make(map[string]bool), where: opts.Where,
		resolver: opts.Resolver, proxy: opts.Proxy,
	}
	if g.where == "" {
		g.where = "allowPrivate"
	}
	if g.proxy == nil {
		g.proxy = httpproxy.FromEnvironment().ProxyFunc()
	}
	for _, entry := range opts.AllowPrivate {
		if err := g.allow(entry); err != nil {
			return nil, fmt.Errorf("allowPrivate %q: %w", entry, err)
		}
	}
	return g, nil
}

func (g *Guard) allow(entry string) error {
	if prefix, err := netip.ParsePrefix(entry); err == nil {
		g.prefixes = append(g.prefixes, prefix.Masked())
		return nil
	}
	if addr, err := netip.ParseAddr(strings.Trim(entry, "[]")); err == nil {
		addr = addr.Unmap()
		g.prefixes = append(g.prefixes, netip.PrefixFrom(addr, addr.BitLen()))
		return nil
	}
	suffix, isSuffix := strings.CutPrefix(entry, "*.")
	name, port := split(suffix)
	if addr, err := netip.ParseAddr(name); err == nil && !isSuffix {
		g.hosts[net.JoinHostPort(addr.String(), port)] = true
		return nil
	}
	if !isName(name) || (isSuffix && port != "") {
		return fmt.Errorf(`it is neither a host, a suffix such as "*.corp.example", an address nor a CIDR`)
	}
	name = canonical(name)
	switch {
	case isSuffix:
		g.suffixes = append(g.suffixes, "."+name)
	case port != "":
		g.hosts[net.JoinHostPort(name, port)] = true
	default:
		g.hosts[name] = true
	}
	return nil
}

// split takes an optional port off; a text that has none is all name.
func split(hostport string) (name, port string) {
	name, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return hostport, ""
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return hostport, ""
	}
	return name, port
}

func canonical(name string) string {
	return strings.TrimSuffix(strings.ToLower(name), ".")
}

func isName(name string) bool {
	name = canonical(name)
	if name == "" || len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return true
}

// named reports whether the configuration names the host that is asked for.
// Only that host is let through by it, whatever else has the same address.
func (g *Guard) named(name, port string) bool {
	name = canonical(name)
	if g.hosts[name] || g.hosts[net.JoinHostPort(name, port)] {
		return true
	}
	for _, suffix := range g.suffixes {
		if strings.HasSuffix(name, suffix) && len(name) > len(suffix) {
			return true
		}
	}
	return false
}

// DialContext connects as [net.Dialer.DialContext] does, within five seconds,
// to addresses that the guard lets through. A refusal is
// [referrerstore.ErrRefused] and says what to add to the configuration.
func (g *Guard) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	name, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	dialer := net.Dialer{Timeout: dialTimeout, KeepAlive: keepAliveBetween, Resolver: g.resolver}
	if !g.named(name, port) {
		dialer.ControlContext = func(_ context.Context, _, resolved string, _ syscall.RawConn) error {
			return g.check(name, resolved)
		}
	}
	return dialer.DialContext(ctx, network, address)
}

// check is asked with the address that a socket is about to connect to.
func (g *Guard) check(name, resolved string) error {
	at, err := netip.ParseAddrPort(resolved)
	if err != nil {
		return fmt.Errorf("%w: %s is not an address", referrerstore.ErrRefused, resolved)
	}
	kind := g.refuses(at.Addr())
	if kind == "" {
		return nil
	}
	return g.refusal(name, fmt.Sprintf("it is at %s, %s", at.Addr(), kind))
}

func (g *Guard) refusal(name, why string) error {
	return &referrerstore.RefusedError{
		What: fmt.Sprintf("host %q: %s", name, why),
		Add:  fmt.Sprintf("add %q to %s", name, g.where),
	}
}

// refuses says what kind of address it is that may not be connected to; empty
// if it may.
func (g *Guard) refuses(addr netip.Addr) string {
	addr = addr.Unmap().WithZone("")
	for _, prefix := range g.prefixes {
		if prefix.Contains(addr) {
			return ""
		}
	}
	if inner, ok := embedded(addr); ok {
		if kind := g.refuses(inner); kind != "" {
			return kind + " inside an IPv6 address"
		}
	}
	return special(addr)
}
