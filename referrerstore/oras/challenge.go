package oras

import (
	"strings"
	"time"
)

// authScheme is how a host wants to be asked.
type authScheme int

const (
	schemeNone   authScheme = iota // it answers without
	schemeBasic                    // RFC 7617
	schemeBearer                   // RFC 6750, with the distribution specification's tokens
)

// challenge is what a host answered to whoever asked without credentials. It is
// immutable.
type challenge struct {
	scheme  authScheme
	realm   string // of bearer: the token service's URL
	service string // of bearer: what the token service calls the registry
	base    bool   // of none: GET /v2/ said so, and not only some repository
	at      time.Time
}

func (c *challenge) same(other *challenge) bool {
	return c.scheme == other.scheme && c.realm == other.realm && c.service == other.service
}

// Bounds of what is read of WWW-Authenticate. Real ones are of 200 bytes.
const (
	maxChallengeHeaders = 4
	maxChallengeBytes   = 4 << 10
)

// parseChallenge reads the WWW-Authenticate headers of an answer, each of which
// may hold several challenges (RFC 9110, 11.6.1), and picks the one to meet:
// bearer before basic, then the first. The scope that a registry suggests is
// ignored: what is asked for is decided here. It is nil if there is none.
func parseChallenge(headers []string, now time.Time) *challenge {
	var basic *challenge
	for _, header := range headers[:min(len(headers), maxChallengeHeaders)] {
		p := challengeParser{rest: header[:min(len(header), maxChallengeBytes)]}
		for {
			scheme, params, ok := p.next()
			if !ok {
				break
			}
			switch {
			case strings.EqualFold(scheme, "bearer") && params["realm"] != "":
				return &challenge{scheme: schemeBearer, realm: params["realm"], service: params["service"], at: now}
			case strings.EqualFold(scheme, "basic") && basic == nil:
				basic = &challenge{scheme: schemeBasic, at: now}
			}
		}
	}
	return basic
}

// challengeParser reads challenges off a header value. Commas part both
// challenges and the parameters of one: a name that "=" follows is a parameter,
// any other begins a challenge.
type challengeParser struct {
	rest   string
	scheme string // begun by the parameter scan of the challenge before
}

func (p *challengeParser) next() (scheme string, params map[string]string, ok bool) {
	scheme = p.scheme
	p.scheme = ""
	if scheme == "" {
		p.skip(" \t,")
		scheme = p.token()
	}
	if scheme == "" {
		return "", nil, false
	}
	params = make(map[string]string)
	for {
		p.skip(" \t,")
		name := p.token()
		if name == "" {
			if p.rest == "" {
				return scheme, params, true
			}
			p.skipToComma() // what is neither: a token68, or garbage
			continue
		}
		value, isParam := p.value()
		if !isParam {
			p.scheme = name
			return scheme, params, true
		}
		if _, twice := params[strings.ToLower(name)]; !twice {
			params[strings.ToLower(name)] = value
		}
	}
}

// value reads "=" and what follows it; false if there is no "=".
func (p *challengeParser) value() (string, bool) {
	before := p.rest
	p.skip(" \t")
	if !strings.HasPrefix(p.rest, "=") {
		p.rest = before
		return "", false
	}
	p.rest = p.rest[1:]
	p.skip(" \t")
	if strings.HasPrefix(p.rest, `"`) {
		return p.quoted(), true
	}
	value := p.token()
	p.skipToComma()
	return value, true
}

// quoted reads a quoted-string; one that does not end is empty, not guessed.
func (p *challengeParser) quoted() string {
	var b strings.Builder
	for i := 1; i < len(p.rest); i++ {
		switch c := p.rest[i]; {
		case c == '"':
			p.rest = p.rest[i+1:]
			return b.String()
		case c == '\\' && i+1 < len(p.rest):
			i++
			b.WriteByte(p.rest[i])
		default:
			b.WriteByte(c)
		}
	}
	p.rest = ""
	return ""
}

func (p *challengeParser) skip(set string) { p.rest = strings.TrimLeft(p.rest, set) }

func (p *challengeParser) skipToComma() {
	if i := strings.IndexByte(p.rest, ','); i >= 0 {
		p.rest = p.rest[i:]
		return
	}
	p.rest = ""
}

// token reads RFC 9110's token, empty if there is none.
func (p *challengeParser) token() string {
	end := 0
	for end < len(p.rest) && isTokenByte(p.rest[end]) {
		end++
	}
	token := p.rest[:end]
	p.rest = p.rest[end:]
	return token
}

func isTokenByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}
