package config

import (
	"net"
	"net/netip"
	"strings"
)

func (c *checker) cache() {
	control := c.cfg.Cache.Control
	switch {
	case control.Address != "" && control.TokenFile == "":
		c.fail("cache.control.tokenFile", "address needs tokenFile", "whoever reaches a port of this machine could prune the cache")
	case control.Address == "" && control.TokenFile != "":
		c.fail("cache.control.tokenFile", "tokenFile needs address", "the socket is guarded by its mode")
	}
	if control.Address != "" && !isLoopback(control.Address) {
		c.fail("cache.control.address", quote(control.Address)+" is not a loopback address", `name one such as "127.0.0.1:6002", or leave it out and use the socket`)
	}
}

// replica counts what the cache holds in memory into the bound on all memory.
func (c *checker) replica() {
	held := c.cfg.Cache.ReplicaBytes
	rest := c.cfg.Server.Limits.InFlightBytes + c.cfg.Proofs.MaxBytes
	if rest <= maxMemory && held+rest > maxMemory {
		c.fail("cache.replicaBytes", "together with server.limits.inFlightBytes and proofs.maxBytes this is more than 16GiB", "")
	}
}

// isLoopback passes what is no address at all: that is told elsewhere.
func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil || strings.EqualFold(host, "localhost") {
		return true
	}
	at, err := netip.ParseAddr(host)
	return err == nil && at.Unmap().IsLoopback()
}
