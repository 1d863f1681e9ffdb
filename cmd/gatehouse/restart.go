package main

import (
	"errors"
	"reflect"
	"slices"

	"github.com/gatehouse-project/gatehouse/config"
)

// needsRestart refuses changes that a running process cannot make, rather than
// ignore them.
func needsRestart(former, next *config.Config) error {
	type fixed struct {
		serves         bool
		address, admin string
		http           bool
		connections    int
		inFlight       int64
	}
	of := func(c *config.Config) fixed {
		return fixed{c.Serves(), c.Server.Address, c.Admin.Address, c.Server.InsecureHTTP, c.Server.Limits.Connections, c.Server.Limits.InFlightBytes}
	}
	if of(former) != of(next) || !sameTLS(former.Server.TLS, next.Server.TLS) {
		return next.At("server", errors.New("address, tls, insecureHTTP, limits.connections, limits.inFlightBytes and admin.address cannot change while gatehouse runs: restart it"))
	}
	if !sameCache(former.Cache, next.Cache) {
		return next.At("cache", errors.New("the section, but for onRegistryDown, cannot change while gatehouse runs: restart it"))
	}
	if !sameListener(former.Registry, next.Registry) {
		return next.At("registry", errors.New("address, tls, insecureHTTP and connections cannot change while gatehouse runs: restart it"))
	}
	return nil
}

func sameTLS(a, b *config.TLS) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Certificate == b.Certificate && a.Key == b.Key && a.ClientCA == b.ClientCA &&
		a.InsecureAnyClient == b.InsecureAnyClient && slices.Equal(a.ClientNames, b.ClientNames)
}

func sameCache(a, b *config.Cache) bool {
	if a == nil || b == nil {
		return a == b
	}
	x, y := *a, *b
	x.OnRegistryDown, y.OnRegistryDown = nil, nil
	return reflect.DeepEqual(x, y)
}

func sameListener(a, b *config.PullThrough) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Address == b.Address && a.InsecureHTTP == b.InsecureHTTP && a.Connections == b.Connections && sameTLS(a.TLS, b.TLS)
}
