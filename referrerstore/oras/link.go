package oras

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// Bounds of what is read of Link headers.
const (
	maxLinkHeaders = 4
	maxLinkBytes   = 4 << 10
)

var errLink = fmt.Errorf("%w: its link to a next page", referrerstore.ErrProtocol)

// nextPage is where an answer to a request for at says that it goes on, nil if
// it does not. A place of another origin is an error, and so is what cannot be
// read: without it the list would look complete.
//
// Specification: RFC 8288, 3.
func nextPage(header http.Header, at *url.URL) (*url.URL, error) {
	links := header.Values("Link")
	if len(links) > maxLinkHeaders {
		return nil, fmt.Errorf("%w: %d Link headers", errLink, len(links))
	}
	for _, text := range links {
		target, found, err := nextLink(text)
		if err != nil {
			return nil, err
		}
		if !found {
			continue
		}
		next, err := at.Parse(target)
		if err != nil || next.User != nil || next.Opaque != "" || !sameOrigin(next, at) {
			return nil, fmt.Errorf("%w leads to another place", errLink)
		}
		next.Fragment, next.RawFragment = "", ""
		return next, nil
	}
	return nil, nil //nolint:nilnil // no next page is no error
}

// nextLink finds the target of the first link of a header's value whose rel is
// next.
func nextLink(text string) (target string, found bool, err error) {
	if len(text) > maxLinkBytes {
		return "", false, fmt.Errorf("%w has more than %d bytes", errLink, maxLinkBytes)
	}
	p := challengeParser{rest: text}
	for {
		p.skip(" \t,")
		if p.rest == "" {
			return "", false, nil
		}
		target, rest, ok := strings.Cut(p.rest, ">")
		if !ok || !strings.HasPrefix(target, "<") {
			return "", false, fmt.Errorf("%w cannot be read", errLink)
		}
		p.rest = rest
		rel, ok := linkRel(&p)
		if !ok {
			return "", false, fmt.Errorf("%w cannot be read", errLink)
		}
		for word := range strings.FieldsSeq(rel) {
			if strings.EqualFold(word, "next") {
				return target[1:], true, nil
			}
		}
	}
}

// linkRel reads the parameters of a link up to the next one, and is the first
// rel of them; false if they are none.
func linkRel(p *challengeParser) (rel string, ok bool) {
	seen := false
	for {
		p.skip(" \t")
		if p.rest == "" || p.rest[0] == ',' {
			return rel, true
		}
		if p.rest[0] != ';' {
			return "", false
		}
		p.skip("; \t")
		if p.rest == "" || p.rest[0] == ',' {
			return rel, true
		}
		name := p.token()
		if name == "" {
			return "", false
		}
		value := p.linkValue()
		if strings.EqualFold(name, "rel") && !seen {
			rel, seen = value, true
		}
	}
}

// linkValue reads "=" and a token or quoted-string; empty without.
func (p *challengeParser) linkValue() string {
	p.skip(" \t")
	if !strings.HasPrefix(p.rest, "=") {
		return ""
	}
	p.rest = p.rest[1:]
	p.skip(" \t")
	if strings.HasPrefix(p.rest, `"`) {
		return p.quoted()
	}
	return p.token()
}
