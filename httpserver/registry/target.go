package registry

import (
	"net/url"
	"strings"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/cache"
)

// target is the repository of an upstream that a request is about.
type target struct {
	host     string // canonical
	upstream Upstream
	// asked is the host as the client wrote it in ns, empty if it did not.
	asked string
	// ref has the tag or the digest of the path, and "latest" if that has none.
	ref   referrerstore.Reference
	scope cache.Scope
}

// namespace is what the answer says of which upstream was asked.
func (t *target) namespace() string {
	if t.asked != "" {
		return t.asked
	}
	return t.host
}

// private says that the upstream gets to see credentials.
func (t *target) private() bool { return t.scope.Identity != "" }

// still fails if the upstream gets to see other credentials than when the request
// was let in: nobody can tell then to whom it gave an answer.
func (t *target) still() error {
	if t.upstream.identity() != t.scope.Identity {
		return errIdentityChanged(t.host)
	}
	return nil
}

// at is the target's repository at a digest.
func (t *target) at(want cache.Want) referrerstore.Reference { return t.ref.Pinned(want.Digest) }

// targetOf finds the upstream that a request names: by ns, as containerd does, by
// the first segment of the name, or not at all, which is the default.
func targetOf(snap *Snapshot, p path, query url.Values) (*target, error) {
	host, name, err := hostOf(snap, p.name, query["ns"])
	if err != nil {
		return nil, err
	}
	t, err := upstreamOf(snap, host)
	if err != nil {
		return nil, err
	}
	t.asked = query.Get("ns")
	if p.kind == kindPing {
		return t, nil
	}
	text := host + "/" + name
	if p.digest != "" {
		text += "@" + p.digest.String()
	} else if p.tag != "" {
		text += ":" + p.tag
	}
	t.ref, err = referrerstore.ParseReference(text)
	if err != nil || t.ref.Registry != host || strings.ContainsAny(name, ":@[]") {
		return nil, errBadName()
	}
	t.scope = cache.Scope{Registry: host, Repository: t.ref.Repository, Identity: t.scope.Identity}
	return t, nil
}

func upstreamOf(snap *Snapshot, host string) (*target, error) {
	upstream, ok := snap.Upstreams[host]
	if !ok {
		return nil, errUpstreamUnlisted(host)
	}
	if upstream.Store == nil && !snap.AirGapped {
		return nil, errStarting()
	}
	return &target{host: host, upstream: upstream, scope: cache.Scope{Registry: host, Identity: upstream.identity()}}, nil
}

// hostOf tells the upstream's canonical host from the repository.
func hostOf(snap *Snapshot, name string, ns []string) (host, rest string, err error) {
	if len(ns) > 1 {
		return "", "", errBadNamespace("ns is there more than once")
	}
	if len(ns) == 1 && ns[0] != "" {
		host, err = referrerstore.CanonicalHost(ns[0])
		if err != nil {
			return "", "", errBadNamespace(err.Error())
		}
		return host, name, nil
	}
	first, rest, found := strings.Cut(name, "/")
	if found && referrerstore.LooksLikeHost(first) {
		host, err = referrerstore.CanonicalHost(first)
		if _, listed := snap.Upstreams[host]; err == nil && listed {
			return host, rest, nil
		}
	}
	switch {
	case snap.Default != "":
		return snap.Default, name, nil
	case found && host != "":
		return "", "", errUpstreamUnlisted(host)
	default:
		return "", "", errNoUpstream()
	}
}
