package registry

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"strings"
)

// TokenHash is the SHA-256 of a token that lets a client in. Tokens are long and
// random, so that nothing is gained by salting.
type TokenHash [sha256.Size]byte

// HashToken is the hash of a token.
func HashToken(token string) TokenHash { return sha256.Sum256([]byte(token)) }

// client is who a request comes from.
type client struct {
	known bool // by token, or by a certificate that was verified
	wrong bool // it shows a token, and not one that lets in
}

// clientOf looks at what a request shows. Where no tokens are configured, what it
// shows is meant for somebody else and not looked at.
func clientOf(snap *Snapshot, r *http.Request) client {
	c := client{known: r.TLS != nil && len(r.TLS.VerifiedChains) > 0}
	if !shows(r) || snap.Tokens == nil {
		return c
	}
	hashes := snap.Tokens()
	if len(hashes) == 0 {
		return c
	}
	if matches(hashes, tokenIn(r)) {
		c.known = true
		return c
	}
	return client{wrong: true}
}

// shows says whether a request has a token at all. Some clients that have none and
// are asked for one send an empty name and password.
func shows(r *http.Request) bool {
	name, password, basic := r.BasicAuth()
	return r.Header.Get("Authorization") != "" && (!basic || name+password != "")
}

// tokenIn is a bearer token, or the password of basic authentication.
func tokenIn(r *http.Request) string {
	if _, password, ok := r.BasicAuth(); ok {
		return password
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(token)
	}
	return ""
}

// matches takes as long for each token that is not among them.
func matches(hashes []TokenHash, token string) bool {
	hash, found := HashToken(token), 0
	for i := range hashes {
		found |= subtle.ConstantTimeCompare(hash[:], hashes[i][:])
	}
	return found == 1 && token != ""
}

// admit refuses clients that may not read the target. A wrong token is refused
// everywhere: whoever shows it should learn that.
func admit(c client, t *target) error {
	switch {
	case c.wrong:
		return errWrongToken()
	case t != nil && t.private() && !t.upstream.AnyClient && !c.known:
		return errClientUnknown(t.host)
	default:
		return nil
	}
}
