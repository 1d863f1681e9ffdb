package guard

import (
	"net/netip"
	"strings"
)

// kinds are the networks that are not public, most telling first. What netip
// knows by itself is in special.
var kinds = []struct { //nolint:gochecknoglobals // a constant table
	prefix netip.Prefix
	kind   string
}{
	{netip.MustParsePrefix("169.254.169.254/32"), "a cloud's metadata address"},
	{netip.MustParsePrefix("169.254.170.0/23"), "a cloud's metadata address"},
	{netip.MustParsePrefix("100.100.100.200/32"), "a cloud's metadata address"},
	{netip.MustParsePrefix("168.63.129.16/32"), "a cloud's metadata address"},
	{netip.MustParsePrefix("192.0.0.192/32"), "a cloud's metadata address"},
	{netip.MustParsePrefix("fd00:ec2::/32"), "a cloud's metadata address"},
	{netip.MustParsePrefix("fd20:ce::254/128"), "a cloud's metadata address"},
	{netip.MustParsePrefix("100.64.0.0/10"), "a shared (carrier-grade NAT) address"},
	{netip.MustParsePrefix("0.0.0.0/8"), "an unspecified address"},
	{netip.MustParsePrefix("192.0.0.0/24"), "a reserved address"},
	{netip.MustParsePrefix("198.18.0.0/15"), "a benchmarking address"},
	{netip.MustParsePrefix("240.0.0.0/4"), "a reserved address"},
	{netip.MustParsePrefix("fec0::/10"), "a site-local address"},
	{netip.MustParsePrefix("64:ff9b:1::/48"), "a local translation address"},
	{netip.MustParsePrefix("2001::/32"), "a tunnel address"},
	{netip.MustParsePrefix("100::/64"), "a discard address"},
}

func special(addr netip.Addr) string {
	for _, k := range kinds {
		if k.prefix.Contains(addr) {
			return k.kind
		}
	}
	switch {
	case addr.IsLoopback():
		return "a loopback address"
	case addr.IsUnspecified():
		return "an unspecified address"
	case addr.IsPrivate():
		return "a private address"
	case addr.IsLinkLocalUnicast():
		return "a link-local address"
	case addr.IsMulticast():
		return "a multicast address"
	}
	return ""
}

// embeddings are the forms of IPv6 addresses that reach an IPv4 address, and
// where in the 16 bytes that stands.
var embeddings = []struct { //nolint:gochecknoglobals // a constant table
	prefix netip.Prefix
	at     int
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12},    // NAT64, RFC 6052
	{netip.MustParsePrefix("2002::/16"), 2},        // 6to4, RFC 3056
	{netip.MustParsePrefix("::ffff:0:0:0/96"), 12}, // SIIT, RFC 2765
	{netip.MustParsePrefix("::/96"), 12},           // IPv4-compatible, RFC 4291
}

func embedded(addr netip.Addr) (netip.Addr, bool) {
	if !addr.Is6() || addr.IsUnspecified() || addr.IsLoopback() {
		return netip.Addr{}, false
	}
	b := addr.As16()
	for _, e := range embeddings {
		if e.prefix.Contains(addr) {
			return netip.AddrFrom4([4]byte(b[e.at : e.at+4])), true
		}
	}
	// ISATAP, RFC 5214: an interface identifier of 0000:5efe or 0200:5efe.
	if b[8]&^2 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe {
		return netip.AddrFrom4([4]byte(b[12:16])), true
	}
	return netip.Addr{}, false
}

// looksNumeric tells names whose last label is a number: resolvers and proxies
// read "127.1", "2130706433" and "0x7f.1" as addresses.
func looksNumeric(name string) bool {
	last := name[strings.LastIndexByte(name, '.')+1:]
	digits, isHex := strings.CutPrefix(last, "0x")
	if isHex {
		return strings.Trim(digits, "0123456789abcdef") == ""
	}
	return last != "" && strings.Trim(last, "0123456789") == ""
}
