package httpserver

import (
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gorilla/mux"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// The paths that Gatekeeper's Providers point at; with namespaces from the path,
// /namespaces/NS follows.
const (
	// VerifyPath is for admission: a verdict on each key.
	VerifyPath = "/ratify/gatekeeper/v1/verify"
	// MutatePath is for mutation: each key with the digest that its tag leads to.
	MutatePath = "/ratify/gatekeeper/v1/mutate"
	// AuditPath is for Gatekeeper's audit, which nobody waits for: verdicts as of
	// VerifyPath, by [executor.Request].Audit and in the background lane.
	AuditPath = "/ratify/gatekeeper/v1/audit"
)

// route is one of these paths.
type route uint8

const (
	routeVerify route = iota
	routeMutate
	routeAudit
	routeOther // none of them
)

// String is the route's name in metrics and logs.
func (to route) String() string {
	return [...]string{"verify", "mutate", "audit", "other"}[to]
}

func (to route) path() string { return [...]string{VerifyPath, MutatePath, AuditPath}[to] }

// routeOf is the route that a path belongs to.
func routeOf(path string) route {
	for to := range routeOther {
		if rest, ok := strings.CutPrefix(path, to.path()); ok && (rest == "" || rest[0] == '/') {
			return to
		}
	}
	return routeOther
}

// exactRoute is the route of a path that says no more than that, and needs no
// router.
func exactRoute(path string) (route, bool) {
	switch path {
	case VerifyPath:
		return routeVerify, true
	case MutatePath:
		return routeMutate, true
	case AuditPath:
		return routeAudit, true
	}
	return routeOther, false
}

// terms are what a request's URL says of all its keys.
type terms struct {
	to        route
	namespace string
	lane      referrerstore.Lane
	unpinned  executor.Unpinned
}

// termsOf reads a request's URL.
func (l *snapshot) termsOf(r *http.Request, to route) (terms, error) {
	namespace, err := pathNamespace(mux.Vars(r), to, l.NamespaceFrom)
	t := terms{to: to, namespace: namespace, unpinned: l.Unpinned}
	if to == routeAudit {
		t.lane = referrerstore.LaneBackground
	}
	if err != nil || r.URL.RawQuery == "" || to == routeMutate {
		return t, err
	}
	return t, t.read(r.URL.RawQuery)
}

// read reads the query. Gatekeeper's audit sends what its admission sends; a
// Provider that only audit uses can say so with "?lane=audit" in its URL. One
// that is for what mutation has pinned can say "?unpinned=deny", which makes
// Snapshot.Unpinned stricter and never laxer. What is misspelt is refused: passed
// over, it would be laxer than it was meant.
func (t *terms) read(query string) error {
	if query == "unpinned=deny" { // as most have it
		t.unpinned = executor.UnpinnedDeny
		return nil
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return refused(http.StatusBadRequest, "the query of the URL cannot be read: correct the Provider's url")
	}
	for name, given := range values {
		switch {
		case len(given) == 1 && name == "lane" && given[0] == "audit":
			t.lane = referrerstore.LaneBackground
		case len(given) == 1 && name == "unpinned" && given[0] == "deny":
			t.unpinned = executor.UnpinnedDeny
		case len(given) == 1 && name == "unpinned" && given[0] == "warn":
			t.unpinned = max(t.unpinned, executor.UnpinnedWarn)
		default:
			return refused(http.StatusBadRequest, "%q in the URL is unknown: write unpinned=deny, unpinned=warn or lane=audit, each once", clipped(name+"="+strings.Join(given, ", ")))
		}
	}
	return nil
}

// pathNamespace is the namespace of the request's path, refused where the
// configuration takes none from there. Mutation sends none with the keys, so that
// its path has it wherever there are namespaces at all.
func pathNamespace(vars map[string]string, to route, from NamespaceFrom) (string, error) {
	namespace, given := vars["namespace"]
	switch {
	case !given:
		return "", nil
	case from != NamespaceFromPath && (to != routeMutate || from == NamespaceFromNone):
		return "", refused(http.StatusNotFound, "namespaces in the path are not in use here (server.namespaceFrom)")
	case !namespaceName.MatchString(namespace):
		return "", refused(http.StatusBadRequest, "the path's namespace is not a valid name")
	}
	return namespace, nil
}

// defaultMutateTimeout leaves Gatekeeper's mutating webhook some of its second.
const defaultMutateTimeout = 700 * time.Millisecond

// timeout is when the last byte of an answer has left, counted from when the
// request's header has been read.
func (l *snapshot) timeout(to route) time.Duration {
	if to != routeMutate {
		return l.VerifyTimeout
	}
	if l.MutateTimeout <= 0 {
		return defaultMutateTimeout
	}
	return l.MutateTimeout
}
