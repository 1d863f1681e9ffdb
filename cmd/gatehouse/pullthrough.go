package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/gatehouse-project/gatehouse/config"
	"github.com/gatehouse-project/gatehouse/executor/policy"
	"github.com/gatehouse-project/gatehouse/httpserver/registry"
	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// pullThrough builds what the registry reads, of a configuration that is built
// otherwise; nil if there is none.
func (l *live) pullThrough(read readFile) (*registry.Snapshot, error) {
	cfg, r := l.config, l.config.Registry
	if r == nil {
		return nil, nil //nolint:nilnil // none is no error
	}
	snapshot := &registry.Snapshot{
		Upstreams: make(map[string]registry.Upstream, len(r.Upstreams)),
		AirGapped: r.AirGapped,
		Enforce:   enforcements()[r.Enforce],
		EnforceAs: r.EnforceAs,
		Decider:   l.executor,
	}
	var errs []error
	for i, text := range r.Upstreams {
		host, upstream, err := l.upstream(text)
		if err != nil {
			errs = append(errs, cfg.At(fmt.Sprintf("registry.upstreams[%d]", i), err))
			continue
		}
		snapshot.Upstreams[host] = upstream
		if text == r.Default {
			snapshot.Default = host
		}
	}
	return snapshot, errors.Join(append(errs, l.readTokens(snapshot, read))...)
}

func enforcements() map[config.Enforce]registry.Enforcement {
	return map[config.Enforce]registry.Enforcement{
		config.EnforceOff: registry.EnforceOff, config.EnforceWarn: registry.EnforceWarn, config.EnforceOn: registry.EnforceOn,
	}
}

// upstream is a host that may be pulled through, by way of the first store that
// serves it.
func (l *live) upstream(text string) (string, registry.Upstream, error) {
	r := l.config.Registry
	host, err := referrerstore.CanonicalHost(text)
	if err != nil {
		return "", registry.Upstream{}, err
	}
	at := slices.IndexFunc(l.stores, func(s store) bool { return s.Serves(host) })
	if at < 0 {
		return "", registry.Upstream{}, errors.New("no store serves it: add it to hosts of one")
	}
	through := pullerOf(l.stores[at])
	if through == nil {
		return "", registry.Upstream{}, fmt.Errorf("store %q, which serves it, cannot be pulled through", l.stores[at].Name())
	}
	upstream := registry.Upstream{
		Store:     through,
		Identity:  func() string { return identityAt(l.stores, host) },
		AnyClient: slices.Contains(r.PrivateForAnyClient, text),
	}
	for _, p := range r.TagPolicies {
		if slices.Contains(p.Upstreams, text) {
			upstream.Tags = registry.TagPolicy{Mode: tagModes()[p.Policy], Interval: p.Interval, StaleIfError: p.StaleIfError}
			break
		}
	}
	return host, upstream, nil
}

func tagModes() map[config.TagPolicyMode]registry.TagMode {
	return map[config.TagPolicyMode]registry.TagMode{
		config.TagAlways: registry.TagAlways, config.TagInterval: registry.TagInterval, config.TagIfAbsent: registry.TagIfAbsent,
	}
}

// readTokens reads the tokens that let clients in, one a line. Their files are
// watched: a change makes a new configuration.
func (l *live) readTokens(snapshot *registry.Snapshot, read readFile) error {
	files := l.config.Registry.Clients.TokenFiles
	if len(files) == 0 {
		return nil
	}
	var hashes []registry.TokenHash
	for i, file := range files {
		data, err := read(l.config.Path(file), maxTokensBytes)
		if err != nil {
			return l.config.At(fmt.Sprintf("registry.clients.tokenFiles[%d]", i), err)
		}
		before := len(hashes)
		for line := range strings.Lines(string(data)) {
			token := strings.TrimSpace(line)
			switch {
			case token == "" || strings.HasPrefix(token, "#"):
			case len(token) < minTokenBytes:
				return l.config.At(fmt.Sprintf("registry.clients.tokenFiles[%d]", i), fmt.Errorf("a token has at least %d characters: take a long random one", minTokenBytes))
			default:
				hashes = append(hashes, registry.HashToken(token))
			}
		}
		if len(hashes) == before {
			return l.config.At(fmt.Sprintf("registry.clients.tokenFiles[%d]", i), errors.New("there is no token in it"))
		}
	}
	snapshot.Tokens = func() []registry.TokenHash { return hashes }
	return nil
}

// maxTokensBytes bounds a file with tokens.
const maxTokensBytes = 1 << 20

// matchesAny says whether a pattern of images matches the repository.
func matchesAny(patterns []policy.Pattern, host, repository string) bool {
	ref := referrerstore.Reference{Registry: host, Repository: repository}
	return slices.ContainsFunc(patterns, func(p policy.Pattern) bool { return p.Match(ref) })
}

// servePulls answers pulls on the listener until ctx ends.
func (g *gate) servePulls(ctx context.Context, listener net.Listener) error {
	var config *tls.Config
	if t := g.identities[registryIdentity]; t != nil {
		config = t.Config()
	}
	return g.pulls.Serve(ctx, listener, config)
}
