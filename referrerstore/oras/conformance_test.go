package oras

import (
	"bytes"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"cuelabs.dev/go/oci/ociregistry/ociserver"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/storetest"
)

// seed fills a registry with what the conformance suite asks for.
func seed(t *testing.T, r *fakeRegistry) storetest.Seed {
	t.Helper()
	data := bytes.Repeat([]byte("0123456789"), 10_000)
	s := storetest.Seed{Subject: r.image(t, "team/app", "v1"), Data: data, Foreign: "docker.io"}
	s.Referrers = []ocispec.Descriptor{
		r.referrer(t, s.Subject, "example/a", "a"), r.referrer(t, s.Subject, "example/b", "b"),
	}
	s.Blob = r.blob(t, "team/app", "application/jose+json", data)
	s.Altered = r.blob(t, "team/app", "application/jose+json", []byte("what was promised"))
	var stalled atomic.Bool
	s.Stall = func() { stalled.Store(true) }
	r.setHook(func(w http.ResponseWriter, req *http.Request) bool {
		if stalled.Load() {
			<-req.Context().Done()
			return true
		}
		if strings.HasSuffix(req.URL.Path, s.Altered.Digest.String()) {
			_, _ = w.Write([]byte("what is delivered"))
			return true
		}
		return false
	})
	return s
}

func TestConformance(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string]registryOptions{
		"open":              {},
		"bearer":            {bearer: true},
		"no digest headers": {Options: ociserver.Options{OmitDigestFromTagGetResponse: true}},
		"tls":               {tls: true},
		"http2 and bearer":  {tls: true, http2: true, bearer: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storetest.Run(t, func(t *testing.T) (referrerstore.Store, storetest.Seed) {
				r := newRegistry(t, opts)
				o := Options{Hosts: []string{r.host()}}
				if opts.tls {
					o.CA = map[string][]string{r.host(): {r.ca(t)}}
					o.AllowPrivate = []string{"127.0.0.1"}
					return newStore(t, o, Deps{}), seed(t, r)
				}
				return newStore(t, o, Deps{}, r), seed(t, r)
			})
		})
	}
}

func TestConformanceTagSchema(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) (referrerstore.Store, storetest.Seed) {
		r := newRegistry(t, registryOptions{Options: ociserver.Options{DisableReferrersAPI: true}})
		s := seed(t, r)
		r.tagReferrers(t, s.Subject, s.Referrers)
		return newStore(t, Options{Hosts: []string{r.host()}}, Deps{}, r), s
	})
}

// Content comes from the mirror, which has it all.
func TestConformanceMirror(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) (referrerstore.Store, storetest.Seed) {
		origin := newRegistry(t, registryOptions{})
		mirror := newRegistry(t, registryOptions{tls: true, bearer: true})
		mirror.serve = origin.serve
		s := seed(t, origin)
		mirror.setHook(*origin.hook.Load())
		return newStore(t, Options{
			Hosts:        []string{origin.host()},
			Mirrors:      map[string][]string{origin.host(): {mirror.URL}},
			CA:           map[string][]string{mirror.host(): {mirror.ca(t)}},
			AllowPrivate: []string{"127.0.0.1"},
		}, Deps{}, origin), s
	})
}
