package main

import (
	"github.com/gatehouse-project/gatehouse/config"
	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
	"github.com/gatehouse-project/gatehouse/referrerstore/evidence"
)

// remembering is a store whose evidence is kept in the content cache, with what
// the process needs of the inner one.
type remembering struct {
	*evidence.Store
	inner store
	// identity names as whom a host is asked. What is kept outlives this process:
	// the name has what the configuration says of the credentials in it.
	identity func(host string) string
}

// remember puts a cache around each store, which is of the component at the same
// place; nil leaves them as they are.
func remember(stores []store, components []config.Component, content *cache.Cache) []store {
	if content == nil {
		return stores
	}
	around := make([]store, len(stores))
	for i, s := range stores {
		identity := lasting(s, components[i].Fingerprint("credentials"))
		around[i] = remembering{evidence.New(s, content, evidence.Options{Identity: identity}), s, identity}
	}
	return around
}

func lasting(s store, fingerprint string) func(host string) string {
	return func(host string) string {
		identity := referrerstore.About(s, host).Identity
		if identity == "" {
			return ""
		}
		return s.Name() + "/" + identity + "#" + fingerprint
	}
}

// identityAt is as whom the first store that serves the host asks it, by a name
// that lasts.
func identityAt(stores []store, host string) string {
	for _, s := range stores {
		if !s.Serves(host) {
			continue
		}
		if around, ok := s.(remembering); ok {
			return around.identity(host)
		}
		return referrerstore.About(s, host).Identity
	}
	return ""
}

func (r remembering) Scheme(host string) string { return r.inner.Scheme(host) }
func (r remembering) Names(host string) bool    { return r.inner.Names(host) }
func (r remembering) PlainHosts() []string      { return r.inner.PlainHosts() }
func (r remembering) Files() []string           { return r.inner.Files() }
func (r remembering) Close()                    { r.inner.Close() }

// pullerOf is the store, or the one that it remembers for, as one that can be
// pulled through; nil if it is none.
func pullerOf(s store) referrerstore.Puller {
	if around, ok := s.(remembering); ok {
		s = around.inner
	}
	p, _ := s.(referrerstore.Puller)
	return p
}
